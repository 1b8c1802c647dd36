"""The particle samplers once more, in plain NumPy for one linear-Gaussian problem, from the papers' formulas.

They share no code with the package: coefficient by coefficient, all groups at once, another random generator. `target`
is the exact law of the weighted draws of MCGDiff and SMCDiff, whatever the number of particles.
"""

import numpy as np
from reference import levels
from scipy import stats


class Basis:
    """`A = U diag(s) V^T`: rows of V, coefficients of y and their noise, and the log of what they leave out of y."""

    def __init__(self, p):
        U, s, self.Vt = np.linalg.svd(p.A)
        r = len(s)
        self.y, self.c, self.measured = (U.T @ p.y)[:r] / s, p.sigma_y / s, range(r)
        rest = (U.T @ p.y)[r:]
        self.log_rest = stats.norm.logpdf(rest, 0, p.sigma_y).sum() - np.log(s).sum()


def ratio(p, t):
    return np.sqrt(1 / p.alpha_squared[t] - 1) if t else 0.0


def log_normal(x, mean, variance):
    return stats.norm.logpdf(x, mean, np.sqrt(variance))


def meet(p, basis, j, mean, variance, s, x=None, t=None):
    """Log density of y_j between the states at t and s (s < t), and moments of the coefficient at s given it."""
    alpha, low = np.sqrt(p.alpha_squared[s]), ratio(p, s) ** 2
    k = 0.0 if x is None else (basis.c[j] ** 2 - low) / (ratio(p, t) ** 2 - low)
    shift = 0.0 if x is None else k * (x @ basis.Vt[j]) / np.sqrt(p.alpha_squared[t])
    slope, noise = (1 - k) / alpha, (1 - k) * (basis.c[j] ** 2 - low)
    total = slope**2 * variance + noise
    error = basis.y[j] - shift - slope * mean
    mass = log_normal(error, 0, total)
    return mass, mean + variance * slope / total * error, variance * noise / total


def resample(log_weight, rng, *arrays):
    """Systematic, of the groups with an effective sample size below half; axes (group, particle)."""
    w = np.exp(log_weight - log_weight.max(1, keepdims=True))
    w /= w.sum(1, keepdims=True)
    N = w.shape[1]
    poor = 1 / (w**2).sum(1) < N / 2
    places = (np.arange(N) + rng.random((len(w), 1))) / N
    picks = (places[:, :, None] > np.cumsum(w, 1)[:, None, :]).sum(2).clip(max=N - 1)
    picks = np.where(poor[:, None], picks, np.arange(N))
    level = np.log(np.exp(log_weight - log_weight.max(1, keepdims=True)).mean(1)) + log_weight.max(1)
    log_weight = np.where(poor[:, None], level[:, None], log_weight)
    return log_weight, *(np.take_along_axis(a, picks[:, :, None], 1) for a in arrays)


def backward(p, basis, x, t, s):
    """Mean and variances of the prior's kernel to s in the basis; s = 0: `D`, with the level's variance if measured."""
    D = p.denoise(x.reshape(-1, x.shape[-1]), t).reshape(x.shape)
    if s:
        mean, std = p.ddpm(D, x, t, s)
        return mean @ basis.Vt.T, np.full(x.shape[-1], std**2)
    return D @ basis.Vt.T, np.zeros(x.shape[-1])


def given(mean, variance, center, noise):
    """Log mass of N(center; ., noise) under N(mean, variance), and moments of the product."""
    gain = variance / (variance + noise)
    return log_normal(center, mean, variance + noise), mean + gain * (center - mean), variance * (1 - gain)


