"""How fast samplers are on a GPU, as rows of JSON, the most important first: see benchmarks/gpu.sh.

    python benchmarks/gpu_speed.py --out OUT --seconds 540

Networks: the shipped `faces-64`, one of the shape of the public FFHQ model, one of that of ImageNet, the last two with
random weights. A row has seconds per sample of a sampler at its own number of steps, from a run of a few; the ratio of
that run to the same calls of the network alone; seconds of such a call for one sample; and the peak of memory. `fp32`,
`tf32`, `bf16` and `bf16-compiled` say what the network computes in. A row that would not end in time is left out and
named, one that does not end in time is given up. `--table` prints the rows of a folder as Markdown, with the speed-up
over fp32.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midguide import Problem, load_prior, make_operator, sample
from midguide.diffusion.schedules import Time
from midguide.errors import MidguideError
from midguide.maths import autodiff
from midguide.nn.adm_unet import FFHQ_256, IMAGENET_256, ADMConfig
from midguide.priors.base import Denoiser
from midguide.samplers.base import SAMPLERS, make_sampler

STEPS = 4
"""Steps of a run."""
MODES = ("bf16-compiled", "tf32", "bf16", "fp32")
FIRST = ("mgps", "dps", "pgdm", "ddnm", "unconditional")
"""Samplers that are measured on every network; the others on `faces-64`."""


@dataclass(frozen=True)
class Case:
    """What a row is about."""

    network: str
    mode: str
    batch: int
    sampler: str


class Noted(Denoiser):
    """A denoiser that notes the time of each call, and whether its derivative may be asked for."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.schedule, self.event_shape = inner, inner.schedule, inner.event_shape
        self.value_range, self.calls = inner.value_range, list[tuple[Time, bool]]()

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        x0 = self.inner(x, t)
        self.calls.append((t, x0.requires_grad))
        return x0


def cases(small: bool) -> Iterator[Case]:
    """The rows, the most important first: no row comes twice."""
    networks = ("faces-64", "tiny") if small else ("faces-64", "ffhq-256", "imagenet-256")
    batches, modes = ((1, 2), ("fp32",)) if small else ((1, 16, 64), MODES)
    others = sorted(set(SAMPLERS) - set(FIRST))
    for network in networks:  # what the modes and the ratio to bare calls are
        for mode in modes:
            yield Case(network, mode, batches[1], "dps")
    rest = [Case(network, modes[0], batches[1], sampler) for network in networks for sampler in FIRST]
    rest += [Case(networks[0], modes[0], batches[1], sampler) for sampler in others]
    rest += [Case(network, modes[0], batch, sampler) for network in networks for batch in batches for sampler in FIRST]
    rest += [Case(network, mode, batch, "dps") for network in networks for mode in modes[1:] for batch in batches]
    for network in networks:
        rest += [Case(network, modes[0], batch, sampler) for batch in batches for sampler in others]
    first = {Case(network, mode, batches[1], "dps") for network in networks for mode in modes}
    yield from (case for case in dict.fromkeys(rest) if case not in first)


def prior_of(name: str, mode: str, device: str) -> Denoiser:
    """A network as a prior, computing as `mode` says."""
    if device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = mode == "tf32"
    settings: dict[str, Any] = {"device": device, "compile": mode.endswith("compiled")}
    settings["dtype"] = "bfloat16" if mode.startswith("bf16") else "float32"
    if name == "faces-64":
        return load_prior("faces-64", **settings)
    shapes = {"ffhq-256": FFHQ_256, "imagenet-256": IMAGENET_256}
    config = shapes.get(name, ADMConfig(channels=32, multipliers=(1, 2), attention=(1,), head_channels=16))
    side = 256 if name in shapes else 16
    with torch.device(device):
        network = config.build().eval()
    made = {"prediction": "eps", "schedule": "vp-linear", "event_shape": (3, side, side), "learned_variance": True}
    return load_prior(network, **made, **settings)


