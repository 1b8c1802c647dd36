"""What lies in a checkpoint: the weights of a network wherever they are, their average, and what is not used.

Training codes put weights into containers (`state_dict`, `model`, a list). Wrappers put words before their names
(`module.`, `_orig_mod.`, `model.`). Averages over the training (EMA) come in many forms. A format knows one weight of
its network, the *marker*; whatever stands before it is a wrapper.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from midguide.priors.formats.weights import Weights

DEPTH = 32  # of containers in each other
ANYWHERE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""Words that wrappers put inside the names of weights."""

AVERAGES = {"ema", "swa", "avg", "average", "averaged", "averages", "averaging", "shadow", "polyak"}
OTHERWISE = {"online", "current", "collected"}
"""Words of weights that are not averaged although they lie beside an average."""
USUAL = ("state_dict", "model_state_dict", "model", "params", "net", "network", "unet", "denoiser", "module")
RARE = {"discriminator", "control", "teacher", "loss", "lora", "old", "encoder", "stage"}
"""Words of networks beside the one that is wanted."""

TRAINING = set(
    "optimizer optimizers optimiser optim opt lr scheduler schedulers sched scaler amp epoch epochs step steps "
    "iteration iterations iter iters callbacks loops version rng seed random loss losses criterion best updates decay "
    "decays initted averaged timestamp date wandb logger monitor git commit hash metrics".split()
)
"""Words of what only a training needs."""
DERIVED = re.compile(
    r"betas|(alphas|sigmas|log_sigmas)(_cumprod(_prev|_next)?)?|alpha_bars?|(sqrt|log)_\w+|posterior_\w+|snr"
    r"|\w*loss_weight|lvlb_weights|logvar|n_averaged|decay|mu|num_updates|initted|step|scale_factor"
)
"""Numbers of the forward process that follow from its betas, and counts of averages, beside the weights."""
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class Container(NamedTuple):
    """The tensors that lie in one mapping or list.

    Args:
        path: the names that lead there, with dots.
        tensors: by name; in a list by position.
        named: false for a list.
        others: names of plain values.
    """

    path: str
    tensors: dict[str, Tensor]
    named: bool
    others: tuple[str, ...]


class Group(NamedTuple):
    """Weights that fit one network.

    Args:
        where: what stands before their names in the file.
        weights: by their names in the network.
        used: their full names in the file.
    """

    where: str
    weights: dict[str, Tensor]
    used: set[str]


