"""The samplers of latents once more, in plain NumPy for linear encoders and decoders, from the papers' pseudo-code.

As in reference.py: dense matrices, explicit Jacobians, another random generator, no code of the package.
"""

import numpy as np
from reference import LinearGaussian, levels


class LatentLinearGaussian(LinearGaussian):
    """Prior N(m, C) of latents, `Dec(z) = W z + b`, `Enc(x) = E (x - b)`, `y = A Dec(z) + sigma_y noise`."""

    def __init__(self, m, C, A, y, sigma_y, W, b, E):
        super().__init__(m, C, A, y, sigma_y)
        self.W, self.b, self.E = W, b, E

    def in_latents(self):
        """The same problem without signals: the operator is A W, the observation y - A b."""
        return LinearGaussian(self.m, self.C, self.A @ self.W, self.y - self.A @ self.b, self.sigma_y)

    def decode(self, z):
        return z @ self.W.T + self.b

    def encode(self, x):
        return (x - self.b) @ self.E.T


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def psld(p, steps, guidance, gluing, n, rng):
    times = levels(p.T, steps)
    z = rng.standard_normal((n, len(p.m)))
    keep = np.eye(len(p.b)) - p.A.T @ p.A
    for t, s in zip(times, times[1:], strict=False):
        z0 = p.denoise(z, t)
        x0 = p.decode(z0)
        misfit, gap = p.y - x0 @ p.A.T, z0 - p.encode(p.y @ p.A + x0 @ keep.T)
        by_misfit = -unit(misfit) @ p.A @ p.W
        by_gap = unit(gap) @ (np.eye(len(p.m)) - p.E @ keep @ p.W)
        mean, std = p.ddpm(z0, z, t, s)
        z = mean + std * rng.standard_normal(z.shape) - (guidance * by_misfit + gluing * by_gap) @ p.jacobian(t)
    return p.denoise(z, times[-1])


def adamw(x, gradient, misfit, rate, iterations, goal):
    """Rows of x go downhill until their `misfit` is below `goal`."""
    first, second = np.zeros_like(x), np.zeros_like(x)
    for k in range(1, iterations + 1):
        g = gradient(x)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        step = rate * (first / (1 - 0.9**k)) / (np.sqrt(second / (1 - 0.999**k)) + 1e-8)
        x = np.where((misfit(x) >= goal)[:, None], x - 0.01 * rate * x - step, x)
    return x


def resample(p, steps, guidance, every, spread, iterations, signal_rate, latent_rate, n, rng):
    times, third = levels(p.T, steps), steps // 3
    z = rng.standard_normal((n, len(p.m)))
    M, rest = p.A @ p.W, p.y - p.A @ p.b
    for index, (t, s) in zip(range(steps - 1, 0, -1), zip(times, times[1:], strict=False), strict=True):
        a_t, a_s = p.alpha_squared[t], p.alpha_squared[s]
        z0 = p.denoise(z, t)
        mean, std = p.ddpm(z0, z, t, s)
        after = mean + std * rng.standard_normal(z.shape)
        if index > steps - third:
            after += guidance * a_t * unit(rest - z0 @ M.T) @ M @ p.jacobian(t)
        elif index % every == 0:
            if index >= third:
                x = adamw(
                    p.decode(z0),
                    lambda x: 2 * (x @ p.A.T - p.y) @ p.A / len(p.y) / p.sigma_y**2,
                    lambda x: ((x @ p.A.T - p.y) ** 2).mean(1),
                    signal_rate,
                    iterations,
                    p.sigma_y**2,
                )
                z0 = p.encode(x)
            else:
                z0 = adamw(
                    z0,
                    lambda u: 2 * (u @ M.T - rest) @ M / len(p.y) / p.sigma_y**2,
                    lambda u: ((u @ M.T - rest) ** 2).mean(1),
                    latent_rate,
                    iterations,
                    p.sigma_y**2,
                )
            v = spread * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
            center = (v * np.sqrt(a_s) * z0 + (1 - a_s) * after) / (v + 1 - a_s)
            after = center + np.sqrt(v * (1 - a_s) / (v + 1 - a_s)) * rng.standard_normal(z.shape)
        z = after
    return p.denoise(z, times[-1])
