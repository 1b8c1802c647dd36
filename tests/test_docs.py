"""The examples of the documentation run as they stand."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "priors.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda source: source.splitlines()[-1][:50])
def test_example_of_the_page_on_priors_runs(source, monkeypatch, tmp_path):
    if "from diffusers" in source:
        pytest.importorskip("diffusers", reason="needs the extra 'hub'")
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "docs/priors.md", "exec"), {})


def test_every_format_has_an_example():
    assert len(EXAMPLES) == 9
