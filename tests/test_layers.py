"""The direction of imports, and the few things that only one file may do. Reads the source, imports none of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "midguide"

# Files and folders directly under src/midguide, lowest layer first. A file imports only from lower layers; within a
# layer, only from its own package (a folder, or the files that lie directly in src/midguide).
LAYERS = [
    {"errors", "_version"},
    {"maths"},
    {"catalogue"},
    {"storage"},
    {"signals"},
    {"nn"},
    {"diffusion"},
    {"operators"},
    {"likelihoods"},
    {"priors"},
    {"problem"},
    {"samplers"},
    {"inference"},
    {"exact", "data"},
    {"known"},
    {"metrics", "diagnostics", "plots"},
    {"calibration"},
    {"studies", "training"},
    {"testing"},
    {"web"},
    {"cli"},
    {"domains"},
    {"__main__"},
]
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}

# Files that put the pieces of their package together: they import what its other files must not.
LISTS = {"__init__", "base"}

DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
DRAWS |= {"rand_like", "randn_like", "randint_like"}
DRAWS_IN_PLACE = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "log_normal_"}
NUMPY_WITH_A_GENERATOR = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox"}
GLOBAL_STATE = ("torch.manual_seed", "torch.seed", "torch.random.", "torch.cuda.manual_seed", "torch.set_default_")


def module_name(path: Path) -> str:
    """`samplers/dps.py` -> "samplers.dps"; the package itself is ""."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}


