"""How close drawn signals are to the truth where it was hidden, and how honest their spread is.

The protocol is that of the MGPS paper's ECG tables. It derives the augmented leads first, so that twelve leads count.
Errors count hidden entries only. Each sample has a score of its own, and the result is the mean of these scores, which
is not the score of the mean. All computation is in float64, in the unit of the signals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from midguide.domains.ecg.leads import einthoven_error, twelve_leads
from midguide.errors import NumericalError, ShapeError


def mae(draws: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute error of each sample over hidden entries, shape (n,).

    Args:
        draws: samples, shape (n, *event).
        truth: shape (*event).
        hidden: true where the error counts; boolean, shape (*event).
    """
    draws, truth, hidden = _checked(draws, truth, hidden)
    return (draws - truth).abs()[:, hidden].mean(1)


def rmse(draws: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Root of the mean squared error of each sample over hidden entries, shape (n,); arguments as for `mae`."""
    draws, truth, hidden = _checked(draws, truth, hidden)
    return (draws - truth).square()[:, hidden].mean(1).sqrt()


def crps(draws: Tensor, truth: Tensor, hidden: Tensor) -> float:
    """Continuous ranked probability score, averaged over hidden entries; arguments as for `mae`, n at least 2.

    `mean |x_i - y| - sum_{i != j} |x_i - x_j| / (2 n (n - 1))`, which is unbiased in the number of samples; of one
    certain guess it is the absolute error.

    References: Zamo and Naveau 2018, "Estimation of the continuous ranked probability score", Eq. (8).
    """
    draws, truth, hidden = _checked(draws, truth, hidden, least=2)
    n = len(draws)
    ordered = draws[:, hidden].sort(dim=0).values
    ranks = 2 * torch.arange(1, n + 1, dtype=torch.float64, device=draws.device) - n - 1
    spread = (ranks[:, None] * ordered).sum(0) / (n * (n - 1))  # half the mean distance of two samples
    return float(((ordered - truth[hidden]).abs().mean(0) - spread).mean())


def interval(draws: Tensor, level: float = 0.9) -> tuple[Tensor, Tensor]:
    """Ends of the central interval of each entry, shape (*event) each.

    The quantile p stands at rank `p (n + 1)` of the sorted samples (Weibull). Then a further draw of the same law falls
    inside with probability `level`. With fewer samples than `2 / (1 - level) - 1` (19 for 0.9) the interval ends at the
    smallest and largest sample. The common rank `1 + p (n - 1)` would cover 74 % and not 90 % with 10 samples.
    """
    n = len(draws)
    ordered = draws.double().sort(dim=0).values
    ends = []
    for p in ((1 - level) / 2, (1 + level) / 2):
        rank = min(max(p * (n + 1) - 1, 0.0), n - 1.0)
        below = min(int(rank), max(n - 2, 0))
        above = min(below + 1, n - 1)
        ends.append(torch.lerp(ordered[below], ordered[above], rank - below))
    return ends[0], ends[1]


def coverage(draws: Tensor, truth: Tensor, hidden: Tensor, level: float = 0.9) -> float:
    """Share of hidden entries whose truth lies in the `interval` of the samples; see `expected_coverage`."""
    draws, truth, hidden = _checked(draws, truth, hidden)
    low, high = interval(draws, level)
    return float(((low <= truth) & (truth <= high))[hidden].double().mean())


def expected_coverage(n: int, level: float = 0.9) -> float:
    """The coverage of `n` samples whose law is the truth's: `level`, or `(n - 1)/(n + 1)` where n is too small."""
    return min(level, (n - 1) / (n + 1))


def amplitude_ratio(draws: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Peak-to-peak of each sample over that of the truth, both summed over leads, shape (n,); arguments as for `mae`.

    Peaks are those of hidden entries. In an electrocardiogram they belong to the QRS complex: 1 is right, flattened
    beats are below. Unlike an error it does not ask at which moment the beats come.

    Example:
        >>> truth = torch.tensor([[0.0, 1.5, -0.5, 0.0]])
        >>> hidden = torch.tensor([[False, True, True, True]])
        >>> amplitude_ratio(0.5 * truth[None], truth, hidden)
        tensor([0.5000], dtype=torch.float64)
    """
    draws, truth, hidden = _checked(draws, truth, hidden)
    some = hidden.any(-1)
    height = _peak_to_peak(truth, hidden)[some].sum()
    if height <= 0:
        raise NumericalError("the truth is flat where it is hidden: it has no amplitude to compare with")
    return _peak_to_peak(draws, hidden)[:, some].sum(1) / height


def _peak_to_peak(signals: Tensor, where: Tensor) -> Tensor:
    """Largest minus smallest of the entries of each lead, shape (..., leads)."""
    return signals.masked_fill(~where, -torch.inf).amax(-1) - signals.masked_fill(~where, torch.inf).amin(-1)


def hidden_of_twelve(observed: Tensor) -> Tensor:
    """Which entries of the twelve leads are hidden; an augmented lead is known where I and II are.

    Args:
        observed: boolean, nine leads, shape (9, time).

    Returns:
        Boolean, shape (12, time).
    """
    both = (observed[0] & observed[1]).expand(3, -1)
    return ~torch.cat([observed[:3], both, observed[3:]])


def recorded(truth: Tensor) -> int:
    """How many samples a recording has, shape (leads, time), before the zeros in all leads that pad its end."""
    times = truth.ne(0).any(0).nonzero()
    return int(times[-1]) + 1 if len(times) else truth.shape[1]


def ecg_scores(draws: Tensor, truth: Tensor, observed: Tensor) -> dict[str, float]:
    """Scores of one reconstruction by name, in the unit of the signals (mV), over the hidden part of twelve leads.

    Args:
        draws: nine leads, shape (n, 9, time), n at least 2.
        truth: nine leads, shape (9, time).
        observed: which of these entries were given, boolean, shape (9, time).

    Returns:
        `mae_hidden_mv` and `rmse_hidden_mv` (the paper's), the same over nine leads (`..._nine_mv`), of the mean of
        the samples (`mae_mean_mv`, `rmse_mean_mv`), `crps_mv`, `coverage90`, `coverage90_expected`,
        `einthoven_max_mv`.
    """
    drawn, true, hidden = twelve_leads(draws.double()), twelve_leads(truth.double()), hidden_of_twelve(observed)
    mean = drawn.mean(0, keepdim=True)
    return {
        "mae_hidden_mv": float(mae(drawn, true, hidden).mean()),
        "rmse_hidden_mv": float(rmse(drawn, true, hidden).mean()),
        "mae_hidden_nine_mv": float(mae(draws, truth, ~observed).mean()),
        "rmse_hidden_nine_mv": float(rmse(draws, truth, ~observed).mean()),
        "mae_mean_mv": float(mae(mean, true, hidden)),
        "rmse_mean_mv": float(rmse(mean, true, hidden)),
        "crps_mv": crps(drawn, true, hidden),
        "coverage90": coverage(drawn, true, hidden),
        "coverage90_expected": expected_coverage(len(draws)),
        "einthoven_max_mv": float(einthoven_error(drawn).max()),
    }


def _checked(draws: Tensor, truth: Tensor, hidden: Tensor, *, least: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    if draws.shape[1:] != truth.shape or hidden.shape != truth.shape or hidden.dtype != torch.bool:
        raise ShapeError(
            f"samples {tuple(draws.shape)}, truth {tuple(truth.shape)} and hidden {tuple(hidden.shape)} do not agree",
            hint="shapes (n, *event), (*event), and boolean (*event)",
        )
    if len(draws) < least or not bool(hidden.any()):
        raise ShapeError(f"{len(draws)} samples and {int(hidden.sum())} hidden entries are too few to score")
    if not bool(torch.isfinite(draws).all() and torch.isfinite(truth[hidden]).all()):
        raise NumericalError("a signal to score holds NaN or infinity")
    return draws.double(), truth.double(), hidden
