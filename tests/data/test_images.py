"""Image files of every unusual kind: the right pixels, or one DataError."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from midguide.data.images import load_image, load_image_set, save_png, to_uint8
from midguide.errors import ConfigError, DataError, NumericalError, ShapeError

RGB, GRAY = (3, 6, 4), (1, 6, 4)
ULP = 1e-6  # a few float32 roundings of values up to 1


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def expected(array: np.ndarray) -> torch.Tensor:
    """Bytes (H, W, C) as the batch of one in [-1, 1]."""
    return torch.from_numpy(array.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.fixture
def color() -> np.ndarray:
    return pixels(6, 4, 3)


def test_rgb_is_read_to_the_value_range(tmp_path: Path, color: np.ndarray) -> None:
    path = saved(Image.fromarray(color), tmp_path / "a.png")
    image = load_image(path, RGB)
    assert image.shape == (1, *RGB)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, expected(color), rtol=0, atol=ULP)
    torch.testing.assert_close(load_image(str(path), RGB, value_range=(0, 1)), (image + 1) / 2, rtol=0, atol=ULP)


def test_gray_is_repeated_for_a_color_prior(tmp_path: Path) -> None:
    gray = pixels(6, 4)
    image = load_image(saved(Image.fromarray(gray), tmp_path / "a.png"), RGB)
    torch.testing.assert_close(image, expected(np.repeat(gray[..., None], 3, 2)), rtol=0, atol=ULP)


def test_color_becomes_luma_for_a_gray_prior(tmp_path: Path, color: np.ndarray) -> None:
    path = saved(Image.fromarray(color), tmp_path / "a.png")
    luma = np.asarray(Image.fromarray(color).convert("L"))[..., None]
    # Pillow rounds to a byte: half a step, 0.5 / 127.5, and its integer weights.
    torch.testing.assert_close(load_image(path, GRAY), expected(luma), rtol=0, atol=0.51 / 127.5)


def test_gray_stays_gray(tmp_path: Path) -> None:
    gray = pixels(6, 4)
    image = load_image(saved(Image.fromarray(gray), tmp_path / "a.png"), GRAY)
    torch.testing.assert_close(image, expected(gray[..., None]), rtol=0, atol=ULP)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 24).astype(np.uint16).reshape(6, 4)
    image = load_image(saved(Image.fromarray(values), tmp_path / f"a.{suffix}"), GRAY, value_range=(0, 1))
    torch.testing.assert_close(image[0, 0], torch.from_numpy(values / 65535).float(), rtol=0, atol=1e-7)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    bits = pixels(6, 4) > 127
    image = load_image(saved(Image.fromarray(bits), tmp_path / "a.png"), GRAY)
    assert torch.equal(image[0, 0], torch.from_numpy(np.where(bits, 1.0, -1.0)).float())


def test_palette_is_looked_up(tmp_path: Path, color: np.ndarray) -> None:
    path = saved(Image.fromarray(color).convert("P", palette=Image.Palette.ADAPTIVE), tmp_path / "a.png")
    with Image.open(path) as image:
        assert image.mode == "P"
        looked_up = np.asarray(image.convert("RGB"))
    torch.testing.assert_close(load_image(path, RGB), expected(looked_up), rtol=0, atol=ULP)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    red = Image.new("CMYK", (4, 6), (0, 255, 255, 0))
    # The colors of a constant JPEG are right to a step or two of its quantization.
    torch.testing.assert_close(
        load_image(saved(red, tmp_path / "a.jpg", quality=100), RGB),
        expected(np.full((6, 4, 3), (255, 0, 0))),
        rtol=0,
        atol=2 / 127.5,
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped(tmp_path: Path, color: np.ndarray, mode: str) -> None:
    source = Image.fromarray(color).convert("L" if mode == "LA" else "RGB")
    image = load_image(saved(source.convert(mode), tmp_path / "a.png"), RGB)
    torch.testing.assert_close(image, expected(np.asarray(source.convert("RGB"))), rtol=0, atol=ULP)


def test_opaque_palette_with_alpha_is_looked_up(tmp_path: Path, color: np.ndarray) -> None:
    source = Image.fromarray(color).convert("P", palette=Image.Palette.ADAPTIVE)
    path = saved(source, tmp_path / "a.png", transparency=bytes([255] * 24))
    with Image.open(path) as image:
        assert "transparency" in image.info
    torch.testing.assert_close(load_image(path, RGB), expected(np.asarray(source.convert("RGB"))), rtol=0, atol=ULP)


def transparent_files(folder: Path) -> list[Path]:
    half = Image.fromarray(np.full((6, 4, 4), 128, np.uint8))
    key = Image.new("L", (4, 6), 7)
    deep = Image.fromarray(np.full((6, 4), 777, np.uint16))
    return [
        saved(half, folder / "rgba.png"),
        saved(half.convert("LA"), folder / "la.png"),
        saved(half, folder / "rgba.webp", lossless=True),
        saved(Image.new("P", (4, 6), 0), folder / "palette.png", transparency=0),
        saved(Image.new("RGB", (4, 6), (1, 2, 3)), folder / "key.png", transparency=(1, 2, 3)),
        saved(key, folder / "gray-key.png", transparency=7),
        saved(deep, folder / "deep-key.png", transparency=777),
    ]


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    for path in transparent_files(tmp_path):
        with pytest.raises(DataError, match="transparent pixels\nhint: flatten"):
            load_image(path, RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tag_is_applied(tmp_path: Path, color: np.ndarray, orientation: int) -> None:
    upright = color
    # How the tag says that the stored rows and columns lie (Exif 2.3, table 6): the stored image of an upright one.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "a.png", exif=exif)
    torch.testing.assert_close(load_image(path, RGB), expected(upright), rtol=0, atol=ULP)


def test_picture_of_a_phone_with_preview_is_its_first_frame(tmp_path: Path) -> None:
    gray, preview = Image.new("RGB", (4, 6), (90, 90, 90)), Image.new("RGB", (2, 2))
    path = saved(gray, tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview], quality=100)
    # A constant JPEG, right to a step of its quantization.
    torch.testing.assert_close(load_image(path, RGB), expected(np.full((6, 4, 3), 90)), rtol=0, atol=2 / 127.5)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_animations_and_pages_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 6), color) for color in ("red", "blue")]
    path = saved(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="2 frames\nhint: save the one"):
        load_image(path, RGB)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif", "jp2"])
def test_a_file_cut_at_any_place_is_one_data_error(tmp_path: Path, suffix: str) -> None:
    whole = saved(Image.fromarray(pixels(40, 40, 3)), tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for share in (0.0, 0.003, 0.01, 0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match="hint: "):
            load_image(path, (3, 40, 40))


def test_a_flipped_byte_is_an_image_or_a_data_error(tmp_path: Path) -> None:
    path = saved(Image.fromarray(pixels(12, 12, 3)), tmp_path / "a.png")
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(DataError):  # anything else fails the test
            assert load_image(path, RGB, resize=True).isfinite().all()


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF"]
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match="no image of a known kind\nhint: known are PNG"):
        load_image(path, RGB)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist\nhint: give the path"):
        load_image(tmp_path / "none.png", RGB)
    with pytest.raises(DataError, match="is a folder\nhint: give the path"):
        load_image(tmp_path, RGB)
    with pytest.raises(DataError, match="is no regular file"):
        load_image("/dev/null", RGB)


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_decompression_bomb_is_refused(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    with pytest.raises(DataError, match="more than 89 million pixels\nhint: crop or shrink"):
        load_image(path, RGB)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_a_known_white_are_refused(tmp_path: Path, dtype: type) -> None:
    path = saved(Image.fromarray(np.ones((6, 4), dtype)), tmp_path / "a.tif")
    with pytest.raises(DataError, match="32-bit values.*\nhint: convert"):
        load_image(path, GRAY)


def test_wrong_size_says_both_sizes_and_what_to_do(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (512, 500)), tmp_path / "a.png")
    message = (
        r"is 512x500, expected 64x64 \(width x height\)\nhint: --resize takes its largest centered part, 500x500, to 64"
    )
    with pytest.raises(DataError, match=message):
        load_image(path, (3, 64, 64))


@pytest.mark.parametrize("shape", [(5, 6, 4), (6, 4), (2,), (2, 1, 6, 4)])
def test_priors_of_other_events_are_refused(tmp_path: Path, color: np.ndarray, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="1 or 3 channels"):
        load_image(saved(Image.fromarray(color), tmp_path / "a.png"), shape)


def test_resize_to_the_same_size_changes_nothing(tmp_path: Path, color: np.ndarray) -> None:
    path = saved(Image.fromarray(color), tmp_path / "a.png")
    torch.testing.assert_close(load_image(path, RGB, resize=True), load_image(path, RGB), rtol=0, atol=ULP)


def test_resize_cuts_the_centre(tmp_path: Path) -> None:
    array = np.zeros((20, 60, 3), np.uint8)
    array[:, 20:40] = 255
    image = load_image(saved(Image.fromarray(array), tmp_path / "a.png"), (3, 10, 10), resize=True)
    # All white: no black leaks in over the cut.
    torch.testing.assert_close(image, torch.ones(1, 3, 10, 10), rtol=0, atol=ULP)


def test_resize_removes_what_the_small_image_cannot_hold(tmp_path: Path) -> None:
    array = np.indices((64, 64)).sum(0) % 2 * 255  # without antialiasing this would become black or white
    image = load_image(saved(Image.fromarray(array.astype(np.uint8)), tmp_path / "a.png"), (1, 8, 8), resize=True)
    assert image.abs().max() < 0.02  # the stop band of Lanczos at 8 times its cut-off, at the border of the image too


def test_resize_keeps_a_gradient_and_its_depth(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    path = saved(Image.fromarray(ramp), tmp_path / "a.png")
    row = load_image(path, (1, 64, 64), resize=True, value_range=(0, 1))[0, 0, 32]
    truth = torch.linspace(0, 1, 256).reshape(64, 4).mean(1)
    # Inside, away from the border, Lanczos leaves a ramp as it is but for its ripple, of 1e-3 of 4 pixels' rise.
    torch.testing.assert_close(row[4:-4], truth[4:-4], rtol=0, atol=2e-5)


def test_crop_is_taken_before_the_resize(tmp_path: Path) -> None:
    array = pixels(30, 40, 3)
    path = saved(Image.fromarray(array), tmp_path / "a.png")
    image = load_image(path, RGB, crop=(5, 7, 6, 4))
    torch.testing.assert_close(image, expected(array[5:11, 7:11]), rtol=0, atol=ULP)
    part = saved(Image.fromarray(np.ascontiguousarray(array[2:26, 3:19])), tmp_path / "b.png")
    assert torch.equal(load_image(path, RGB, crop=(2, 3, 24, 16), resize=True), load_image(part, RGB, resize=True))


def test_crop_outside_the_image_is_refused(tmp_path: Path, color: np.ndarray) -> None:
    path = saved(Image.fromarray(color), tmp_path / "a.png")
    with pytest.raises(DataError, match="leaves image"):
        load_image(path, RGB, crop=(1, 0, 6, 4))
    for crop in ((-1, 0, 2, 2), (0, 0, 0, 2), (0, 0, 2)):
        with pytest.raises(ConfigError, match="crop must be"):
            load_image(path, RGB, crop=crop)  # pyright: ignore[reportArgumentType]


def test_every_byte_survives_saving_and_loading(tmp_path: Path) -> None:
    for channels in (1, 3):
        image = torch.arange(256).reshape(1, 16, 16).expand(channels, 16, 16) / 127.5 - 1
        save_png(tmp_path / "sub" / "a.png", image)
        torch.testing.assert_close(load_image(tmp_path / "sub/a.png", (channels, 16, 16))[0], image, rtol=0, atol=ULP)
        assert [file.name for file in (tmp_path / "sub").iterdir()] == ["a.png"]


def test_bytes_are_the_nearest_and_clamped() -> None:
    values = torch.tensor([-9.0, -1.0, 0.004, 0.996, 1.0, torch.inf])
    assert to_uint8(values).tolist() == [0, 0, 128, 254, 255, 255]
    assert to_uint8(values, (0.0, 1.0)).tolist() == [0, 0, 1, 254, 255, 255]


def test_saving_refuses_what_is_no_image(tmp_path: Path) -> None:
    for shape in ((1, 3, 4, 4), (2, 4, 4), (4, 4), (3, 0, 4)):
        with pytest.raises(ShapeError, match="shape"):
            save_png(tmp_path / "a.png", torch.zeros(shape))
    with pytest.raises(NumericalError, match="NaN"):
        save_png(tmp_path / "a.png", torch.full((3, 4, 4), torch.nan))
    with pytest.raises(DataError, match="does not end in .png"):
        save_png(tmp_path / "a.jpg", torch.zeros(3, 4, 4))
    with pytest.raises(ConfigError, match="must rise"):
        to_uint8(torch.zeros(3), (1, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_png(tmp_path / "a.png", torch.zeros(3, 4, 4))
    old = (tmp_path / "a.png").read_bytes()

    def full(self: Image.Image, path: Path, kind: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DataError, match="No space left"):
        save_png(tmp_path / "a.png", torch.ones(3, 4, 4))
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == old


def test_set_is_in_the_order_of_names_from_folder_and_zip(tmp_path: Path) -> None:
    folder, arrays = tmp_path / "set", [pixels(6, 4, 3), pixels(6, 4), 255 - pixels(6, 4, 3)]
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, array in zip("bac", arrays, strict=True):
            stream = io.BytesIO()
            Image.fromarray(array).save(stream, "PNG")
            (folder / f"{name}.png").write_bytes(stream.getvalue())
            archive.writestr(f"{name}.png", stream.getvalue())
        archive.writestr("readme.txt", "not an image")
    gray = np.repeat(arrays[1][..., None], 3, 2)
    truth = torch.from_numpy(np.stack([gray, arrays[0], arrays[2]])).permute(0, 3, 1, 2)
    assert torch.equal(load_image_set(folder), truth)
    assert torch.equal(load_image_set(tmp_path / "set.zip"), truth)


def test_set_refuses_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder and no zip"):
        load_image_set(tmp_path / "none")
    with pytest.raises(DataError, match="holds no images"):
        load_image_set(tmp_path)
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="damaged or no zip"):
        load_image_set(tmp_path / "bad.zip")
    saved(Image.new("RGB", (4, 6)), tmp_path / "a.png")
    saved(Image.new("RGB", (4, 5)), tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b.png in .* is \(5, 4, 3\), the images before it \(6, 4, 3\)"):
        load_image_set(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="a.png in .* no image of a known kind"):
        load_image_set(tmp_path)
