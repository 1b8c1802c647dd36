"""The directory of catalogues is complete, and what every entry owes holds for all of them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import midguide
from midguide.catalogue.directory import catalogue, catalogues, places
from midguide.errors import ConfigError

ROOT = Path(midguide.__file__).parent


def test_every_catalogue_of_the_package_is_in_the_directory() -> None:
    made = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            value = getattr(node, "value", None)
            if isinstance(value, ast.Call) and ast.unparse(value.func).partition("[")[0] == "Catalogue":
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]  # type: ignore[union-attr]
                module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
                made.add(f"{module}:{ast.unparse(target)}")
    assert made == set(places().values())


@pytest.mark.parametrize("plural", places())
def test_every_entry_has_a_line_for_lists_and_plain_defaults(plural: str) -> None:
    entries = catalogue(plural)
    assert len(entries) > 0
    for name, entry in entries.items():
        assert entry.summary, name
        assert "\n" not in entry.summary
        json.dumps(entry.defaults())
        assert entries.name_of(entry.thing) == name


def test_no_group_of_entry_points_is_used_twice() -> None:
    groups = [entries.group for entries in catalogues().values()]
    assert len(set(groups)) == len(groups)


def test_an_unknown_catalogue_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown catalogue `sampler`\nhint: did you mean `samplers`"):
        catalogue("sampler")