def mcgdiff(p, steps, particles, groups, rng):
    basis, times = Basis(p), [*levels(p.T, steps), 0]
    mean, variance = np.zeros((groups, particles, len(p.m))), np.ones(len(p.m))
    log_weight, x, t = np.full((groups, particles), basis.log_rest), None, None
    for s in times:
        alpha = np.sqrt(p.alpha_squared[s])
        if x is not None:
            mean, variance = backward(p, basis, x, t, s)
        new_mean, new_variance = mean.copy(), np.tile(variance, (groups, particles, 1))
        for j in basis.measured:
            if x is not None and basis.c[j] >= ratio(p, t):
                continue
            v = ratio(p, t) ** 2 if s == 0 else variance[j]
            if basis.c[j] >= ratio(p, s):
                mass, new_mean[..., j], new_variance[..., j] = meet(p, basis, j, mean[..., j], v, s, x, t)
            else:
                noise = alpha**2 * (ratio(p, s) ** 2 - basis.c[j] ** 2)
                mass, new_mean[..., j], new_variance[..., j] = given(mean[..., j], v, alpha * basis.y[j], noise)
            log_weight = log_weight + mass
            if x is not None:
                a = np.sqrt(p.alpha_squared[t])
                before = a**2 * (ratio(p, t) ** 2 - basis.c[j] ** 2)
                log_weight = log_weight - log_normal(a * basis.y[j], x @ basis.Vt[j], before)
        if x is not None:
            log_weight, new_mean, new_variance = resample(log_weight, rng, new_mean, new_variance)
        x = (new_mean + np.sqrt(new_variance) * rng.standard_normal(new_mean.shape)) @ basis.Vt
        t = s
    return x, log_weight


def on_a_path(p, steps, particles, groups, rng, *, noise_once, weigh_paths=True):
    """SMCDiff (`noise_once`), where the path begins at the noise of y, and FPS, where it begins at y itself."""
    basis, times = Basis(p), [*levels(p.T, steps), 0]
    pins = basis.c**2 if noise_once else np.zeros_like(basis.c)
    path = {0: np.tile(basis.y, (groups, 1))}  # x / alpha, drawn upwards, by the forward process
    log_path = {0: np.zeros(groups)}
    for below, s in zip(times[::-1], times[-2::-1], strict=False):
        above = np.maximum(ratio(p, s) ** 2 - np.maximum(ratio(p, below) ** 2, pins), 0.0)
        path[s] = path[below] + np.sqrt(above) * rng.standard_normal(path[below].shape)
        std = np.sqrt(np.where(above > 0, above, 1)) * np.sqrt(p.alpha_squared[s])
        density = stats.norm.logpdf((path[s] - path[below]) * np.sqrt(p.alpha_squared[s]), 0, std)
        log_path[s] = np.where(above > 0, density, 0.0).sum(1)
    mean, variance = np.zeros((groups, particles, len(p.m))), np.ones(len(p.m))
    log_weight, x, t = np.full((groups, particles), basis.log_rest), None, None
    for s in times:
        alpha = np.sqrt(p.alpha_squared[s])
        if x is not None:
            mean, variance = backward(p, basis, x, t, s)
        new_mean, new_variance = mean.copy(), np.tile(variance, (groups, particles, 1))
        for j in basis.measured:
            if noise_once and x is not None and basis.c[j] >= ratio(p, t):
                continue
            v = ratio(p, t) ** 2 if s == 0 else variance[j]
            if noise_once and basis.c[j] >= ratio(p, s):
                mass, new_mean[..., j], new_variance[..., j] = meet(p, basis, j, mean[..., j], v, s, x, t)
            else:
                noise = 0.0 if noise_once else alpha**2 * basis.c[j] ** 2
                center = alpha * path[s][:, None, j]
                mass, new_mean[..., j], new_variance[..., j] = given(mean[..., j], v, center, noise)
            log_weight = log_weight + mass
        log_weight = log_weight - log_path[s][:, None]
        if x is not None:
            log_weight, new_mean, new_variance = resample(log_weight, rng, new_mean, new_variance)
        x = (new_mean + np.sqrt(new_variance) * rng.standard_normal(new_mean.shape)) @ basis.Vt
        t = s
    return x, log_weight


