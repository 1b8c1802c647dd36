"""The loop that all trainings share: AdamW, averaged weights, warm-up and decay, clipping, resumable checkpoints."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from midguide.errors import CheckpointError, NumericalError
from midguide.maths.rng import global_seed, stream_seed
from midguide.nn.layout import move
from midguide.storage.code import code_of
from midguide.storage.files import alone_in
from midguide.training import checkpoint, log, needs
from midguide.training.averages import Averages
from midguide.training.base import Run, Stopped
from midguide.training.config import LoopConfig
from midguide.training.feed import Draws, Feed
from midguide.training.pace import Pace
from midguide.training.processes import Processes, processes

READ_EVERY = 20
"""Steps between two looks at the loss on a device that computes ahead: each look waits for it."""

Judge = Callable[[nn.Module], Mapping[str, float]]
"""Held-out losses of a network by name; the entry `mean` decides."""
Watch = Callable[[nn.Module], None]
"""Looks at the network that would be kept if the training ended now, after the log has its row."""
Batch = TypeVar("Batch")
Taken = TypeVar("Taken", contravariant=True)


class Task(Protocol[Taken]):
    """What a training is for."""

    @property
    def config(self) -> LoopConfig:
        """How it is run."""
        ...

    def build(self) -> nn.Module:
        """A new network; its weights come from the global random numbers."""
        ...

    def decays(self, name: str) -> bool:
        """Whether weight decay acts on the parameter of that name."""
        ...

    def loss(self, network: nn.Module, batch: Taken, generator: torch.Generator, /) -> Tensor:
        """What to minimize on a batch, a scalar on the device of the network."""
        ...


def fit(
    task: Task[Batch], source: Draws[Batch], run: Run, *, judge: Judge | None = None, watch: Watch | None = None
) -> nn.Module:
    """Train to the end, continuing from `checkpoint.pt` in the folder of the run where there is one.

    Args:
        task: network, loss and settings.
        source: what to train on.
        run: where and how long. Its folder gets `checkpoint.pt`, everything needed to go on, and `log.jsonl`: loss,
            speed, held-out losses.
        judge: asked at every checkpoint for the held-out losses of each average; the network must be left as it was.
        watch: called after every checkpoint.

    Returns:
        The network with averaged weights, in evaluation mode: those of decay `ema`, or the best by `judge`.

    Raises:
        CheckpointError: If `checkpoint.pt` belongs to another network, recipe, or other data, or is damaged.
        DataError: If another process trains in this folder, or nothing can be written there.
        NumericalError: If the loss is not finite; the checkpoint is the last one before.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with processes(run.device) as together, alone_in(run.folder) if together.first else nullcontext():
        training = _Training(task, source, run, together)
        if run.check:
            training.check(source)
        training.resume()
        if run.weights is not None and judge is not None and training.step == 0 and together.first:
            run.note(f"held-out loss before the first step: {judge(training.network.eval())['mean']:.4f}")
            training.network.train()
        with training.feed.batches(training.part) as batches:
            while not training.pace.done(training.step):
                try:
                    training.advance(batches)
                except Stopped:
                    training.save(judge, watch) if training.due else training.keep()
                    raise
                if training.due:
                    training.save(judge, watch)
        return training.finished(judge)


