"""Identity, over all that is registered and every wrapper: what changes the numbers of a thing changes its record."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import midguide
from midguide.diffusion.schedules import EDM, SCHEDULES, DiscreteVP, make_schedule
from midguide.errors import CheckpointError, ConfigError
from midguide.exact.increments import Laplace, StudentT
from midguide.exact.levy import LevyProcess
from midguide.exact.posteriors import Opaque
from midguide.exact.problems import random_gaussian
from midguide.inference.loop import sample
from midguide.inference.running import CountedDenoiser
from midguide.known.levy import LearnedWalk
from midguide.likelihoods.base import LIKELIHOODS, Likelihood
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.likelihoods.poisson import PoissonLikelihood
from midguide.metrics.base import METRICS, SET_METRICS
from midguide.nn.base import AUTOENCODERS, BODIES
from midguide.operators import OPERATORS, BlockMean, Identity, Operator, make_operator
from midguide.priors.base import Denoiser
from midguide.priors.box import UniformBox
from midguide.priors.cards import shipped
from midguide.priors.field import GaussianField, matern_spectrum
from midguide.priors.gaussian import Gaussian
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.priors.loading import load_prior
from midguide.priors.mixture import GaussianMixture
from midguide.priors.network import NetworkDenoiser
from midguide.priors.tiles import Tiled
from midguide.priors.wrapped import OnSchedule, Wrapped
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, make_sampler
from midguide.signals.base import SIGNALS, Signal, Space
from midguide.storage import record as records
from midguide.storage.record import describe, fingerprint
from midguide.studies.kinds.base import KINDS
from midguide.studies.sources.base import SOURCES
from midguide.testing import ContractError, changed_settings, check_identity, samplers
from midguide.web.play import Watched

WORDS: dict[str, dict[str, object]] = {
    "colorization": {"weights": "luma"},
    "compressed-sensing": {"kind": "gaussian"},
    "ecg-missing-block": {"hidden": "first"},
    "ecg-missing-leads": {"observed": "II"},
    "fourier": {"pattern": "gaussian"},
    "fourier-coils": {"pattern": "gaussian"},
    "half-mask": {"side": "left"},
    "images": {"operator": "identity", "prior": "faces-64-latent", "data": "prior"},
    "jpeg": {"tables": "unclamped", "subsampling": "4:4:4", "rounding": "exact", "upsampling": "triangle"},
    "pgdm": {"weighting": "paper"},
}
"""Another value of the settings that are text, by piece."""


def specs(catalogue) -> list[str]:
    """All pieces of a catalogue, and all their presets."""
    return [spec for name in catalogue for spec in (name, *(f"{name}:{p}" for p in catalogue.presets(name)))]


# Samplers, schedules, operators, likelihoods, metrics, kinds of problems.


@pytest.mark.parametrize("spec", specs(SAMPLERS))
def test_a_record_of_a_sampler_makes_the_same_sampler(spec):
    sampler = make_sampler(spec)
    written = json.loads(json.dumps(SAMPLERS.record(sampler)))
    assert SAMPLERS.from_record(written) == sampler
    assert written["name"] == spec.partition(":")[0]


MINE = """
from dataclasses import dataclass
from midguide.samplers.unconditional import Unconditional

@dataclass(frozen=True, kw_only=True)
class Mine(Unconditional):
    "The prior."
    strength: float = 0.5
