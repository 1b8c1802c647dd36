from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from midguide.errors import CheckpointError, ShapeError
from midguide.nn.kernel_space import KernelSpaceConfig, KernelSpaceNetwork, load_kernel_space

SMALL = KernelSpaceConfig(channels=4, front_blocks=1, back_blocks=2)

# Names and shapes of the published parameters at any width w, written down from the released code of Tran et al.:
# 1 front and 2 back blocks instead of 10 and 20.
w = 4
PUBLISHED = {
    "feature_extractor.0": (w, 3, 3, 3),
    "feature_extractor.2": (w, w, 3, 3),
    "feature_extractor.4": (w, w, 3, 3),
    "feature_extractor.6.conv1": (w, w, 3, 3),
    "feature_extractor.6.conv2": (w, w, 3, 3),
    "adapter.model.down.0": (w, w, 4, 4),
    "adapter.model.submodule.down.1": (2 * w, w, 4, 4),
    "adapter.model.submodule.submodule.down.1": (4 * w, 2 * w, 4, 4),
    "adapter.model.submodule.submodule.submodule.down.1": (8 * w, 4 * w, 4, 4),
    "adapter.model.submodule.submodule.submodule.submodule.down.1": (8 * w, 8 * w, 4, 4),
    "adapter.model.submodule.submodule.submodule.submodule.up.1": (16 * w, 8 * w, 4, 4),
    "adapter.model.submodule.submodule.submodule.up.1": (16 * w, 4 * w, 4, 4),
    "adapter.model.submodule.submodule.up.1": (8 * w, 2 * w, 4, 4),
    "adapter.model.submodule.up.1": (4 * w, w, 4, 4),
    "adapter.model.up.1": (2 * w, w, 4, 4),
    "recon_trunk.0.conv1": (w, w, 3, 3),
    "recon_trunk.0.conv2": (w, w, 3, 3),
    "recon_trunk.1.conv1": (w, w, 3, 3),
    "recon_trunk.1.conv2": (w, w, 3, 3),
    "recon_trunk.2": (4 * w, w, 3, 3),
    "recon_trunk.5": (256, w, 3, 3),
    "recon_trunk.8": (64, 64, 3, 3),
    "recon_trunk.10": (3, 64, 3, 3),
}


def published() -> dict[str, Tensor]:
    """Random parameters under the published names."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in PUBLISHED.items():
        scale = (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        weights[f"{name}.weight"] = scale * torch.randn(shape, generator=generator)
        in_unet = name.startswith("adapter")
        if not in_unet or name == "adapter.model.up.1":
            outputs = shape[1] if in_unet else shape[0]
            weights[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return weights


def save(weights: dict[str, Tensor], path: Path) -> Path:
    torch.save(weights, path)
    return path


def load(path: Path) -> KernelSpaceNetwork:
    return load_kernel_space(path, SMALL)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 128, 128, generator=generator), torch.randn(2, 32, 1, 1, generator=generator)


def test_the_published_names_are_taken_from_either_format(tmp_path: Path) -> None:
    weights = published()
    safetensors.torch.save_file(weights, tmp_path / "weights.safetensors")
    weights["kernel_extractor.model.1.weight"] = torch.zeros(3)  # is in the published file, and not needed
    a, b = load(save(weights, tmp_path / "weights.pth")), load(tmp_path / "weights.safetensors")
    image, code = inputs()
    assert torch.equal(a(image, code), b(image, code))
    assert not any(parameter.requires_grad for parameter in a.parameters())


def test_the_published_network_has_the_size_of_the_papers() -> None:
    with torch.device("meta"):
        network = KernelSpaceNetwork(KernelSpaceConfig())
    # The sum over the published names, with 10 and 20 blocks at width 64, counted by hand.
    convolutions = (3 + 64 + 64) * 64 * 9 + 30 * 2 * 64 * 64 * 9 + (64 * 256 + 64 * 256 + 64 * 64 + 64 * 3) * 9
    down = (64 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 512) * 16
    up = (1024 * 512 + 1024 * 256 + 512 * 128 + 256 * 64 + 128 * 64) * 16
    biases = 3 * 64 + 30 * 2 * 64 + 64 + 256 + 256 + 64 + 3
    assert sum(p.numel() for p in network.parameters()) == convolutions + down + up + biases
    assert network.code_shape(3, 256, 256) == (512, 2, 2)


def test_image_and_code_both_matter(tmp_path: Path) -> None:
    network = load(save(published(), tmp_path / "weights.pth")).double()
    image, code = (value.double() for value in inputs())
    y = network(image, code)
    assert y.shape == image.shape
    assert float((network(image, -code) - y).abs().max()) > 1e-4
    assert float((network(image.flip(-1), code) - y).abs().max()) > 1e-2
    torch.testing.assert_close(network(image[1:], code[1:]), y[1:])


def test_without_a_correction_the_image_stays(tmp_path: Path) -> None:
    weights = published()
    for kind in ("weight", "bias"):
        weights[f"recon_trunk.10.{kind}"].zero_()
    image, code = inputs()
    assert torch.equal(load(save(weights, tmp_path / "weights.pth"))(image, code), image)


def test_the_dtype_of_the_image_is_kept(tmp_path: Path) -> None:
    network = load(save(published(), tmp_path / "weights.pth"))
    image, code = inputs()
    assert network(image.double(), code.double()).dtype == torch.float64
    assert network.double()(image, code).dtype == torch.float32


def test_loading_draws_nothing(tmp_path: Path) -> None:
    path = save(published(), tmp_path / "weights.pth")
    before = torch.get_rng_state()
    load(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_other_parameters_are_named_in_one_line(tmp_path: Path) -> None:
    weights = published()
    del weights["recon_trunk.8.bias"]
    weights["recon_trunk.99.weight"] = torch.zeros(1)
    weights["recon_trunk.10.bias"] = torch.zeros(4)
    with pytest.raises(CheckpointError) as error:
        load(save(weights, tmp_path / "weights.pth"))
    said = error.value.message
    assert "\n" not in said
    assert "1 missing: recon_trunk.8.bias" in said
    assert "1 unexpected: recon_trunk.99.weight" in said
    assert "1 of another shape: recon_trunk.10.bias (4,) instead of (3,)" in said


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04broken"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_damaged_files_are_one_line(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="file of weights .* (cannot be read|does not exist)") as error:
        load(tmp_path / name)
    assert "\n" not in error.value.message


def test_files_that_hold_more_than_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="file of weights .* (cannot be read|does not exist)"):
        load(tmp_path / "missing.pth")
    torch.save({"network": published()}, tmp_path / "nested.pth")
    with pytest.raises(CheckpointError, match="not a dictionary of tensors"):
        load(tmp_path / "nested.pth")
    torch.save({"network": Path("unsafe")}, tmp_path / "unsafe.pth")
    with pytest.raises(CheckpointError, match="file of weights .* (cannot be read|does not exist)") as error:
        load(tmp_path / "unsafe.pth")
    assert "\n" not in error.value.message


def test_images_that_do_not_fit_the_grid_are_refused() -> None:
    with torch.device("meta"):
        network = KernelSpaceNetwork(SMALL)
    assert network.code_shape(3, 128, 384) == (32, 1, 3)
    for shape in ((3, 64, 128), (3, 128, 200), (1, 128, 128)):
        with pytest.raises(ShapeError, match="RGB images with sides that are multiples of 128"):
            network.code_shape(*shape)