class _Training:
    """Network, averaged weights, optimizer and random streams at one step of a training."""

    def __init__(self, task: Task[Any], source: Draws[Any], run: Run, together: Processes) -> None:
        self.task, self.config, self.run, self.together = task, task.config, run, together
        self.device, self.step = together.device, 0
        self.path = run.folder / "checkpoint.pt"
        self.identity = checkpoint.identity(self.config, source, run.weights)
        self.code = code_of(task, source, __name__)
        self.history, self.log = [checkpoint.begun(0, self.code)], list[dict[str, Any]]()
        self.part = together.part(self.config.batch) // self.config.accumulate
        self.network = self._built()
        on_gpu = torch.device(self.device).type == "cuda"
        self.computed: Any = torch.compile(self.network) if on_gpu and self.config.compile else self.network
        self.averages = Averages(self.network, (self.config.ema, *self.config.more_emas))
        self.optimizer = torch.optim.AdamW(
            _groups(self.network, task),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=on_gpu or None,
        )
        self.feed = Feed(source, self.device, self._stream(0))
        self.noise = self.feed.generator
        if self.feed.ahead:
            self.noise = torch.Generator(self.device).manual_seed(stream_seed(self._stream(0), "noise"))
        self.pace = Pace(self.config, run.minutes)
        self.read_every = READ_EVERY if on_gpu else 1
        self.losses, self.norms = torch.zeros(2, device=self.device)
        self.looked = self.saved = self.logged = 0  # steps at the last look at the loss, checkpoint, row of the log
        self.saved_at, self.saving, self.total = 0.0, 0.0, 0.0  # when the last checkpoint began, and what it took

    def check(self, source: Draws[Any]) -> None:
        """Refuse what does not fit the memory or the time; say how long it takes."""
        loss = needs.trial(self.task, self.network, source, self.config.seed, self.device)
        found, share = needs.measure(self.network, self.config, loss), self.part * self.config.accumulate
        needs.check_memory(found, self.config, share, needs.free_memory(self.device))
        told = needs.check_time(found, self.config, share, self.run.minutes)
        if self.together.first:
            self.run.note(told)

    def _built(self) -> nn.Module:
        with global_seed(self.config.seed):
            network = self.task.build()
        if self.run.weights is not None:
            network.load_state_dict(dict(self.run.weights))
        move(network, self.device)
        return network

    def _stream(self, step: int) -> int:
        """Seed of the random stream of this process; of another one after a resume with another number of them."""
        if step == 0 and self.together.first:
            return self.config.seed
        return stream_seed(self.config.seed, step, self.together.rank, self.together.count)

    def advance(self, batches: Iterator[Any]) -> None:
        """One optimizer step."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * self.pace.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(config.accumulate):
            loss = self.task.loss(self.computed, next(batches), self.noise) / config.accumulate
            loss.backward()
            self.losses += loss.detach()
        self.together.average_gradients(self.network)
        self.norms += nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimizer.step()
        self.step += 1
        self.averages.update(self.step)
        if self.step % self.read_every == 0 or self.pace.done(self.step):
            self._look()

    def _look(self) -> None:
        """Read loss and clock; stop where a loss or a gradient is not finite."""
        steps = self.step - self.looked
        loss = float(self.losses) / steps
        if not math.isfinite(loss) or not math.isfinite(float(self.norms)):
            kept = f"{self.path} is of step {self.saved}" if self.saved else "there is no checkpoint yet"
            raise NumericalError(
                f"the loss or its gradient is not finite at step {self.step}; {kept}",
                hint="lower learning_rate, raise warmup, or set bfloat16 = false; the same command goes on from there",
            )
        self.total, self.looked = self.total + steps * loss, self.step
        self.losses.zero_()
        self.norms.zero_()
        self.pace.tick(self.step, self.together.agreed(self.pace.now()))
        self.run.on_step(self.step, self.pace.total, loss)

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint: only right after a look."""
        if self.looked != self.step:
            return False
        enough = self.step // self.config.checkpoint_every > self.logged // self.config.checkpoint_every
        return enough or self.pace.late(self.saved_at, self.saving) or self.pace.done(self.step)

    def save(self, judge: Judge | None, watch: Watch | None) -> None:
        """Write a row of the log and a checkpoint, and let others look."""
        begun = self.pace.now()
        mean = self.total / (self.step - self.logged)
        self.total, self.logged = 0.0, self.step
        speed = {"steps_per_second": round(self.pace.steps_per_second, 3), "seconds": round(self.pace.seconds, 1)}
        row: dict[str, Any] = {"step": self.step, "loss": mean, **speed}
        if judge is not None and self.together.first:
            row["held_out"] = {str(decay): dict(found) for decay, found in self._judged(judge).items()}
        self.log.append(row)
        self._write()
        if self.together.first:
            log.write(self.path.with_name(log.NAME), self.log)
            if watch is not None:
                watch(self._kept(row.get("held_out")))
        self.saving = self.together.agreed(self.pace.now() - begun)

    def keep(self) -> None:
        """Write a checkpoint of a training that is stopped after a step; several processes may be at different ones."""
        if self.together.count == 1 and self.step > self.saved:
            self._write()

    def _write(self) -> None:
        streams = self.together.gathered((self.feed.state(), self.noise.get_state()))
        self.saved, self.saved_at = self.step, self.pace.seconds
        if not self.together.first:
            return
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"averages": self.averages.weights, "streams": streams, "identity": self.identity}
        state |= {"settings": checkpoint.settings(self.config), "history": self.history, "log": self.log}
        state |= {"logged": self.logged, "losses": self.total}
        checkpoint.write(self.path, state | {"step": self.step, "seconds": self.pace.seconds})

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one; else from that of the training that this one forks."""
        forks = self.run.fork is not None and not self.path.exists()
        path = self.run.fork / self.path.name if self.run.fork is not None and forks else self.path
        if not path.exists():
            if forks:
                raise CheckpointError(f"there is no {path}", hint="--fork takes the folder of a training")
            return
        saved = checkpoint.read(path, self.device)
        if not forks:
            checkpoint.check_same(self.identity, saved["identity"], path)
        self.history = checkpoint.told(saved, self.config, self.identity["data"], self.code, forks=forks)
        try:
            self._load(saved, [] if forks else saved["streams"])
        except (AttributeError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise checkpoint.misfit(path, error) from error
        self.pace.resume(self.step, self.saved_at)
        if self.pace.done(self.step):
            now = checkpoint.settings(self.config)
            checkpoint.check_unchanged(checkpoint.differences(saved.get("settings", now), now), self.step, path)
        elif len(self.history) > len(saved.get("history", ())) and self.together.first:
            self.run.note(checkpoint.words(self.history[-1]))

    def _load(self, saved: Mapping[str, Any], streams: list[tuple[Tensor, Tensor]]) -> None:
        """Take over what a checkpoint holds."""
        self.network.load_state_dict(saved["network"])
        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # that of a fork may be another
        self.averages.load(saved["averages"])
        self.step = self.looked = self.saved = saved["step"]
        self.saved_at, self.log = saved["seconds"], list(saved["log"])
        self.logged, self.total = saved.get("logged", self.step), saved.get("losses", 0.0)
        self._resume_streams(streams)

    def _resume_streams(self, streams: list[tuple[Tensor, Tensor]]) -> None:
        if len(streams) == self.together.count:
            data, noise = streams[self.together.rank]
            self.feed.resume(data)
            self.noise.set_state(noise.cpu())
            return
        self.feed.resume(torch.Generator(self.feed.generator.device).manual_seed(self._stream(self.step)).get_state())
        if self.feed.ahead:
            self.noise.manual_seed(stream_seed(self._stream(self.step), "noise"))

    def _judged(self, judge: Judge) -> dict[float, Mapping[str, float]]:
        """Held-out losses of each average, by its decay."""
        probe = copy.deepcopy(self.network).eval()
        found = {}
        for decay, weights in self.averages.weights.items():
            probe.load_state_dict(weights)
            found[decay] = judge(probe)
        return found

    def _kept(self, held_out: Mapping[Any, Mapping[str, float]] | None) -> nn.Module:
        """A network with the averaged weights that are best, in evaluation mode."""
        best = self.config.ema
        if held_out:
            best = float(min(held_out, key=lambda decay: held_out[decay]["mean"]))
        kept = copy.deepcopy(self.network).eval()
        kept.load_state_dict(self.averages.weights[best])
        return kept

    def finished(self, judge: Judge | None) -> nn.Module:
        """What is kept in the end."""
        choose = judge is not None and self.config.more_emas and self.together.first
        return self._kept(self._judged(judge) if choose and judge is not None else None)


def _groups(network: nn.Module, task: Task[Any]) -> list[dict[str, Any]]:
    """Parameters for the optimizer, first those with weight decay, then those without."""
    rest = [value for name, value in network.named_parameters() if task.decays(name)]
    free = [value for name, value in network.named_parameters() if not task.decays(name)]
    return [{"params": rest}] + ([{"params": free, "weight_decay": 0.0}] if free else [])
