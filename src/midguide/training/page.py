"""A page beside a training that shows how it goes: losses, samples, their distance from data. A browser reloads it."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from midguide.data.images import save_png
from midguide.diffusion.schedules import DiscreteVP
from midguide.inference.loop import sample
from midguide.plots.grid import grid
from midguide.plots.training import training_progress
from midguide.priors.network import NetworkDenoiser
from midguide.problem import Problem
from midguide.samplers.unconditional import Unconditional
from midguide.storage.files import replacing
from midguide.training.config import DenoisingConfig
from midguide.training.log import NAME, rows
from midguide.training.quality import quality

SAMPLES, STEPS = 48, 25
"""Unchosen samples on the page, and the steps of each: so few that those of the finished prior look better."""
RELOAD = 20
"""Seconds between two loads of the page."""
FEW = 8
"""Held-out images from which on the distance of samples from them is shown."""
COST = 0.05
"""Largest share of the time that is spent on samples."""


@dataclass(eq=False)
class Page:
    """Writes `index.html` and its pictures into the folder of a training, each time it is called with the network.

    Args:
        config: recipe of the prior.
        folder: of the training; its `log.jsonl` is read.
        event_shape: of what the network denoises.
        kept: held-out images, shape (N, C, H, W); None for signals of other kinds, of which no samples are shown.
        device: where the network is.
        decode: latents to images.
    """

    config: DenoisingConfig
    folder: Path
    event_shape: tuple[int, ...]
    kept: Tensor | None
    device: str = "cpu"
    decode: Callable[[Tensor], Tensor] = lambda x: x
    _started: float = field(default_factory=time.monotonic)
    _spent: float = 0.0

    def __call__(self, network: nn.Module) -> None:
        before = time.monotonic()
        log = rows(self.folder / NAME)
        if not log:  # somebody has deleted the folder: the next checkpoint makes it again
            return
        if self.kept is not None and self._spent <= COST * (before - self._started):
            self._show_samples(network, self.kept, log[-1]["step"])
        self._write(log)
        self._spent += time.monotonic() - before

    def _show_samples(self, network: nn.Module, kept: Tensor, step: int) -> None:
        denoiser = NetworkDenoiser(
            network.eval(), DiscreteVP.linear(), self.config.prediction, self.event_shape, device=self.device
        )
        draws = sample(Unconditional(steps=STEPS), Problem.unobserved(denoiser), SAMPLES, progress=False).draws[0]
        images = self.decode(draws).clamp(-1, 1).cpu()
        save_png(self.folder / "samples.png", grid(images, columns=12))
        if len(kept) < FEW:
            return
        found = asdict(quality(images, kept[: 4 * SAMPLES]))
        self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it
        with (self.folder / "quality.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **found}) + "\n")

    def _write(self, log: list[dict[str, Any]]) -> None:
        found = rows(self.folder / "quality.jsonl")
        with replacing(self.folder / "progress.png") as temporary:
            training_progress(log, found).savefig(temporary, dpi=100, format="png")
        last, name = log[-1], html.escape(self.config.name)
        facts = [f"step {last['step']:,}", f"loss {last['loss']:.4f}", f"{last['steps_per_second']:g} steps/s"]
        if found:
            facts.append(f"kernel distance {found[-1]['kid']:.3f}, of data from data {found[-1]['kid_of_data']:.3f}")
        text = f"{SAMPLES} unchosen samples of the averaged network, {STEPS} steps each"
        shown = f'<p>{text}</p><img src="samples.png?{last["step"]}">' if (self.folder / "samples.png").exists() else ""
        page = f"""<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="{RELOAD}">
<title>{name}</title><style>body{{font-family:sans-serif;max-width:60em;margin:2em auto}}img{{max-width:100%}}</style>
<h1>{name}</h1><p>{", ".join(facts)}</p><img src="progress.png?{last["step"]}">{shown}
"""
        with replacing(self.folder / "index.html") as temporary:
            temporary.write_text(page, encoding="utf-8")