def measure(case: Case, prior: Denoiser, device: str) -> dict[str, Any]:
    """One row."""
    entry, settings = SAMPLERS.resolve(case.sampler)
    steps = settings.get("steps")
    sampler = make_sampler(case.sampler, {} if steps is None else {"steps": STEPS})
    noted = Noted(prior)
    truth = torch.zeros(1, *prior.event_shape, device=device)
    operator = make_operator("box-inpainting", prior.event_shape)
    problem = replace(Problem.simulate(prior, operator, truth, sigma_y=0.05), denoiser=noted)
    group = sampler.needs.group
    rows = max(case.batch // group, 1) * group
    sample(sampler, problem, rows)  # wakes up kernels and compilers
    noted.calls.clear()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    whole = seconds(lambda: sample(sampler, problem, rows), device)
    calls, x = list(noted.calls), torch.randn(rows, *prior.event_shape, device=device)
    alone(prior, x, calls[:2])  # wakes up what only it needs
    bare = seconds(lambda: alone(prior, x, calls), device)
    for _ in range(min(2, int(5 / (whole + bare)))):  # one after the other, the quickest of each
        whole = min(whole, seconds(lambda: sample(sampler, problem, rows), device))
        bare = min(bare, seconds(lambda: alone(prior, x, calls), device))
    scale = (steps or STEPS) / STEPS
    peak = 0.0 if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    facts = {"steps": steps, "rows": rows, "calls": len(calls), "ratio": round(whole / bare, 3)}
    facts["seconds_per_call"] = bare / max(len(calls), 1) / rows
    return facts | {"seconds_per_sample": whole * scale / rows, "peak_mib": round(peak), "summary": entry.summary}


def alone(prior: Denoiser, x: Tensor, calls: list[tuple[Time, bool]]) -> None:
    """The calls of a run without the sampler."""
    for t, differentiated in calls:
        if differentiated:
            value, pullback = autodiff.vjp(lambda z, t=t: prior(z, t), x)
            pullback(value)
        else:
            with torch.no_grad():
                prior(x, t)


def seconds(call: Callable[[], object], device: str) -> float:
    """Time on the clock until the device has done what a call asks for."""
    started = time.monotonic()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.monotonic() - started


class OutOfTime(BaseException):
    """The time is up; no error of a row."""


@contextmanager
def ending(seconds: float) -> Iterator[None]:
    """Give up what has not ended after so many seconds."""

    def up(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def table(out: Path) -> str:
    """The rows of a folder as Markdown, each with its speed-up over fp32 where that was measured."""
    rows = [json.loads(line) for line in (out / "speed.jsonl").read_text("utf-8").splitlines()]
    key = ("network", "batch", "sampler")
    plain = {tuple(row[k] for k in key): row for row in rows if row["mode"] == "fp32" and "error" not in row}
    lines = [
        "| network | batch | sampler | mode | s per sample | ratio to bare calls | x fp32 | peak, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "error" in row:
            cells = ["", "", "", row["error"]]
        else:
            fp32 = plain.get(tuple(row[k] for k in key))
            gain = "" if fp32 is None else f"{fp32['seconds_per_sample'] / row['seconds_per_sample']:.2f}"
            cells = [f"{row['seconds_per_sample']:.3g}", f"{row['ratio']:.3f}", gain, str(row["peak_mib"])]
        lines.append("| " + " | ".join([*(str(row[k]) for k in key), row["mode"], *cells]) + " |")
    return "\n".join(lines)


def run(out: Path, limit: float, *, small: bool = False) -> None:
    """Write rows until the time is up; a call with the same folder goes on after the rows that are there."""
    started, device = time.monotonic(), "cuda" if torch.cuda.is_available() else "cpu"
    path = out / "speed.jsonl"
    done = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    known = {tuple(row[key] for key in ("network", "mode", "batch", "sampler")) for row in done}
    longest: dict[tuple[str, str], float] = {}
    prior_in = lru_cache(1)(partial(prior_of, device=device))
    for case in cases(small):
        if (case.network, case.mode, case.batch, case.sampler) in known:
            continue
        left = limit - (time.monotonic() - started)
        if left < 1.5 * longest.get((case.network, case.mode), 0.0) or left < 0:
            print(f"no time for {case}", flush=True)
            continue
        before = time.monotonic()
        made = case.network, case.mode
        row: dict[str, Any] = vars(case) | {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
        try:
            with ending(left):
                row |= measure(case, prior_in(*made), device)
        except OutOfTime:
            print(f"out of time in {case}", flush=True)
            return
        except (MidguideError, RuntimeError, TypeError, ValueError) as error:  # a row that says why it is empty
            row["error"] = str(error).splitlines()[0][:200]
        longest[made] = max(longest.get(made, 0.0), time.monotonic() - before)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--small", action="store_true", help="few small rows, to see that it runs")
    parser.add_argument("--table", action="store_true", help="print the rows that are there, measure nothing")
    given = parser.parse_args(words)
    if given.table:
        print(table(given.out))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    run(given.out, given.seconds, small=given.small)


if __name__ == "__main__":
    main(sys.argv[1:])