def split_gibbs_smc(p, couplings, moves, walk_steps, particles, groups, rng):
    """`couplings` are times of the schedule; densities of y from dense covariances."""

    def log_density(x, rho):
        covariance = p.sigma_y**2 * np.eye(len(p.y)) + rho**2 * p.A @ p.A.T
        return stats.multivariate_normal(np.zeros(len(p.y)), covariance).logpdf(p.y - x @ p.A.T)

    def down(t):
        return sorted({int(np.floor(1 + (t - 1) * i / walk_steps + 1e-9)) for i in range(1, walk_steps)} | {t})[::-1]

    def walk(x, times):
        shape, x = x.shape, x.reshape(-1, x.shape[-1])
        for t, s in zip(times, times[1:], strict=False):
            mean, std = p.ddpm(p.denoise(x, t), x, t, s)
            x = mean + std * rng.standard_normal(x.shape)
        return p.denoise(x, times[-1]).reshape(shape)

    x = walk(rng.standard_normal((groups, particles, len(p.m))), down(p.T))
    log_weight = log_density(x, ratio(p, couplings[0]))
    for t, s in zip(couplings, [*couplings[1:], 0], strict=True):
        log_weight, x = resample(log_weight, rng, x)
        for _ in range(moves):
            covariance = np.linalg.inv(np.eye(len(p.m)) / ratio(p, t) ** 2 + p.A.T @ p.A / p.sigma_y**2)
            center = (x / ratio(p, t) ** 2 + p.y @ p.A / p.sigma_y**2) @ covariance
            z = center + rng.standard_normal(x.shape) @ np.linalg.cholesky(covariance).T
            x = walk(np.sqrt(p.alpha_squared[t]) * z, down(t))
        log_weight = log_weight + log_density(x, ratio(p, s)) - log_density(x, ratio(p, t))
    return x, log_weight


def target(p, steps):
    """Mean and covariance of the draws of MCGDiff and SMCDiff under their weights, and the log evidence, all exact.

    The chain of the prior's backward kernels is linear, and each coefficient of y lies on the line between the states
    on both sides of its noise: one Gaussian of the last state and of what was seen.
    """
    basis, times, d = Basis(p), [*levels(p.T, steps), 0], len(p.m)
    mean, covariance, order = np.zeros(d), np.eye(d), []

    def linear(A, b, Q):
        nonlocal mean, covariance
        mean, covariance = A @ mean + b, A @ covariance @ A.T + Q

    for t, s in zip([None, *times], times, strict=False):
        low, alpha = ratio(p, s) ** 2, np.sqrt(p.alpha_squared[s])
        new = [j for j in basis.measured if j not in order and basis.c[j] ** 2 >= low]
        k = np.zeros(len(new)) if t is None else (basis.c[new] ** 2 - low) / (ratio(p, t) ** 2 - low)
        if t is not None:
            upper = k[:, None] * basis.Vt[new] / np.sqrt(p.alpha_squared[t])
            size = len(mean)
            slope, shift, std = p.jacobian(t), p.denoise(np.zeros(d), t), 0.0
            if s:
                x0_weight, std = p.ddpm(1.0, 0.0, t, s)
                slope = x0_weight * slope + p.ddpm(0.0, 1.0, t, s)[0] * np.eye(d)
                shift = x0_weight * shift
            A = np.zeros((size + len(new), size))
            A[:size] = np.eye(size)
            A[:d, :d], A[size:, :d] = slope, upper
            Q = np.zeros((size + len(new), size + len(new)))
            left = [j for j in basis.measured if j not in order]
            spread = sum((np.outer(basis.Vt[j], basis.Vt[j]) for j in left), np.zeros((d, d)))
            Q[:d, :d] = std**2 * np.eye(d) if s else ratio(p, t) ** 2 * spread
            linear(A, np.concatenate([shift, np.zeros(len(A) - d)]), Q)
        else:
            linear(np.eye(d + len(new), d), np.zeros(d + len(new)), np.zeros((d + len(new), d + len(new))))
        A, Q = np.eye(len(mean)), np.zeros((len(mean), len(mean)))
        for place, j in enumerate(new, start=len(mean) - len(new)):
            share = k[place - len(mean) + len(new)]
            A[place, :d] += (1 - share) * basis.Vt[j] / alpha
            Q[place, place] = (1 - share) * (basis.c[j] ** 2 - low)
        linear(A, np.zeros(len(mean)), Q)
        order += new
    seen, error = covariance[d:, d:], basis.y[order] - mean[d:]
    gain = covariance[:d, d:] @ np.linalg.inv(seen)
    log_evidence = stats.multivariate_normal(np.zeros(len(order)), seen).logpdf(error) + basis.log_rest
    return mean[:d] + gain @ error, covariance[:d, :d] - gain @ covariance[d:, :d], log_evidence
