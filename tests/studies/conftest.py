"""A study that takes a second."""

from __future__ import annotations

from pathlib import Path

import pytest

TINY = """
[study]
name = "tiny"
samples = 16
metrics = ["sliced_wasserstein_1[slices=100]", "mode_weight_tv"]

[[problems]]
kind = "mixture"
label = "dx = 2"
dimension = 2
seeds = { first = 0, count = 2 }

[[samplers]]
spec = "exact"

[[samplers]]
spec = "ddrm:paper"
label = "DDRM"
settings = { steps = 5 }

[[samplers]]
spec = "dps"
label = "DPS"
settings = { steps = 5, guidance = 0.1 }
"""


@pytest.fixture
def tiny(tmp_path) -> Path:
    """The file of a study of 6 units."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path
