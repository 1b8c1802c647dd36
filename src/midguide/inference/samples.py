"""The result of `sample`: draws, what they cost, and everything they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from midguide.catalogue.directory import catalogue
from midguide.catalogue.shown import Shown
from midguide.errors import CheckpointError, ConfigError, MidguideError
from midguide.inference.arrays import dataset
from midguide.inference.cost import Cost
from midguide.inference.failures import FAILED, failures
from midguide.inference.signs import suspects
from midguide.inference.summary import Summary, as_page, summarized, told
from midguide.inference.verdict.base import FALSE_ALARMS, Verdict, judge
from midguide.inference.verdict.evidence import Evidence
from midguide.maths.rng import Rng
from midguide.maths.weights import (
    effective_size,
    equal_picks,
    normalized,
    weighted_mean,
    weighted_quantile,
    weighted_variance,
)
from midguide.problem import Problem
from midguide.signals.base import Signal
from midguide.storage.files import replacing_folder, sha256_of, unshared
from midguide.storage.outside import GIB, Outside
from midguide.storage.record import describe
from midguide.storage.tensors import read_tensors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STORED = Outside("file of samples", "give the folder that save() wrote", CheckpointError, limit=1024 * GIB)

if TYPE_CHECKING:
    from xarray import Dataset

    from midguide.inference.stored import StoredSamples

WEIGHTS = ("log_weight", "log_evidence")
"""Names of the fields that are stored beside the draws, where they are known."""
SIGN = "sign."
"""With this before their names signs of convergence are stored beside the draws."""
BEFORE = "effective_sample_size"
"""In the tensors of resampled draws: of each observation that of the draws before."""


@dataclass(frozen=True, eq=False)
class Samples(Shown):
    """Posterior draws of every observation, with their weights where the method has some.

    All statistics use the weights. `resampled` gives draws that count alike.

    Args:
        draws: shape (observation, sample, *signal), in the value range of signals.
        cost: network calls, seconds, memory.
        record: the resolved configuration: sampler, problem, seed, versions; `remarks` where something must be said.
        tensors: further tensors to keep with the draws, by name: the observations `y`, the `truth` where known, the
            `latents` of the draws where the prior is one of latents.
        log_weight: log of the weight of each draw, float64, shape (observation, sample), up to a constant of each
            observation; None where all draws count alike.
        log_evidence: estimates of `log p(y)`, float64, shape (observation, group): of the density of the measured
            values, in nats, with all constants, so that methods and models compare; None where the method has none.
        group: consecutive samples that were drawn together, such as the particles of a filter; 1 for independent ones.
        signs: signs of convergence by name, each the largest value over the steps of every draw, float64, shape
            (observation, sample); what they mean is in the record under `signs`.
        problem: what was asked, as long as it is at hand: it is not stored with the draws. `check` needs it.

    Example:
        >>> from midguide import Problem, make_sampler, sample
        >>> from midguide.operators import Identity
        >>> from midguide.priors import Gaussian
        >>> prior = Gaussian(torch.zeros(3), 1.0)
        >>> problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.1)
        >>> samples = sample(make_sampler("ddrm", {"steps": 5}), problem, n=4)
        >>> samples.draws.shape, samples.mean().shape
        (torch.Size([1, 4, 3]), torch.Size([1, 3]))
    """

    draws: Tensor
    cost: Cost
    record: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    log_weight: Tensor | None = None
    log_evidence: Tensor | None = None
    group: int = 1
    signs: dict[str, Tensor] = field(default_factory=dict)
    problem: Problem | None = field(default=None, repr=False)

    def shown(self) -> Mapping[str, Any]:
        """What was drawn and how, in words."""
        return told(self)

    def _repr_html_(self) -> str:
        return as_page(self)

    @property
    def signal(self) -> Signal:
        """What the draws are: unit, axes and value range, as far as they are known."""
        if self.problem is not None:
            return self.problem.denoiser.signal
        known = dict(self.record.get("signal", {}))
        limits = known.pop("value_range", None)
        range_ = None if limits is None else (float(limits[0]), float(limits[1]))
        return replace(Signal.from_record(known), shape=tuple(self.draws.shape[2:]), value_range=range_)

    def summary(self, observation: int = 0, problem: Problem | None = None) -> Summary:
        """Mean, spread and quantiles of one observation, with its weights, its cost and the verdict, as a table.

        Of vectors of few entries a row is an entry. Of other signals it is the average over one place of the first
        axis, such as a channel or a lead.

        Args:
            observation: which observation.
            problem: what was asked; the verdict of draws that were loaded from a file needs it.

        Example:
            >>> samples = Samples(torch.tensor([[[1.0, 4.0], [3.0, 4.0]]]), Cost(0, 0, 0, 0), {})
            >>> samples.summary().rows[0]
            ('0', '2', '1.41', '1.1', '2', '2.9')
        """
        return summarized(self, observation, problem)

    def plot(self, observation: int = 0) -> Figure:
        """A picture of the draws of one observation, as suits what they are; see `midguide list plots`.

        Args:
            observation: which observation.

        Returns:
            A figure: `samples.plot().savefig("posterior.png")`.

        Raises:
            ShapeError: If there is no plot of such signals, or no such observation.
        """
        return catalogue("plots").find("auto")[0].thing(self, observation, self.signal)

    def check(self, problem: Problem | None = None, *, false_alarms: float = FALSE_ALARMS) -> Verdict:
        """Compare the draws with what draws of the right posterior would show; no network calls.

        Nothing found does not mean that they are right: the verdict says what its checks cannot see. Each check has a
        band in which right results lie, and leaves itself out where its assumptions fail. See `midguide list checks`.

        Args:
            problem: what was asked; needed for draws that were loaded from a file.
            false_alarms: share of right results of which something is found, at most: of data that the model made.

        Raises:
            ConfigError: If the draws are answers to another problem.

        Example:
            >>> from midguide import Problem
            >>> from midguide.operators import Identity
            >>> from midguide.priors import Gaussian
            >>> prior = Gaussian(torch.zeros(64), 1.0)
            >>> problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.3)
            >>> draws = prior.posterior(problem.likelihood).sample(50)[None]
            >>> Samples(draws, Cost(0, 0, 0, 0), {}).check(problem).findings
            ()
        """
        if problem is not None:
            self._refuse_another(problem)
        return judge(Evidence.of(self, problem or self.problem), false_alarms)

    def _refuse_another(self, problem: Problem) -> None:
        """Refuse a problem that the draws cannot be answers to."""
        wanted = (problem.observations, *problem.signal_shape)
        if (len(self.draws), *self.draws.shape[2:]) != wanted:
            raise ConfigError(
                f"the draws are of {len(self.draws)} observations of signals {tuple(self.draws.shape[2:])}, "
                f"the problem has {problem.observations} of {problem.signal_shape}",
                hint="give the problem that they were drawn for",
            )
        y, stored = problem.likelihood.y, self.tensors.get("y")
        known = "observation" not in self.record and "likelihood" in self.record
        if (stored is not None and not torch.equal(stored.to(y), y)) or (
            known and self.record["likelihood"] != describe(problem.likelihood)
        ):
            raise ConfigError(
                "the draws answer another problem: y, operator or noise differ",
                hint="give the problem that they were drawn for",
            )

    def weights(self) -> Tensor | None:
        """Weights that sum to one for each observation, float64, shape (observation, sample); None for equal ones."""
        return None if self.log_weight is None else normalized(self.log_weight)

    def mean(self) -> Tensor:
        """Posterior mean of each observation, shape (observation, *event)."""
        if self.log_weight is None:
            return self.draws.mean(dim=1)
        return self._weighted(self.log_weight, weighted_mean)

    def std(self) -> Tensor:
        """Posterior standard deviation entry by entry, shape (observation, *event); zero for a single sample.

        Its square is unbiased for independent draws (see `weighted_variance` for weighted ones).
        """
        if self.log_weight is None:
            return self.draws.std(dim=1, correction=min(1, self.draws.shape[1] - 1))
        return self._weighted(self.log_weight, weighted_variance).sqrt()

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Empirical quantiles entry by entry, shape (level, observation, *event)."""
        if self.log_weight is None:
            return torch.quantile(self.draws, self.draws.new_tensor(levels), dim=1)
        return self._weighted(self.log_weight, lambda x, w: weighted_quantile(x, w, levels)).transpose(0, 1)

    def effective_sample_size(self, *, of_groups: bool = False) -> Tensor:
        """`(sum w)^2 / sum w^2`: as many draws of equal weight would give means as precise as these weights allow.

        The number of samples where they have no weights. It judges the weights alone: draws that descend from one
        particle of a filter, or that a resampling repeats, count in full. Of `resampled` draws it is that of the draws
        before.

        Args:
            of_groups: of each group, within it, instead of each observation.

        Returns:
            Float64, shape (observation,) or (observation, group).
        """
        if BEFORE in self.tensors and not of_groups:
            return self.tensors[BEFORE]
        log_weight = torch.zeros(self.draws.shape[:2]) if self.log_weight is None else self.log_weight
        weights = normalized(log_weight.unflatten(1, (-1, self.group)) if of_groups else log_weight)
        return effective_size(weights).nan_to_num(0.0)  # of a group whose weights are all zero

    def resampled(self, n: int | None = None, seed: int = 0) -> Samples:
        """`n` draws of each observation that count alike; as many as there are by default.

        Systematic resampling of each observation on its own, in random order, so that any of them are draws, too. It
        repeats draws with large weights. Of draws without weights, n of at most as many are the first n.

        Example:
            >>> samples = Samples(torch.tensor([[1.0, 2.0]]), Cost(0, 0, 0, 0), {},
            ...     log_weight=torch.tensor([[0.0, -100.0]]))
            >>> samples.resampled(3).draws
            tensor([[1., 1., 1.]])
        """
        if self.log_weight is None and n in (None, self.draws.shape[1]):
            return self
        picks = self.picks(n, seed)
        rows = torch.arange(len(self.draws), device=picks.device)[:, None]
        record, tensors = dict(self.record), dict(self.tensors)
        if self.log_weight is not None:
            record["resampled"], tensors[BEFORE] = {"n": picks.shape[1], "seed": seed}, self.effective_sample_size()
        if "latents" in tensors:
            tensors["latents"] = tensors["latents"][rows, picks]
        draws, signs = self.draws[rows, picks], {name: value[rows, picks] for name, value in self.signs.items()}
        return replace(self, draws=draws, record=record, tensors=tensors, log_weight=None, group=1, signs=signs)

    def picks(self, n: int | None = None, seed: int = 0) -> Tensor:
        """Which draws `resampled` takes, in its order, shape (observation, n)."""
        return picks_of(self, n, seed).to(self.draws.device)

    def each(self) -> list[Samples]:
        """The samples of each observation on their own, on the CPU, with an equal share of the seconds.

        Their record is that of the whole, with the place of the observation.
        """
        count = len(self.draws)
        cost = replace(self.cost, seconds=self.cost.seconds / count)
        asked = [self.problem] * count
        if self.problem is not None and count > 1:
            asked = [
                self.problem.select(row)
                for row in torch.arange(count, device=self.problem.likelihood.y.device)[:, None]
            ]
        return [
            Samples(
                self.draws[i : i + 1].cpu(),
                cost,
                self.record if count == 1 else record_of(self, i),
                # those of a single observation may be of other kinds than one row per observation
                {name: (value if count == 1 else value[i : i + 1]).cpu() for name, value in self.tensors.items()},
                None if self.log_weight is None else self.log_weight[i : i + 1].cpu(),
                None if self.log_evidence is None else self.log_evidence[i : i + 1].cpu(),
                self.group,
                {name: value[i : i + 1].cpu() for name, value in self.signs.items()},
                asked[i],
            )
            for i in range(count)
        ]

    def _weighted(self, log_weight: Tensor, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A statistic of draws and weights of each observation, in the type of the draws."""
        found = [statistic(x, w) for x, w in zip(self.draws, normalized(log_weight), strict=True)]
        return torch.stack(found).to(self.draws.dtype)

    def to_xarray(self) -> Dataset:
        """The samples as a data set of xarray, with the axes `observation`, `draw`, and those of the signal.

        Variables are `draws`, `log_weight`, `log_evidence`, `sign.NAME`, `y`, `truth` and `latents`, as far as there
        are some; the attribute `midguide` holds record and cost as JSON. ArviZ takes one observation, as one chain:
        `data[["draws"]].isel(observation=0).expand_dims("chain")`.

        Raises:
            ConfigError: If the extra `arrays` is not installed.
        """
        return dataset(self)

    @staticmethod
    def open(path: str | Path) -> StoredSamples:
        """Draws that `sample(..., out=path)` wrote. They stay on disk until you use them.

        Raises:
            CheckpointError: If there are none, or they are damaged or not complete.
        """
        from midguide.inference.stored import StoredSamples  # which gives samples

        return StoredSamples.open(path)

    def save(self, folder: str | Path) -> list[Path]:
        """Write `samples.safetensors` and `samples.json` into `folder`, both complete or neither."""
        with replacing_folder(folder) as temporary:
            self.write(temporary)
        return [Path(folder) / "samples.safetensors", Path(folder) / "samples.json"]

    def write(self, folder: Path) -> None:
        """Write the two files of `save` into an existing folder, without its promise."""
        weights = {name: value for name in WEIGHTS if (value := getattr(self, name)) is not None}
        signs = {f"{SIGN}{name}": value for name, value in self.signs.items()}
        save_file(unshared({"draws": self.draws, **weights, **signs, **self.tensors}), folder / "samples.safetensors")
        plain = {"cost": asdict(self.cost), "record": self.record, "tensors": sha256_of(folder / "samples.safetensors")}
        plain |= {"group": self.group} if self.group > 1 else {}
        text = json.dumps({**plain, "sha256": _checksum(plain)}, indent=2)
        (folder / "samples.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Samples:
        """Read what `save` wrote.

        Raises:
            CheckpointError: If files are missing, damaged or of different runs.
        """
        folder = Path(folder)
        try:
            stored = STORED.json(folder / "samples.json")
            tensors = read_tensors(STORED, folder / "samples.safetensors")[1]
            sums = _checksum(stored), sha256_of(folder / "samples.safetensors")
            if (stored["sha256"], stored["tensors"]) != sums:
                raise ValueError("a checksum differs")
            draws = tensors.pop("draws")
            log_weight, log_evidence = (tensors.pop(name, None) for name in WEIGHTS)
            signs = {name.removeprefix(SIGN): tensors.pop(name) for name in sorted(tensors) if name.startswith(SIGN)}
            cost, group = Cost(**stored["cost"]), stored.get("group", 1)
            return cls(draws, cost, stored["record"], tensors, log_weight, log_evidence, group, signs)
        except (MidguideError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{folder} holds no readable samples: {getattr(error, 'message', error)}",
                hint="give the folder that save() wrote",
            ) from error


def record_of(samples: Samples | StoredSamples, observation: int) -> dict[str, Any]:
    """The record of one of several observations, with what must be said of it alone."""
    kept = {name: value for name, value in samples.record.items() if name != "remarks"}
    told = remarks(samples.log_weight, samples.signs, samples.record, observation)
    return {**kept, "observation": observation, **told}


def picks_of(samples: Samples | StoredSamples, n: int | None, seed: int) -> Tensor:
    """What `Samples.picks` gives."""
    observations, count = samples.draws.shape[:2]
    n = count if n is None else n
    if n < 1:
        raise ConfigError(f"n must be positive, got {n}")
    log_weight = samples.log_weight
    if log_weight is None and n <= count:
        return torch.arange(n).expand(observations, n)
    log_weight = torch.zeros(observations, count) if log_weight is None else log_weight
    first = samples.record.get("observation", 0)
    return equal_picks(log_weight, Rng([(seed, "resampled", first + i) for i in range(observations)]), n)


def remarks(
    log_weight: Tensor | None, signs: Mapping[str, Tensor], record: Mapping[str, Any], observation: int | None = None
) -> dict[str, list[str]]:
    """What a record must say: weights that collapsed to fewer than two draws, high signs, draws that failed.

    Args:
        log_weight: of all observations, shape (observation, sample); None where there are no weights.
        signs: of convergence, by name, shape (observation, sample).
        record: the rest of the record, with what the signs mean.
        observation: look at this one only.
    """
    found = []
    if log_weight is not None:
        lost = [place[0] for place in record.get(FAILED, ())]
        left = [log_weight.shape[1] - lost.count(i) for i in range(len(log_weight))]
        found = [
            f"the weights of observation {i} collapsed: {left[i]} draws count as {size:.1f}"
            for i, size in enumerate(effective_size(normalized(log_weight)).tolist())
            if size < 2 <= left[i] and observation in (None, i)
        ]
    found += suspects(signs, record, observation) + failures(record, observation)
    return {"remarks": found} if found else {}


def _checksum(plain: dict[str, Any]) -> str:
    """SHA-256 of what `samples.json` holds besides."""
    rest = {key: value for key, value in plain.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
