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
from types import ModuleType

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


@pytest.mark.parametrize("folder", ["benchmarks", "examples"])
def test_what_scripts_import_of_the_package_is_there(folder: str) -> None:
    taken = [
        (path.name, node.module, name.name)
        for path in (ROOT / folder).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("midguide")
        for name in node.names
    ]
    assert len(taken) > 10
    for script, module, name in taken:
        assert _is_there(module, name), f"{script}: {module} has no {name}"


def _is_there(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(f"{module}.{name}"))
    except ImportError:
        return False


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


def test_every_name_of_the_stub_loads_and_is_what_a_type_checker_takes_it_for() -> None:
    tree = ast.parse(Path(midguide.__file__).with_suffix(".pyi").read_text())
    names = [
        (node.module, alias.name) for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert {name for _, name in names} == {*midguide.__all__} - {"__version__"}
    for module, name in names:
        home = importlib.import_module(f"midguide.{module}" if module else "midguide")
        assert getattr(midguide, name) is getattr(home, name)


def test_about_ten_names_and_the_namespaces_are_at_the_top() -> None:
    things = {name for name in midguide.__all__ if not isinstance(getattr(midguide, name), ModuleType)}
    assert things == {
        *("GaussianLikelihood", "MidguideError", "PoissonLikelihood", "Problem", "Samples", "__version__"),
        *("load_prior", "make_operator", "make_sampler", "observe", "sample"),
    }
    wanted = {"samplers", "operators", "priors", "likelihoods", "schedules", "metrics", "testing"}
    assert wanted <= set(midguide.__all__) - things


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("samplers", "DPS"), ("samplers", "SAMPLERS"), ("operators", "LinearOperator"), ("priors", "GaussianMixture")],
)
def test_a_namespace_has_the_public_names_of_its_modules(namespace: str, name: str) -> None:
    package = importlib.import_module(f"midguide.{namespace}")
    assert name in dir(package)
    assert not isinstance(getattr(package, name), ModuleType)
    with pytest.raises(AttributeError, match="no attribute 'Typo'"):
        getattr(package, "Typo")  # noqa: B009 (a type checker may know that it is not there)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Typo"):
        getattr(midguide, "Typo")  # noqa: B009 (a type checker knows that it is not there)
