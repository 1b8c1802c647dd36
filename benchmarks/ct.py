"""Low-dose tomography of a phantom, samplers beside a checked chain: the table and picture of results/ct.md.

    python benchmarks/ct.py

Rows appear on stderr as they are done; a minute on one core.

The posterior is log-concave: with `lambda = rate exp(-a R x)` the Hessian of its negative log density is exactly
`C^-1 + a^2 R^T diag(lambda) R`. So the mode is unique, Newton's method finds it, and Hamiltonian Monte Carlo in
coordinates whitened by the Hessian there mixes within a few sweeps.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mri import picture
from skimage.data import shepp_logan_phantom
from skimage.transform import resize
from torch import Tensor

from midguide import Problem, make_operator, make_sampler, sample
from midguide.exact.chains import effective_draws, split_rhat
from midguide.exact.posteriors import Opaque
from midguide.likelihoods import GaussianLikelihood, PoissonLikelihood, observe_counts
from midguide.operators.radon import Transmission
from midguide.priors.field import GaussianField, matern_spectrum

SIZE, VIEWS, ABSORPTION, RATE, DRAWS, SEED = 32, 30, 4.0, 100.0, 32, 0
MEAN, PRIOR = 0.2, {"std": 0.3, "length": 4.0, "smoothness": 0.5}
CHAINS, SWEEPS, WARM, LEAPS, STRIDE = 8, 250, 50, 8, 0.2
PICTURE, SPREAD = Path("docs/images/ct.png"), 0.25


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        spec: the sampler.
        settings: of it.
        logs: whether it is given logarithms of counts with Gaussian noise, in place of the counts.
        closed: whether it is given the moments of the prior in closed form.
    """

    spec: str
    settings: dict[str, Any]
    logs: bool = True
    closed: bool = False

    @property
    def label(self) -> str:
        changed = [f"{name} {value:g}" for name, value in self.settings.items() if name != "steps"]
        return ", ".join([f"`{self.spec}`", *changed, *["closed form"] * self.closed])


ROWS = (
    Row("dps", {"steps": 100, "guidance": 0.02}, logs=False),
    Row("dps", {"steps": 100, "guidance": 0.1}, logs=False),
    Row("mgps", {"steps": 50}, logs=False),
    Row("mgps", {"steps": 50}),
    Row("pgdm", {"steps": 50}),
    Row("mmps", {"steps": 50}),
    Row("matheron", {"steps": 25}),
    Row("matheron", {"steps": 5}, closed=True),
)
HEAD = (
    *("method", "data", "steps", "forwards", "vjps", "error of the mean", "ratio of deviations", "chi-square"),
    *("90 % intervals hold the chain", "hold the phantom", "PSNR of the mean"),
)


class Density(NamedTuple):
    """The posterior of photon counts as matrices, in float64.

    Args:
        mean: of the prior, shape (d,).
        precision: of the prior, shape (d, d).
        rays: a R, shape (m, d).
        counts: shape (m,).
    """

    mean: Tensor
    precision: Tensor
    rays: Tensor
    counts: Tensor

    @classmethod
    def of(cls, prior: GaussianField, operator: Transmission, counts: Tensor) -> Density:
        """That of one observation."""
        units = torch.eye(prior.dimension, dtype=torch.float64).reshape(-1, *prior.event_shape)
        rays = operator.absorption * operator.radon(units).flatten(1).mT
        precision = torch.linalg.inv(prior.dense().covariance_matrix())
        return cls(prior.mean.flatten(), precision, rays, counts.flatten().double())

    def log_prob(self, x: Tensor) -> Tensor:
        """Up to a constant, shape (B, d) -> (B,)."""
        gap, path = x - self.mean, x @ self.rays.mT
        return -RATE * torch.exp(-path).sum(1) - path @ self.counts - 0.5 * (gap * (gap @ self.precision)).sum(1)

    def gradient(self, x: Tensor) -> Tensor:
        """Of `log_prob`, shape of x."""
        expected = RATE * torch.exp(-(x @ self.rays.mT))
        return (expected - self.counts) @ self.rays - (x - self.mean) @ self.precision

    def hessian(self, x: Tensor) -> Tensor:
        """Of `-log_prob` at one point, shape (d,) -> (d, d)."""
        return self.precision + self.rays.mT @ ((RATE * torch.exp(-self.rays @ x))[:, None] * self.rays)

    def mode(self) -> Tensor:
        """By Newton's method, shape (d,)."""
        x = self.mean
        for _ in range(30):
            step = torch.linalg.solve(self.hessian(x), self.gradient(x[None])[0])
            x = x + step
        assert float(step.abs().max()) < 1e-9
        return x