"""


def test_a_record_of_a_sampler_in_a_file_makes_it_until_the_file_changes(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    sampler = make_sampler(f"{path}:Mine", {"strength": 0.25})
    written = json.loads(json.dumps(SAMPLERS.record(sampler)))
    assert SAMPLERS.from_record(written) == sampler
    assert written["settings"]["strength"] == 0.25
    before = describe(sampler)
    path.write_text(MINE + "\nOTHER = 1\n")
    with pytest.raises(ConfigError, match="has changed since it was recorded"):
        SAMPLERS.from_record(written)
    assert describe(make_sampler(f"{path}:Mine", {"strength": 0.25})) != before


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_setting_of_a_sampler_is_part_of_it(name):
    entry = SAMPLERS[name]
    given = {"gradient_steps": 2} if name == "mgps" else {}  # some of its settings belong to gradient steps
    changes = changed_settings(entry, entry.make, given, words=WORDS.get(name, {}))
    assert {key.partition(".")[0] for key in changes} == {f.name for f in dataclasses.fields(entry.settings) if f.init}
    check_identity(lambda: entry.make(given), changes)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_setting_of_a_schedule_is_part_of_it(name):
    entry = SCHEDULES[name]
    given = {"betas": [0.1, 0.2]} if entry.required() else {}
    changes = changed_settings(entry, entry.make, given)
    assert {key.partition(".")[0] for key in changes} == {*entry.defaults(), *given}
    check_identity(lambda: entry.make(given), changes)


def shape_of(name: str) -> tuple[int, ...]:
    return (9, 64) if name.startswith("ecg-") else (2 if name.startswith("fourier") else 3, 32, 32)


def settings_of(name: str, folder) -> dict[str, Any]:
    if name == "fourier-coils":
        return {"complex_signal": True}
    if "path" not in OPERATORS[name].required():
        return {}
    from PIL import Image

    Image.fromarray(torch.eye(32, dtype=torch.uint8).numpy() * 255).save(folder / "mask.png")
    return {"path": str(folder / "mask.png")}


def same_measurement(one: Operator, other: Operator) -> bool:
    """Whether two operators measure the same of one signal."""
    shape = next(shape for shape in ((3, 32, 32), (2, 32, 32), (9, 64)) if fits(one, shape))
    x = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(1, *shape)
    return torch.equal(*(op(x.expand(op.observations or 1, *shape)) for op in (one, other)))


def fits(operator: Operator, shape: tuple[int, ...]) -> bool:
    try:
        operator(torch.zeros(operator.observations or 1, *shape))
    except (RuntimeError, midguide.errors.MidguideError):
        return False
    return True


@pytest.mark.parametrize("name", OPERATORS)
def test_every_setting_of_an_operator_is_part_of_it(name, tmp_path):
    given, words = settings_of(name, tmp_path), dict(WORDS.get(name, {}))
    changes = changed_settings(
        OPERATORS[name], lambda plain: make_operator(name, shape_of(name), **plain), given, words=words
    )
    left = set(OPERATORS[name].defaults()) - {key.partition(".")[0] for key in changes}
    # those of the nonlinear blur are a file; `count` is for random blocks of an electrocardiogram; two channels are
    # complex for coils, and no kernel for each channel is in the file
    assert left <= {"weights", "count", "complex_signal", "per_channel"}
    check_identity(lambda: make_operator(name, shape_of(name), **given), changes, same=same_measurement)


@pytest.mark.parametrize("spec", specs(OPERATORS))
def test_every_array_of_an_operator_is_part_of_it(spec, tmp_path):
    name = spec.partition(":")[0]
    given = settings_of(name, tmp_path)
    check_identity(
        lambda: make_operator(spec, shape_of(name), **given),
        {
            path: lambda changed=changed: changed
            for path, changed in with_other_arrays(make_operator(spec, shape_of(name), **given))
        },
    )


def with_other_arrays(thing: Any) -> Iterator[tuple[str, Any]]:
    """A dataclass once for each of its tensors, also of the dataclasses inside, with that tensor changed."""
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        if isinstance(value, Tensor) and field.repr and value.numel():
            yield field.name, changed_in(thing, field.name, other_tensor(value))
        elif isinstance(value, Operator):
            for path, inner in with_other_arrays(value):
                yield f"{field.name}.{path}", changed_in(thing, field.name, inner)


def changed_in(thing: Any, name: str, value: Any) -> Any:
    """A copy with one field changed, without the checks that `replace` makes."""
    other = object.__new__(type(thing))
    for key, item in vars(thing).items():
        object.__setattr__(other, key, item)
    object.__setattr__(other, name, value)
    return other


def other_tensor(value: Tensor) -> Tensor:
    """The tensor with its last entry changed."""
    changed = value.clone(memory_format=torch.contiguous_format)
    last = changed.reshape(-1)[-1]
    changed.view(-1)[-1] = ~last if value.dtype == torch.bool else last + 1
    return changed


@pytest.mark.parametrize(
    ("likelihood", "changes"),
    [
        (GaussianLikelihood(Identity(), torch.ones(2, 3), 0.1), {"sigma_y": 0.2}),
        (
            PoissonLikelihood(Identity(), torch.ones(2, 3), 5.0),
            {"rate": 6.0, "floor": 0.1, "value_range": (0.0, 1.0), "background": 1.0, "gain": 2.0, "read_noise": 0.5},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_in_a_likelihood_is_part_of_it(likelihood, changes):
    changes = changes | {"y": other_tensor(likelihood.y), "operator": make_operator("identity", (3,)) and Scaled()}
    assert set(changes) == {f.name for f in dataclasses.fields(likelihood)}
    made = {
        name: (lambda name=name, value=value: replace(likelihood, **{name: value})) for name, value in changes.items()
    }
    check_identity(lambda: replace(likelihood), made)


@dataclasses.dataclass(frozen=True, eq=False)
class Scaled(Operator):
    """An operator of one's own, known by its class, its file and its settings."""

    factor: float = 2.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_likelihoods_are_all_here():
    assert {cls.__name__ for cls in Likelihood.__subclasses__()} == {"GaussianLikelihood", "PoissonLikelihood"}


