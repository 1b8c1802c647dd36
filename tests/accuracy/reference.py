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


def annealed_dps(p, steps, n, rng):
    """The score of `-r^2 / (2 (sigma_y^2 + sigma_t^2))` added to that of the prior, by Tweedie's formula."""
    times = levels(p.T, steps)
    x = rng.standard_normal((n, len(p.m)))
    for t, s in zip(times, times[1:], strict=False):
        a_t, x0 = p.alpha_squared[t], p.denoise(x, t)
        uphill = (p.y - x0 @ p.A.T) @ p.A @ p.jacobian(t) / (p.sigma_y**2 + 1 - a_t)
        mean, std = p.ddpm(x0 + (1 - a_t) / np.sqrt(a_t) * uphill, x, t, s)
        x = mean + std * rng.standard_normal(x.shape)
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


def mgps_in_closed_form(p, steps, midpoint, spread, n, rng):
    """The midpoint's target with D linear around a draw of the transition, solved with dense matrices."""
    shares = (np.arange(steps - 1, -1, -1) / (steps - 1)) ** 1.5
    times = sorted({int(1 + share * (p.T - 1) + 1e-9) for share in shares}, reverse=True)
    x, eye = rng.standard_normal((n, len(p.m))), np.eye(len(p.m))

    def fitted(x, t, l):
        a_t, a_l, J_t = p.alpha_squared[t], p.alpha_squared[l], p.jacobian(t)
        signs = rng.choice([-1.0, 1.0], x.shape)
        flat = (1 - a_t) / a_t
        width = np.clip((1 - a_t) / np.sqrt(a_t) * (signs * (signs @ J_t)).mean(1), 1e-15 * flat, flat)[:, None]
        x0 = p.denoise(x, t)
        mean, std = p.ddpm(x0, x, t, l) if l > 0 else (x0, 0.0)
        slope = (p.ddpm(x0 + 1, x, t, l)[0] - mean)[0, 0] if l > 0 else 1.0  # weight of x_0
        variance = std**2 + slope**2 * width
        drawn = mean + np.sqrt(variance) * rng.standard_normal(x.shape)
        J = p.jacobian(l) if l > 0 else eye
        C = (1 - a_l) / np.sqrt(a_l) * J
        B = p.A / p.sigma_y
        noise = rng.standard_normal((n, len(p.y)))
        if l > 0:
            open_ = 1 / (1 / width + a_l / (1 - a_l) - a_t / (1 - a_t))
            noise = noise + np.sqrt(spread * open_) * rng.standard_normal(x.shape) @ B.T
        seen = p.denoise(drawn, l) if l > 0 else drawn
        residual = (p.y - seen @ p.A.T) / p.sigma_y - noise
        M = variance[..., None] * (B @ J @ J @ B.T) + B @ C @ B.T + np.eye(len(p.y))
        return drawn + variance * np.linalg.solve(M, residual[..., None])[..., 0] @ B @ J

    for t, s in zip(times, times[1:], strict=False):
        l = min(max(int(midpoint * s), 1), s)
        x_l = fitted(x, t, l)
        mean, std = p.bridge(x_l, x, l, s, t)
        x = mean + std * rng.standard_normal(x.shape)
    return fitted(x, times[-1], 0)


def warm_fit(p, x_l, x0, l, count, rate, rng):
    """Algorithm 2: a draw of x_1 given x_l and y, with the score of the prior at level 1."""
    a1 = p.alpha_squared[1]
    forward = p.alpha_squared[l] / a1

    def potential(x_1):
        score = (np.sqrt(a1) * p.denoise(x_1, 1) - x_1) / (1 - a1)
        return -(p.y - x_1 @ p.A.T) @ p.A / p.sigma_y**2 - score, x_1

    start, std = p.ddpm(x0, x_l, l, 1)
    return fit(potential, start, std, x_l / np.sqrt(forward), np.sqrt((1 - forward) / forward), count, rate, rng)[0]


def pgdm(p, steps, weighting, n, rng):
    times = levels(p.T, steps)
    x = rng.standard_normal((n, len(p.m)))
    for t, s in zip(times, times[1:], strict=False):
        a_t, a_s = p.alpha_squared[t], p.alpha_squared[s]
        x0 = p.denoise(x, t)
        inverse = np.linalg.inv(p.A @ p.A.T + p.sigma_y**2 / (1 - a_t) * np.eye(len(p.A)))
        to_x0 = np.sqrt(a_s) * (1 - a_t / a_s) / (1 - a_t)  # weight of x_0 in the mean of the ancestral step
        weight = {"stable": np.sqrt(a_t * a_s), "paper": np.sqrt(a_t), "score": to_x0 / np.sqrt(a_t)}[weighting]
        guidance = (p.y - x0 @ p.A.T) @ inverse @ p.A @ p.jacobian(t)
        mean, std = p.ddpm(x0, x, t, s)
        x = mean + std * rng.standard_normal(x.shape) + weight * guidance
    return p.denoise(x, times[-1])


def spectrum(p):
    """V (rows), singular values padded with zeros, and measured coefficients (U^T y) / s."""
    U, s, Vt = np.linalg.svd(p.A)
    s_all, y = np.zeros(len(p.m)), np.zeros(len(p.m))
    s_all[: len(s)] = s
    y[: len(s)] = (U.T @ p.y)[: len(s)] / s
    return Vt, s_all, y


