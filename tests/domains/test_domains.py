"""A domain from outside the package is as good as one inside, and a broken one is one line."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

OUTSIDE = Path(__file__).parent / "outside"
SOURCE = Path(__file__).parents[2] / "src"

Run = Callable[..., subprocess.CompletedProcess[str]]

STUDY = """
[study]
name = "tides"
samples = 3
metrics = ["tide_range_error[unit=m]"]
keep_samples = true

[[problems]]
kind = "tides"
label = "gauge"
seeds = [0, 1]

[[samplers]]
spec = "dps:tide"
label = "DPS"

[[samplers]]
spec = "slack-water"
"""


def runner(*folders: Path) -> Run:
    """Run `midguide`, or some code, where these folders are installed; nothing of them is in this process."""
    paths = os.pathsep.join(map(str, (*folders, SOURCE)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}

    def run(*argv: object, code: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        what = ["-c", code] if code else ["-m", "midguide", *map(str, argv)]
        command = [sys.executable, *what]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300)

    return run


@pytest.fixture(scope="module")
def tides(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The distribution `tides`, with a prior that its own kind of recipe trained and that it ships."""
    folder = tmp_path_factory.mktemp("site-packages")
    shutil.copytree(OUTSIDE, folder, dirs_exist_ok=True)
    days = (" ".join(f"{0.7 * math.sin(0.5 * hour + day):.3f}" for hour in range(24)) for day in range(12))
    (folder / "levels.txt").write_text("\n".join(days))
    (folder / "recipe.toml").write_text(
        "kind = 'tide-prior'\nname = 'tide-24'\nsteps = 2\nbatch = 4\nbfloat16 = false\n"
    )
    run = runner(folder)
    out = folder / "tides" / "shipped"
    done = run("train", "recipe.toml", "--data", "levels.txt", "--out", out, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "training tide-24 on 8 days" in done.stderr
    for rest in ("checkpoint.pt", "log.jsonl"):
        (out / rest).unlink()
    return run


@pytest.mark.parametrize(
    ("what", "name"),
    [("presets", "dps:tide"), ("priors", "tide-24")],
)
def test_lists_have_the_pieces_of_the_domain(tides: Run, what: str, name: str) -> None:
    done = tides("list", what, "--json")
    assert name in {row["name"] for row in json.loads(done.stdout)}, done.stderr
    assert done.stderr == ""


def test_every_catalogue_that_the_domain_names_has_its_pieces(tides: Run) -> None:
    code = (
        "from midguide.catalogue.directory import catalogues\n"
        "for plural, catalogue in catalogues().items():\n"
        "    print(plural, *(name for name, entry in catalogue.items() if entry.origin.startswith('tides')))\n"
    )
    done = tides(code=code)
    assert done.stderr == ""
    found = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert {plural: names for plural, names in found.items() if names} == {
        "signals": ["tide"],
        "bodies": ["tide-gain"],
        "formats": ["tide-table"],
        "operators": ["tide-gauge"],
        "metrics": ["tide_range_error[unit=m]"],
        "kinds": ["tides"],
        "sources": ["slack-water"],
        "pictures": ["tide-chart"],
        "recipes": ["tide-prior"],
        "commands": ["tide"],
    }


def test_the_core_reads_its_priors_and_knows_what_their_signals_are(tides: Run, tmp_path: Path) -> None:
    """The shipped one, whose network and recipe are the domain's, and one in the domain's own file format."""
    (tmp_path / "calm.tide").write_text("0.1 " * 12)
    (tmp_path / "broken.tide").write_text("high low")
    code = """
from midguide import Problem, load_prior, make_sampler, sample
from midguide.errors import CheckpointError

for name, hours, std in (("tide-24", 24, 1.0), ("calm.tide", 12, 0.2)):
    prior = load_prior(name)
    signal = prior.signal
    assert (signal.shape, signal.unit, signal.unit_size, signal.space.name) == ((1, hours), "m", 0.5, "mean-free")
    draws = sample(make_sampler("unconditional", {"steps": 200}), Problem.unobserved(prior), 100).draws
    assert float(draws.mean(-1).abs().max()) < 1e-6
    assert 0.85 * std < float(draws.std()) < 1.05 * std
try:
    load_prior("broken.tide")
except CheckpointError as error:
    assert "not a table of tides" in error.message
"""
    done = tides(code=code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_study_of_the_domain_runs_and_its_report_has_its_pictures(tides: Run, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    ran = tides("study", "run", "study.toml", "--out", "out", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    report = tides("study", "report", "out", "--html", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    for words in ("tides (SIMULATED)", "tide_range_error[unit=m]", "gauge, DPS, day 1", "slack-water"):
        assert words in report.stdout


def test_its_command_is_one_of_the_program(tides: Run) -> None:
    done = tides("tide", "--every", "2")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 24
    wrong = tides("tide", "--every", "0")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "every must be at least 1" in wrong.stderr


def test_help_names_its_command_and_does_not_import_torch(tides: Run) -> None:
    code = (
        "import sys\nfrom midguide.cli import main\ncode = main(['--help'])\nsys.exit(code or 'torch' in sys.modules)"
    )
    done = tides(code=code)
    assert done.returncode == 0
    assert "Draw the levels between the readings of a gauge" in done.stdout


def install(folder: Path, name: str, entry: str, **modules: str) -> None:
    """A distribution with one entry point for domains and a package of these modules."""
    (folder / name).mkdir()
    for module, text in modules.items():
        (folder / name / f"{module}.py").write_text(text)
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[midguide.domains]\n{entry}\n")


def declared(package: str, name: str = "", modules: str = "{}") -> str:
    return (
        "from midguide.catalogue.domain import Domain\n"
        f"DOMAIN = Domain(name='{name or package}', summary='-', package='{package}', modules={modules})\n"
    )


TAKEN = """
from midguide.samplers.base import SAMPLERS
from midguide.samplers.dps import DPS

@SAMPLERS.register("dps")
class Mine(DPS):
    pass
"""

GOOD = """
print("a good domain is imported")

from dataclasses import dataclass
from midguide.samplers.base import SAMPLERS
from midguide.samplers.dps import DPS

@SAMPLERS.register("good-dps")
@dataclass(frozen=True, kw_only=True)
class Good(DPS):
    "Like another."
"""


def test_presets_and_priors_that_are_broken_or_take_a_name_are_one_line_each(tmp_path: Path) -> None:
    install(tmp_path, "greedy", "greedy = greedy:DOMAIN", __init__=declared("greedy"))
    install(tmp_path, "torn", "torn = torn:DOMAIN", __init__=declared("torn"))
    for name, text in (("greedy", "[ffhq]\nsource = 'mine'\n[ffhq.settings]\nsteps = 3\n"), ("torn", "[half")):
        (tmp_path / name / "presets" / "samplers").mkdir(parents=True)
        (tmp_path / name / "presets" / "samplers" / "mgps.toml").write_text(text)
    for name, file in (("greedy", "faces-64.json"), ("torn", "half.json")):
        (tmp_path / name / "shipped").mkdir()
        (tmp_path / name / "shipped" / file).write_text("{")
    run = runner(tmp_path)
    for what, names, greedy, torn in (
        (
            "presets",
            {"mgps:ffhq", "dps:ecg"},
            "preset `mgps:ffhq` of the domain `greedy`: the name is taken",
            "cannot read",
        ),
        ("priors", {"faces-64", "ecg-256"}, "prior `faces-64` in ", "half.json cannot be read"),
    ):
        done = run("list", what, "--json")
        assert done.returncode == 0, done.stderr
        assert names <= {row["name"] for row in json.loads(done.stdout)}
        lines = done.stderr.splitlines()
        assert len(lines) == 2, done.stderr
        assert greedy in done.stderr
        assert torn in done.stderr


def test_broken_domains_are_one_line_each_and_the_rest_works(tmp_path: Path) -> None:
    some = "{'samplers': ('some',)}"
    install(tmp_path, "absent", "absent = absent:DOMAIN", __init__="import nowhere_at_all\n")
    install(tmp_path, "half", "half = half:DOMAIN", __init__=declared("half", modules=some), some="1 / 0\n")
    install(tmp_path, "lacking", "lacking = lacking:DOMAIN", __init__=declared("lacking", modules=some))
    install(tmp_path, "taken", "taken = taken:DOMAIN", __init__=declared("taken", modules=some), some=TAKEN)
    install(tmp_path, "twice", "twice = twice:DOMAIN", __init__=declared("twice", name="ecg"))
    install(tmp_path, "none", "none = none:DOMAIN", __init__="DOMAIN = {'samplers': ()}\n")
    install(tmp_path, "nameless", "nameless = nameless:DOMAIN", __init__="")
    loud = "print('hello')\n" + declared("loud", modules=some)
    install(tmp_path, "loud", "loud = loud:DOMAIN", __init__=loud, some=GOOD)
    done = runner(tmp_path)("list", "samplers", "--json")
    assert done.returncode == 0, done.stderr
    names = {row["name"] for row in json.loads(done.stdout)}
    assert {"dps", "mgps", "good-dps"} <= names
    printed = ["hello", "a good domain is imported"]
    lines = [line for line in done.stderr.splitlines() if line not in printed]
    assert set(printed) <= set(done.stderr.splitlines())
    assert all(line.startswith("warning: ") and line.endswith(": left out") for line in lines), done.stderr
    expected = {
        "absent 0.1": "No module named 'nowhere_at_all'",
        "domain `half`": "ZeroDivisionError: division by zero",
        "domain `lacking`": "No module named 'lacking.some'",
        "sampler `dps` of taken": "the name is taken",
        "domain `ecg` of twice 0.1": "the name is taken",
        "`none` of none 0.1": "is not a Domain",
        "nameless 0.1": "has no attribute 'DOMAIN'",
    }
    assert len(lines) == len(expected), done.stderr
    for who, why in expected.items():
        assert any(who in line and why in line for line in lines), (who, done.stderr)
