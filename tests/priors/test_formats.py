"""A file format is one file: recognized, read, listed, and named by a path where it is a stranger's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from midguide.catalogue.plugins import PluginWarning, load_object
from midguide.cli import main
from midguide.errors import CheckpointError, ConfigError
from midguide.inference.samples import Samples
from midguide.priors.base import Denoiser
from midguide.priors.formats.base import FORMATS, Format, Source, network_prior
from midguide.priors.loading import load_prior
from midguide.priors.settings import PriorSettings
from midguide.studies.spec.study import load_study

TOY = '''
from midguide.priors.formats.base import Format, network_prior
from midguide.priors.settings import PriorSettings


class Toy(Format):
    """A text file with a number: `x_0` is that many times `x_t`."""

    extensions = (".toy",)
    uses = frozenset({"class_index"})

    def recognizes(self, source):
        return source.suffix == ".toy"

    def read(self, source, said):
        gain = float(source.path.read_text())
        stated = PriorSettings(name=source.name, prediction="x0", schedule="edm", event_shape=(2, 4))
        return network_prior(lambda x, label: gain * x, stated, said, provenance={"format": "toy"})
'''


@pytest.fixture
def toy(tmp_path: Path) -> tuple[Path, Path]:
    """A file of the format, and the Python file of the format."""
    (tmp_path / "half.toy").write_text("0.5")
    (tmp_path / "formats.py").write_text(TOY)
    return tmp_path / "half.toy", tmp_path / "formats.py"


def check(prior: Denoiser) -> None:
    x = torch.ones(1, 2, 4)
    assert torch.equal(prior(x, prior.schedule.noisiest), 0.5 * x)
    assert prior.provenance["format"] == "toy"


def test_a_format_of_a_python_file_reads_what_it_is_named_for(toy: tuple[Path, Path]) -> None:
    weights, formats = toy
    check(load_prior(weights, format=f"{formats}:Toy"))
    assert load_prior(weights, format=f"{formats}:Toy", prediction="eps").prediction == "eps"  # pyright: ignore
    with pytest.raises(CheckpointError, match="not a prior that can be read\nhint: known are .*native"):
        load_prior(weights)


def test_a_format_of_a_python_file_is_named_on_the_command_line(toy: tuple[Path, Path], tmp_path: Path) -> None:
    weights, formats = toy
    words = ["sample", "--prior", str(weights), "--prior-set", f"format={formats}:Toy", "--steps", "3", "--n", "2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert Samples.load(tmp_path / "out").draws.shape == (1, 2, 2, 4)


def test_a_format_of_a_python_file_is_named_in_a_study(toy: tuple[Path, Path], tmp_path: Path) -> None:
    weights, formats = toy
    study = tmp_path / "study.toml"
    study.write_text(
        '[study]\nname = "own"\nsamples = 2\nmetrics = ["truth_rmse"]\n'
        f'[[problems]]\nkind = "images"\noperator = "identity"\nprior = "{weights}"\nseeds = [0]\n'
        f'prior_settings = {{ format = "{formats}:Toy" }}\n'
        '[[samplers]]\nspec = "unconditional"\nsettings = { steps = 3 }\n'
    )
    (unit,) = load_study(study).units
    assert unit.problem.build(0).event_shape == (2, 4)


def test_a_format_of_a_python_file_is_part_of_what_its_priors_are(toy: tuple[Path, Path]) -> None:
    weights, formats = toy
    first, again = (load_prior(weights, format=f"{formats}:Toy").record() for _ in range(2))
    formats.write_text(TOY + "\n# changed\n")
    assert first == again != load_prior(weights, format=f"{formats}:Toy").record()


def test_a_registered_format_is_recognized_everywhere(toy: tuple[Path, Path], tmp_path: Path) -> None:
    class Toy(Format):
        """Text with a number."""

        extensions = (".toy",)

        def recognizes(self, source: Source) -> bool:
            return source.suffix == ".toy"

        def read(self, source: Source, said: PriorSettings) -> Denoiser:
            gain = float(source.path.read_text())
            stated = PriorSettings(name=source.name, prediction="x0", schedule="edm", event_shape=(2, 4))
            return network_prior(lambda x, label: gain * x, stated, said, provenance={"format": "toy"})

    FORMATS.register("toy")(Toy)
    try:
        check(load_prior(toy[0]))
        words = ["sample", "--prior", str(toy[0]), "--steps", "3", "--n", "2", "--out", str(tmp_path / "out")]
        assert main(words) == 0
        assert main(["list", "formats"]) == 0
    finally:
        del FORMATS._entries["toy"]


def test_a_format_that_fails_is_one_line_and_the_others_work(toy: tuple[Path, Path]) -> None:
    weights, formats = toy
    formats.write_text(TOY.replace("source.suffix ==", "source.sufix ==").replace("float(", "flot("))
    formats.write_text(formats.read_text().replace("    uses =", "    order = -1\n    uses ="))
    FORMATS.register("broken")(load_object(formats, "Toy"))
    try:
        with pytest.warns(PluginWarning, match="the format `broken` fails: AttributeError: .*: left out"):
            prior = load_prior(lambda x, label: x, prediction="x0", schedule="edm", event_shape=(2,))
    finally:
        del FORMATS._entries["broken"]
    assert prior.event_shape == (2,)
    with pytest.raises(CheckpointError, match="the format `.*formats.py:Toy` fails: NameError") as caught:
        load_prior(weights, format=f"{formats}:Toy")
    assert "\n" not in caught.value.message


def test_every_format_says_what_it_is() -> None:
    assert {"native", "diffusers", "guided-diffusion", "compvis", "python", "network", "denoiser"} <= set(FORMATS)
    assert all(entry.summary for entry in FORMATS.values())


def test_what_is_no_format_is_refused_with_what_it_lacks(toy: tuple[Path, Path]) -> None:
    weights, formats = toy
    formats.write_text(TOY.replace("def read", "def reads") + "\n\nclass Other:\n    pass\n")
    with pytest.raises(ConfigError, match="it lacks read"):
        load_prior(weights, format=f"{formats}:Toy")
    with pytest.raises(ConfigError, match="it is not a subclass of Format"):
        load_prior(weights, format=f"{formats}:Other")
    with pytest.raises(ConfigError, match="unknown format `nativ`\nhint: did you mean `native`"):
        load_prior(weights, format="nativ")


def test_a_setting_that_a_format_does_not_use_is_refused_by_name(toy: tuple[Path, Path]) -> None:
    weights, formats = toy
    load_prior(weights, format=f"{formats}:Toy", class_index=3)
    with pytest.raises(ConfigError, match="the setting `quantize` does not apply to .*half.toy.*\n.*for `compvis`"):
        load_prior(weights, format=f"{formats}:Toy", quantize=False)