def imports(module: str, tree: ast.AST, known: set[str], *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and name of everything of midguide that is imported, also in functions and for type checkers.

    Names are modules without the leading "midguide."; a public name of the package itself comes as "midguide:name".
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = ["midguide", *module.split(".")][: None if is_package else -1]
                base = ".".join([*here[: len(here) - node.level + 1], *([base] if base else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            package, _, name = target.partition(".")
            if package != "midguide":
                continue
            while name and name not in known and "." in name:
                name = name.rpartition(".")[0]
            top = name.partition(".")[0]
            yield node.lineno, name if name in known or top in LAYER_OF else f"midguide:{name}"


def at_load(tree: ast.Module) -> ast.Module:
    """What runs when a module is loaded, roughly: its statements without functions and blocks for type checkers."""
    deferred = (ast.FunctionDef, ast.AsyncFunctionDef)
    classes = [part for node in tree.body if isinstance(node, ast.ClassDef) for part in node.body]
    body = [node for node in (*tree.body, *classes) if not isinstance(node, (*deferred, ast.ClassDef))]
    body = [node for node in body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(body, type_ignores=[])


def layer_violations(module: str, tree: ast.AST, known: set[str], *, is_package: bool = False) -> list[str]:
    """What `module` imports and must not."""
    top, _, rest = module.partition(".")
    if top not in LAYER_OF:
        return [f"{module} is in no layer: add {top!r} to LAYERS in tests/test_layers.py, as low as its imports allow"]
    found = []
    for line, target in imports(module, tree, known, is_package=is_package):
        place = f"{module} (line {line}) imports {target}"
        if target.startswith("midguide:"):
            if target != "midguide:__version__":
                found.append(f"{place}: import it from the module that defines it")
            continue
        other = target.partition(".")[0]
        if other not in LAYER_OF:
            found.append(f"{place}, which is in no layer: add {other!r} to LAYERS in tests/test_layers.py")
        elif other == "domains" != top:
            found.append(f"{place}: nothing but a domain may know a domain")
        elif LAYER_OF[other] > LAYER_OF[top]:
            found.append(f"{place}: layer {LAYER_OF[top]} must not import from layer {LAYER_OF[other]}")
        elif LAYER_OF[other] == LAYER_OF[top] and other != top and (is_folder(other, known) or is_folder(top, known)):
            found.append(f"{place}: both are in layer {LAYER_OF[top]}, and not in one package")
        elif top == "samplers" and rest not in {"", *LISTS} and other in {"samplers", "priors", "operators"}:
            if target != f"{other}.base":
                found.append(f"{place}: a sampler may know {other}.base only")
    return found


def is_folder(name: str, known: set[str]) -> bool:
    return any(module.startswith(f"{name}.") for module in known)


def dotted(node: ast.AST) -> str:
    """`torch.cuda.manual_seed` for that chain of names, with np spelled out; "" where a call is part of the chain."""
    if isinstance(node, ast.Name):
        return "numpy" if node.id == "np" else node.id
    if isinstance(node, ast.Attribute) and (value := dotted(node.value)):
        return f"{value}.{node.attr}"
    return ""


def state_violations(module: str, tree: ast.AST) -> list[str]:
    """Uses of the global random state and of global defaults."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names):
            found.append(f"{module} (line {node.lineno}) imports random")
        if isinstance(node, ast.ImportFrom) and node.module in {"random", "numpy.random"}:
            found.append(f"{module} (line {node.lineno}) imports from {node.module}")
        if isinstance(node, ast.Call) and (name := global_call(node)):
            found.append(f"{module} (line {node.lineno}) calls {name}: draw from maths.rng or pass a generator")
    return found


def global_call(call: ast.Call) -> str:
    """The name of the function called if it uses global state, else ""."""
    name = dotted(call.func)
    last = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name.startswith(GLOBAL_STATE):
        return name
    if name.startswith("numpy.random."):
        return "" if name.split(".")[2] in NUMPY_WITH_A_GENERATOR else name
    draws = name.startswith("torch.") and name.count(".") == 1 and last in DRAWS
    # nn.init fills new layers, as their constructors do.
    in_place = last in DRAWS_IN_PLACE and ".init." not in f".{name}"
    has_generator = any(keyword.arg == "generator" for keyword in call.keywords)
    return (name or last) if (draws or in_place) and not has_generator else ""


def gradient_violations(module: str, tree: ast.AST) -> list[str]:
    """Places that ask for gradients by hand."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="requires_grad_") | ast.Attribute(attr="requires_grad", ctx=ast.Store()):
                asks = True
            case ast.keyword(arg="requires_grad"):
                asks = True
            case _:
                asks = False
        if asks:
            found.append(f"{module}: {ast.unparse(node)} asks for gradients: only autodiff.py does")
    return found


def is_package(module: str) -> bool:
    return MODULES[module].name == "__init__.py"


def test_source_was_found() -> None:
    assert {"errors", "samplers.base", "operators.base"} <= set(MODULES), f"looked in {ROOT}"


def test_every_file_imports_only_from_lower_layers() -> None:
    checked = {module: tree for module, tree in TREES.items() if module}  # the package itself: test_imports.py
    known = set(MODULES)
    found = [v for m, tree in checked.items() for v in layer_violations(m, tree, known, is_package=is_package(m))]
    assert not found, "\n".join(found)


def test_the_core_knows_no_word_of_electrocardiography() -> None:
    """Domains register what they bring. A scan for names in text finds what the imports do not show."""
    words = re.compile(r"ecg|electrocardi|einthoven|ptb-?xl|\bleads\b(?! to)", re.IGNORECASE)
    core = [path for path in ROOT.rglob("*") if path.suffix in {".py", ".toml", ".json"}]
    core = [path for path in core if path.relative_to(ROOT).parts[0] != "domains"]
    assert len(core) > 100
    found = [
        f"{path.relative_to(ROOT)}: {word[0]}" for path in core for word in words.finditer(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


def test_only_the_catalogue_looks_for_domains() -> None:
    """No module asks for one by name in a text, as `import_module("midguide.domains.x")` would."""
    others = {
        m: path.read_text("utf-8") for m, path in MODULES.items() if m != "catalogue.domain" and m[:7] != "domains"
    }
    assert not [module for module, text in others.items() if "midguide.domains" in text]


def test_no_file_imports_itself_through_others() -> None:
    graph = {
        m: {target for _, target in imports(m, at_load(tree), set(MODULES), is_package=is_package(m))} - {m}
        for m, tree in TREES.items()
        if m
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_global_random_state_and_defaults_are_not_touched() -> None:
    safe = ("maths.rng", "maths.environment")  # which put back what they change
    others = {module: tree for module, tree in TREES.items() if module not in safe}
    found = [violation for module, tree in others.items() for violation in state_violations(module, tree)]
    assert not found, "\n".join(found)


def test_only_autodiff_asks_for_gradients() -> None:
    found = [
        v for module, tree in TREES.items() if module != "maths.autodiff" for v in gradient_violations(module, tree)
    ]
    assert not found, "\n".join(found)


# What follows checks the checks: each must see the fault that it is there for, and let the permitted form pass.

KNOWN = {"errors", "diffusion", "diffusion.kernels", "diffusion.schedules", "maths", "maths.linalg", "likelihoods"}
KNOWN |= {"problem", "inference", "inference.loop", "cli", "operators", "operators.base", "operators.mask", "priors"}
KNOWN |= {"priors.base", "priors.gmm", "samplers", "samplers.base", "samplers.dps", "nn", "nn.unet"}
KNOWN |= {
    "domains",
    "domains.ecg",
    "domains.ecg.files",
    "__main__",
    "exact",
    "exact.laws",
    "testing",
    "data",
    "data.images",
}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("diffusion.kernels", "from midguide.problem import Problem", "must not import from layer"),
        ("diffusion.kernels", "def f():\n    import midguide.inference.loop", "must not import from layer"),
        ("operators.mask", "from ..problem import Problem", "must not import from layer"),
        ("exact.laws", "from midguide.data.images import load_image", "not in one package"),
        ("likelihoods", "from midguide import priors", "must not import from layer"),
        ("cli", "def f():\n    from midguide.domains.ecg import files", "nothing but a domain may know a domain"),
        ("__main__", "import midguide.domains.ecg", "nothing but a domain may know a domain"),
        ("samplers.mine", "from midguide.samplers.dps import DPS", "samplers.base only"),
        ("samplers.mine", "from .dps import DPS", "samplers.base only"),
        ("samplers.mine", "from midguide.priors import gmm", "priors.base only"),
        ("samplers.mine", "from midguide.operators.mask import Mask", "operators.base only"),
        ("samplers.mine", "from midguide import DPS", "import it from the module"),
        ("novelty", "", "add 'novelty' to LAYERS"),
    ],
)
def test_layer_check_sees(module: str, source: str, complaint: str) -> None:
    found = layer_violations(module, ast.parse(source), KNOWN)
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("diffusion.kernels", "import midguide.errors\nfrom midguide.diffusion.schedules import Level"),
        ("operators.mask", "from midguide.maths import linalg\nfrom .base import Operator"),
        ("domains.ecg", "from midguide.cli import f\nfrom midguide.domains.ecg.files import write_csv"),
        ("priors.gmm", "from midguide.nn.unet import UNet\nfrom midguide._version import __version__"),
        ("samplers.mine", "from midguide.samplers.base import Step\nfrom midguide.operators.base import Operator"),
        ("samplers", "from midguide.samplers.dps import DPS"),
    ],
)
def test_layer_check_lets_pass(module: str, source: str) -> None:
    assert layer_violations(module, ast.parse(source), KNOWN) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.manual_seed(0)",
        "torch.cuda.manual_seed_all(0)",
        "np.random.seed(0)",
        "numpy.random.normal()",
        "import random",
        "from numpy.random import normal",
        "torch.set_default_dtype(torch.float64)",
        "torch.randn(3)",
        "torch.randn_like(x)",
        "x.clone().normal_()",
    ],
)
def test_state_check_sees(source: str) -> None:
    assert len(state_violations("diffusion.kernels", ast.parse(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.Generator().manual_seed(0)",
        "generator.manual_seed(0)",
        "torch.randn(3, generator=generator)",
        "np.random.default_rng(0).normal()",
        "rng.normal(x)",
        "nn.init.normal_(weight)",
    ],
)
def test_state_check_lets_pass(source: str) -> None:
    assert state_violations("diffusion.kernels", ast.parse(source)) == []


@pytest.mark.parametrize("source", ["x.requires_grad_()", "x.requires_grad = True", "f(x, requires_grad=True)"])
def test_gradient_check_sees(source: str) -> None:
    assert len(gradient_violations("diffusion.kernels", ast.parse(source))) == 1


def test_imports_of_functions_and_type_checkers_are_not_made_at_load() -> None:
    source = "import midguide.errors\nif TYPE_CHECKING:\n    import midguide.nn\ndef f():\n    import midguide.cli"
    assert [name for _, name in imports("diffusion.kernels", at_load(ast.parse(source)), KNOWN)] == ["errors"]


def test_gradient_check_lets_questions_pass() -> None:
    assert gradient_violations("diffusion.kernels", ast.parse("flag = x.requires_grad")) == []
