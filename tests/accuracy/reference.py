"""The algorithms once more, in plain NumPy for one linear-Gaussian problem, written from the papers' pseudo-code.

They share no code with the package: dense matrices, explicit Jacobians, another random generator. The accuracy tests
compare the law of the package's draws with that of these.
"""

import numpy as np


class LinearGaussian:
    """Prior N(m, C), `y = A x + sigma_y z`, linear betas; index t counts noising steps."""

    def __init__(self, m, C, A, y, sigma_y, T=1000):
        self.m, self.C, self.A, self.y, self.sigma_y, self.T = m, C, A, y, sigma_y, T
        bar = np.cumprod(1 - np.linspace(1e-4, 0.02, T))
        self.alpha_squared = np.concatenate([[1.0], bar])

    def jacobian(self, t):
        a2 = self.alpha_squared[t]
        return np.sqrt(a2) * self.C @ np.linalg.inv(a2 * self.C + (1 - a2) * np.eye(len(self.m)))

    def denoise(self, x, t):
        J = self.jacobian(t)
        return self.m + (x - np.sqrt(self.alpha_squared[t]) * self.m) @ J.T

    def ddpm(self, x0, x_t, t, s):
        """Mean and standard deviation of q(x_s | x_0, x_t) by the formula of Ho et al. 2020, Eq. (7)."""
        a_t, a_s = self.alpha_squared[t], self.alpha_squared[s]
        a = a_t / a_s
        mean = np.sqrt(a_s) * (1 - a) / (1 - a_t) * x0 + np.sqrt(a) * (1 - a_s) / (1 - a_t) * x_t
        return mean, np.sqrt((1 - a_s) * (1 - a) / (1 - a_t))

    def bridge(self, x_l, x_t, l, s, t):
        """Mean and standard deviation of q(x_s | x_l, x_t), l <= s < t: product of two Gaussians in x_s."""
        if l == s:
            return x_l, 0.0
        forward = self.alpha_squared[s] / self.alpha_squared[l]  # x_s = sqrt(forward) x_l + sqrt(1 - forward) z
        after = self.alpha_squared[t] / self.alpha_squared[s]  # x_t = sqrt(after) x_s + sqrt(1 - after) z
        precision = 1 / (1 - forward) + after / (1 - after)
        mean = (np.sqrt(forward) * x_l / (1 - forward) + np.sqrt(after) * x_t / (1 - after)) / precision
        return mean, precision**-0.5


def levels(T, steps):
    return [i * T // steps for i in range(steps, 0, -1)]


def unconditional(p, steps, n, rng):
    times = levels(p.T, steps)
    x = rng.standard_normal((n, len(p.m)))
    for t, s in zip(times, times[1:], strict=False):
        mean, std = p.ddpm(p.denoise(x, t), x, t, s)
        x = mean + std * rng.standard_normal(x.shape)
    return p.denoise(x, times[-1])


def dps(p, steps, guidance, n, rng):
    times = levels(p.T, steps)
    x = rng.standard_normal((n, len(p.m)))
    for t, s in zip(times, times[1:], strict=False):
        x0 = p.denoise(x, t)
        r = p.y - x0 @ p.A.T
        norm = np.linalg.norm(r, axis=1, keepdims=True)
        gradient = -2 * (r @ p.A) @ p.jacobian(t)
        mean, std = p.ddpm(x0, x, t, s)
        x = mean + std * rng.standard_normal(x.shape) - guidance * gradient / norm
    return p.denoise(x, times[-1])


def fit(potential, mu, std, center, width, count, rate, rng):
    """Adam on mean and log standard deviation of N(mu, diag e^{2 rho}): E[potential] + KL to N(center, width^2)."""
    rho = np.full_like(mu, np.log(std))
    moments = np.zeros((4, *mu.shape))
    for k in range(1, count + 1):
        z = rng.standard_normal(mu.shape)
        g, prediction = potential(mu + np.exp(rho) * z)
        g_mu = g + (mu - center) / width**2
        g_rho = g * np.exp(rho) * z + np.exp(2 * rho) / width**2 - 1
        for slot, gradient in ((0, g_mu), (1, g_rho)):
            moments[slot] = 0.9 * moments[slot] + 0.1 * gradient
            moments[2 + slot] = 0.999 * moments[2 + slot] + 0.001 * gradient**2
        first, second = moments[:2] / (1 - 0.9**k), np.sqrt(moments[2:] / (1 - 0.999**k)) + 1e-8
        mu, rho = mu - rate * first[0] / second[0], rho - rate * first[1] / second[1]
    return mu + np.exp(rho) * rng.standard_normal(mu.shape), prediction


def mgps(p, steps, midpoint, gradient_steps, rate, n, rng, warm_from=None):
    """Algorithm 1, and Algorithm 3 while t >= `warm_from`. `gradient_steps(i)` with i = steps for the noisiest step."""
    times = levels(p.T, steps)
    x = rng.standard_normal((n, len(p.m)))
    x0_last = p.denoise(x, times[0])
    for i, (t, s) in zip(range(steps, 1, -1), zip(times, times[1:], strict=False), strict=True):
        l = max(1, int(np.floor(midpoint * s + 1e-9)))
        warm = warm_from is not None and t >= warm_from
        m, std = p.ddpm(p.denoise(x, t), x, t, l)
        start, start_std = p.bridge(x0_last, x, 1, l, t) if warm else (p.ddpm(x0_last, x, t, l)[0], std)

        def potential(x_l, l=l):
            J = np.eye(len(p.m)) if l == 1 else p.jacobian(l)
            x0 = x_l if l == 1 else p.denoise(x_l, l)
            return -(p.y - x0 @ p.A.T) @ p.A @ J / p.sigma_y**2, x0

        x_l, x0_last = fit(potential, start, start_std, m, std, gradient_steps(i), rate, rng)
        pin = l
        if warm:
            x_l, pin = warm_fit(p, x_l, x0_last, l, gradient_steps(i), rate, rng), 1
            x0_last = x_l
        mean, std_s = p.bridge(x_l, x, pin, s, t)
        x = mean + std_s * rng.standard_normal(x.shape)
    return p.denoise(x, times[-1])


def warm_fit(p, x_l, x0, l, count, rate, rng):
    """Algorithm 2: a draw of x_1 given x_l and y, with the score of the prior at level 1."""
    a1 = p.alpha_squared[1]
    forward = p.alpha_squared[l] / a1

    def potential(x_1):
        score = (np.sqrt(a1) * p.denoise(x_1, 1) - x_1) / (1 - a1)
        return -(p.y - x_1 @ p.A.T) @ p.A / p.sigma_y**2 - score, x_1

    start, std = p.ddpm(x0, x_l, l, 1)
    return fit(potential, start, std, x_l / np.sqrt(forward), np.sqrt((1 - forward) / forward), count, rate, rng)[0]