def chain(density: Density, mode: Tensor, root: Tensor) -> tuple[Tensor, float]:
    """Hamiltonian Monte Carlo in `x = mode + u root`: draws (chain, sweep, d), and the share of accepted moves."""
    generator = torch.Generator().manual_seed(SEED)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    u, kept, accepted = noise(CHAINS, len(mode)), [], 0.0
    for sweep in range(WARM + SWEEPS):
        momentum, moved = noise(*u.shape), u
        before = density.log_prob(mode + u @ root) - 0.5 * momentum.square().sum(1)
        momentum = momentum + STRIDE / 2 * density.gradient(mode + moved @ root) @ root.mT
        for leap in range(LEAPS):
            moved = moved + STRIDE * momentum
            last = leap == LEAPS - 1
            momentum = momentum + STRIDE / (2 if last else 1) * density.gradient(mode + moved @ root) @ root.mT
        after = density.log_prob(mode + moved @ root) - 0.5 * momentum.square().sum(1)
        taken = torch.rand(CHAINS, generator=generator, dtype=torch.float64).log() < after - before
        u = torch.where(taken[:, None], moved, u)
        if sweep >= WARM:
            kept.append(mode + u @ root)
            accepted += float(taken.double().mean()) / SWEEPS
    return torch.stack(kept, 1), accepted


def psnr(x: Tensor, truth: Tensor) -> float:
    """In decibels, white being 1."""
    return -10 * math.log10(float((x - truth).square().mean()))


class Reference(NamedTuple):
    """What draws are compared with.

    Args:
        mean: of the chain, shape (1, H, W).
        std: mean deviation of the chain.
        fresh: some of its draws, shape (n, 1, H, W).
        counts: the problem of counts, with its truth.
    """

    mean: Tensor
    std: Tensor
    fresh: Tensor
    counts: Problem

    def cells(self, draws: Tensor) -> list[str]:
        """Error of the mean, ratio of deviations, chi-square of counts, what intervals hold, PSNR."""
        assert self.counts.truth is not None
        truth = self.counts.truth[0]
        error = (draws.mean(0) - self.mean).square().mean().sqrt() / self.std
        ratio = draws.var(0).mean().sqrt() / self.std
        chi = self.counts.expand(len(draws)).likelihood.chi_square(draws).mean()
        low, high = draws.quantile(torch.tensor([0.05, 0.95]), dim=0)
        held = [float(((x >= low) & (x <= high)).float().mean()) for x in (self.fresh, truth)]
        shares = [f"{100 * share:.0f} %" for share in held]
        return [f"{error:.2f}", f"{ratio:.2f}", f"{chi:.2f}", *shares, f"{psnr(draws.mean(0), truth):.1f}"]


