"""What the pages tell readers to type runs as it stands: every block of every page, and no page is left out."""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch

from midguide.catalogue.directory import catalogue, places
from midguide.samplers import SAMPLERS

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs" / "hooks"), str(ROOT / "benchmarks")]

import pages  # noqa: E402
import prose  # noqa: E402
import reference_pages  # noqa: E402
import snippets  # noqa: E402

PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").rglob("*.md"))
    if page.name != "CHANGELOG.md" and snippets.snippets(page)
)
MOST_PARSED = 40
"""Commands of hours, or for other hardware, that are only read: a number that should not grow."""


def loaded(kind):
    """The entries of a catalogue, once all of its own are there."""
    list(kind)
    return dict(kind._entries)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_runs_as_it_stands(page, monkeypatch, tmp_path):
    if "diffusers" in page.read_text("utf-8"):
        pytest.importorskip("diffusers", reason="needs the extra 'hub'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["midguide"])
    threads, registered = torch.get_num_threads(), [(kind, loaded(kind)) for kind in map(catalogue, places())]
    try:
        snippets.run(page, tmp_path)
    finally:
        torch.set_num_threads(threads)
        for kind, entries in registered:  # pages register pieces of a reader's own
            kind._entries = entries


def test_every_block_of_a_page_is_found():
    for page in PAGES:
        fences = sum(line.startswith("```") for line in page.read_text("utf-8").splitlines())
        assert fences == 2 * len(snippets.snippets(page)), page


def test_text_blocks_hold_no_commands():
    for page in PAGES:
        for snippet in snippets.snippets(page):
            if snippet.language == "text":
                assert not any(
                    line.startswith(("midguide ", "import ", "python ")) for line in snippet.text.splitlines()
                )


def test_few_commands_are_only_read():
    blocks = [snippet for page in PAGES for snippet in snippets.snippets(page)]
    assert sum(snippets.PARSED in block.notes.get("small", "") for block in blocks) <= MOST_PARSED


def test_replacement_that_finds_nothing_is_an_error():
    block = snippets.Snippet("page.md", 3, "python", "n = 8\n", {"small": "n=8 -> n=2"})
    with pytest.raises(ValueError, match="page.md:3: no 'n=8'"):
        block.smaller()


def test_every_format_has_an_example():
    assert sum(block.language == "python" for block in snippets.snippets(ROOT / "docs" / "priors.md")) == 10


def test_unknown_command_of_a_page_is_an_error():
    with pytest.raises(RuntimeError, match="no page may have the command 'curl'"):
        snippets.shell(["curl", "https://example.org"])


def test_tables_of_results_pages_are_those_of_their_data(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Text.\n\n| a | b |\n|---|---|\n| 1 | x \\| y |\n", "utf-8")
    text, fresh = pages.written(page)
    assert list(fresh.values()) == ["a,b\n1,x | y\n"]
    assert text == "Text.\n\n<!-- data: data/page-1.csv -->\n| a | b |\n| --- | --- |\n| 1 | x \\| y |\n"
    assert pages.main(["--check"]) == 0, "run `make pages`"


@pytest.mark.parametrize("row", SAMPLERS.listed(), ids=lambda row: row["name"])
def test_example_on_the_card_of_a_sampler_runs(row):
    text = reference_pages.example(row).replace("problem=problem)", 'changes={"steps": 4}, problem=problem)')
    exec(compile(text, row["name"], "exec"), {})


def imported(page):
    """The classes and functions of the package that the snippets of a page import."""
    for snippet in snippets.snippets(page):
        for node in ast.walk(ast.parse(snippet.text)) if snippet.language in ("python", "py") else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("midguide"):
                things = (getattr(importlib.import_module(node.module), name.name) for name in node.names)
                yield from (thing for thing in things if inspect.isclass(thing) or inspect.isfunction(thing))


def test_what_pages_import_has_an_example_in_its_docstring():
    lacking = {thing for page in PAGES for thing in imported(page) if "Example:" not in thing.__doc__}
    assert lacking == set()


@pytest.mark.parametrize("page", sorted((ROOT / "results").glob("*.md")), ids=lambda page: page.stem)
def test_results_page_opens_with_question_answer_and_command(page):
    opening = re.split(r"^(?:\||<!--|##)", page.read_text("utf-8"), maxsplit=1, flags=re.MULTILINE)[0]
    if page.name == "README.md":  # a list of pages, all of them
        assert {f"{other.name}" for other in page.parent.glob("*.md")} - {"README.md"} <= set(
            re.findall(r"\]\(([\w-]+\.md)\)", page.read_text("utf-8"))
        )
        return
    question, command = opening.find("?"), opening.find("Command")
    assert 0 < question < command
    assert re.search(r"\d", opening[question:command]), "an answer has a figure"


def test_every_picture_of_the_gallery_links_to_its_page_and_its_code():
    figures = re.findall(r"<figure.*?</figure>", (ROOT / "docs" / "gallery.md").read_text("utf-8"), re.DOTALL)
    for figure in figures:
        picture, page, code = re.findall(r"\]\(([^)]+)\)", figure)
        assert picture.endswith(".png")
        assert page.endswith(".md")
        assert all((ROOT / "docs" / place).is_file() for place in (picture, page, code))
    assert len(figures) > 10


def test_printed_tables_become_the_data_of_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    (tmp_path / "data").mkdir()
    pages.take("page", "# Words\n\n| a |\n|---|\n| 1 |\n\nMore.\n\n| b |\n|---|\n| 2 |\n")
    assert [(tmp_path / "data" / f"page-{i}.csv").read_text() for i in (1, 2)] == ["a\n1\n", "b\n2\n"]


def test_prose_rules_find_what_they_name(tmp_path, monkeypatch):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("The colour is red. It was made anew. `colour` is code.\n", "utf-8")
    found, sentences = prose.remarks(page)
    assert sentences == 3
    assert [remark.rule for remark in found] == ["spelling", "passive", "phrase"]
    code = tmp_path / "code.py"
    code.write_text('raise DataError(f"the {x} is of before", hint="it is made anew")\n', "utf-8")
    assert [remark.rule for remark in prose.remarks(code)[0]] == ["phrase", "passive", "phrase"]
