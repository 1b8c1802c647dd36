"""What importing costs and needs: no torch before it is used, no optional package, no torchvision anywhere."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import midguide

ROOT = Path(__file__).parents[1]

IMPORT_EVERY_MODULE = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ImportError(f"{{name}} is not there")

sys.meta_path.insert(0, Absent())
import midguide

failed = []
def note(name):
    failed.append(f"{{name}}: {{sys.exc_info()[1]!r}}")

for module in pkgutil.walk_packages(midguide.__path__, "midguide.", onerror=note):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except Exception:
            note(module.name)
print("\\n".join(dict.fromkeys(failed)), end="")
"""


def run(code: str) -> str:
    """What a fresh interpreter prints; it must end well."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    """`pyright[nodejs]>=1.1` -> "pyright", spelled as the package index does."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement.strip())[0]).lower()


def pins() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {name_of(line): line for line in lines if line and not line.startswith("#")}


def home_modules() -> dict[str, list[str]]:
    """The public names by the module that the type checker is told to take them from."""
    tree = ast.parse(Path(midguide.__file__).read_text())
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {
        node.module or "": [alias.name for alias in node.names]
        for block in guarded
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }


def test_importing_the_package_does_not_import_torch() -> None:
    assert run("import sys, midguide; print('torch' in sys.modules)").strip() == "False"


def test_help_does_not_import_torch() -> None:
    code = """
import sys
sys.argv = ["midguide", "--help"]
from midguide.cli import main
try:
    code = main()
except SystemExit as end:
    code = end.code
assert not code, code
print("torch" in sys.modules)
"""
    printed = run(code)
    assert "Usage" in printed
    assert printed.strip().endswith("False"), "midguide --help imports torch"


def test_every_module_imports_without_torchvision() -> None:
    assert run(IMPORT_EVERY_MODULE.format(absent=("torchvision",))) == ""


def test_every_module_imports_without_the_extras() -> None:
    extras = project()["optional-dependencies"]
    absent = {name_of(requirement) for requirements in extras.values() for requirement in requirements}
    modules = sorted({name.replace("-", "_") for name in absent | {"ot"}} - {"midguide"})  # as they are imported
    assert run(IMPORT_EVERY_MODULE.format(absent=(*modules, "torchvision"))) == ""


def test_torchvision_is_no_requirement_of_core_and_tests() -> None:
    extras = project()["optional-dependencies"]
    required = [*project()["dependencies"], *extras["test"], *extras["dev"]]
    assert "torchvision" not in {name_of(requirement) for requirement in required}
    assert "torchvision" not in pins()


def test_every_requirement_of_core_and_tests_is_pinned() -> None:
    extras = project()["optional-dependencies"]
    required = [*project()["dependencies"], *extras["test"], *extras["dev"]]
    assert {name_of(requirement) for requirement in required} - {"midguide"} <= set(pins())
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins().values())
    assert pins()["torch"] == "torch==2.13.0"


def test_version_is_that_of_the_installed_package() -> None:
    assert midguide.__version__ == importlib.metadata.version("midguide")


def test_public_names_are_sorted_and_agree_with_the_type_checker() -> None:
    assert midguide.__all__ == sorted(set(midguide.__all__))
    declared = {name: module for module, names in home_modules().items() for name in names}
    assert declared == midguide._HOME
    assert set(midguide.__all__) == {*declared, "__version__"}
    assert set(midguide.__all__) <= set(dir(midguide))


@pytest.mark.parametrize("name", midguide.__all__)
def test_public_name_loads_from_its_module(name: str) -> None:
    value = getattr(midguide, name)
    if name in midguide._HOME:
        assert value is getattr(importlib.import_module(midguide._HOME[name]), name)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Typo'"):
        getattr(midguide, "Typo")  # noqa: B009 (a type checker knows that it is not there)
