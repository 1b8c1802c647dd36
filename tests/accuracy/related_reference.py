"""The rest of the related work once more, in plain NumPy for one linear-Gaussian problem, from the papers' formulas.

They share no code with the package, nor with each other beyond the prior of reference.py: dense matrices, explicit
Jacobians and covariances, another random generator.
"""

import numpy as np
from reference import levels


def alpha_sigma(p, t):
    return np.sqrt(p.alpha_squared[t]), np.sqrt(1 - p.alpha_squared[t])


def down(t, count):
    """At most `count` times from t towards 1, evenly spaced, falling."""
    return sorted({int(np.floor(1 + (t - 1) * i / count + 1e-9)) for i in range(1, count)} | {t}, reverse=True)


def noise(p, n, rng):
    return rng.standard_normal((n, len(p.m)))


def ancestral(p, x, t, s, rng):
    mean, std = p.ddpm(p.denoise(x, t), x, t, s)
    return mean + std * rng.standard_normal(x.shape)


def replace(p, x, alpha, sigma, rng):
    """The row space of A from the noised observation, its null space from x."""
    row = np.linalg.pinv(p.A) @ p.A
    noised = alpha * np.linalg.pinv(p.A) @ p.y + sigma * rng.standard_normal(x.shape) @ row
    return x @ (np.eye(len(p.m)) - row) + noised


def given_data(p, mean, std, rng, y=None, noise_std=None):
    """A draw of N(mean, std^2 I) N(y; A x, noise^2 I) from its covariance."""
    y, noise_std = p.y if y is None else y, p.sigma_y if noise_std is None else noise_std
    covariance = np.linalg.inv(np.eye(len(p.m)) / std**2 + p.A.T @ p.A / noise_std**2)
    center = (mean / std**2 + y @ p.A / noise_std**2) @ covariance
    return center + rng.standard_normal(mean.shape) @ np.linalg.cholesky(covariance).T


def prior_walk(p, x, times, rng):
    for t, s in zip(times, times[1:], strict=False):
        x = ancestral(p, x, t, s, rng)
    return p.denoise(x, times[-1])


def ode(p, x, times):
    for t, s in zip(times, times[1:], strict=False):
        (a, sg), (b, sh), x0 = alpha_sigma(p, t), alpha_sigma(p, s), p.denoise(x, t)
        x = b * x0 + sh * (x - a * x0) / sg
    return p.denoise(x, times[-1])


def repaint(p, steps, length, repeats, n, rng):
    """Jumps as in the authors' list of times: positions count down to 0, the cleanest."""
    times = levels(p.T, steps)[::-1]
    jumps = {place: repeats - 1 for place in range(0, steps - length, length)}
    x, place = noise(p, n, rng), steps - 1
    while place > 0 or jumps.get(0, 0) > 0:
        if jumps.get(place, 0) > 0:
            jumps[place] -= 1
            ratio = p.alpha_squared[times[place + length]] / p.alpha_squared[times[place]]
            x = np.sqrt(ratio) * x + np.sqrt(1 - ratio) * rng.standard_normal(x.shape)
            place += length
        else:
            x = replace(p, ancestral(p, x, times[place], times[place - 1], rng), *alpha_sigma(p, times[place - 1]), rng)
            place -= 1
    return replace(p, p.denoise(x, times[0]), 1.0, 0.0, rng)


def ilvr(p, steps, until, n, rng):
    times = levels(p.T, steps)
    x = noise(p, n, rng)
    for t, s in zip(times, times[1:], strict=False):
        x = ancestral(p, x, t, s, rng)
        if s >= until * p.T:
            x = replace(p, x, *alpha_sigma(p, s), rng)
    x = p.denoise(x, times[-1])
    return x if until else replace(p, x, 1.0, 0.0, rng)


def score_sde(p, steps, correctors, snr, n, rng):
    times = levels(p.T, steps)
    x = noise(p, n, rng)
    for t, s in zip(times, times[1:], strict=False):
        a, sg = alpha_sigma(p, s)
        x = replace(p, ancestral(p, x, t, s, rng), a, sg, rng)
        for _ in range(correctors):
            g, z = (a * p.denoise(x, s) - x) / sg**2, rng.standard_normal(x.shape)
            e = 2 * p.alpha_squared[t] / p.alpha_squared[s] * snr**2 * sg**2
            x = replace(p, x + e * g + np.sqrt(2 * e) * z, a, sg, rng)
    return replace(p, p.denoise(x, times[-1]), 1.0, 0.0, rng)


