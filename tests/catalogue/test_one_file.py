"""Each kind of piece is one new file and nothing else: files added to a copy of the package are found by all of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import midguide

FILES = {
    "samplers": (
        "samplers/sleepy.py",
        """
        @SAMPLERS.register("sleepy")
        @dataclass(frozen=True, kw_only=True)
        class Sleepy(DPS):
            "Diffusion posterior sampling, slowly."
        """,
        "from midguide.samplers.base import SAMPLERS\nfrom midguide.samplers.dps import DPS",
    ),
    "operators": (
        "operators/sleepy.py",
        """
        @OPERATORS.register("sleepy", summary="nothing happens", needs="nothing")
        def sleepy(event_shape: tuple[int, ...], *, seed: int = 0) -> Identity:
            return Identity()
        """,
        "from midguide.operators.base import OPERATORS\nfrom midguide.operators.matrix import Identity",
    ),
    "schedules": (
        "diffusion/sleepy.py",
        """
        @SCHEDULES.register("sleepy")
        def sleepy(*, steps: int = 100) -> DiscreteVP:
            "Few steps."
            return DiscreteVP.linear(steps)
        """,
        "from midguide.diffusion.schedules import SCHEDULES, DiscreteVP",
    ),
    "formats": (
        "priors/formats/sleepy.py",
        """
        @FORMATS.register("sleepy")
        class Sleepy(Native):
            "What midguide writes, under another ending."
            extensions = (".sleepy",)
        """,
        "from midguide.priors.formats.base import FORMATS\nfrom midguide.priors.formats.native import Native",
    ),
    "metrics": (
        "metrics/sleepy.py",
        """
        @metric("sleepy[n=1]", exact=False)
        def sleepy(answer: Answer, target: Target) -> float:
            "Always zero."
            return 0.0
        """,
        "from midguide.metrics.base import Answer, Target, metric",
    ),
    "kinds": (
        "studies/kinds/sleepy.py",
        """
        @KINDS.register("sleepy")
        @dataclass(frozen=True, kw_only=True)
        class Sleepy(MixtureProblem):
            "Mixtures once more."
        """,
        "from midguide.studies.kinds.base import KINDS\nfrom midguide.studies.kinds.closed_form import MixtureProblem",
    ),
    "sources": (
        "studies/sources/sleepy.py",
        """
        @SOURCES.register("sleepy")
        @dataclass(frozen=True)
        class Sleepy(PriorDraws):
            "The prior once more."
        """,
        "from midguide.studies.sources.base import SOURCES\nfrom midguide.studies.sources.exact import PriorDraws",
    ),
    "runners": (
        "studies/runners/sleepy.py",
        """
        @RUNNERS.register("sleepy")
        def sleepy(*, workers: int = 1) -> Runner:
            "This process."
            return InProcess()
        """,
        "from midguide.studies.runners.base import *\nfrom midguide.studies.runners.local import InProcess",
    ),
}
"""By catalogue: the new file, what it defines, and its imports."""

ASK = """
import json
from midguide.catalogue.directory import catalogue
print(json.dumps({plural: "sleepy" in [name.partition("[")[0] for name in catalogue(plural)] for plural in PLURALS}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's code, with the new files."""
    root = tmp_path_factory.mktemp("copy")
    kept = shutil.ignore_patterns("*.safetensors", "__pycache__")
    shutil.copytree(Path(midguide.__file__).parent, root / "midguide", ignore=kept)
    for path, body, imports in FILES.values():
        lines = [line[8:] for line in body.splitlines()]
        text = "\n".join(['"""New."""', "from dataclasses import dataclass", imports, *lines, ""])
        (root / "midguide" / path).write_text(text)
    return root


def run(copy: Path, *argv: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_catalogue_finds_the_new_file(copy: Path) -> None:
    found = json.loads(run(copy, "-c", ASK.replace("PLURALS", repr(list(FILES)))))
    assert found == dict.fromkeys(FILES, True)


def test_lists_and_pages_have_what_is_new(copy: Path) -> None:
    names = [row["name"] for row in json.loads(run(copy, "-m", "midguide", "list", "samplers", "--json"))]
    assert "sleepy" in names
    assert "sleepy" in run(copy, "-m", "midguide.cli.compatibility")


def test_what_is_new_keeps_its_contract(copy: Path) -> None:
    assert json.loads(run(copy, "-m", "midguide", "check", "sleepy", "--kind", "schedule", "--json"))["broken"] == []
