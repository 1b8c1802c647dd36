"""Averaged weights at several lengths: short averages follow the network closely, long ones are smoother.

After step n the average of decay d has moved towards the weights by `1 - min(d, (1 + n) / (10 + n))`, so that early
weights are forgotten. Which length is best depends on the data and the rate; the held-out loss decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


class Averages:
    """Exponential averages of a network's weights, where the weights are.

    Args:
        network: its present weights are the first value of each average.
        decays: decay per step of each average.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> averages = Averages(network, (0.9, 0.99))
        >>> averages.update(step=1)
        >>> sorted(averages.weights)
        [0.9, 0.99]
    """

    def __init__(self, network: nn.Module, decays: Sequence[float]) -> None:
        self._now = network.state_dict()  # shares memory with the network
        self.weights = {decay: {name: value.clone() for name, value in self._now.items()} for decay in decays}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move each average towards the weights of the network, which has made that many steps."""
        moving = [name for name, value in self._now.items() if value.is_floating_point()]
        counts = [name for name in self._now if name not in moving]  # how many batches a normalization has seen
        now = [self._now[name] for name in moving]
        for decay, average in self.weights.items():
            share = 1 - min(decay, (1 + step) / (10 + step))
            own = [average[name] for name in moving]
            torch._foreach_lerp_(own, now, share)  # pyright: ignore[reportPrivateImportUsage]
            for name in counts:
                average[name].copy_(self._now[name])

    def load(self, saved: Mapping[float, Weights]) -> None:
        """Go on from saved averages; one of a decay that was not saved starts from the longest that was."""
        longest = saved[max(saved)]
        for decay, average in self.weights.items():
            source = saved.get(decay, longest)
            for name, value in average.items():
                value.copy_(source[name])
