"""What tiling costs, on fields whose law is known and on photographs: the tables and pictures of results/tiles.md.

    python benchmarks/tiles.py field
    python benchmarks/tiles.py photographs                  scikit-image's samples
    python benchmarks/tiles.py photographs FOLDER           and four images of a folder
    python benchmarks/tiles.py means [FOLDER]               means of several draws, on smaller parts

Tables appear on stdout; each takes about a minute on one core.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from skimage import data
from skimage.transform import resize
from torch import Tensor

from midguide import Problem, load_prior, make_operator, make_sampler, sample
from midguide.data.images import load_gray_images
from midguide.diffusion import kernels
from midguide.exact.posteriors import Opaque
from midguide.operators import BlockMean
from midguide.priors.base import Denoiser
from midguide.priors.field import GaussianField, matern_spectrum
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.priors.tiles import tiled

PICTURES = Path("docs/images")
LENGTH, TILE, LAGS = 256, 64, (4, 16, 32, 96)
CORRELATIONS, OVERLAPS = (4.0, 16.0, 64.0), (0, 16, 32)
SIZE, PATCH, COMPONENTS, PATCHES, ROUNDS = 96, 8, 20, 8000, 15
DRAWS, STEPS, SHARE, SIGMA, FACTOR = 2, 40, 0.1, 0.05, 4
COUNTS = (1, 2, 8)


def law(prior: Denoiser, steps: int = 100) -> Tensor:
    """The covariance of DDIM draws of a prior whose denoiser is linear, exactly: (d, d)."""
    times = prior.schedule.times(steps)
    x = torch.eye(math.prod(prior.event_shape), dtype=torch.float64).reshape(-1, *prior.event_shape)
    x = x * prior.schedule.level(times[0]).sigma
    for t, s in zip(times[:-1], times[1:], strict=True):
        bridge = kernels.ddim(prior.schedule.level(s), prior.schedule.level(t), 0.0)
        x = bridge.mean(prior(x, t), x)
    x = prior(x, times[-1]).flatten(1)
    return x.mT @ x


def correlations(covariance: Tensor) -> Tensor:
    """Mean correlation by lag, without the wrap around the border."""
    lags = range(LENGTH // 2)
    return torch.stack([covariance.diagonal(lag).mean() for lag in lags]) / covariance.diagonal().mean()


def posterior_error(prior: Denoiser, field: GaussianField) -> str:
    """Error of the mean, in deviations of the posterior, and ratio of deviations, given means of 4 values."""
    problem = Problem.simulate(Opaque(prior), BlockMean((4,)), field.sample(1, seed=3), sigma_y=0.1, seed=3)
    mean, covariance = field.posterior(problem.likelihood).mean_and_covariance()
    sampler = make_sampler("mmps", {"steps": 50, "iterations": 8})
    draws = sample(sampler, problem, 64, seed=0, stream_size=64, progress=False).draws[0].double()
    variance = covariance.diagonal().mean()
    error = ((draws.mean(0) - mean).square().mean() / variance).sqrt()
    return f"{error:.2f}, {(draws.var(0).mean() / variance).sqrt():.2f}"


def fields() -> None:
    """The table and the picture of fields."""
    curves: dict[str, Tensor] = {}
    show("correlation", "prior", *(f"at {lag}" for lag in LAGS), "posterior: error of the mean, ratio of deviations")
    for length in CORRELATIONS:
        spectrum = matern_spectrum((LENGTH,), std=1.0, length=length, smoothness=0.5)
        field = GaussianField(torch.zeros(1, LENGTH), spectrum)
        part = Gaussian(torch.zeros(1, TILE), field.dense().covariance_matrix()[:TILE, :TILE])
        priors: dict[str, Denoiser] = {"whole": field}
        priors |= {f"tiles, overlap {overlap}": tiled(part, LENGTH, overlap) for overlap in OVERLAPS}
        for name, prior in priors.items():
            found = correlations(law(prior))
            if length == CORRELATIONS[-1]:
                curves[name] = found
            cells = (f"{float(found[lag]):.2f}" for lag in LAGS)
            show(f"{length:g} pixels", name, *cells, posterior_error(prior, field))
    pyplot = drawing()
    figure, axes = pyplot.subplots(figsize=(5.5, 3), layout="constrained")
    for name, curve in curves.items():
        axes.plot(curve, label=name, color="black" if name == "whole" else None)
    axes.axvline(TILE, color="gray", linewidth=0.8, linestyle=":")
    axes.set(xlabel="distance in pixels; a tile has 64", ylabel="correlation of draws")
    axes.legend(frameon=False)
    figure.savefig(PICTURES / "tiles-field.png", dpi=110)


def photograph(name: str) -> Tensor:
    """A sample of scikit-image, gray, its shorter side 256 pixels, in [-1, 1], shape (H, W)."""
    found = getattr(data, name)()
    pixels = (found[0] if isinstance(found, tuple) else found) / 255.0
    gray = pixels @ np.array([0.299, 0.587, 0.114]) if pixels.ndim == 3 else pixels
    scale = 256 / min(gray.shape)
    return torch.from_numpy(2 * resize(gray, [round(n * scale) for n in gray.shape], anti_aliasing=True) - 1).float()


def patch_prior() -> GaussianMixture:
    """Gaussians of the contrast of patches, of mean zero (Zoran and Weiss 2011), by EM, and a level of their own."""
    names = ("camera", "coffee", "rocket", "coins", "stereo_motorcycle")
    rows = torch.cat([photograph(name).unfold(0, PATCH, 3).unfold(1, PATCH, 3).flatten(0, 1) for name in names])
    picks = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:PATCHES]
    patches = rows[picks].flatten(1).double()
    level = patches.mean(1, keepdim=True)
    x, floor = patches - level, 1e-5 * torch.eye(PATCH**2, dtype=torch.float64)
    # groups of contrast are where EM starts
    groups = x.var(1).argsort().argsort() * COMPONENTS // len(x)
    shares = torch.nn.functional.one_hot(groups, COMPONENTS).double()
    for _ in range(ROUNDS):
        weights = shares.mean(0)
        covariances = torch.einsum("nk,ni,nj->kij", shares, x, x) / shares.sum(0)[:, None, None] + floor
        factors = torch.linalg.cholesky(covariances)
        whitened = torch.linalg.solve_triangular(factors, x.mT.expand(COMPONENTS, -1, -1), upper=False)
        volumes = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        shares = (weights.log() - volumes - 0.5 * whitened.square().sum(1).mT).softmax(1)
    means = level.mean().expand(COMPONENTS, 1, PATCH, PATCH).float()
    return GaussianMixture(weights, means, covariances + level.var())


def center(image: Tensor) -> Tensor:
    """The middle of an image, shape (H, W) -> (1, 1, 96, 96)."""
    top, left = ((n - SIZE) // 2 for n in image.shape)
    return image[top : top + SIZE, left : left + SIZE][None, None]


def psnr(x: Tensor, truth: Tensor) -> float:
    """In decibels, white being 1 and black -1, without the 4 outer pixels."""
    inner = (..., slice(4, -4), slice(4, -4))
    return -10 * math.log10(float((x.clamp(-1, 1) - truth)[inner].square().mean()) / 4)


def reconstructions(truth: Tensor, patches: Denoiser, faces: Denoiser) -> dict[str, Tensor]:
    """Means of draws from the measurement of an image, and what takes no prior; gray, (1, 1, 96, 96) each."""
    found: dict[str, Tensor] = {}
    for name, prior, channels in (("patches", patches, 1), ("faces-64-small", faces, 3)):
        operator = make_operator("super-resolution", prior.event_shape, factor=FACTOR)
        problem = Problem.simulate(prior, operator, truth.expand(1, channels, -1, -1), sigma_y=SIGMA)
        if channels == 1:
            y = problem.likelihood.y
            found["measured"] = y.repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3)
            found["bicubic"] = torch.nn.functional.interpolate(y, scale_factor=FACTOR, mode="bicubic")
        sampler = make_sampler("diffpir", {"steps": STEPS, "share": SHARE})
        draws = sample(sampler, problem, DRAWS, seed=0, progress=False).draws[0]
        found[f"tiles of {name}"] = draws.mean(0).mean(0)[None, None]
    return found


def photographs(folder: str | None) -> None:
    """The table and the picture of photographs."""
    fitted = patch_prior()
    patches, faces = tiled(fitted, SIZE, PATCH // 2), tiled(load_prior("faces-64-small"), SIZE, 16)
    columns = ("measured", "bicubic", "tiles of patches", "tiles of faces-64-small")
    show("image", *columns)
    for name, image in photos(folder).items():
        truth = center(image)
        found = reconstructions(truth, patches, faces)
        show(name, *(f"{psnr(found[column], truth):.2f}" for column in columns))
        if name == "astronaut":
            picture({"truth": truth, **found})


def means(folder: str | None) -> None:
    """The table of means of draws of a second method, on the middle 64x64 pixels."""
    prior = tiled(patch_prior(), 64, PATCH // 2)
    operator = make_operator("super-resolution", prior.event_shape, factor=FACTOR)
    sampler = make_sampler("mmps", {"steps": 16})
    show("image", "bicubic", *(f"{n} draws" if n > 1 else "one draw" for n in COUNTS))
    for name, image in photos(folder).items():
        truth = center(image)[..., 16:80, 16:80]
        problem = Problem.simulate(prior, operator, truth, sigma_y=SIGMA)
        smooth = torch.nn.functional.interpolate(problem.likelihood.y, scale_factor=FACTOR, mode="bicubic")
        draws = sample(sampler, problem, COUNTS[-1], seed=0, progress=False).draws[0]
        found = [smooth, *(draws[:n].mean(0)[None] for n in COUNTS)]
        show(name, *(f"{psnr(x, truth):.2f}" for x in found))


def photos(folder: str | None) -> dict[str, Tensor]:
    """Photographs that the prior of patches has not seen."""
    images = {name: photograph(name) for name in ("astronaut", "chelsea")}
    if folder is not None:
        images |= {f"folder, {i + 1}": 2 * image - 1 for i, image in enumerate(load_gray_images(folder)[:4])}
    return images


def picture(images: dict[str, Tensor]) -> None:
    """Images side by side."""
    pyplot = drawing()
    figure, axes = pyplot.subplots(1, len(images), figsize=(2 * len(images), 2.3), layout="constrained")
    for (title, image), axis in zip(images.items(), axes, strict=True):
        axis.imshow(image[0, 0], cmap="gray", vmin=-1, vmax=1)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    figure.savefig(PICTURES / "tiles.png", dpi=110)


def drawing() -> ModuleType:
    """Matplotlib without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


HEADED = set[int]()


def show(*cells: str) -> None:
    """A line of a table; below the first one its rule."""
    print(f"| {' | '.join(cells)} |", flush=True)
    if len(cells) not in HEADED:
        HEADED.add(len(cells))
        print("|---" * len(cells) + "|")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["field"]:
            fields()
        case ["photographs", *folder]:
            photographs(folder[0] if folder else None)
        case ["means", *folder]:
            means(folder[0] if folder else None)
        case _:
            sys.exit(__doc__)