@pytest.mark.parametrize("catalogue", [METRICS, SET_METRICS], ids=["metrics", "set-metrics"])
def test_metrics_are_known_by_a_name_with_their_protocol_and_by_their_weights(catalogue):
    told = {}
    for name in catalogue:
        try:
            told[name] = json.dumps({"name": name, **catalogue.make(name).record()})
        except CheckpointError:
            continue  # weights that are not shipped and not here
    assert len(set(told.values())) == len(told) >= 2


def top(key: str) -> str:
    """The setting that a dotted key begins with."""
    return key.partition(".")[0]


class Cell:
    """A problem of a study, with what its units are addressed by."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def record(self) -> dict[str, Any]:
        return {"kind": describe(self.kind), "prior": self.kind.prior_digest(), "data": self.kind.data_digest(0)}


GIVEN: dict[str, dict[str, object]] = {
    "gaussian": {"dimension": 4, "measurements": 2, "sigma_y": 0.1},
    "mixture": {"dimension": 20},
    "images": {"operator": "random-inpainting", "data": "astronaut"},
}


@pytest.mark.parametrize("name", GIVEN)
def test_every_setting_of_a_problem_is_part_of_it(name):
    entry = KINDS[name]
    words = {"schedule": "edm", **WORDS.get(name, {})}
    every = changed_settings(entry, lambda plain: Cell(entry.make(plain)), GIVEN[name], words=words)
    # white is for files, and changes the pixels, whose digest is part of it: tests/data/test_images.py
    changes = {key: make for key, make in every.items() if not key.startswith("prior_settings.") and key != "white"}
    check_identity(lambda: Cell(entry.make(GIVEN[name])), changes)
    untried = {f.name for f in dataclasses.fields(entry.settings) if f.init} - {*map(top, changes)}
    # which belong together: below
    assert untried <= {"operator_settings", "noise", "rate", "noise_settings", "prior_settings", "white"}


def test_what_belongs_together_in_an_image_problem_is_part_of_it():
    make, given = KINDS["images"].make, GIVEN["images"]
    changes = {"noise": {"noise": "poisson", "rate": 9.0}, "operator_settings": {"operator_settings": {"keep": 0.5}}}
    changes["rate"] = {"noise": "poisson", "rate": 8.0}
    for key, value in (("prediction", "eps"), ("schedule", "vp-cosine"), ("value_range", [0.0, 1.0])):
        changes[key] = {"prior_settings": {key: value}}
    check_identity(
        lambda: Cell(make(given)), {key: (lambda more=more: Cell(make(given | more))) for key, more in changes.items()}
    )


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_setting_of_a_noise_model_is_part_of_it(name):
    entry = LIKELIHOODS[name]
    given = dict.fromkeys(entry.required(), 2.0)
    changes = changed_settings(entry, entry.make, given)
    assert set(changes) == {*entry.defaults(), *given}
    check_identity(lambda: entry.make(given), changes)


@pytest.mark.parametrize("catalogue", [SIGNALS, SOURCES, BODIES, AUTOENCODERS], ids=lambda catalogue: catalogue.kind)
def test_every_setting_of_other_pieces_is_part_of_them(catalogue):
    for name, entry in catalogue.items():
        if entry.required() or not entry.defaults() or not isinstance(entry.settings, type):
            continue
        changes = changed_settings(entry, entry.make)
        check_identity(entry.make, changes)
        assert changes, name


# Priors.

SHAPE = (3, 8, 8)


def network(seed: int = 0) -> nn.Module:
    """A network that takes labels, with weights, a buffer, and a setting that is no weight."""
    made = Tiny()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in made.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
    return made


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.strength = nn.Conv2d(3, 3, 1), 0.1
        self.register_buffer("offset", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.strength * self.mix(x) + self.offset + 1e-3 * label.reshape(-1, 1, 1, 1)


def of_network(**changes: Any) -> NetworkDenoiser:
    settings = {"network": network(), "schedule": DiscreteVP.linear(), "prediction": "eps", "event_shape": SHAPE}
    return NetworkDenoiser(**(settings | changes))


def with_signal(prior: Denoiser) -> Denoiser:
    prior.signal = Signal(unit="K", space=Space("flat", lambda x: x))
    return prior


def with_buffer(module: nn.Module) -> nn.Module:
    module.offset += 1.0
    return module


def with_strength(module: nn.Module) -> nn.Module:
    module.strength = 0.2
    return module


def half(x: Tensor) -> Tensor:
    return x / 2


def scaled_by(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: factor * x


NETWORKS: dict[str, Callable[[], Denoiser]] = {
    "weights": lambda: of_network(network=network(1)),
    "buffer": lambda: of_network(network=with_buffer(network())),
    "setting of the network": lambda: of_network(network=with_strength(network())),
    "another callable": lambda: of_network(network=lambda x, t: 0 * x),
    "yet another": lambda: of_network(network=lambda x, t: x),
    "schedule": lambda: of_network(schedule=DiscreteVP.cosine()),
    "floor of the schedule": lambda: of_network(schedule=replace(DiscreteVP.linear(), floor=1e-3)),
    "prediction": lambda: of_network(prediction="v"),
    "event_shape": lambda: of_network(event_shape=(3, 8, 16)),
    "value_range": lambda: of_network(value_range=(0.0, 1.0)),
    "no value_range": lambda: of_network(value_range=None),
    "learned_variance": lambda: of_network(learned_variance=True),
    "label": lambda: of_network(label=lambda t: t / 1000),
    "label by another number": lambda: of_network(label=lambda t: t / 500),
    "projection": lambda: of_network(projection=half),
    "projection by a closure": lambda: of_network(projection=scaled_by(2.0)),
    "projection by another": lambda: of_network(projection=scaled_by(3.0)),
    "dtype": lambda: of_network(dtype=torch.float64),
    "signal": lambda: with_signal(of_network()),
}


def test_everything_that_a_network_prior_computes_with_is_part_of_it():
    check_identity(of_network, NETWORKS)


@pytest.mark.parametrize(
    "how", [{"device": "cpu"}, {"chunk": 1}, {"channels_last": True}, {"checkpointing": True}], ids=str
)
def test_where_and_in_which_pieces_a_network_runs_is_no_part_of_it(how):
    assert of_network(**how).record() == of_network().record()


def test_weights_that_change_in_place_change_the_record():
    prior = of_network()
    told = [fingerprint(prior.record())]
    for change in (
        lambda w: w.add_(1.0),  # which torch counts
        lambda w: w.data.add_(1.0),  # which it does not
        lambda w: w.data.copy_(w.data * 2),
    ):
        with torch.no_grad():
            change(prior.network.mix.weight)
        told.append(fingerprint(prior.record()))
    prior.network.mix.weight = nn.Parameter(torch.zeros(3, 3, 1, 1), requires_grad=False)
    told.append(fingerprint(prior.record()))
    assert len(set(told)) == 5


def test_the_digest_of_weights_is_computed_once(monkeypatch):
    prior = of_network()
    first = prior.record()
    computed = []
    monkeypatch.setattr(records, "fingerprint", lambda record: computed.append(record) or "")
    records.weights_digest(prior.network)
    assert computed == []
    assert first["network"]["sha256"]


def gaussian(**changes: Any) -> Gaussian:
    settings = {"mean": torch.zeros(2), "covariance": torch.eye(2)} | changes
    return Gaussian(settings.pop("mean"), settings.pop("covariance"), **settings)


def mixture(**changes: Any) -> GaussianMixture:
    settings = {"weights": torch.ones(2), "means": torch.eye(2), "covariances": torch.tensor(1.0)} | changes
    return GaussianMixture(settings.pop("weights"), settings.pop("means"), settings.pop("covariances"), **settings)


def field(length: float = 1.0, schedule: Any = None, **changes: Any) -> GaussianField:
    settings = {"mean": torch.zeros(1, 4)} | changes
    return GaussianField(settings["mean"], matern_spectrum((4,), std=1.0, length=length), schedule=schedule)


EXACT: dict[str, tuple[Callable[[], Denoiser], dict[str, Callable[[], Denoiser]]]] = {
    "gaussian": (
        gaussian,
        {
            "mean": lambda: gaussian(mean=torch.tensor([0.0, 1.0])),
            "covariance": lambda: gaussian(covariance=torch.tensor([[1.0, 0.1], [0.1, 1.0]])),
            "form": lambda: gaussian(covariance=1.0),
            "schedule": lambda: gaussian(schedule=EDM()),
            "event_shape": lambda: gaussian(event_shape=(2, 1)),
            "dtype of draws": lambda: gaussian(mean=torch.zeros(2, dtype=torch.float64)),
            "signal": lambda: with_signal(gaussian()),
        },
    ),
    "mixture": (
        mixture,
        {
            "weights": lambda: mixture(weights=torch.tensor([1.0, 2.0])),
            "means": lambda: mixture(means=2 * torch.eye(2)),
            "covariances": lambda: mixture(covariances=torch.tensor(2.0)),
            "schedule": lambda: mixture(schedule=EDM()),
            "dtype of draws": lambda: mixture(means=torch.eye(2, dtype=torch.float64)),
            "signal": lambda: with_signal(mixture()),
        },
    ),
    "field": (
        field,
        {
            "mean": lambda: field(mean=torch.ones(1, 4)),
            "channels": lambda: field(mean=torch.zeros(2, 4)),
            "spectrum": lambda: field(length=2.0),
            "schedule": lambda: field(schedule=EDM()),
            "dtype of draws": lambda: field(mean=torch.zeros(1, 4, dtype=torch.float64)),
            "signal": lambda: with_signal(field()),
        },
    ),
    "box": (
        lambda: UniformBox((2,)),
        {
            "event_shape": lambda: UniformBox((3,)),
            "low": lambda: UniformBox((2,), low=-2.0),
            "high": lambda: UniformBox((2,), high=2.0),
            "schedule": lambda: UniformBox((2,), schedule=EDM()),
            "signal": lambda: with_signal(UniformBox((2,))),
        },
    ),
    "levy": (
        lambda: LevyProcess(Laplace(), 4),
        {
            "law": lambda: LevyProcess(StudentT(), 4),
            "std": lambda: LevyProcess(Laplace(std=0.5), 4),
            "length": lambda: LevyProcess(Laplace(), 5),
            "schedule": lambda: LevyProcess(Laplace(), 4, schedule=EDM()),
            "signal": lambda: with_signal(LevyProcess(Laplace(), 4)),
        },
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_arrays_and_schedule_of_exact_priors_are_part_of_them(name):
    check_identity(*EXACT[name])


@pytest.mark.parametrize("name", list(shipped()))
def test_shipped_priors_are_known_by_their_file_and_weights(name):
    def changed(how: Callable[[Any], None]) -> Callable[[], Any]:
        def make() -> Any:
            prior: Any = load_prior(name)
            how(prior.inner if isinstance(prior, LatentPrior) else prior)
            return prior

        return make

    def weight(prior: Any) -> None:
        with torch.no_grad():
            next(prior.network.parameters()).add_(1e-3)

    changes = {
        "weight": changed(weight),
        "schedule": changed(lambda prior: setattr(prior, "schedule", EDM())),
        "label": changed(lambda prior: setattr(prior, "label", lambda t: t)),
        "prediction": changed(lambda prior: setattr(prior, "prediction", "flow")),
    }
    check_identity(lambda: load_prior(name), changes)


def coder(seed: int = 0, **changes: Any) -> NetworkAutoencoder:
    body = network(seed)
    settings = {"network": body, **changes}
    return NetworkAutoencoder(lambda x: body(x, x.new_zeros(len(x))), half, SHAPE, SHAPE, **settings)


def test_everything_in_an_autoencoder_is_part_of_it():
    changes = {
        "weights": lambda: coder(1),
        "scale": lambda: coder(scale=2.0),
        "shift": lambda: coder(shift=(0.0, 0.0, 1.0)),
        "value_range": lambda: coder(value_range=None),
        "dtype": lambda: coder(dtype=torch.float64),
        "decoder": lambda: NetworkAutoencoder(coder().encoder, scaled_by(2.0), SHAPE, SHAPE, network=network()),
    }
    check_identity(coder, changes)
    assert coder(rows=1).record() == coder().record()


# Wrappers.

WRAPPERS: dict[type[Wrapped], Callable[[Denoiser], Wrapped]] = {
    CountedDenoiser: CountedDenoiser,
    LatentPrior: lambda inner: LatentPrior(inner, coder()),
    LearnedWalk: lambda inner: LearnedWalk(inner, LevyProcess(Laplace(), 4)),
    Opaque: Opaque,
    OnSchedule: lambda inner: OnSchedule(inner, EDM()),
    samplers._Reordered: samplers._Reordered,
    samplers._Spy: samplers._Spy,
    Tiled: lambda inner: Tiled(inner, (20, 24), 2),
    Watched: Watched,
    Wrapped: Wrapped,
}
OWN = {
    LatentPrior: {"autoencoder", "value_range", "provenance"},
    OnSchedule: {"schedule"},
    Opaque: {"exact_moments"},
    Tiled: {"evaluations", "event_shape", "exact_moments", "statistics"},
}
"""Attributes that a wrapper has of its own."""


class Whole(Denoiser):
    """A denoiser with an attribute of its own for each that the base class declares."""

    def __init__(self) -> None:
        for name in inspect.get_annotations(Denoiser):
            setattr(self, name, object())
        self.schedule, self.event_shape, self.evaluations = DiscreteVP.linear(), SHAPE, 1009

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return x


def wrapper_classes(base: type = Wrapped) -> set[type]:
    return {base}.union(*(wrapper_classes(cls) for cls in base.__subclasses__()))


def test_every_wrapper_is_here():
    for module in pkgutil.walk_packages(midguide.__path__, "midguide."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    assert {cls for cls in wrapper_classes() if cls.__module__.startswith("midguide.")} == set(WRAPPERS)


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("name", inspect.get_annotations(Denoiser))
def test_a_wrapper_passes_on_what_it_does_not_change(wrapper, name):
    inner = Whole()
    wrapped = WRAPPERS[wrapper](inner)
    if name in OWN.get(wrapper, set()):
        assert getattr(wrapped, name) is not getattr(inner, name)
        return
    assert getattr(wrapped, name) is getattr(inner, name)
    assert getattr(WRAPPERS[wrapper](wrapped) if wrapper is not LatentPrior else wrapped, name) is getattr(inner, name)
    setattr(inner, name, value := object())
    assert getattr(wrapped, name) is value


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda cls: cls.__name__)
def test_the_record_of_a_wrapper_changes_with_what_it_wraps(wrapper):
    make = WRAPPERS[wrapper]
    inner = {name: NETWORKS[name] for name in ("weights", "schedule", "label", "value_range", "signal")}
    changes = {name: (lambda other=other: make(other())) for name, other in inner.items()}
    if wrapper is OnSchedule:
        changes["the other schedule"] = lambda: OnSchedule(of_network(), EDM(sigma_max=40.0))
    if wrapper is Tiled:
        changes["size"] = lambda: Tiled(of_network(), (20, 25), 2)
        changes["overlap"] = lambda: Tiled(of_network(), (20, 24), 1)
        changes["slices"] = lambda: Tiled(of_network(), (2, 20, 24), 2)
    check_identity(lambda: make(of_network()), changes)


def test_counting_changes_no_record():
    counted = CountedDenoiser(of_network())
    counted(torch.zeros(2, *SHAPE), 500)
    assert counted.record() == of_network().record()


def test_a_denoiser_of_ones_own_is_known_by_its_attributes():
    class Own(Denoiser):
        schedule, event_shape = DiscreteVP.linear(), (2,)

        def __init__(self, shift: float, module: nn.Module | None = None) -> None:
            self._shift, self.module = torch.tensor(shift), module or nn.Identity()

        def __call__(self, x: Tensor, t: float) -> Tensor:
            return x + self._shift

    check_identity(lambda: Own(1.0), {"shift": lambda: Own(2.0), "module": lambda: Own(1.0, network())})


# The contract sees what it is there for.


def test_the_contract_sees_a_setting_that_is_left_out():
    class Forgetful:
        def __init__(self, kept: int, lost: int) -> None:
            self.kept, self.lost = kept, lost

        def record(self) -> dict[str, Any]:
            return {"kept": self.kept}

    check_identity(lambda: Forgetful(1, 1), {"kept": lambda: Forgetful(2, 1)})
    with pytest.raises(ContractError, match="does not change with lost"):
        check_identity(lambda: Forgetful(1, 1), {"lost": lambda: Forgetful(1, 2)})


def test_the_contract_sees_a_record_that_changes_by_itself():
    class Counting:
        asked = 0

        def record(self) -> dict[str, Any]:
            Counting.asked += 1
            return {"asked": self.asked}

    with pytest.raises(ContractError, match="made again, it has another record"):
        check_identity(Counting)


# Another process, and checkpoints.

ELSEWHERE = """
import sys; sys.path.insert(0, {folder!r})
import test_identity as t
print(*(t.fingerprint(t.describe(make())) for make in t.MADE.values()))
"""
MADE: dict[str, Callable[[], Any]] = {
    "mgps:ffhq": lambda: make_sampler("mgps:ffhq"),
    "motion-blur": lambda: make_operator("motion-blur", (3, 32, 32)),
    "likelihood": lambda: GaussianLikelihood(BlockMean(2), torch.ones(1, 3, 4, 4), 0.1),
    "schedule": lambda: make_schedule("vp-cosine"),
    "network": of_network,
    "label": NETWORKS["label"],
    "closure": NETWORKS["projection by a closure"],
    "gaussian": gaussian,
    "mixture": mixture,
    "on another schedule": lambda: of_network().on(EDM()),
    "latent": lambda: LatentPrior(of_network(), coder()),
    "shipped": lambda: load_prior("faces-64"),
    "images": lambda: Cell(KINDS["images"].make(GIVEN["images"])),
}


def test_records_are_the_same_in_another_process():
    program = ELSEWHERE.format(folder=str(os.path.dirname(__file__)))
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    here = {name: fingerprint(describe(make())) for name, make in MADE.items()}
    assert dict(zip(MADE, run.stdout.split(), strict=True)) == here, run.stderr
    assert len(set(here.values())) == len(here)


@pytest.mark.parametrize(
    ("prior", "other"),
    [
        (gaussian, EXACT["gaussian"][1]["mean"]),
        (gaussian, EXACT["gaussian"][1]["covariance"]),
        (gaussian, EXACT["gaussian"][1]["schedule"]),
        (of_network, NETWORKS["weights"]),
        (of_network, NETWORKS["schedule"]),
        (of_network, NETWORKS["label"]),
        (lambda: of_network().on(EDM()), lambda: of_network().on(EDM(sigma_max=40.0))),
        (lambda: of_network().on(EDM()), lambda: of_network(network=network(1)).on(EDM())),
    ],
    ids=["mean", "covariance", "schedule", "weights", "network's schedule", "label", "on a schedule", "weights on it"],
)
def test_a_checkpoint_of_another_prior_is_refused(prior, other, tmp_path):
    def run(denoiser: Denoiser) -> Tensor:
        problem = Problem(denoiser, GaussianLikelihood(Identity(), torch.zeros(1, *denoiser.event_shape), 0.5))
        return sample(make_sampler("dps", {"steps": 3}), problem, 2, checkpoint=tmp_path / "progress").draws

    draws = run(prior())
    assert torch.equal(run(prior()), draws)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        run(other())
    assert torch.equal(run(prior()), draws)


def test_a_sample_records_a_sampler_that_can_be_made_again():
    prior = random_gaussian(4, 0)
    problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.1)
    sampler = make_sampler("mgps:mixture", {"steps": 5})
    drawn = sample(sampler, problem)
    assert SAMPLERS.from_record(drawn.record["sampler"]) == sampler
    assert json.loads(json.dumps(drawn.record)) == drawn.record
    assert drawn.record["midguide"] == midguide.__version__
    assert len(drawn.record["code"]) == 64


def test_a_sample_records_the_name_and_settings_of_an_operator_that_was_made_by_name():
    prior = Gaussian(torch.zeros(3, 8, 8), 0.25)
    operator = make_operator("super-resolution:x4", (3, 8, 8), seed=3)
    problem = Problem.simulate(prior, operator, prior.sample(2), sigma_y=0.1)
    told = sample(make_sampler("dps", {"steps": 2}), problem.select(torch.tensor([1]))).record
    assert told["operator"] == {"name": "super-resolution", "settings": {"factor": 4}, "seed": 3}
    assert told["likelihood"]["operator"] == describe(BlockMean(4))