@dataclass(frozen=True, eq=False)
class Contents:
    """All that a checkpoint holds.

    Args:
        loaded: what its file was read to.

    Example:
        >>> held = Contents({"model": {"module.a.w": torch.zeros(2)}, "ema": {"a.w": torch.ones(2)}, "epoch": 3})
        >>> held.weights("a.w").averaged
        {'a.w': tensor([1., 1.])}
    """

    loaded: Any

    @cached_property
    def containers(self) -> list[Container]:
        """Those with something in them; states of optimizers are passed over."""
        return list(_walk(self.loaded, "", ()))

    def holds(self, *names: str) -> bool:
        """Whether some weight has one of these names, after a wrapper or none."""
        ends = tuple(f".{name}" for name in names)
        return any(n in names or n.endswith(ends) for c in self.containers for n in c.tensors)

    @property
    def is_optimizer(self) -> bool:
        """Whether there is the state of an optimizer and no weight."""
        return _is_optimizer(self.loaded)

    @property
    def conditioning(self) -> str:
        """What the names of weights show that the network is told: `text`, `class`, or nothing."""
        names = [name for container in self.containers for name in container.tensors]
        texts = (".transformer_blocks.", ".attn2.", "text_", "encoder_kv.", "token_embedding.", "cond_stage_model.")
        classes = ("label_emb.", "classes_emb.", "class_embedding.", "map_label.", "classes_mlp.")
        for kind, words in (("text", texts), ("class", classes)):
            if any(word in name for name in names for word in words):
                return kind
        return ""

    def weights(self, marker: str) -> Weights | None:
        """The weights of the network that has a weight called `marker`, and their average where there is one.

        Returns:
            Float32 or integer tensors by name, with remarks on what was found beside them; None without the marker.
        """
        groups = self._groups(marker)
        if not groups:
            return None
        means = [group for group in groups if _is_average(group.where) or self._is_second(group, groups)]
        last = sorted((group for group in groups if group not in means), key=_rank)
        if not last:
            chosen, average, remarks = means[0], None, []
        else:
            chosen = last[0]
            average, remarks = self._average(chosen, means)
        remarks += self._said(chosen.used | (average.used if average else set()), chosen.weights)
        return Weights(_plain(chosen.weights), average and _plain(average.weights), tuple(remarks), self._betas(chosen))

    def remarks(self, is_used: Callable[[str], bool]) -> list[str]:
        """What must be said of a file of which the weights with certain names are used.

        Args:
            is_used: of a weight, by its name in its container.
        """
        used = {_joined(c.path, name): v for c in self.containers for name, v in c.tensors.items() if is_used(name)}
        return self._said(set(used), used)

    def _said(self, used: set[str], weights: Mapping[str, Tensor]) -> list[str]:
        """A line on what is not used, and one on weights that are rounded in the file."""
        others = ", ".join(f"`{name}`" for name in self._others(used))
        rounded = sorted({str(v.dtype).removeprefix("torch.") for v in weights.values() if _is_other_float(v)})
        said = [f"not used: {others}"] if others else []
        return said + ([f"the weights are {' and '.join(rounded)} in the file, and float32 here"] if rounded else [])

    def _groups(self, marker: str) -> list[Group]:
        found = []
        for path, tensors, _, _ in self.containers:
            heads = [n.removesuffix(marker) for n in tensors if n == marker or n.endswith(f".{marker}")]
            for head in heads:
                longer = tuple(other for other in heads if other != head and other.startswith(head))
                names = [n for n in tensors if n.startswith(head) and not (longer and n.startswith(longer))]
                names = [n for n in names if not DERIVED.fullmatch(n.removeprefix(head))]
                weights = {n.removeprefix(head): tensors[n] for n in names}
                found.append(Group(_joined(path, head.rstrip(".")), weights, {_joined(path, n) for n in names}))
        return found

    def _is_second(self, group: Group, groups: Sequence[Group]) -> bool:
        """Whether weights are an average by their place: the last of a list; beside those called `current`."""
        if isinstance(self.loaded, list | tuple):
            return len(groups) > 1 and group is groups[-1]
        return group.where.startswith("state_dict") and any(g.where.startswith("current_") for g in groups)

    def _average(self, last: Group, means: Sequence[Group]) -> tuple[Group | None, list[str]]:
        """The average of weights, under whatever names, with what must be said of it."""
        for group in means:
            if found := _like(last, group):
                return found
        lists: list[str] = []
        for path, tensors, named, _ in self.containers:
            if not _is_average(path) or not any(v.ndim for v in tensors.values()):
                continue
            match = _by_letters(last.weights, tensors) if named else _by_shape(last.weights, list(tensors.values()))
            group = Group(path, match or {}, {_joined(path, name) for name in tensors})
            if found := _like(last, group):
                return found
            lists.append(path)
        unfit = dict.fromkeys([*(group.where for group in means), *lists])
        return None, [
            f"the average in `{where}` does not fit the weights, so the last ones are used" for where in unfit
        ]

    def _others(self, used: set[str]) -> list[str]:
        """What is neither used nor known to matter to a training only: the shortest names that say it."""
        above = {name[:i] for name in used for i in (i for i, c in enumerate(name) if c == ".")} | used
        found: dict[str, None] = {}
        for container in self.containers:
            for name in (*container.tensors, *container.others):
                full = _joined(container.path, name)
                if full in used:
                    continue
                parts = full.split(".")
                label = next(p for i in range(len(parts)) if (p := ".".join(parts[: i + 1])) not in above or p == full)
                if not (TRAINING | OTHERWISE) & set(_words(label)) and not DERIVED.fullmatch(parts[-1]):
                    found[label] = None
        return [name for name in found if not name.isdigit()]

    def _betas(self, group: Group) -> Tensor | None:
        """The betas that lie beside weights."""
        for path, tensors, _, _ in self.containers:
            if any(_joined(path, name) in group.used for name in tensors):
                return next((v for name, v in tensors.items() if name.rpartition(".")[2] == "betas"), None)
        return None