def scan() -> tuple[GaussianField, Problem, Problem]:
    """The prior, the problem of counts, and that of their logarithms."""
    pixels = resize(shepp_logan_phantom(), (SIZE, SIZE), anti_aliasing=True)
    truth = torch.from_numpy(pixels).float().clamp(0, 1)[None, None]
    prior = GaussianField(torch.full((1, SIZE, SIZE), MEAN), matern_spectrum((SIZE, SIZE), **PRIOR))
    rays = make_operator("transmission", prior.event_shape, views=VIEWS, absorption=ABSORPTION)
    assert isinstance(rays, Transmission)
    counted = observe_counts(rays, truth, RATE, seed=SEED, value_range=(0.0, 1.0))
    seen = counted.y.clamp_min(1.0)
    logs, sigma = -(seen / RATE).log() / ABSORPTION, 1 / (ABSORPTION * seen.sqrt())
    linear = GaussianLikelihood.of(rays.radon, logs, sigma[0])
    return prior, Problem(prior, counted, truth), Problem(prior, linear, truth)


def main() -> None:
    """Measure all rows, print the table and write the picture."""
    prior, counts, logs = scan()
    operator, likelihood = counts.likelihood.operator, counts.likelihood
    assert isinstance(operator, Transmission)
    assert isinstance(likelihood, PoissonLikelihood)
    assert counts.truth is not None
    density = Density.of(prior, operator, likelihood.y)
    mode = density.mode()
    root = torch.linalg.inv(torch.linalg.cholesky(density.hessian(mode)))  # root^T root is the inverse Hessian
    sweeps, accepted = chain(density, mode, root)
    rhat, size = float(split_rhat(sweeps).max()), float(effective_draws(sweeps).min())
    told = f"largest split R-hat {rhat:.4f}, least effective draws {size:.0f}, {100 * accepted:.0f} % of moves accepted"
    print(told, file=sys.stderr, flush=True)
    flat = sweeps.flatten(0, 1)
    picks = torch.randperm(len(flat), generator=torch.Generator().manual_seed(1))[: 2 * DRAWS]
    some = flat[picks].reshape(-1, *prior.event_shape).float()
    std = flat.var(0).mean().sqrt().float()
    reference = Reference(flat.mean(0).reshape(prior.event_shape).float(), std, some[:DRAWS], counts)
    normal = torch.randn(len(flat), len(mode), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    laplace = (mode + normal @ root).reshape(-1, *prior.event_shape).float()
    lines = [
        ["chain, other draws", "counts", "", "", "", *reference.cells(some[DRAWS:])],
        [f"Laplace, {len(flat):,} draws", "counts", "", "", "", *reference.cells(laplace)],
    ]
    seen = likelihood.y.clamp_min(1.0)
    classical = operator.radon.filtered_back_projection(-(seen / RATE).log() / ABSORPTION)
    columns: dict[str, tuple[Tensor, Tensor | None]] = {
        "phantom": (counts.truth[0, 0], None),
        "back-projection": (classical[0, 0], None),
        "chain": (reference.mean[0], flat.std(0).reshape(SIZE, SIZE)),
    }
    for row in ROWS:
        given = logs if row.logs else counts
        asked = given if row.closed else Problem(Opaque(prior), given.likelihood, given.truth)
        drawn = sample(make_sampler(row.spec, row.settings, asked), asked, DRAWS, seed=SEED, progress=False)
        calls = (f"{row.settings['steps']}", f"{drawn.cost.network_forwards:,.0f}", f"{drawn.cost.network_vjps:,.0f}")
        kind = "logarithms" if row.logs else "counts"
        lines.append([row.label, kind, *calls, *reference.cells(drawn.draws[0])])
        print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
        if not row.closed:
            title = f"{row.label.replace('`', '')}\n{kind}"
            columns[title] = drawn.draws[0].mean(0)[0], drawn.draws[0].std(0)[0]
    back = ["filtered back-projection", "logarithms", *[""] * 8, f"{psnr(classical[0], counts.truth[0]):.1f}"]
    print("\n".join(f"| {' | '.join(line)} |" for line in (HEAD, ["---"] * len(HEAD), *lines, back)))
    picture(columns, PICTURE, brightest=0.8, spread=SPREAD)


if __name__ == "__main__":
    main()
