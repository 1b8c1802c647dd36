"""The same arrays through sbi's diagnostics and ours: ranks, coverage of highest density, TARP.

    pip install sbi && python benchmarks/calibration_sbi.py

The tests do not depend on sbi, since it brings seventeen packages. They hold both against a second implementation in
NumPy (`tests/calibration/test_oracle.py`).
"""

from __future__ import annotations

import torch
from sbi.diagnostics.sbc import _run_sbc
from sbi.diagnostics.tarp import _run_tarp
from torch import Tensor

from midguide.calibration import highest_density, tarp, uniform_rank

N, L, D = 300, 63, 4


def arrays() -> tuple[Tensor, Tensor, Tensor]:
    """Truths (N, d), draws (L, N, d) that are a little too narrow, and references (N, d), from one stream."""
    g = torch.Generator().manual_seed(0)
    truths, draws, references = (torch.randn(shape, generator=g) for shape in ((N, D), (L, N, D), (N, D)))
    return truths, 0.8 * draws, references


def ranks(truth: Tensor, draws: Tensor) -> Tensor:
    """Ours, whole: truth (N,), draws (L, N)."""
    return (uniform_rank(truth, draws.mT, 0.5) * (L + 1)).floor()


def density(x: Tensor) -> Tensor:
    """The log density that the regions of highest density go by."""
    return -x.square().sum(-1)


def main() -> None:
    truths, draws, references = arrays()

    theirs = _run_sbc(truths, truths, draws, show_progress_bar=False)
    ours = torch.stack([ranks(truths[:, i], draws[..., i]) for i in range(D)], 1)
    print(f"ranks of {D} values: largest difference {float((theirs - ours).abs().max()):g}")

    reduced = _run_sbc(truths, truths, draws, lambda theta, x: density(theta), show_progress_bar=False)
    u = uniform_rank(density(truths), density(draws).mT, 0.5)
    print(f"ranks by the density: largest difference {float((reduced[:, 0] - (u * (L + 1)).floor()).abs().max()):g}")
    share, own = float((reduced[:, 0] / L >= 0.5).double().mean()), highest_density(u.numpy(), [0.5])[0].share
    print(f"coverage of highest density at 0.5: {share:.4f} by theirs, {own:.4f} by ours")

    expected, levels = _run_tarp(draws, truths, references, num_bins=10)
    far = uniform_rank((truths - references).norm(dim=1), (draws - references).norm(dim=2).mT, 0.5).numpy()
    places = (levels[1:-1] * L + 0.5) / (
        L + 1
    )  # theirs have k of L draws below, ours are in the middle of L + 1 places
    gaps = [abs(tarp(far, [float(a)])[0].share - float(e)) for a, e in zip(places, expected[1:-1], strict=True)]
    print(f"TARP at {len(gaps)} levels: largest difference {max(gaps):.4f} (one problem is {1 / N:.4f})")


if __name__ == "__main__":
    main()
