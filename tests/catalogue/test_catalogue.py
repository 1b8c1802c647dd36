"""The one registry: what is in it, what comes from files and other distributions, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from midguide.catalogue import plugins
from midguide.catalogue.base import Catalogue
from midguide.errors import CheckpointError, ConfigError, MidguideError
from midguide.samplers.base import SAMPLERS, make_sampler

OWN = """
from dataclasses import dataclass
from midguide.samplers.dps import DPS

print("loaded")

@dataclass(frozen=True, kw_only=True)
class Mine(DPS):
    "A sampler of my own."
    strength: float = 2.0

NUMBER = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def numbers() -> Catalogue[float]:
    def check(thing: object) -> None:
        if not callable(thing):
            raise ConfigError("it makes no number")

    catalogue: Catalogue[float] = Catalogue("number", "midguide.catalogue", context=("seed",), check=check)

    @catalogue.register("line", unit="m")
    def _line(start: float, *, seed: int = 0, slope: float = 2.0, offset: float) -> float:
        """A line. It has two settings."""
        return start + slope + offset + seed

    return catalogue


def test_an_entry_knows_its_settings_its_facts_and_its_first_line() -> None:
    entry = numbers()["line"]
    assert entry.summary == "A line. It has two settings"
    assert entry.defaults() == {"slope": 2.0}
    assert entry.required() == ["offset"]
    assert entry.facts == {"unit": "m"}
    assert entry.make({"offset": 1}, 10.0, seed=100) == 113.0


def test_mistakes_are_named() -> None:
    catalogue = numbers()
    with pytest.raises(ConfigError, match="unknown number `lin`\nhint: did you mean `line`"):
        catalogue["lin"]
    with pytest.raises(ConfigError, match="line lacks the setting `offset`"):
        catalogue.make("line", {}, 1.0)
    with pytest.raises(ConfigError, match="line has no setting `slop`\nhint: did you mean `slope`"):
        catalogue.make("line", {"slop": 1}, 1.0)
    with pytest.raises(ConfigError, match="the number `line` of .*: the name is taken|two numbers are called `line`"):
        catalogue.register("line")(numbers)
    with pytest.raises(ConfigError, match="number `three`: it makes no number"):
        catalogue.register("three")(3)
    assert list(catalogue) == ["line"]


def test_every_name_is_found_and_sorted_and_every_thing_knows_its_name() -> None:
    assert list(SAMPLERS) == sorted(SAMPLERS)
    for name, entry in SAMPLERS.items():
        assert SAMPLERS.name_of(entry.thing) == name
        assert SAMPLERS.name_of(make_sampler(name)) == name
        assert entry.summary
        assert entry.origin == "midguide"


def test_a_class_in_a_file_is_as_good_as_a_registered_one(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sampler = make_sampler(f"{own}:Mine", {"strength": 3, "steps": 7})
    assert (sampler.steps, getattr(sampler, "strength")) == (7, 3.0)  # noqa: B009
    assert SAMPLERS.from_record(SAMPLERS.record(sampler)) == sampler
    assert SAMPLERS[f"{own}:Mine"].summary == "A sampler of my own"
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("loaded") == 1  # run once, and not where a command's data go


def test_a_file_is_known_by_its_source(own: Path) -> None:
    first = plugins.load_object(own, "Mine")
    assert plugins.load_object(own, "Mine") is first
    digest = plugins.source_digest(first)
    own.write_text(own.read_text() + "\n# changed\n")
    second = plugins.load_object(own, "Mine")
    assert second is not first
    assert plugins.source_digest(second) != digest
    assert plugins.source_digest(make_sampler) == ""  # of this package


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("x = 1 +\n", "x", "own.py fails: SyntaxError"),
        ("raise RuntimeError('no\\nno')\n", "x", "own.py fails: RuntimeError: no\nhint"),
        ("import nowhere\n", "x", "own.py fails: ModuleNotFoundError"),
        (OWN, "Mien", "own.py has no `Mien`\nhint: did you mean `Mine`"),
        (OWN, "NUMBER", "sampler `.*own.py:NUMBER`: it lacks needs, steps"),
        ("class Half:\n    needs = None\n", "Half", "it lacks steps, times, calls, init, step, finish"),
    ],
)
def test_a_file_with_a_mistake_is_one_line(own: Path, source: str, name: str, message: str) -> None:
    own.write_text(source)
    with pytest.raises((ConfigError, CheckpointError), match=message) as caught:
        make_sampler(f"{own}:{name}")
    assert str(caught.value).count("\n") == 1


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        make_sampler(f"{tmp_path / 'absent.py'}:Mine")


def distribution(folder: Path, name: str, points: str, source: str) -> None:
    """A small installed distribution: a module, and the metadata that a package installer would write."""
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[midguide.samplers]\n{points}\n")


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    command = [sys.executable, "-m", "midguide", *argv]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, timeout=120)


def test_samplers_of_other_distributions_are_listed_and_broken_ones_are_one_line_each(tmp_path: Path) -> None:
    distribution(tmp_path, "good", "mine = good:Mine\ndps = good:Mine", OWN)
    distribution(tmp_path, "bad", "broken = bad:Mine", "import nowhere_at_all\n")
    distribution(tmp_path, "odd", "odd = odd:Half", "class Half:\n    needs = None\n")
    done = run(tmp_path, "list", "samplers", "--json")
    assert done.returncode == 0, done.stderr
    assert '"mine"' in done.stdout
    assert "loaded" not in done.stdout
    for word in ("`broken` of bad 1.0", "`dps` of good 1.0", "the name is taken", "`odd`", "lacks steps"):
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    asked = run(tmp_path, "reconstruct", "absent.png", "--operator", "identity", "--sampler", "broken")
    assert asked.returncode == 2
    assert "nowhere_at_all" in asked.stderr


def test_a_distribution_that_registers_by_the_decorator_is_found_by_its_entry_point(tmp_path: Path) -> None:
    entered = "from midguide.samplers.base import SAMPLERS\n\n@SAMPLERS.register('mine')\n@dataclass"
    source = OWN.replace("@dataclass", entered)
    distribution(tmp_path, "decorated", "mine = decorated:Mine", source)
    done = run(tmp_path, "list", "samplers", "--json")
    assert '"mine"' in done.stdout
    assert "taken" not in done.stderr


def test_errors_of_the_catalogue_are_errors_of_the_package() -> None:
    @dataclass(frozen=True)
    class Nothing:
        pass

    with pytest.raises(MidguideError):
        SAMPLERS.register("nothing")(Nothing)


def test_piece_of_a_file_keeps_the_summary_that_it_registers(tmp_path):
    from midguide.operators import OPERATORS

    (tmp_path / "own.py").write_text(
        "from midguide.operators import OPERATORS, Identity\n\n"
        '@OPERATORS.register("own-piece", summary="sees all")\n'
        "def own(event_shape: tuple[int, ...], *, seed: int = 0) -> Identity:\n    return Identity()\n"
    )
    try:
        assert OPERATORS.find(f"{tmp_path / 'own.py'}:own")[0].summary == "sees all"
    finally:
        OPERATORS._entries.pop("own-piece", None)