def ddnm(p, steps, eta, n, rng):
    times = levels(p.T, steps)
    pinv = np.linalg.pinv(p.A)
    x = rng.standard_normal((n, len(p.m)))
    for t, s in zip(times, times[1:], strict=False):
        a_t, a_s = p.alpha_squared[t], p.alpha_squared[s]
        x0 = p.denoise(x, t)
        eps = (x - np.sqrt(a_t) * x0) / np.sqrt(1 - a_t)
        x0 = p.y @ pinv.T + x0 @ (np.eye(len(p.m)) - pinv @ p.A).T
        z = rng.standard_normal(x.shape)
        x = np.sqrt(a_s) * x0 + np.sqrt(1 - a_s) * (eta * z + np.sqrt(1 - eta**2) * eps)
    return p.denoise(x, times[-1])


def ddnm_plus(p, steps, eta, n, rng):
    times = levels(p.T, steps)
    Vt, sv, y = spectrum(p)
    x = rng.standard_normal((n, len(p.m)))
    for t, s in zip(times, times[1:], strict=False):
        a, sg = np.sqrt(p.alpha_squared[s]), np.sqrt(1 - p.alpha_squared[s])
        x0 = p.denoise(x, t)
        eps = (x - np.sqrt(p.alpha_squared[t]) * x0) / np.sqrt(1 - p.alpha_squared[t])
        x0, eps, z = x0 @ Vt.T, eps @ Vt.T, rng.standard_normal(x.shape)
        out = np.empty_like(x)
        for j, s_j in enumerate(sv):
            if s_j == 0:
                out[:, j] = a * x0[:, j] + sg * (eta * z[:, j] + np.sqrt(1 - eta**2) * eps[:, j])
            elif sg >= a * p.sigma_y / s_j:
                out[:, j] = a * y[j] + np.sqrt(sg**2 - (a * p.sigma_y / s_j) ** 2) * z[:, j]
            else:
                weight = s_j * sg * np.sqrt(1 - eta**2) / (a * p.sigma_y)
                out[:, j] = a * (x0[:, j] + weight * (y[j] - x0[:, j])) + sg * eta * z[:, j]
        x = out @ Vt
    return p.denoise(x, times[-1])


def ddrm(p, steps, eta, eta_b, n, rng):
    times = levels(p.T, steps)
    Vt, sv, y = spectrum(p)
    ratio = np.sqrt(1 / p.alpha_squared - 1)
    z = rng.standard_normal((n, len(p.m)))
    seen = np.where(sv > 0, p.sigma_y / np.where(sv > 0, sv, 1), np.inf) <= ratio[times[0]]
    c = p.sigma_y / np.where(sv > 0, sv, 1)
    bar = np.where(seen, y + np.sqrt(np.maximum(ratio[times[0]] ** 2 - c**2, 0)) * z, ratio[times[0]] * z)
    for t, s in zip(times, times[1:], strict=False):
        x0 = p.denoise(np.sqrt(p.alpha_squared[t]) * bar @ Vt, t) @ Vt.T
        z, out, sg = rng.standard_normal(bar.shape), np.empty_like(bar), ratio[s]
        for j, s_j in enumerate(sv):
            if s_j == 0:
                eps = (bar[:, j] - x0[:, j]) / ratio[t]
                out[:, j] = x0[:, j] + np.sqrt(1 - eta**2) * sg * eps + eta * sg * z[:, j]
            elif sg < p.sigma_y / s_j:
                pull = np.sqrt(1 - eta**2) * sg * (y[j] - x0[:, j]) * s_j / p.sigma_y
                out[:, j] = x0[:, j] + pull + eta * sg * z[:, j]
            else:
                std = np.sqrt(sg**2 - (eta_b * p.sigma_y / s_j) ** 2)
                out[:, j] = (1 - eta_b) * x0[:, j] + eta_b * y[j] + std * z[:, j]
        bar = out
    return p.denoise(np.sqrt(p.alpha_squared[times[-1]]) * bar @ Vt, times[-1])


def diffpir(p, steps, strength, share, n, rng):
    times = levels(p.T, steps)
    x = rng.standard_normal((n, len(p.m)))
    for t, s in zip(times, times[1:], strict=False):
        a_t, a_s = p.alpha_squared[t], p.alpha_squared[s]
        rho = strength * p.sigma_y**2 * a_t / (1 - a_t)
        inverse = np.linalg.inv(p.A.T @ p.A + rho * np.eye(len(p.m)))
        x0 = (p.y @ p.A + rho * p.denoise(x, t)) @ inverse
        eps = (x - np.sqrt(a_t) * x0) / np.sqrt(1 - a_t)
        z = rng.standard_normal(x.shape)
        x = np.sqrt(a_s) * x0 + np.sqrt(1 - a_s) * (np.sqrt(1 - share) * eps + np.sqrt(share) * z)
    return p.denoise(x, times[-1])


def red_diff(p, steps, weight, rate, n, rng):
    times = levels(p.T, steps)
    mu = np.tile(np.linalg.pinv(p.A) @ p.y, (n, 1))
    first, second = np.zeros_like(mu), np.zeros_like(mu)
    for k, t in enumerate(times[:-1], start=1):
        a_t = p.alpha_squared[t]
        z = rng.standard_normal(mu.shape)
        x = np.sqrt(a_t) * mu + np.sqrt(1 - a_t) * z
        eps = (x - np.sqrt(a_t) * p.denoise(x, t)) / np.sqrt(1 - a_t)
        g = (mu @ p.A.T - p.y) @ p.A / len(p.y) + weight * np.sqrt(1 / a_t - 1) / mu.shape[1] * (eps - z)
        first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g**2
        mu = mu - rate * first / (1 - 0.9**k) / (np.sqrt(second / (1 - 0.99**k)) + 1e-8)
    return mu
