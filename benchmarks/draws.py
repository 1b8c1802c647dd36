"""Digests of what midguide draws: do the same settings give the same bits after a change of the code?

    OMP_NUM_THREADS=1 python benchmarks/draws.py record BEFORE.json
    OMP_NUM_THREADS=1 python benchmarks/draws.py compare BEFORE.json --only "mgps* on faces-64 *"

Run it from the root of the repository. `record` writes one entry per case: every sampler and sampler preset on every
problem that it accepts, every operator and operator preset, exact posteriors, the shipped priors, a small study.
`compare` records again and prints each case that differs. It exits with 1 if there is one.

Presets keep their settings except `steps` (`EXACT_STEPS`, `NETWORK_STEPS`, `ECG_STEPS`) and those of `CAPPED`.
Gradient steps of MGPS are not capped: with few steps the rules of the presets ask for 20 per fit at most.
Bits depend on the processor and on the version of torch. The file names both, and `compare` warns if they differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

# Everything from midguide, in one place: adapt these lines when modules move.
from midguide.data.examples import portrait
from midguide.diffusion.schedules import EDM, RectifiedFlow
from midguide.errors import UnsupportedProblem
from midguide.exact.problems import mixture_problem, random_gaussian
from midguide.inference.loop import sample
from midguide.inference.samples import Samples
from midguide.likelihoods import GaussianLikelihood, observe_counts
from midguide.maths.linalg import inner
from midguide.operators.base import OPERATORS, LinearOperator, Operator, PseudoInvertibleOperator, SVDOperator
from midguide.operators.factory import make_operator
from midguide.operators.mask import random_mask
from midguide.operators.matrix import Matrix
from midguide.operators.super_resolution import BlockMean
from midguide.priors import cards
from midguide.priors.base import Denoiser
from midguide.priors.gaussian import Gaussian
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.priors.loading import load_prior
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, make_sampler
from midguide.studies.engine.units import Unit, run_batch
from midguide.studies.spec.study import load_study

Entry = dict[str, Any]
"""What is recorded of a case: digests, counts and a few numbers, by name."""
Case = tuple[str, Callable[[], Entry]]

EXACT_STEPS, NETWORK_STEPS, ECG_STEPS = 36, 6, 4
CAPPED: Mapping[str, Mapping[str, object]] = {"resample": {"every": 1, "iterations": 4}}
"""Settings changed on networks: so few steps enforce the data at each one, with few iterations."""

VARIANTS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "mgps recompute=true": ("mgps:paper", {"recompute": True}),
    "mgps without warm start": ("mgps:paper", {"warm_start": "off"}),
    "mgps late midpoint": ("mgps:paper", {"midpoint": 0.3, "late_midpoint": 1.0}),
    "diffpir gradient step": ("diffpir", {"gradient_step": True, "strength": 100.0}),
    "unconditional eta=0.5": ("unconditional", {"eta": 0.5}),
}
"""Settings that no preset has."""

STUDY = Path("experiments/gmm-quick.toml")
STUDY_CHANGES = (("samples", 200), ("problems.seeds", [0]))


def vectors() -> Problem:
    prior = random_gaussian(6, 0)
    operator = Matrix.create(torch.linspace(-1, 1, 18).reshape(3, 6), (6,))
    return Problem.simulate(prior, operator, prior.sample(2), sigma_y=0.1)


def images(operator: Operator) -> Problem:
    prior = Gaussian(torch.zeros(3, 8, 8), 0.25)
    return Problem.simulate(prior, operator, prior.sample(2), sigma_y=0.05)


def masked_images() -> Problem:
    """One mask per observation."""
    prior = Gaussian(torch.zeros(1, 6, 6), 0.25)
    masked = random_mask((1, 6, 6), 0.5, seed=0, count=2)
    return Problem.simulate(prior, masked, prior.sample(2), sigma_y=0.05)


def counts() -> Problem:
    prior = Gaussian(torch.zeros(3, 8, 8), 0.25)
    return Problem(prior, observe_counts(BlockMean(2), prior.sample(2), 20.0))


def latents() -> Problem:
    """Images of latents through a nonlinear decoder."""
    shuffle, unshuffle = torch.nn.PixelShuffle(2), torch.nn.PixelUnshuffle(2)
    coder = NetworkAutoencoder(
        lambda x: unshuffle(x)[:, ::2], lambda z: shuffle((z / 2).sin().repeat_interleave(2, 1)), (1, 8, 8), (2, 4, 4)
    )
    codes = Gaussian(torch.zeros(2, 4, 4), 1.0)
    return Problem.simulate(LatentPrior(codes, coder), BlockMean(2), coder.decode(codes.sample(2)), sigma_y=0.05)


@cache
def shipped(name: str) -> Denoiser:
    """A shipped prior, loaded once."""
    return load_prior(name)


def of_network(prior: str, operator: str) -> Problem:
    """An operator applied to a portrait, or to nine sine waves for electrocardiograms."""
    denoiser = shipped(prior)
    shape = denoiser.signal_shape
    truth = portrait(shape[-1]) if len(shape) == 3 else wave(shape)
    made = make_operator(operator, shape, value_range=denoiser.signal_range)
    return Problem.simulate(denoiser, made, truth, sigma_y=0.05)


EXACT: dict[str, Callable[[], Problem]] = {
    "vectors": vectors,
    "images": partial(images, BlockMean(2)),
    "masked images": masked_images,
    "latents": latents,
    "mixture": partial(mixture_problem, 20, 0),
    "counts": counts,
    "high dynamic range": lambda: images(make_operator("high-dynamic-range", (3, 8, 8))),
    "phase retrieval": lambda: images(make_operator("phase-retrieval", (3, 8, 8))),
}
FACES = ("box-inpainting", "super-resolution:x4", "jpeg", "gaussian-blur", "gaussian-blur-separable")
NETWORKS: dict[str, Callable[[], Problem]] = {
    **{f"faces-64 {operator}": partial(of_network, "faces-64-small", operator) for operator in FACES},
    "faces-64-latent box-inpainting": partial(of_network, "faces-64-latent", "box-inpainting"),
    "ecg-256 ecg-missing-leads": partial(of_network, "ecg-256", "ecg-missing-leads"),
}


@cache
def problem_of(name: str) -> Problem:
    """A problem by name, built once."""
    return (EXACT | NETWORKS)[name]()


def wave(shape: tuple[int, ...]) -> Tensor:
    """A fixed batch of one: a sine with incommensurable periods, in [-0.8, 0.8], shape (1, *shape)."""
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(1, *shape)
    return 0.8 * (0.21 * x + 1e-4 * x.square()).sin().float()


def digest(x: Tensor) -> str:
    """SHA-256 of dtype, shape and bits."""
    x = x.detach().contiguous()
    head = f"{x.dtype} {tuple(x.shape)} ".encode()
    return hashlib.sha256(head + x.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def rms(x: Tensor) -> float:
    """Root mean square to 9 digits: says whether a difference is one of rounding."""
    return float(f"{float(x.detach().double().square().mean().sqrt()):.9g}")


def tensors(**values: Tensor) -> Entry:
    """Digests, and the size of the first."""
    return {name: digest(x) for name, x in values.items()} | {"rms": rms(next(iter(values.values())))}


def drawn(samples: Samples) -> Entry:
    cost, others = samples.cost, {name: x for name, x in samples.tensors.items() if name == "latents"}
    calls = {"forwards": cost.network_forwards, "vjps": cost.network_vjps}
    return tensors(draws=samples.draws, **others) | calls


def draw(spec: str, settings: Mapping[str, object], problem: Callable[[], Problem], n: int, **options: Any) -> Entry:
    return drawn(sample(make_sampler(spec, settings), problem(), n, **options))


@cache
def specs() -> list[str]:
    """Every sampler and every preset."""
    return sorted([*SAMPLERS, *(f"{name}:{preset}" for name in SAMPLERS for preset in SAMPLERS.presets(name))])


def sampler_cases() -> Iterator[Case]:
    """Every sampler, every preset and the variants on every problem; and what each costs with all its steps."""
    for spec in specs():
        yield f"calls of {spec}", partial(announced, spec)
    every = {**{spec: (spec, {}) for spec in specs()}, **VARIANTS}
    for name in [*EXACT, *NETWORKS]:
        problem, exact = partial(problem_of, name), name in EXACT
        steps = EXACT_STEPS if exact else ECG_STEPS if name.startswith("ecg") else NETWORK_STEPS
        for label, (spec, settings) in every.items():
            capped = {} if exact else CAPPED.get(spec.partition(":")[0], {})
            changed = {"steps": steps, **capped, **settings}
            yield f"{label} on {name}", partial(draw, spec, changed, problem, 3 if exact else 2)


def announced(spec: str) -> Entry:
    """Steps and network calls of a sampler or preset as it stands."""
    sampler = make_sampler(spec)
    calls = sampler.calls(problem_of(accepted(sampler.needs.autoencoder)))
    return {"steps": sampler.steps, "forwards": calls.forwards, "vjps": calls.vjps}


def accepted(autoencoder: bool) -> str:
    """A problem for every sampler, by whether it needs latents."""
    return "latents" if autoencoder else "vectors"


def loop_cases() -> Iterator[Case]:
    """What `sample` itself does: chunks, streams, seeds, other schedules, priors without an observation."""
    problem = partial(problem_of, "vectors")
    options: dict[str, dict[str, Any]] = {
        "chunk=1": {"chunk": 1},
        "chunk=4, stream_size=3": {"chunk": 4, "stream_size": 3},
        "stream_size=3": {"stream_size": 3},
        "seed=7": {"seed": 7},
        "seeds 7 and 1": {"seed": [7, 1]},
    }
    for spec in ("mgps:mixture", "dps", "ddrm"):
        for label, option in options.items():
            yield f"{spec} on vectors, {label}", partial(draw, spec, {"steps": 12}, problem, 6, **option)
    for schedule in (EDM(), RectifiedFlow()):
        for spec in sorted(SAMPLERS):
            moved = partial(on_schedule, accepted(SAMPLERS.make(spec).needs.autoencoder), schedule)
            label = f"{spec} on {type(schedule).__name__} schedule"
            yield label, partial(draw, spec, {"steps": 12}, moved, 3)
    for name in cards.shipped():
        for spec in ("unconditional:ddpm", "unconditional:ddim"):
            yield f"{spec} from {name}", partial(draw, spec, {"steps": 8}, partial(unobserved, name), 2)
    yield "summaries of samples", summaries


def on_schedule(name: str, schedule: Any) -> Problem:
    problem = problem_of(name)
    return dataclasses.replace(problem, denoiser=problem.denoiser.on(schedule))


def unobserved(name: str) -> Problem:
    return Problem.unobserved(shipped(name))


def summaries() -> Entry:
    samples = sample(make_sampler("mgps:paper", {"steps": 12}), problem_of("vectors"), 7)
    quantiles = samples.quantiles([0.05, 0.5, 0.9])
    parts = {f"draws of {i}": one.draws for i, one in enumerate(samples.each())}
    return tensors(mean=samples.mean(), std=samples.std(), quantiles=quantiles, **parts)


def problem_cases() -> Iterator[Case]:
    """Simulated data and likelihoods, and the posteriors that are known exactly."""
    for name in [*EXACT, *NETWORKS]:
        yield f"problem {name}", partial(data, name)
    for name in ("vectors", "images", "mixture"):
        yield f"posterior of {name}", partial(posterior, name)


def data(name: str) -> Entry:
    problem = problem_of(name)
    x = wave(problem.event_shape).expand(problem.observations, *problem.event_shape)
    likelihood = problem.likelihood
    found = {"y": likelihood.y, "log_prob": likelihood.log_prob(x), "residual": likelihood.residual(x)}
    found |= {"score": likelihood.score(x), "chi_square": likelihood.chi_square(x)}
    t = problem.schedule.times(10)[5]
    with torch.no_grad():
        found |= {"denoised": problem.denoiser(x, t), "prior_score": problem.denoiser.score(x, t)}
    if isinstance(likelihood, GaussianLikelihood) and isinstance(likelihood.operator, SVDOperator):
        found |= {"spectral_y": problem.spectral.y, "spectral_noise": problem.spectral.noise}
    return tensors(**found)


def posterior(name: str) -> Entry:
    problem = problem_of(name).select(torch.tensor([0]))
    prior: Any = problem.denoiser
    exact = prior.posterior(problem.likelihood)
    x = exact.sample(5, seed=1)
    return tensors(sample=x, prior_sample=prior.sample(5, seed=1), log_prob=exact.log_prob(x))


def operator_cases() -> Iterator[Case]:
    presets = [f"{name}:{preset}" for name in OPERATORS for preset in OPERATORS.presets(name)]
    for name in [*OPERATORS, *presets]:
        yield f"operator {name}", partial(operated, name)


def operated(name: str) -> Entry:
    """Everything that an operator can do, on a fixed input; the prox with a weight of 0.1.

    Motion blur is 32x32: at 64x64 its decomposition and its conjugate gradients take most of a minute.
    """
    shape = (9, 256) if name.startswith("ecg-") else (3, 32, 32) if name.startswith("motion-blur") else (3, 64, 64)
    x = wave(shape)
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"path": str(white_half(Path(folder)))} if name == "mask-file" else {}
        operator = make_operator(name, shape, **settings)
    found = {"output": operator(x)}
    y = found["output"]
    if isinstance(operator, PseudoInvertibleOperator):
        found["pinv"] = operator.pinv(y)
    if isinstance(operator, LinearOperator):
        found |= {"adjoint": operator.adjoint(y), "prox": operator.prox(x.flip(-1), y, 0.1)}
    if isinstance(operator, SVDOperator):
        found |= {"singular_values": operator.singular_values(x), "vt": operator.vt(x)}
    probe = x.clone().requires_grad_()
    weight = wave(tuple(y.shape[1:])).to(y.dtype)
    found["vjp"] = torch.autograd.grad(inner(operator(probe), weight).sum(), probe)[0]
    return tensors(**found)


def white_half(folder: Path) -> Path:
    """The file of a mask whose left half is measured."""
    path, mask = folder / "mask.png", torch.zeros(64, 64, dtype=torch.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask.numpy()).save(path)
    return path


def study_cases() -> Iterator[Case]:
    """The cells of a small study."""
    for unit in load_study(STUDY, STUDY_CHANGES).units:
        yield f"study {STUDY.stem} {unit.sampler_label}, {unit.problem_label}", partial(cell, unit)


def cell(unit: Unit) -> Entry:
    (rows,) = run_batch([unit])
    values = {row["metric"]: row["failure"] or float(f"{row['value']:.12g}") for row in rows}
    return values | {"forwards": rows[0]["network_forwards"], "vjps": rows[0]["network_vjps"]}


def cases(pattern: str = "*") -> Iterator[Case]:
    """All cases whose name matches."""
    for group in (operator_cases, problem_cases, sampler_cases, loop_cases, study_cases):
        yield from (case for case in group() if fnmatch.fnmatchcase(case[0], pattern))


def entries(pattern: str = "*") -> Iterator[tuple[str, Entry]]:
    """Names and entries of the matching cases, without the pairs of sampler and problem that are refused.

    The entry of a case that fails is the name of its error; the message goes to stderr.
    """
    for count, (name, case) in enumerate(cases(pattern), start=1):
        if sys.stderr.isatty():
            print(f"\r\033[K{count} {name}", end="", file=sys.stderr, flush=True)
        try:
            entry = case()
        except UnsupportedProblem:
            continue
        except Exception as error:  # of any kind: the other cases still count
            print(f"{name} raises {type(error).__name__}: {error}", file=sys.stderr)
            entry = {"raises": type(error).__name__}
        yield name, entry
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)


def machine() -> dict[str, str]:
    """What the bits depend on besides the code."""
    return {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}


def changes(old: Entry | None, new: Entry | None) -> str:
    """The fields that differ, in words; empty if none does."""
    if old is None or new is None:
        return "" if old is new else "new" if old is None else "missing or refused"
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if keys and "rms" in old and "rms" in new and "rms" not in keys:
        keys.append("rms")
    return ", ".join(f"{key} {short(old.get(key))} -> {short(new.get(key))}" for key in keys)


def short(value: object) -> str:
    return value[:8] if isinstance(value, str) and len(value) == 64 else str(value)


def compare(stored: dict[str, Any], pattern: str) -> int:
    """Print the cases that differ from those of a file, and return their number."""
    if stored["machine"] != machine():
        print(f"warning: recorded on {stored['machine']}, this is {machine()}", file=sys.stderr)
    old = {name: entry for name, entry in stored["cases"].items() if fnmatch.fnmatchcase(name, pattern)}
    differing, seen = 0, set[str]()
    for name, entry in entries(pattern):
        seen.add(name)
        if words := changes(old.get(name), entry):
            differing += 1
            print(f"{name}: {words}", flush=True)
    for name in sorted(old.keys() - seen):
        differing += 1
        print(f"{name}: {changes(old[name], None)}")
    print(f"{differing} of {len(old.keys() | seen)} cases differ", file=sys.stderr)
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("file", type=Path, help="where to record, or what to compare with")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases by name, with * and ? for any text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not STUDY.is_file():
        parser.error(f"there is no {STUDY} here: run it from the root of the repository")
    if next(cases(options.only), None) is None:
        parser.error(f"no case matches {options.only}")
    if options.command == "compare":
        try:
            stored = json.loads(options.file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            parser.error(f"cannot read {options.file}: {error}")
        return int(compare(stored, options.only) > 0)
    found = {"machine": machine(), "cases": dict(entries(options.only))}
    options.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found['cases'])} cases", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
