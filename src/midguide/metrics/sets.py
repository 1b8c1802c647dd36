"""Distances between two sets of images, by the features of a network: FID and KID.

They say whether a set of reconstructions looks like a set of photographs, not whether any of them is right. Both depend
on the network: never compare values of different features, and name the features and both n in a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from midguide.errors import NumericalError, ShapeError
from midguide.maths.linalg import gaussian_w2
from midguide.metrics.base import SET_METRICS
from midguide.metrics.features import CLASSIFIER, INCEPTION, Features, classifier_features, inception_features


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared 2-Wasserstein distance of the Gaussians with the moments of two sets of features, in float64.

    `||m_a - m_b||^2 + tr(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2})`, with unbiased covariances. Its estimate has
    an upward bias of about 1/n. So two sets of one law are not at distance zero. Do not compare values of different n.
    With fewer images than features the covariances are singular and the bias is large.

    Args:
        features_a: shape (n, d), n at least 2.
        features_b: shape (m, d), m at least 2.

    Raises:
        ShapeError: If there are too few rows, or the features differ.

    References: Heusel et al. 2017, "GANs trained by a two time-scale update rule" (FID); Chong and Forsyth 2020 (bias).
    """
    a, b = _checked(features_a, features_b)
    return gaussian_w2(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T)) ** 2


def kernel_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared maximum mean discrepancy of two sets of features with the kernel `(u^T v / d + 1)^3`, unbiased.

        sum_{i != j} k(a_i, a_j) / (n (n - 1)) + sum_{i != j} k(b_i, b_j) / (m (m - 1)) - 2 mean_{ij} k(a_i, b_j)

    over all pairs. Others average over random subsets of 100 or 1,000 images, which has the same expectation and a
    larger variance. The estimate is unbiased: two sets of one law give zero on average for any n and m, and may give
    less than zero.

    Args:
        features_a: shape (n, d), n at least 2.
        features_b: shape (m, d), m at least 2.

    Raises:
        ShapeError: If there are too few rows, or the features differ.

    References: Binkowski et al. 2018, "Demystifying MMD GANs" (KID); Gretton et al. 2012, Eq. (3).
    """
    a, b = _checked(features_a, features_b)

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return (u @ v.T / u.shape[1] + 1).pow(3)

    def within(u: Tensor) -> Tensor:
        k = kernel(u, u)
        return (k.sum() - k.trace()) / (len(u) * (len(u) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ShapeError(
            f"cannot compare features of shapes {tuple(a.shape)} and {tuple(b.shape)}",
            hint="give (n, d) and (m, d) with the same d, n and m at least 2",
        )
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise NumericalError("features hold NaN or infinity", hint="are the images finite, and in the value range?")
    return a.double(), b.double()


@dataclass(frozen=True, eq=False)
class FeatureDistance:
    """A distance of two sets of images by the features of a network.

    Args:
        distance: of two sets of features.
        features: gives the network.
    """

    distance: Callable[[Tensor, Tensor], float]
    features: Callable[[], Features]

    def __call__(self, draws: Tensor, truths: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> float:
        """The distance of draws, shape (n, C, H, W), from true images, shape (m, C, H, W).

        For posterior samples: one draw, or equally many, of each observation, and the truths of the same or of other
        observations. State n and m with the number.
        """
        features = self.features()
        return self.distance(features(draws, value_range), features(truths, value_range))

    def check(self, event_shape: tuple[int, ...]) -> None:
        """Refuse images that the network does not take, and to start without its weights.

        Raises:
            ShapeError: If the events are not such images.
            CheckpointError: If a file of weights is missing, damaged or another than its name says.
        """
        self.features().check(event_shape)

    def record(self) -> dict[str, Any]:
        """What the number depends on besides the name and the images, as JSON: the SHA-256 of each file of weights."""
        return {"weights": self.features().files}


_SHIPPED = partial(classifier_features, CLASSIFIER)
_RESIZED = f"features={INCEPTION},resize=299-bilinear"

for _features, _network in ((f"features={CLASSIFIER}", _SHIPPED), (_RESIZED, inception_features)):
    _fid, _kid = FeatureDistance(frechet_distance, _network), FeatureDistance(kernel_distance, _network)
    SET_METRICS.register(f"fid[{_features},draws=1]", summary="Fréchet distance of features of draws and truths")(_fid)
    SET_METRICS.register(
        f"kid[{_features},subsets=none,draws=1]", summary="kernel distance of features of draws and truths"
    )(_kid)