def _walk(value: Any, path: str, above: tuple[int, ...]) -> Iterator[Container]:
    if id(value) in above or len(above) > DEPTH or _is_optimizer(value):
        return
    if isinstance(value, Mapping):
        items = [(_clean(str(key)), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return
    tensors = {name: item for name, item in items if isinstance(item, Tensor)}
    inner = [(name, item) for name, item in items if isinstance(item, Mapping | list | tuple)]
    known = {*tensors, *(name for name, _ in inner)}
    others = tuple(name for name, _ in items if name not in known) if isinstance(value, Mapping) else ()
    yield Container(path, tensors, isinstance(value, Mapping), others)
    for name, item in inner:
        yield from _walk(item, _joined(path, name), (*above, id(value)))


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys()


def _clean(name: str) -> str:
    parts = name.split(".")
    return ".".join(part for part in parts if part not in ANYWHERE) if len(parts) > 1 else name


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _words(name: str) -> list[str]:
    """Lower-case words of a name, also where they are written `likeThis`; `exp_avg` of optimizers is one."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.replace("exp_avg", "moment"))
    return [word for word in re.split(r"[._\W]+", apart.lower()) if word]


def _is_average(where: str) -> bool:
    """Whether the innermost name that decides says that weights are averaged."""
    for part in reversed(where.split(".")):
        words = _words(part)
        if OTHERWISE & set(words):
            return False
        if any(w in AVERAGES or w.endswith("ema") or re.fullmatch(r"ema(model|net|unet|\d+)", w) for w in words):
            return True
    return False


def _rank(group: Group) -> tuple[bool, int]:
    first = group.where.partition(".")[0]
    return bool(RARE & set(_words(group.where))), USUAL.index(first) if first in USUAL else len(USUAL)


def _like(last: Group, average: Group) -> tuple[Group, list[str]] | None:
    """An average in the place of the last weights; what it does not hold, such as buffers, is theirs. None: no fit."""
    wanted = {name: v for name, v in last.weights.items() if v.is_floating_point()}
    common = [name for name in wanted if name in average.weights]
    if not common or any(average.weights[name].shape != wanted[name].shape for name in common):
        return None
    lacking = [name for name in wanted if name not in average.weights and not name.endswith(_BUFFERS)]
    if len(lacking) > len(common):
        return None
    remarks = [
        f"the average lacks {len(lacking)} weights, such as `{name}`: their last is used" for name in lacking[:1]
    ]
    used = {**last.weights, **{name: average.weights[name] for name in last.weights if name in average.weights}}
    return Group(average.where, used, average.used), remarks


def _by_letters(last: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Weights whose names lost their dots, or have underscores in their place."""

    def letters(name: str) -> str:
        return re.sub(r"[._]", "", name)

    first, table = letters(next(iter(last))), {letters(name): value for name, value in tensors.items()}
    heads = sorted({name.removesuffix(first) for name in table if name.endswith(first)}, key=len)
    found = ({n: table[head + letters(n)] for n in last if head + letters(n) in table} for head in heads)
    return next((match for match in found if len(match) * 2 > len(last)), None)


def _by_shape(last: Mapping[str, Tensor], values: Sequence[Tensor]) -> dict[str, Tensor] | None:
    """Weights without names, in the order of the parameters: only where exactly one reading has their shapes."""
    names = [name for name, v in last.items() if v.is_floating_point() and not name.endswith(_BUFFERS)]
    if len(names) != len(values):
        names = _only_reading([(name, last[name].shape) for name in names], [value.shape for value in values])
    fits = len(names) == len(values) and all(last[n].shape == v.shape for n, v in zip(names, values, strict=True))
    return dict(zip(names, values, strict=True)) if fits else None


def _only_reading(names: Sequence[tuple[str, torch.Size]], shapes: Sequence[torch.Size]) -> list[str]:
    """The names that a list of shapes stands for, some left out; nothing where there are several such readings."""
    earliest, place = [], 0
    for name, shape in names:
        if place < len(shapes) and shape == shapes[place]:
            earliest.append(name)
            place += 1
    latest, place = [], len(shapes) - 1
    for name, shape in reversed(names):
        if place >= 0 and shape == shapes[place]:
            latest.append(name)
            place -= 1
    return earliest if earliest == latest[::-1] else []


def _is_other_float(value: Tensor) -> bool:
    return value.is_floating_point() and value.dtype != torch.float32


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: v.float() if v.is_floating_point() else v for name, v in weights.items()}
