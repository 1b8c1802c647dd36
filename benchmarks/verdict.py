"""What the verdict finds: right results, planted faults, every sampler's default, a learned prior. The page
results/verdict.md.

    python benchmarks/verdict.py --faces faces64/test.zip --keep verdict.json > results/verdict.md

`--faces` is a folder or zip file of held-out images of faces-64-small; without it the learned prior is left out.
Results are kept in the file `--keep` as they come, so that the command goes on after an interrupt. The exact problems
take two minutes on one core, the learned prior about twenty.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from midguide import Problem, load_prior, make_operator, make_sampler, sample
from midguide.data.images import load_image_set
from midguide.errors import MidguideError
from midguide.inference.samples import Samples
from midguide.inference.verdict.base import FALSE_ALARMS, Verdict
from midguide.likelihoods import GaussianLikelihood, observe
from midguide.operators import Identity
from midguide.priors import Gaussian
from midguide.samplers.base import SAMPLERS

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.inference.test_verdict import CAUSES, WIDE, planted
from tests.inference.verdict_problems import GAUSSIAN, MIXTURE, SIGMA, right

RIGHT, FAULTS = 200, 20
SPECS: dict[str, dict[str, object]] = {
    **dict.fromkeys(("mgps", "mgps:paper", "mgps:faces-64", "mgps:mixture", "mgps:ffhq", "mmps", "matheron"), {}),
    **dict.fromkeys(("tmpd", "mgps:fast"), {}),
    **dict.fromkeys(
        ("dps", "dps:annealed", "pgdm", "pgdm:score", "ddnm-plus", "ddrm", "diffpir", "red-diff", "lgd"), {"steps": 300}
    ),
    **dict.fromkeys(("daps", "ding", "mgdm", "pnp-dm", "sda", "ald", "snips", "score-sde", "ilvr", "repaint"), {}),
    "tds": {"particles": 50},
}
OPERATORS = ("box-inpainting", "gaussian-blur", "super-resolution")
FEW = {"0..255": 3, "0..1": 20}
"""Noise levels of runs on the learned prior whose y is of another range."""


class Kept:
    """Results by name, in a file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.found:
            self.found[name] = make()
            print(name, self.found[name], file=sys.stderr, flush=True)
            if self.path:
                self.path.write_text(json.dumps(self.found, indent=1))
        return self.found[name]


def first(verdict: Verdict) -> str:
    """The likeliest cause of what was found."""
    return verdict.findings[0].advice.split("; or ")[0] if verdict.findings else "-"


def alarms(prior: Gaussian) -> int:
    """Right results in which something is found."""
    found = 0
    for seed, truth in enumerate(prior.sample(RIGHT, seed=1000)):
        y = observe(WIDE, truth[None], SIGMA, seed=1000 + seed).y
        found += bool(right(y, WIDE, prior=prior, n=(1, 4, 20, 50)[seed % 4], seed=seed).check().findings)
    return found


def named(fault: str) -> list[int]:
    """Results with this fault in which it is found, and named first."""
    verdicts = [planted(fault, 100 + seed).check() for seed in range(FAULTS)]
    return [sum(bool(v.findings) for v in verdicts), sum(first(v).startswith(CAUSES[fault]) for v in verdicts)]


def default(spec: str, changes: dict[str, object]) -> list[str]:
    """Chi-square, standard deviation, calls, verdict and cause of a sampler on N(0, I), identity, sigma 0.3."""
    prior = Gaussian(torch.zeros(1, 8, 8), 1.0)
    problem = Problem.simulate(prior, Identity(), prior.sample(1, seed=100), sigma_y=0.3)
    try:
        samples = sample(make_sampler(spec, changes), problem, 50)
    except MidguideError as error:
        return ["-", "-", "-", error.message, "-"]
    chi2 = problem.expand(50).likelihood.chi_square(samples.draws[0])
    weights = samples.weights()
    mean = float(chi2.mean() if weights is None else (weights[0] * chi2).sum())
    verdict = samples.check()
    calls = f"{samples.cost.network_forwards:.0f} + {samples.cost.network_vjps:.0f}"
    return [f"{mean:.3g}", f"{float(samples.std().square().mean().sqrt()):.3f}", calls, verdict.short(), first(verdict)]


def faces(spec: str, steps: int | None, images: Tensor, number: int, fault: str, n: int) -> list[Any]:
    """Operator, seconds of processor time of the run and of the check, verdict and cause, with the learned prior."""
    prior, operator = load_prior("faces-64-small"), OPERATORS[number % len(OPERATORS)]
    truth = images[number : number + 1]
    truth = {"0..255": 127.5 * (truth + 1), "0..1": (truth + 1) / 2}.get(fault, truth)
    made = make_operator(operator, prior.signal_shape)
    problem = Problem.of(prior, GaussianLikelihood(made, observe(made, truth, 0.05, seed=number).y, 0.05))
    started = time.process_time()
    try:
        samples: Samples = sample(make_sampler(spec, {} if steps is None else {"steps": steps}), problem, n)
    except MidguideError as error:
        return [operator, 0.0, 0.0, f"refused: {error.message}", "-"]
    drawn = time.process_time()
    verdict = samples.check()
    return [operator, drawn - started, time.process_time() - drawn, verdict.short(), first(verdict)]


