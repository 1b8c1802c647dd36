"""The examples of the documentation run as they stand."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


EXAMPLES = [
    (page, source)
    for page in ("priors.md", "instruments.md", "calibration.md", "verdict.md")
    for source in examples(page)
]


@pytest.mark.parametrize(("page", "source"), EXAMPLES, ids=lambda text: text.splitlines()[-1][:50])
def test_example_of_the_documentation_runs(page, source, monkeypatch, tmp_path):
    if "from diffusers" in source:
        pytest.importorskip("diffusers", reason="needs the extra 'hub'")
    monkeypatch.chdir(tmp_path)
    exec(compile(source, page, "exec"), {"__name__": "example"})


def test_every_format_has_an_example():
    assert len(examples("priors.md")) == 9