def nearest(p, ratio):
    return 1 + int(np.argmin(np.abs(np.log(np.sqrt(1 / p.alpha_squared[1:] - 1) / ratio))))


def pnp_dm(p, steps, walk_steps, moves, last_moves, noisiest, cleanest, n, rng):
    couplings = np.geomspace(noisiest, cleanest, steps) if steps > 1 else [noisiest]
    times = sorted({nearest(p, rho) for rho in couplings}, reverse=True)
    x = noisiest * noise(p, n, rng)
    for t in times:
        a, sg = alpha_sigma(p, t)
        for _ in range(last_moves if t == times[-1] else moves):
            x = prior_walk(p, a * given_data(p, x, sg / a, rng), down(t, walk_steps), rng)
    return x


def daps(p, steps, ode_steps, spread, n, rng):
    times = levels(p.T, steps)
    x = noise(p, n, rng)
    for i, t in enumerate(times):
        a, sg = alpha_sigma(p, t)
        x0 = given_data(p, ode(p, x, down(t, ode_steps)), spread * sg / a, rng)
        if i + 1 < len(times):
            b, sh = alpha_sigma(p, times[i + 1])
            x = b * x0 + sh * rng.standard_normal(x.shape)
    return x0


def lgd(p, steps, draws, guidance, spread, n, rng):
    times = levels(p.T, steps)
    x = noise(p, n, rng)
    for t, s in zip(times, times[1:], strict=False):
        x0, r_t = p.denoise(x, t), spread * alpha_sigma(p, t)[1]
        z = rng.standard_normal((draws, *x.shape))
        r = p.y - (x0 + r_t * z) @ p.A.T
        energy = (r**2).sum(2) / (2 * p.sigma_y**2)
        w = np.exp(energy.min(0) - energy)
        value = energy.min(0) - np.log(w.mean(0))
        gradient = -((w / w.sum(0))[:, :, None] * (r @ p.A)).sum(0) @ p.jacobian(t) / p.sigma_y**2
        mean, std = p.ddpm(x0, x, t, s)
        length = 2 * guidance * p.sigma_y**2 / np.sqrt(2 * p.sigma_y**2 * value)
        x = mean + std * rng.standard_normal(x.shape) - length[:, None] * gradient
    return p.denoise(x, times[-1])


def sda(p, steps, corrections, step_size, gamma, n, rng):
    times = levels(p.T, steps)

    def guided_eps(x, t):
        a, sg = alpha_sigma(p, t)
        x0 = p.denoise(x, t)
        score = (p.y - x0 @ p.A.T) @ p.A @ p.jacobian(t) / (p.sigma_y**2 + gamma * (sg / a) ** 2)
        return (x - a * x0) / sg - sg * score  # eps is minus sigma times the score

    x = noise(p, n, rng)
    for t, s in zip(times, times[1:], strict=False):
        (a, sg), (b, sh) = alpha_sigma(p, t), alpha_sigma(p, s)
        x = b / a * x + (sh - b / a * sg) * guided_eps(x, t)
        for _ in range(corrections):
            eps = guided_eps(x, s)
            d = step_size / np.maximum((eps**2).mean(1, keepdims=True), 1)
            x = x - sh * (d * eps + np.sqrt(2 * d) * rng.standard_normal(x.shape))
    a, sg = alpha_sigma(p, times[-1])
    return (x - sg * guided_eps(x, times[-1])) / a


def ald(p, steps, moves, rate, gamma, n, rng):
    times = levels(p.T, steps)
    a, sg = alpha_sigma(p, times[0])
    u = sg / a * noise(p, n, rng)
    for t in times:
        a, sg = alpha_sigma(p, t)
        rho = sg / a
        for _ in range(moves):
            prior = (p.denoise(a * u, t) - u) / rho**2
            data = (p.y - u @ p.A.T) @ p.A / (p.sigma_y**2 + gamma**2 * rho**2)
            e = rate * rho**2
            u = u + e * (prior + data) + np.sqrt(2 * e) * rng.standard_normal(u.shape)
    return p.denoise(a * u, times[-1])


