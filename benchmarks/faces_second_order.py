"""Moment matching and second-order draws on held-out faces: the table of results/faces-second-order.md.

    python benchmarks/faces_second_order.py DATA/test.zip --out draws
    python benchmarks/faces_second_order.py DATA/test.zip --out draws --n 2 --samplers mmps:nonlinear mgps:faces-64 \
        --operators jpeg:paper high-dynamic-range:paper phase-retrieval:paper
    python benchmarks/faces_second_order.py --portrait docs/images/faces-second-order.png

DATA is a zip file or folder of aligned 64x64 faces that the prior has not seen. Draws are kept in the folder `--out`, a
file for each sampler, operator and face, and are not drawn again: an interrupted run goes on, and the table is that of
all draws in it. The LPIPS-like distance needs weights (docs/metrics.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from scipy import stats
from torch import Tensor

from midguide import Problem, load_prior, make_operator, sample
from midguide.data.examples import portrait
from midguide.data.images import load_image_set
from midguide.metrics.lpips import load_lpips
from midguide.plots.measurement import picture_of_measurement
from midguide.plots.reconstructions import Reconstructed, reconstructions
from midguide.priors.base import Denoiser
from midguide.samplers.base import make_sampler
from midguide.studies.report.rows import student

OPERATORS = ("box-inpainting", "half-mask")
SAMPLERS = ("mmps:fast", "matheron:fast", "tds:islands", "mgps:faces-64")
BASELINE = "mgps:faces-64"
SHOWN = ("mgps:faces-64", "mmps:fast", "matheron:fast")
COLUMNS = ("faces", "draws", "calls", "90 % intervals hold", "std", "PSNR of a draw", "chi-square", "LPIPS-like")
COLUMNS += ("minus MGPS",)


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % interval over faces."""
    x = torch.tensor(values, dtype=torch.float64)
    return f"{x.mean():.3f} ± {student(len(x) - 1) * x.std() / len(x) ** 0.5:.3f}" if len(x) > 1 else f"{x[0]:.3f}"


def held(draws: Tensor, truth: Tensor, where: Tensor) -> float:
    """Share of entries whose truth lies in the central 90 % of where the draws say that one more is.

    Student's interval `mean ± t std sqrt(1 + 1/n)`: exact draws of a normal law give 0.9 for every number n of them.
    """
    n = len(draws)
    reach = float(stats.t.ppf(0.95, n - 1)) * (1 + 1 / n) ** 0.5 * draws.std(0)
    return float(((truth - draws.mean(0)).abs() <= reach)[where].double().mean())


def hidden_entries(problem: Problem) -> Tensor:
    """Entries of the signal that a mask hides, or all of them where the operator is not a mask, shape of the signal."""
    y, whole = problem.likelihood.y, torch.ones(problem.event_shape, dtype=torch.bool)
    measured = problem.likelihood.operator.measured(y).expand_as(y)[0]
    return whole if bool(measured.all()) or measured.shape != whole.shape else ~measured


def scores(kept: dict[str, Tensor], problem: Problem) -> list[float]:
    """Coverage and spread where hidden, PSNR, chi-square and LPIPS-like distance of the draws of one face."""
    draws, truth = kept["draws"], problem.truth
    assert truth is not None
    hidden = hidden_entries(problem)
    squared = (draws.clamp(-1, 1) - truth).square().flatten(1).mean(1)
    distances = load_lpips("squeezenet1.1-caffe")(draws, truth)
    chi_square = problem.expand(len(draws)).likelihood.chi_square(draws)
    return [
        held(draws, truth[0], hidden),
        float(draws.std(0)[hidden].mean()),
        float((10 * torch.log10(4 / squared)).mean()),
        float(chi_square.mean()),
        float(distances.mean()),
    ]


def draw(spec: str, problem: Problem, n: int, path: Path) -> None:
    """Draws of one face, kept."""
    if not path.exists():
        drawn = sample(make_sampler(spec), problem, n)
        kept = drawn.resampled(seed=0).draws[0]
        calls = torch.tensor([drawn.cost.network_forwards, drawn.cost.network_vjps])
        torch.save({"draws": kept, "calls": calls, "seconds": torch.tensor(drawn.cost.seconds)}, path)


def picture(prior: Denoiser, path: Path) -> None:
    """What the samplers make of the portrait of scikit-image, three draws each."""
    images = []
    for name in OPERATORS:
        problem = Problem.simulate(prior, make_operator(name, prior.event_shape), portrait(64), sigma_y=0.05, seed=0)
        draws = {spec: sample(make_sampler(spec), problem, 3).draws[0] for spec in SHOWN}
        images.append(Reconstructed(portrait(64)[0], picture_of_measurement(problem), draws))
    reconstructions(images, title="box and half mask").savefig(path)


def line(spec: str, operator: str, problems: list[Problem], folder: Path) -> str | None:
    """One line of the table, of the faces that are done."""
    found, differences, kept = [], [], None
    for i, problem in enumerate(problems):
        path = folder / f"{operator}-{spec}-{i}.pt".replace(":", "-")
        if path.exists():
            kept = torch.load(path)
            found.append(scores(kept, problem))
            other = folder / f"{operator}-{BASELINE}-{i}.pt".replace(":", "-")
            if spec != BASELINE and other.exists():
                differences.append(found[-1][-1] - scores(torch.load(other), problem)[-1])
    if kept is None:
        return None
    calls = " + ".join(f"{c:.0f}" for c in kept["calls"].tolist())
    cells = [interval(list(column)) for column in zip(*found, strict=True)]
    paired = f"{interval(differences)} ({len(differences)} faces)" if differences else ""
    return f"| `{spec}` | {len(found)} | {len(kept['draws'])} | {calls} | {' | '.join(cells)} | {paired} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--portrait", type=Path, help="draw the picture of the page, to this file, and no faces")
    parser.add_argument("--samplers", nargs="*", default=SAMPLERS)
    parser.add_argument("--operators", nargs="*", default=OPERATORS)
    parser.add_argument("--faces", type=int, default=10)
    parser.add_argument("--n", type=int, default=4, help="draws of each face")
    parser.add_argument("--out", type=Path, default=Path("faces-second-order"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    prior = load_prior("faces-64-small", dtype="bfloat16")
    if options.portrait is not None:
        picture(prior, options.portrait)
        return
    options.out.mkdir(exist_ok=True)
    truth = load_image_set(options.data)[: options.faces].float() / 127.5 - 1
    problems = {}
    for name in options.operators:
        whole = Problem.simulate(prior, make_operator(name, prior.event_shape), truth, sigma_y=0.05, seed=0)
        problems[name] = [whole.select(torch.tensor([i])) for i in range(len(truth))]
    for spec in options.samplers:
        for i in range(len(truth)):
            for name in options.operators:
                n = max(options.n, make_sampler(spec).needs.group)
                draw(spec, problems[name][i], n, options.out / f"{name}-{spec}-{i}.pt".replace(":", "-"))
    for name in options.operators:
        print(f"\n## {name}\n\n| sampler | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|")
        print("\n".join(row for spec in options.samplers if (row := line(spec, name, problems[name], options.out))))


if __name__ == "__main__":
    main()