def table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield from ("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))
    yield ""


def share(found: int, of: int) -> str:
    """A share with its exact 95 % interval."""
    low, high = stats.binomtest(found, of).proportion_ci(method="exact")
    return f"{found} of {of} (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"


def exact_part(kept: Kept) -> Iterator[str]:
    """Right results, planted faults, and the samplers' defaults."""
    counts = {name: kept.get(f"right {name}", lambda p=p: alarms(p)) for name, p in PRIORS.items()}
    yield "## Right results"
    yield ""
    yield f"Draws of the exact posterior, 1 to 50 of them, at the default share of false alarms, {FALSE_ALARMS:.0%}."
    yield ""
    yield from table(["prior", "something found"], [[name, share(count, RIGHT)] for name, count in counts.items()])
    yield "## Planted faults of the model"
    yield ""
    yield f"Exact posterior draws (20) under a wrong assumption, {FAULTS} data sets each; smooth signals, a blur."
    yield ""
    rows = [[fault, *map(str, kept.get(f"fault {fault}", lambda f=fault: named(f)))] for fault in CAUSES]
    yield from table(["fault", "found", "right cause first"], rows)
    yield "## Defaults on the simplest problem"
    yield ""
    yield "Prior N(0, I) on 1x8x8, identity, sigma 0.3, 50 draws. Right: chi-square 0.92, standard deviation 0.287."
    yield ""
    rows = []
    for spec, changes in SPECS.items():
        label = " ".join([spec, *(f"{key}={value}" for key, value in changes.items())])
        rows.append([f"`{label}`", *kept.get(f"default {label}", lambda s=spec, c=changes: default(s, c))])
    yield from table(["sampler", "chi-square", "std", "forwards + vjps", "verdict", "first cause"], rows)


PRIORS = {"Gaussian": GAUSSIAN, "mixture": MIXTURE}


def faces_part(kept: Kept, path: Path) -> Iterator[str]:
    """The learned prior: images of other value ranges, and the time of a check."""
    images = load_image_set(path)[:64].float() / 127.5 - 1
    yield "## The learned prior faces-64-small"
    yield ""
    yield from ranges(kept, images, "0..255")
    yield from ranges(kept, images, "0..1")
    one = kept.get("faces right", lambda: faces("mgps", None, images, 0, "none", 2))
    yield (
        f"One run of `mgps` on a held-out face ({one[0]}, 2 draws): {one[1]:.0f} s of processor time, the "
        f"check {one[2]:.3f} s, {100 * one[2] / one[1]:.2f} % of it. Verdict: {one[3]}."
    )
    yield ""


def ranges(kept: Kept, images: Tensor, fault: str) -> Iterator[str]:
    """Runs of all samplers whose images are of another value range."""
    rows = []
    for number, spec in enumerate(name for name in SAMPLERS if name not in ("unconditional", "resample", "psld")):
        found = kept.get(f"faces {fault} {spec}", lambda s=spec, k=number: faces(s, FEW[fault], images, k, fault, 2))
        rows.append([f"`{spec}`", found[0], found[3], found[4]])
    ran = [row for row in rows if not row[2].startswith("refused")]
    hits = sum(row[3].startswith(f"value range: y looks like signals of 0 to {fault[3:]}") for row in ran)
    silent = sum(row[3] == "-" for row in ran)
    yield (
        f"Images of {fault}, two draws at {FEW[fault]} noise levels: named first in {hits} of {len(ran)} runs, "
        f"something else first in {len(ran) - hits - silent}, nothing found in {silent}."
    )
    yield ""
    yield from table(["sampler", "operator", "verdict", "first cause"], rows)


def head(kept: Kept) -> Iterator[str]:
    """Question, answer, command; what to make of the rest."""
    known = kept.found
    alarms = sum(known[f"right {name}"] for name in PRIORS)
    faults = [known[f"fault {fault}"] for fault in CAUSES]
    of = FAULTS * len(faults)
    silent = [name.removeprefix("default ") for name, row in known.items() if name[:8] == "default " and row[4] == "-"]
    yield "# What the verdict finds"
    yield ""
    yield "Does `samples.check()` name results that are wrong, and is it silent about right ones?"
    yield (
        f"It finds something in {share(alarms, RIGHT * len(PRIORS))} right results, "
        f"and in {sum(f[0] for f in faults)} of {of} with a planted fault.\n"
        f"It names the right cause first in {sum(f[1] for f in faults)}."
    )
    yield "Command: `python benchmarks/verdict.py --faces faces64/test.zip > results/verdict.md`."
    yield ""
    yield "[How to read a verdict](../docs/verdict.md). On the simplest problem it finds nothing in the draws of"
    yield ", ".join(f"`{name}`" for name in silent) + ".\nIt names all other defaults below as not right."
    yield ""


LIMITS = """## Limits

- A fault that no number shows is not found: a crop that is a little too wide, an operator that is nearly right.
  Of twelve FFHQ images resized whole to 64x64 the check of signals names none: `faces-64-small` knows tight crops.
- `sigma_y` cannot be judged where the prior allows as much as the noise: N(0, I) through the identity, say.
- For a network the law of signals is known by a few numbers only. Hidden parts are judged by these alone.
- Bands hold for data that the model makes. Real data are never quite that: a chi-square within 10 % of 1 is not named.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    kept = Kept(asked.keep)
    parts = [*exact_part(kept)]
    if asked.faces:
        parts += faces_part(kept, asked.faces)
    print("\n".join([*head(kept), *parts, LIMITS]).rstrip())


if __name__ == "__main__":
    main()
