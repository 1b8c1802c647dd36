"""Moment matching and its particle filters once more, in plain NumPy, from the papers' formulas.

They share no code with the package, nor with each other beyond the prior of reference.py: dense matrices, covariances
formed and inverted, another random generator. Where the package draws by Matheron's rule, these draw from the
conditional law itself; where it uses an identity for what noise leaves of a covariance, these subtract.
"""

import numpy as np
from reference import LinearGaussian, levels


class Mixture:
    """Prior `sum_k w_k N(m_k, c I)`, one observation `y = A x + sigma_y z`, linear betas."""

    def __init__(self, weights, means, variance, A, y, sigma_y, T=1000):
        self.weights, self.means, self.variance, self.m = weights, means, variance, means[0]
        self.A, self.y, self.sigma_y, self.T = A, y, sigma_y, T
        self.alpha_squared = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, T))])

    ddpm = LinearGaussian.ddpm

    def moments(self, x, t):
        """Mean (n, d) and covariance (n, d, d) of x_0 given x_t, from the posterior of each component."""
        a2 = self.alpha_squared[t]
        a, total = np.sqrt(a2), a2 * self.variance + 1 - a2
        gaps = x[:, None] - a * self.means
        log = np.log(self.weights) - 0.5 * (gaps**2).sum(2) / total
        share = np.exp(log - log.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        centers = self.means + a * self.variance / total * gaps
        mean = np.einsum("nk,nkd->nd", share, centers)
        second = np.einsum("nk,nkd,nke->nde", share, centers, centers)
        inside = self.variance * (1 - a2) / total * np.eye(len(self.m))
        return mean, second - mean[:, :, None] * mean[:, None] + inside

    def denoise(self, x, t):
        return self.moments(x, t)[0]


def moments(p, x, t):
    """Mean and covariance of x_0 given x_t: Tweedie's second formula for a Gaussian prior."""
    if isinstance(p, Mixture):
        return p.moments(x, t)
    a2 = p.alpha_squared[t]
    return p.denoise(x, t), np.tile((1 - a2) / np.sqrt(a2) * p.jacobian(t), (len(x), 1, 1))


def gain(p, C):
    """`C A^T (A C A^T + sigma_y^2 I)^-1`, shape (n, d, m)."""
    return C @ p.A.T @ np.linalg.inv(p.A @ C @ p.A.T + p.sigma_y**2 * np.eye(len(p.y)))


def apply(matrices, x):
    return np.einsum("nij,nj->ni", matrices, x)


def noise(p, n, rng):
    return rng.standard_normal((n, len(p.m)))


def guided(p, steps, eta, n, rng, covariance):
    """DDIM steps towards `D + gain (y - A D)`, with what `covariance` makes of C."""
    times, x = levels(p.T, steps), noise(p, n, rng)
    for t, s in zip(times, [*times[1:], 0], strict=True):
        mean, C = moments(p, x, t)
        x0 = mean + apply(gain(p, covariance(C)), p.y - mean @ p.A.T)
        if s == 0:
            return x0
        a, b = p.alpha_squared[t], p.alpha_squared[s]
        std = eta * np.sqrt((1 - b) / (1 - a) * (1 - a / b))
        eps = (x - np.sqrt(a) * x0) / np.sqrt(1 - a)
        x = np.sqrt(b) * x0 + np.sqrt(1 - b - std**2) * eps + std * rng.standard_normal(x.shape)


def mmps(p, steps, eta, n, rng):
    return guided(p, steps, eta, n, rng, lambda C: C)


def tmpd(p, steps, n, rng):
    return guided(p, steps, 1.0, n, rng, lambda C: np.eye(C.shape[1]) * np.maximum(C.sum(2), 0)[:, None])


def log_normal(y, mean, S):
    gap = y - mean
    log_det = np.linalg.slogdet(S)[1] + len(y) * np.log(2 * np.pi)
    return -0.5 * (np.einsum("ni,nij,nj->n", gap, np.linalg.inv(S), gap) + log_det)


def conditional_draw(p, mean, C, rng):
    """A draw from `N(mean, C)` given y, by the root of its covariance."""
    K = gain(p, C)
    left = C - K @ p.A @ C
    values, vectors = np.linalg.eigh((left + left.transpose(0, 2, 1)) / 2)
    root = vectors * np.sqrt(np.maximum(values, 0))[:, None]
    return mean + apply(K, p.y - mean @ p.A.T) + apply(root, rng.standard_normal(mean.shape))


def systematic(weights, u):
    places = (np.arange(len(weights)) + u) / len(weights)
    return np.searchsorted(np.cumsum(weights), places, side="right").clip(max=len(weights) - 1)


def resample(log_weight, particles, rng):
    """Rows and weights after each group whose effective sample size is below half of it has been resampled."""
    rows, out = np.arange(len(log_weight)), log_weight.copy()
    if particles == 1:
        return rows, out
    for first in range(0, len(rows), particles):
        group = slice(first, first + particles)
        w = np.exp(log_weight[group] - log_weight[group].max())
        total = w.sum()
        if total**2 / (w**2).sum() < particles / 2:
            rows[group] = first + systematic(w / total, rng.uniform())
            out[group] = log_weight[group].max() + np.log(total / particles)
    return rows, out


def matheron(p, steps, n, rng, particles=1):
    """Draws and log-weights of second-order transitions; p(y | x_s, x_t) by conditioning x_0 on x_s."""
    times, x = levels(p.T, steps), noise(p, n, rng)
    log_weight, counted = np.zeros(n), np.zeros(n)
    identity, measured = np.eye(len(p.m)), np.eye(len(p.y))
    for t, s in zip(times, [*times[1:], 0], strict=True):
        mean, C = moments(p, x, t)
        S = p.A @ C @ p.A.T + p.sigma_y**2 * measured
        log_weight = log_weight + log_normal(p.y, mean @ p.A.T, S) - counted
        x0 = conditional_draw(p, mean, C, rng)
        if s == 0:
            return x0, log_weight
        center, std = p.ddpm(x0, x, t, s)
        x_s = center + std * rng.standard_normal(x.shape)
        c = p.ddpm(1.0, 0.0, t, s)[0]
        K = c * C @ np.linalg.inv(c**2 * C + std**2 * identity)
        after = mean + apply(K, x_s - p.ddpm(mean, x, t, s)[0])
        left = p.A @ (C - c * K @ C) @ p.A.T + p.sigma_y**2 * measured
        counted = log_normal(p.y, after @ p.A.T, left)
        rows, log_weight = resample(log_weight, particles, rng)
        x, counted = x_s[rows], counted[rows]


def tds(p, steps, n, rng, particles=1, spread=1.0, derivative=False):
    """Algorithm 1 of Wu et al. 2023 with the twist's variance of a Gaussian prior; draws and log-weights."""
    times, x = levels(p.T, steps), noise(p, n, rng)

    def aim(x, t):
        a2 = p.alpha_squared[t]
        r2 = spread**2 * (1 - a2) / (spread**2 * a2 + 1 - a2)
        x0, C = moments(p, x, t)
        inverse = np.linalg.inv(p.sigma_y**2 * np.eye(len(p.y)) + r2 * p.A @ p.A.T)
        pull = (p.y - x0 @ p.A.T) @ inverse @ p.A  # gradient of the log twist in x_0
        moved = apply(C, pull) if derivative else r2 * pull  # sigma^2 / alpha J is C
        S = np.tile(np.linalg.inv(inverse), (len(x), 1, 1))
        return x0, x0 + moved, log_normal(p.y, x0 @ p.A.T, S)

    x0, moved, twist = aim(x, times[0])
    log_weight = twist
    for t, s in zip(times, times[1:], strict=False):
        rows, log_weight = resample(log_weight, particles, rng)
        x, x0, moved, twist = x[rows], x0[rows], moved[rows], twist[rows]
        (plain, std), (aimed, _) = p.ddpm(x0, x, t, s), p.ddpm(moved, x, t, s)
        x = aimed + std * rng.standard_normal(x.shape)
        kernel = (((x - aimed) ** 2).sum(1) - ((x - plain) ** 2).sum(1)) / (2 * std**2)
        x0, moved, after = aim(x, s)
        log_weight = log_weight + kernel + after - twist
        twist = after
    likelihood = log_normal(p.y, x0 @ p.A.T, np.tile(p.sigma_y**2 * np.eye(len(p.y)), (n, 1, 1)))
    return x0, log_weight + likelihood - twist
