"""Where results go by default: the same command to the same folder, any other command to another one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from midguide.cli.output import default_folder, file_name

GIVEN: dict[str, Any] = {"image": "cat.png", "prior": "faces-64", "sampler": "mgps", "seed": 0, "sigma": 0.05}


def folder(name: str = "cat", **changes: object) -> str:
    context: Any = SimpleNamespace(params={**GIVEN, **changes})
    return str(default_folder(name, "jpeg", "mgps", of=context))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"sigma": 0.1},
        {"prior": "a/prior.pt"},
        {"sampler": "dps"},
        {"set": ["steps=5"]},
        {"image": "other/cat.png"},
        {"image": "Cat.png"},
        {"image": "cat\n.png"},
    ],
    ids=str,
)
def test_runs_that_differ_never_share_a_folder(changes: dict[str, Any]) -> None:
    assert folder(**changes).lower() != folder().lower()


def test_what_changes_no_number_changes_no_folder() -> None:
    assert folder(out=None, as_json=True, verbose=True, chunk=3) == folder()


def test_names_in_any_script_of_any_length_keep_apart() -> None:
    names = [
        "猫",
        "犬",
        "猫 1",
        "кот",
        "",
        ".",
        "..",
        "-",
        "a\nb",
        "a\tb",
        "x" * 300,
        "x" * 301,
        "\udcff",
        "\udcfe",
        "é",
        "e\u0301",
    ]
    found = [file_name(name) for name in names]
    assert len({name.lower() for name in found}) == len(names)
    for name in found:
        assert name.isascii()
        assert 0 < len(name) <= 120
        assert not set(name) & set("/\\\n\t")
    assert len(default_folder("y" * 300, "z" * 300).name) <= 120


def test_plain_names_stay_as_they_are() -> None:
    assert file_name("train-faces-64") == "train-faces-64"
    assert file_name("MGPS 50/100") == "MGPS-50-100"
