"""The posterior of a Levy process under a linear measurement, by a Gibbs sampler that checks itself.

The model is `x = L u` (running sums) and `y = A x + sigma_y e`. An increment is `u_i = s_i sqrt(v_i) z_i`: s_i says
whether it is off the atom, v_i is the variance of the scale mixture. One sweep draws

1. every s_i given v and the other s, with u integrated out: y is Gaussian, and a jump more is a rank-one change;
2. u given s and v: Gaussian, by Matheron's rule;
3. v given u.

Chains start from the prior. They end once split R-hat of all entries is below `RHAT` and the least effective number of
draws is above `DRAWS`. Otherwise there is an error, and no posterior.

References: Bohra, Pla, Giovannelli, Unser 2023, "A statistical framework to investigate the optimality of
signal-reconstruction methods", Section IV; Ge, Idier, Le Carpentier 2011, for the spikes.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from midguide.errors import NumericalError
from midguide.exact.chains import effective_draws, split_rhat
from midguide.exact.increments import Increments, draw
from midguide.maths.rng import Rng, stream_seed
from midguide.priors.gaussian import LinearSystem

CHAINS = 40
SWEEPS = 150
"""Sweeps of one round; the first round is left out."""
ROUNDS = 20
"""Rounds after which a posterior that has not converged is refused."""
RHAT = 1.02
DRAWS = 1500.0


class GibbsPosterior:
    """The posterior, drawn when it is first used.

    Args:
        law: of the increments.
        system: matrix A, shape (m, d), y, and sigma_y.
        event_shape: shape of one event, with d entries.
        seed: of the chains.
    """

    def __init__(self, law: Increments, system: LinearSystem, event_shape: tuple[int, ...], seed: int = 0) -> None:
        self._law, self._system, self._event_shape, self._seed = law, system, event_shape, seed

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """`n` draws at random places of the chains, shape (n, *event), float32; at most as many as there are."""
        draws = self.chains.flatten(0, 1)
        if n > len(draws):
            raise NumericalError(f"{n} draws are asked of chains with {len(draws)}")
        order = Rng([(seed, "gibbs")], size=len(draws)).uniform(torch.empty(len(draws), dtype=torch.float64)).argsort()
        return draws[order[:n]].reshape(n, *self._event_shape).float()

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean, shape of one event, and covariance over the flattened event, float64, of all draws."""
        draws = self.chains.flatten(0, 1)
        return draws.mean(0).reshape(self._event_shape), torch.cov(draws.mT)

    @property
    def rhat(self) -> float:
        """The largest split R-hat over entries."""
        return float(split_rhat(self.chains).max())

    @property
    def effective(self) -> float:
        """The least effective number of draws over entries."""
        return float(effective_draws(self.chains).min())

    @property
    def error(self) -> float:
        """The standard error of the mean, relative to the standard deviation, of the worst entry."""
        return 1 / math.sqrt(self.effective)

    @cached_property
    def chains(self) -> Tensor:
        """The signals of all kept sweeps, float64, shape (chain, sweep, d).

        Raises:
            NumericalError: If the chains have not converged.
        """
        state = _Sweeper(self._law, self._system, self._seed)
        state.run(SWEEPS)
        kept: list[Tensor] = []
        rhat, effective = math.inf, 0.0
        for _ in range(ROUNDS):
            kept.append(state.run(SWEEPS))
            chains = torch.cat(kept, 1)
            rhat, effective = float(split_rhat(chains).max()), float(effective_draws(chains).min())
            if rhat < RHAT and effective > DRAWS:
                return chains
        raise NumericalError(
            f"the Gibbs sampler has not converged: R-hat {rhat:.3f}, {effective:.0f} effective draws",
            hint="take a smaller problem, or more noise",
        )


class _Sweeper:
    """The state of all chains: increments u and variances v, shape (chain, d)."""

    def __init__(self, law: Increments, system: LinearSystem, seed: int) -> None:
        m, d = system.matrix.shape
        self.law, self.y, self.noise = law, system.y, system.sigma_y**2
        # column i of A L: what a jump at i does to the measurement
        self.matrix = system.matrix.flip(1).cumsum(1).flip(1)
        self.eye = torch.eye(m, dtype=torch.float64)
        self.rng = Rng([(stream_seed(seed, "gibbs"), i) for i in range(CHAINS)])
        like = torch.empty(CHAINS, d, dtype=torch.float64)
        self.v, self.u = law.prior_variances(like, self.rng), draw(law, like, self.rng)
        self.jumps = self.u != 0

    def run(self, sweeps: int) -> Tensor:
        """Signals after each of so many sweeps, shape (chain, sweep, d)."""
        found = []
        for _ in range(sweeps):
            if self.law.atom:
                self._draw_jumps()
            self._draw_increments()
            given = self.law.variances(self.u, self.rng)
            self.v = (
                torch.where(self.jumps, given, self.law.prior_variances(self.u, self.rng)) if self.law.atom else given
            )
            found.append(self.u.cumsum(1))
        return torch.stack(found, 1)

    def _draw_jumps(self) -> None:
        """Each s_i given v and the others; `inverse` is that of the covariance of y."""
        inverse = torch.linalg.inv(self._covariance())
        odds = math.log(1 - self.law.atom) - math.log(self.law.atom)
        uniform = self.rng.uniform(self.u)
        for i in range(self.u.shape[1]):
            column, v = self.matrix[:, i], self.v[:, i]
            moved = inverse @ column
            energy, along = moved @ column, moved @ self.y
            # without i: Sherman and Morrison where i is a jump
            has = self.jumps[:, i]
            rest = torch.where(has, 1 - v * energy, 1.0).clamp_min(1e-12)
            moved, energy, along = moved / rest[:, None], energy / rest, along / rest
            without = inverse + torch.where(has, v * rest, 0.0)[:, None, None] * moved[:, :, None] * moved[:, None, :]
            grown = 1 + v * energy
            log_odds = odds - 0.5 * grown.log() + 0.5 * v * along.square() / grown
            self.jumps[:, i] = uniform[:, i] < torch.sigmoid(log_odds)
            share = torch.where(self.jumps[:, i], v / grown, 0.0)
            inverse = without - share[:, None, None] * moved[:, :, None] * moved[:, None, :]

    def _draw_increments(self) -> None:
        """Matheron's rule: `u' ~ N(0, D)`, then the correction that makes it agree with y."""
        spread = torch.where(self.jumps, self.v, 0.0) if self.law.atom else self.v
        free = spread.sqrt() * self.rng.normal(self.u)
        noise = self.noise**0.5 * self.rng.normal(self.u.new_empty(CHAINS, len(self.y)))
        gap = self.y - free @ self.matrix.mT - noise
        solved = torch.cholesky_solve(gap[:, :, None], torch.linalg.cholesky(self._covariance()))[:, :, 0]
        self.u = free + spread * (solved @ self.matrix)

    def _covariance(self) -> Tensor:
        """Of y given s and v, shape (chain, m, m)."""
        spread = torch.where(self.jumps, self.v, 0.0) if self.law.atom else self.v
        return (self.matrix * spread[:, None, :]) @ self.matrix.mT + self.noise * self.eye