def snips(p, steps, moves, rate, n, rng):
    times = levels(p.T, steps)
    U, sv, Vt = np.linalg.svd(p.A)
    y = np.zeros(len(p.m))
    y[: len(sv)] = U.T @ p.y
    sv = np.concatenate([sv, np.zeros(len(p.m) - len(sv))])
    a, sg = alpha_sigma(p, times[0])
    u = sg / a * noise(p, n, rng)
    for t in times:
        a, sg = alpha_sigma(p, t)
        rho = sg / a
        for _ in range(moves):
            prior = (p.denoise(a * u @ Vt, t) @ Vt.T - u) / rho**2
            z, out = rng.standard_normal(u.shape), np.empty_like(u)
            for j, s_j in enumerate(sv):
                g, e = prior[:, j], rho**2
                if s_j > 0 and rho * s_j < p.sigma_y:
                    g = g + s_j * (y[j] - s_j * u[:, j]) / (p.sigma_y**2 - rho**2 * s_j**2)
                    e = rho**2 * (1 - s_j**2 * rho**2 / p.sigma_y**2)
                elif s_j > 0:
                    e = rho**2 - p.sigma_y**2 / s_j**2
                    g = (y[j] / s_j - u[:, j]) / e
                out[:, j] = u[:, j] + rate * e * g + np.sqrt(2 * rate * e) * z[:, j]
            u = out
    return p.denoise(a * u @ Vt, times[-1])


def copaint(p, steps, gradient_steps, rate, strength, eta, n, rng):
    times = levels(p.T, steps)
    x = noise(p, n, rng)
    for t, s in zip(times, times[1:], strict=False):
        J, start = p.jacobian(t), x
        for _ in range(gradient_steps):
            r = p.y - p.denoise(x, t) @ p.A.T
            x = x - rate * (-2 * r @ p.A @ J + 2 * strength * (x - start))
        (a, sg), (b, sh), x0 = alpha_sigma(p, t), alpha_sigma(p, s), p.denoise(x, t)
        std = eta * p.ddpm(x0, x, t, s)[1]
        x = b * x0 + np.sqrt(sh**2 - std**2) * (x - a * x0) / sg + std * rng.standard_normal(x.shape)
    return p.denoise(x, times[-1])


def mgdm(p, steps, moves, walk_steps, gradient_steps, rate, n, rng):
    times = levels(p.T, steps)
    x = noise(p, n, rng)
    x0, count = p.denoise(x, times[0]), 0
    for i, t in enumerate(times):
        for _ in range(moves):
            count += 1
            l = min(max(int(np.floor(1 + (count * (np.sqrt(5) - 1) / 2) % 1 * (t - 1) + 1e-9)), 1), t)
            mean, std = p.ddpm(x0, x, t, l)
            mu, rho, moments = mean, np.full_like(mean, np.log(std)), np.zeros((4, *mean.shape))
            for k in range(1, gradient_steps + 1):
                z = rng.standard_normal(mu.shape)
                r = p.y - p.denoise(mu + np.exp(rho) * z, l) @ p.A.T
                g = -r @ p.A @ p.jacobian(l) / p.sigma_y**2
                g_mu = g + (mu - mean) / std**2
                g_rho = g * np.exp(rho) * z + np.exp(2 * rho) / std**2 - 1
                for slot, gradient in ((0, g_mu), (1, g_rho)):
                    moments[slot] = 0.9 * moments[slot] + 0.1 * gradient
                    moments[2 + slot] = 0.999 * moments[2 + slot] + 0.001 * gradient**2
                first, second = moments[:2] / (1 - 0.9**k), np.sqrt(moments[2:] / (1 - 0.999**k)) + 1e-8
                mu, rho = mu - rate * first[0] / second[0], rho - rate * first[1] / second[1]
            x_l = mu + np.exp(rho) * rng.standard_normal(mu.shape)
            x0 = prior_walk(p, x_l, down(l, walk_steps), rng)
            ratio = p.alpha_squared[t] / p.alpha_squared[l]
            x = np.sqrt(ratio) * x_l + np.sqrt(1 - ratio) * rng.standard_normal(x.shape)
        if i + 1 < len(times):
            mean, std = p.ddpm(x0, x, t, times[i + 1])
            x = mean + std * rng.standard_normal(x.shape)
    return x0


def ding(p, steps, eta, n, rng):
    times = levels(p.T, steps)
    x = noise(p, n, rng)
    for t, s in zip(times, times[1:], strict=False):
        (a, sg), (b, sh), x0 = alpha_sigma(p, t), alpha_sigma(p, s), p.denoise(x, t)
        std = eta * p.ddpm(x0, x, t, s)[1]
        mean = b * x0 + np.sqrt(sh**2 - std**2) * (x - a * x0) / sg
        w = mean + std * rng.standard_normal(x.shape)
        eps = (w - b * p.denoise(w, s)) / sh
        x = given_data(p, mean, std, rng, y=b * p.y + sh * eps @ p.A.T, noise_std=b * p.sigma_y)
    return p.denoise(x, times[-1])
