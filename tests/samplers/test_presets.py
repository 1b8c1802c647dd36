"""Presets load with every key used, and wrong settings are named."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import pytest

from midguide.catalogue.settings import parse_override
from midguide.diffusion.rules import StepRule
from midguide.errors import ConfigError
from midguide.maths.optim import SGD, Adam, NormalizedSGD
from midguide.samplers.base import SAMPLERS, make_sampler
from midguide.samplers.ddnm import DDNM, DDNMPlus, Travel
from midguide.samplers.ddrm import DDRM
from midguide.samplers.dps import DPS
from midguide.samplers.mgps import MGPS
from midguide.samplers.pgdm import PGDM
from midguide.samplers.red_diff import RedDiff
from midguide.samplers.unconditional import Unconditional

PRESETS = [
    {"sampler": sampler, "name": name, "source": preset.source, "settings": preset.settings}
    for sampler in SAMPLERS
    for name, preset in SAMPLERS.presets(sampler).items()
]
IDS = [f"{preset['sampler']}:{preset['name']}" for preset in PRESETS]


def make_mgps(spec: str, overrides: Mapping[str, object]) -> MGPS:
    sampler = make_sampler(spec, overrides)
    assert isinstance(sampler, MGPS)
    return sampler


def files() -> dict[str, dict]:
    folder = resources.files("midguide") / "samplers" / "presets"
    return {file.name: tomllib.loads(file.read_text("utf-8")) for file in folder.iterdir() if file.is_file()}


def test_every_file_belongs_to_a_sampler_and_every_table_is_listed() -> None:
    assert {name.removesuffix(".toml") for name in files()} <= set(SAMPLERS)
    assert {f"{name.removesuffix('.toml')}:{preset}" for name, table in files().items() for preset in table} <= set(IDS)


@pytest.mark.parametrize("preset", PRESETS, ids=IDS)
def test_every_key_of_a_preset_is_used(preset: dict) -> None:
    sampler = make_sampler(f"{preset['sampler']}:{preset['name']}")
    assert type(sampler) is SAMPLERS[preset["sampler"]].thing
    assert len(preset["source"]) > 20
    for key, value in preset["settings"].items():
        got = getattr(sampler, key)
        if isinstance(value, dict):
            inner = {name: getattr(got, name) for name in value if name != "rule"}
            assert inner == {
                name: tuple(v) if isinstance(v, list) else v for name, v in value.items() if name != "rule"
            }
        else:
            assert got == (None if value == "off" else value)


def mgps(rate: float, warm: float | None, midpoint: float, late: float | None, **rule) -> MGPS:
    return MGPS(
        steps=300,
        midpoint=midpoint,
        late_midpoint=late,
        late_from=0.5,
        warm_start=warm,
        optimizer=Adam(rate=rate),
        gradient_steps=StepRule(**rule),
    )


# The table of section 4 of spec/algorithms.md: released configurations of Moufad et al. 2025, read off their files.
PAPER = {
    "paper": mgps(0.03, 0.7, 0.5, None, cleanest=(20, 2), noisiest=(5, 20), every=(10, 20), default=2),
    "ffhq": mgps(0.03, 0.7, 0.5, None, cleanest=(20, 2), noisiest=(5, 20), every=(10, 20), default=2),
    "ffhq-latent": mgps(0.03, 0.7, 0.5, 1.0, cleanest=(10, 2), noisiest=(5, 20), every=(10, 10), default=5),
    "imagenet": mgps(0.03, 0.7, 0.5, None, cleanest=(10, 2), noisiest=(5, 20), every=(20, 10), default=2),
    "imagenet-deblurring": mgps(0.03, 0.7, 0.5, 1.0, cleanest=(10, 2), noisiest=(5, 20), every=(20, 10), default=2),
    "mixture": mgps(0.1, None, 0.75, None, cleanest=(20, 2), noisiest=(10, 20), every=(10, 20), default=2),
    # A rate of 0.03 mV, in the unit of our prior: 0.03 / 0.22.
    "ecg": mgps(0.14, 0.7, 0.5, None, cleanest=(20, 5), noisiest=(10, 10), default=5),
}


def test_mgps_presets_are_those_of_the_released_configurations() -> None:
    for name, sampler in PAPER.items():
        assert make_sampler(f"mgps:{name}") == sampler


def test_dps_presets_are_the_step_sizes_by_task() -> None:
    sizes = {p["name"]: p["settings"]["guidance"] for p in PRESETS if p["sampler"] == "dps"}
    assert (
        sizes.items()
        >= {
            "linear": 0.1,
            "super-resolution": 1.0,
            "box-inpainting": 1.0,
            "half-mask": 1.0,
            "gaussian-blur": 0.3,
            "motion-blur": 0.3,
            "phase-retrieval": 0.4,
            "nonlinear-blur": 0.1,
            "high-dynamic-range": 0.07,
            "jpeg": 0.2,
            "ecg": 0.5,
        }.items()
    )


def test_latent_presets_are_the_weights_by_task() -> None:
    settings = {p["name"]: p["settings"] for p in PRESETS if p["sampler"] == "psld"}
    weights = {name: (own["guidance"], own["gluing"]) for name, own in settings.items()}
    assert weights.items() >= {"linear": (0.1, 0.1), "super-resolution": (0.9, 0.1)}.items()
    spreads = {p["name"]: p["settings"]["spread"] for p in PRESETS if p["sampler"] == "resample"}
    assert (
        spreads.items()
        >= {
            "linear": 40,
            "super-resolution-x4": 80,
            "super-resolution-x16": 90,
            "box-inpainting": 80,
            "half-mask": 60,
            "half-mask-top": 70,
            "gaussian-blur": 60,
            "motion-blur": 80,
            "jpeg": 70,
            "phase-retrieval": 70,
            "nonlinear-blur": 70,
            "high-dynamic-range": 70,
        }.items()
    )


def test_diffpir_presets_are_the_shares_of_noise_by_task() -> None:
    presets = {p["name"]: p["settings"] for p in PRESETS if p["sampler"] == "diffpir"}
    shares = {name: settings["share"] for name, settings in presets.items() if "share" in settings}
    assert (
        shares.items()
        >= {
            "super-resolution": 0.1,
            "box-inpainting": 1.0,
            "half-mask": 1.0,
            "gaussian-blur": 0.1,
            "motion-blur": 0.1,
            "ecg": 0.5,
        }.items()
    )
    assert all(presets[name]["strength"] == 1.0 for name in shares)
    assert {presets[name]["steps"] for name in shares if name != "ecg"} == {1000}


def test_ecg_presets_have_the_steps_of_table_14() -> None:
    steps = {preset["sampler"]: preset["settings"]["steps"] for preset in PRESETS if preset["name"] == "ecg"}
    table = {"mgps": 300, "dps": 400, "pgdm": 200, "ddnm-plus": 200, "diffpir": 500, "red-diff": 400}
    assert steps.items() >= table.items()
    assert make_sampler("red-diff:ecg") == RedDiff(steps=400, weight=0.05, rate=0.3)


def test_presets_of_the_other_baselines_are_those_of_their_papers() -> None:
    assert make_sampler("pgdm:paper") == PGDM(steps=1000, weighting="paper")
    assert make_sampler("pgdm:stable") == PGDM(steps=1000, weighting="stable")
    assert make_sampler("ddnm:paper") == DDNM(steps=1000, eta=0.85)
    assert make_sampler("ddnm-plus:paper") == DDNMPlus(steps=1000, eta=0.85)
    assert make_sampler("ddrm:paper") == DDRM(steps=200, eta=0.85, eta_measured=1.0)
    assert make_sampler("red-diff:authors") == RedDiff(steps=1000, weight=0.25, rate=0.1)


def test_a_nested_setting_is_reached_from_the_command_line() -> None:
    sampler = make_sampler("ddnm-plus", dict(map(parse_override, ["travel.length=10", "travel.repeats=3"])))
    assert sampler == DDNMPlus(travel=Travel(length=10, repeats=3))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_name_alone_has_the_defaults_of_its_class(name: str) -> None:
    assert make_sampler(name) == SAMPLERS[name].thing()
    assert SAMPLERS[name].make({}) == SAMPLERS[name].thing()


def test_presets_do_not_change_through_what_was_made_of_them() -> None:
    make_sampler("mgps:ffhq", {"steps": 7, "optimizer.rate": 9, "gradient_steps.cleanest": [1, 1]})
    SAMPLERS.resolve("mgps:ffhq", {"optimizer.rate": 5.0})
    assert make_sampler("mgps:ffhq") == PAPER["ffhq"]


@pytest.mark.parametrize("spec", [*SAMPLERS, *IDS])
def test_a_record_reads_back(spec: str) -> None:
    sampler = make_sampler(spec)
    record = json.loads(json.dumps(SAMPLERS.record(sampler)))
    assert SAMPLERS.from_record(record) == sampler


def test_a_preset_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'source = "tuned"\n[settings]\nsteps = 7\noptimizer = {rule = "adam", rate = 0.5}\ngradient_steps = 2\n'
    )
    assert make_sampler(f"mgps:{path}") == MGPS(steps=7, optimizer=Adam(rate=0.5), gradient_steps=StepRule(default=2))
    path.write_text("[settings]\nsteps = 7\n")
    with pytest.raises(ConfigError, match="must have a source"):
        make_sampler(f"mgps:{path}")
    with pytest.raises(ConfigError, match="cannot read the preset"):
        make_sampler(f"mgps:{tmp_path / 'absent.toml'}")


def test_override_changes_only_what_it_names() -> None:
    changed = make_mgps("mgps:ffhq-latent", {"midpoint": 1, "optimizer": {"rate": 0.1}, "late_midpoint": "off"})
    assert changed == dataclasses.replace(
        PAPER["ffhq-latent"], midpoint=1.0, optimizer=Adam(rate=0.1), late_midpoint=None
    )
    assert isinstance(changed.midpoint, float)


@pytest.mark.parametrize("spec", ["mgps:paper", "mgps:ffhq"])
def test_override_of_a_part_of_a_rule_keeps_the_rest(spec: str) -> None:
    changed = make_mgps(spec, {"gradient_steps.default": 5, "gradient_steps.every": "off", "optimizer.beta_first": 0.5})
    assert changed.gradient_steps == StepRule(default=5, cleanest=(20, 2), noisiest=(5, 20))
    assert changed.optimizer == Adam(rate=0.03, beta_first=0.5)


def test_overrides_apply_in_their_order() -> None:
    changed = make_mgps("mgps:paper", {"gradient_steps": 5, "gradient_steps.noisiest": [3, 9]})
    assert changed.gradient_steps == StepRule(default=5, noisiest=(3, 9))
    assert make_mgps("mgps:paper", {"gradient_steps.noisiest": [3, 9], "gradient_steps": 5}).gradient_steps == StepRule(
        default=5
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("adam", Adam(rate=0.03)), ("sgd", SGD(rate=0.03)), ("normalized-sgd", NormalizedSGD(rate=0.03))],
)
def test_rule_of_an_optimizer_is_changed_by_name(rule: str, expected: object) -> None:
    assert make_mgps("mgps:paper", {"optimizer.rule": rule}).optimizer == expected


def test_settings_build_the_sampler() -> None:
    assert SAMPLERS["dps"].make({"steps": 10, "guidance": 1}) == DPS(steps=10, guidance=1.0)
    assert SAMPLERS["unconditional"].make({"eta": 0}) == Unconditional(eta=0.0)
    assert SAMPLERS["mgps"].make({"gradient_steps": {"default": 2, "cleanest": [20, 3]}, "recompute": True}) == (
        MGPS(gradient_steps=StepRule(default=2, cleanest=(20, 3)), recompute=True)
    )


@pytest.mark.parametrize(
    ("spec", "overrides", "message"),
    [
        ("mgpss", {}, "unknown sampler `mgpss`\nhint: did you mean `mgps`"),
        ("", {}, "unknown sampler ``"),
        ("mgps:", {}, "no preset ``\nhint: one of ecg"),
        ("mgps:fhq", {}, "no preset `fhq`\nhint: did you mean `ffhq`.* known are ecg"),
        ("mgps:ffhq:x", {}, "no preset `ffhq:x`"),
        ("mgps", {"midpont": 0.5}, "mgps has no setting `midpont`\nhint: did you mean `midpoint`.* known are steps"),
        ("mgps", {"needs": 1}, "mgps has no setting `needs`"),
        ("mgps", {"": 1}, "mgps has no setting ``"),
        ("dps", {"optimizer.rate": 1}, "dps has no setting `optimizer`"),
        ("mgps:paper", {"optimizer.lr": 1}, r"optimizer \(adam\) has no setting `lr`"),
        ("mgps:paper", {"optimizer.rule": "adams"}, "unknown rule `adams`\nhint: did you mean `adam`"),
        ("mgps:paper", {"optimizer.rule": 3}, "unknown rule `3`"),
        ("mgps:paper", {"optimizer": 0.1}, "mgps.optimizer must be a table, got 0.1"),
        (
            "mgps:paper",
            {"gradient_steps.evry": [2, 3]},
            "gradient_steps has no setting `evry`\nhint: did you mean `every`",
        ),
        ("mgps:paper", {"gradient_steps": 0}, "mgps: rule default=0 must be at least 1"),
        ("mgps:paper", {"gradient_steps": True}, "gradient_steps must be an integer or a table, got True"),
        (
            "mgps:paper",
            {"gradient_steps": "off"},
            "`optimizer`|`warm_start` has no effect without `gradient_steps`\nhint: take",
        ),
        (
            "mgps",
            {"optimizer.rate": 0.1, "optimizer.rule": "adam"},
            "`optimizer` has no effect without `gradient_steps`",
        ),
        ("mgps", {"recompute": True}, "`recompute` has no effect without `gradient_steps`"),
        ("mgps", {"spread": 2}, "spread must be in"),
        ("mgps", {"iterations": 0}, "iterations must be positive"),
        ("mgps", {"spacing": 0}, "spacing must be positive"),
        ("mgps:paper", {"gradient_steps.every": [2, 3, 4]}, r"every must be a list of 2, got \[2, 3, 4\]"),
        ("mgps:paper", {"gradient_steps.every": [2, 3.5]}, r"every\[1\] must be an integer, got 3.5"),
        ("mgps:paper", {"gradient_steps.every": 3}, 'every must be a list, got 3\nhint: "off" switches it off'),
        ("mgps", {"midpoint": 0}, r"mgps: midpoint must be in \(0, 1\]"),
        ("mgps", {"midpoint": "half"}, "mgps.midpoint must be a number, got 'half'"),
        ("mgps", {"midpoint": True}, "mgps.midpoint must be a number, got True"),
        ("mgps", {"midpoint": "off"}, "mgps.midpoint must be a number, got 'off'"),
        ("mgps", {"midpoint.x": 1}, "mgps.midpoint must be a number, got {'x': 1}"),
        ("mgps:paper", {"optimizer.rate": float("nan")}, "rate must be a finite number, got nan"),
        ("mgps:paper", {"optimizer.rate": 10**400}, "rate must be a finite number"),
        ("mgps", {"steps": 30.0}, "mgps.steps must be an integer, got 30.0"),
        ("mgps", {"steps": False}, "mgps.steps must be an integer, got False"),
        ("mgps:paper", {"recompute": 1}, "mgps.recompute must be true or false, got 1"),
    ],
)
def test_wrong_settings_are_named(spec: str, overrides: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_sampler(spec, overrides)


def test_a_required_field_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="gradient_steps lacks the setting `default`"):
        SAMPLERS["mgps"].make({"gradient_steps": {"every": [2, 3]}})
    with pytest.raises(ConfigError, match=r"optimizer \(sgd\) lacks the setting `rate`"):
        SAMPLERS["mgps"].make({"optimizer": {"rule": "sgd"}})
    with pytest.raises(ConfigError, match="no rule is given"):
        SAMPLERS["mgps"].make({"optimizer": {"rate": 0.1}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("midpoint=0.6", ("midpoint", 0.6)),
        (" steps = 50 ", ("steps", 50)),
        ("optimizer.rate=1e-1", ("optimizer.rate", 0.1)),
        ("gradient_steps.cleanest=[20, 2]", ("gradient_steps.cleanest", [20, 2])),
        ("optimizer={rule='sgd', rate=1.0}", ("optimizer", {"rule": "sgd", "rate": 1.0})),
        ("recompute=true", ("recompute", True)),
        ("warm_start=off", ("warm_start", "off")),
        ("optimizer.rule=normalized-sgd", ("optimizer.rule", "normalized-sgd")),
        ('optimizer.rule="a=b"', ("optimizer.rule", "a=b")),
    ],
)
def test_override_is_read_as_toml(text: str, expected: tuple[str, object]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "midpoint", "=3", "midpoint=", "a b=3", "a..b=1", ".a=1", "a=0,6", "a=[1", "a=1\nb=2", "[a]=1", "a=1 2"],
)
def test_what_is_no_override_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read .*\nhint: "):
        parse_override(text)


def test_overrides_of_a_command_line_make_a_sampler() -> None:
    texts = ["steps=50", "midpoint=0.6", "optimizer.rate=0.1", "gradient_steps.default=5", "warm_start=off"]
    sampler = make_sampler("mgps:ffhq", dict(map(parse_override, texts)))
    rule = StepRule(default=5, cleanest=(20, 2), noisiest=(5, 20), every=(10, 20))
    assert sampler == MGPS(
        steps=50, midpoint=0.6, optimizer=Adam(rate=0.1), gradient_steps=rule, warm_start=None, late_midpoint=None
    )
