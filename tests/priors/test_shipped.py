"""Priors that packages of weights ship, and what is said of `midguide-priors` where it is not installed."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from midguide._version import __version__
from midguide.errors import ConfigError, PluginWarning
from midguide.priors import cards
from midguide.priors.loading import load_prior, prior_spec
from midguide.training.base import load_recipe
from midguide.training.start import weights_of

PACKAGE = Path(__file__).parents[2] / "packages" / "priors" / "src" / "midguide_priors"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution with a package of this name, whose folder of priors is given back."""
    there = set(sys.modules)
    cards._packages.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, entry=None):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("numbers = 7\n")
        info = tmp_path / f"{name}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(f"[midguide.shipped]\n{name} = {entry or name}\n")
        return tmp_path / name / "shipped"

    yield make
    cards._packages.cache_clear()
    for name in set(sys.modules) - there:
        if (tmp_path / name).is_dir():
            del sys.modules[name]


@pytest.fixture
def core_alone(monkeypatch):
    """No package of weights is installed."""
    monkeypatch.setattr(cards, "_packages", lambda: ())


def test_a_package_of_weights_ships_priors_with_cards_and_recipes(install):
    folder = install("walks")
    folder.mkdir()
    for path in cards.weights_of("levy-laplace-16").parent.glob("levy-laplace-16.*"):
        shutil.copy(path, folder / f"walk{path.suffix}")
    assert cards.weights_of("walk") == folder / "walk.safetensors"
    assert cards.shipped()["walk"] == cards.shipped()["levy-laplace-16"]
    assert load_prior("walk").record() == load_prior("levy-laplace-16").record()
    assert prior_spec("walk") == prior_spec("levy-laplace-16")
    assert load_recipe("walk") == load_recipe("levy-laplace-16")
    assert weights_of("walk")[0] == folder / "walk.safetensors"


def test_broken_packages_of_weights_are_one_line_each_and_the_rest_works(install):
    install("absent", "nowhere_at_all")
    install("number", "number:numbers")
    install("bare")
    for name, file in (("greedy", "glyphs-32.json"), ("torn", "half.json")):
        folder = install(name)
        folder.mkdir()
        (folder / file).write_text("{")
    with pytest.warns(PluginWarning) as caught:
        found = cards.shipped()
    assert "glyphs-32" in found
    assert "half" not in found
    said = sorted(str(warning.message) for warning in caught)
    assert [all(part in line for part in parts) for line, parts in zip(said, LINES, strict=True)] == 5 * [True], said


LINES = (
    ("half.json", "cannot be read", "left out"),
    ("plug-in `absent` of absent 0.1", "No module named 'nowhere_at_all'", "left out"),
    ("plug-in `bare` of bare 0.1 has no folder `shipped`", "left out"),
    ("plug-in `number` of number 0.1 has no folder `shipped`", "left out"),
    ("prior `glyphs-32` in ", "greedy", "the name is taken", "left out"),
)


@pytest.mark.parametrize("name", cards.APART)
@pytest.mark.parametrize("use", [load_prior, prior_spec, load_recipe, weights_of])
def test_names_of_a_package_that_is_not_installed_say_how_to_install_it(core_alone, use, name):
    with pytest.raises(ConfigError) as caught:
        use(name)
    assert caught.value.message == (
        f"the {cards.APART[name]} `{name}` is in the package `midguide-priors` {__version__}, which is not installed"
    )
    assert caught.value.hint == "in a clone of midguide: pip install ./packages/priors"


def test_other_names_are_unknown_as_before(core_alone):
    assert cards.not_installed("glyphs-32") is None
    with pytest.raises(ConfigError, match="no prior and no file is called `faces-65`"):
        load_prior("faces-65")


def test_the_list_of_priors_has_one_line_on_what_is_not_installed(core_alone, cli):
    done = cli("list", "priors", "--json")
    assert "faces-64-latent" not in {row["name"] for row in done.json}
    (line,) = done.err.splitlines()
    priors = ", ".join(name for name, what in cards.APART.items() if what == "prior")
    assert line == (
        f"not here, as `midguide-priors` {__version__} is not installed: {priors} "
        "(in a clone of midguide: pip install ./packages/priors)"
    )


def test_the_core_knows_what_midguide_priors_holds():
    files = {path.name for path in (PACKAGE / "shipped").iterdir()}
    recipes = {name.removesuffix(".toml") for name in files if name.endswith(".toml")}
    weights = {name.removesuffix(".safetensors") for name in files if name.endswith(".safetensors")}
    assert {name: "prior" if name in weights else "recipe" for name in recipes} == cards.APART
    assert files == {f"{name}.toml" for name in recipes} | {
        f"{n}{end}" for n in weights for end in (".json", ".safetensors")
    }
    assert all(json.loads((PACKAGE / "shipped" / f"{name}.json").read_text())["license"] for name in weights)
