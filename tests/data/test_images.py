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
    told: list[str] = []
    red = Image.new("CMYK", (4, 6), (0, 255, 255, 0))
    # The colors of a constant JPEG are right to a step or two of its quantization.
    torch.testing.assert_close(
        load_image(saved(red, tmp_path / "a.jpg", quality=100), RGB, note=told.append),
        expected(np.full((6, 4, 3), (255, 0, 0))),
        rtol=0,
        atol=2 / 127.5,
    )
    assert [text.split("a.jpg ")[1] for text in told] == ["is in CMYK, turned into RGB by the plain formula"]


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
    key = Image.new("L", (4, 6), 70)
    deep = Image.fromarray(np.full((6, 4), 51000, np.uint16))
    return [
        saved(half, folder / "rgba.png"),
        saved(half.convert("LA"), folder / "la.png"),
        saved(half, folder / "rgba.webp", lossless=True),
        saved(Image.new("P", (4, 6), 0), folder / "palette.png", transparency=0),
        saved(Image.new("RGB", (4, 6), (1, 2, 3)), folder / "key.png", transparency=(1, 2, 3)),
        saved(key, folder / "gray-key.png", transparency=70),
        saved(deep, folder / "deep-key.png", transparency=51000),
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
    with pytest.raises(DataError, match="is not a regular file"):
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
    with pytest.raises(DataError, match="32-bit or signed values.*\nhint: --white VALUE"):
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
    with pytest.raises(DataError, match="neither a folder nor a zip"):
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


# What a file states beside its pixels, and what people's folders hold beside images


def notes_of(path: Path, **settings) -> list[str]:
    told: list[str] = []
    load_image(path, GRAY, resize=True, note=told.append, **settings)
    return [text.removeprefix(f"image {path} ") for text in told]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("depth", [10, 12, 14])
def test_a_white_below_the_largest_value_is_stated_and_its_lack_is_remarked(tmp_path: Path, suffix: str, depth: int):
    white = 2**depth - 1
    values = np.linspace(0, white, 24).astype(np.uint16).reshape(6, 4)
    path = saved(Image.fromarray(values), tmp_path / f"a.{suffix}")
    fits = f"which fits {depth} of its 16 bits"
    assert notes_of(path) == [f"has {white} as its largest value, {fits}: --white {white} makes that white"]
    image = load_image(path, GRAY, white=white)
    torch.testing.assert_close(image[0, 0], torch.from_numpy(2 * values / white - 1).float(), rtol=0, atol=ULP)
    with pytest.raises(DataError, match=f"values from 0 to {white}, outside of 0 .black. to {white - 1} .white."):
        load_image(path, GRAY, white=white - 1)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="white must be a positive number"):
            load_image(path, GRAY, white=wrong)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_real_and_wide_values_are_read_where_white_is_stated(tmp_path: Path, dtype: type) -> None:
    values = np.arange(24).reshape(6, 4).astype(dtype)
    path = saved(Image.fromarray(values), tmp_path / "a.tif")
    image = load_image(path, GRAY, white=23.0, value_range=(0, 1))
    torch.testing.assert_close(image[0, 0], torch.from_numpy(values / 23).float(), rtol=0, atol=ULP)
    path = saved(Image.fromarray(values - 5), tmp_path / "b.tif")
    with pytest.raises(DataError, match="values from -5 to 18, outside of 0"):
        load_image(path, GRAY, white=23.0)


def test_colors_have_no_other_white(tmp_path: Path, color: np.ndarray) -> None:
    path = saved(Image.fromarray(color), tmp_path / "a.png")
    with pytest.raises(DataError, match="8 bits of each color: 255 is white"):
        load_image(path, RGB, white=4095)


def test_sixteen_bit_tiffs_whose_zero_is_white_are_turned(tmp_path: Path) -> None:
    import tifffile

    values = np.linspace(0, 65535, 24).astype(np.uint16).reshape(6, 4)
    for photometric, want in (("minisblack", values / 65535), ("miniswhite", 1 - values / 65535)):
        tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric)
        image = load_image(tmp_path / "a.tif", GRAY, value_range=(0, 1))
        torch.testing.assert_close(image[0, 0], torch.from_numpy(want).float(), rtol=0, atol=ULP)


def test_sixteen_bits_of_color_are_named(tmp_path: Path) -> None:
    import tifffile

    values = np.linspace(0, 65535, 72).astype(np.uint16).reshape(6, 4, 3)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    assert notes_of(tmp_path / "a.tif") == ["has 16 bits of each color, of which 8 are read"]


def test_color_profiles_other_than_srgb_and_gammas_are_named(tmp_path: Path, color: np.ndarray) -> None:
    from PIL import ImageCms

    image = Image.fromarray(color)
    for name, told in (("sRGB", []), ("LAB", ["has the color profile Lab identity built-in, which is not applied"])):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()
        assert notes_of(saved(image, tmp_path / "a.png", icc_profile=profile)) == told
    assert notes_of(saved(image, tmp_path / "a.png", icc_profile=b"damaged")) != []
    whole = saved(image, tmp_path / "b.png").read_bytes()
    for gamma, told in ((45455, []), (100000, ["states a gamma of 1, which is not applied"])):
        body = b"gAMA" + struct.pack(">I", gamma)
        chunk = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
        (tmp_path / "b.png").write_bytes(whole[:33] + chunk + whole[33:])
        assert notes_of(tmp_path / "b.png") == told


def test_every_fact_that_pillow_reads_of_a_file_is_used_irrelevant_or_named(tmp_path: Path, color: np.ndarray) -> None:
    """Files of every kind with all that their writers take; a fact that nobody knows is named."""
    from PIL.PngImagePlugin import PngInfo

    from midguide.storage.picture_facts import IRRELEVANT, NAMED, USED

    image, text = Image.fromarray(color), PngInfo()
    text.add_text("Author", "somebody")
    settings = {
        "png": {"dpi": (72, 72), "pnginfo": text},
        "jpg": {"dpi": (72, 72), "comment": b"words", "progressive": True},
        "webp": {"lossless": True, "xmp": b"<x/>"},
        "bmp": {"dpi": (72, 72)},
        "gif": {"comment": b"words", "loop": 2, "duration": 5},
        "tif": {"dpi": (72, 72), "description": "words", "compression": "tiff_lzw"},
        "jp2": {},
        "ppm": {},
    }
    for suffix, options in settings.items():
        path = saved(image, tmp_path / f"a.{suffix}", **options)
        assert notes_of(path) == [], suffix
        with Image.open(path) as opened:
            assert set(opened.info) - set(getattr(opened, "text", {})) <= USED | NAMED | IRRELEVANT
    strange = Image.open(saved(image, tmp_path / "s.png"))
    strange.info["white point"] = 3
    from midguide.storage.picture_facts import remarks

    assert list(remarks(strange, white=None)) == ["states white point: not used"]


SIDECAR = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(100)


def people_s_folders(folder: Path) -> dict[str, Path]:
    """Three images as they come from a Mac, from Jupyter, from Windows, as folders and archives."""
    images = {
        f"{i}.png": saved(Image.fromarray(pixels(6, 4, 3) // i), folder / f"{i}.png").read_bytes() for i in (1, 2, 3)
    }
    found = {}
    for kind, extra in {
        "mac": {f"._{name}": SIDECAR for name in images} | {".DS_Store": b"\0"},
        "jupyter": {".ipynb_checkpoints/1-checkpoint.png": images["1.png"]},
        "windows": {"Thumbs.db": b"\0", "$RECYCLE.BIN/1.png": images["1.png"]},
    }.items():
        for name, data in (images | extra).items():
            place = folder / kind / "faces" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        found[kind] = folder / kind
    with zipfile.ZipFile(folder / "MAC.ZIP", "w") as archive:
        for name, data in images.items():
            archive.writestr(f"faces/{name}", data)
            archive.writestr(f"__MACOSX/faces/._{name}", SIDECAR)
    return found | {"MAC.ZIP": folder / "MAC.ZIP"}


def test_hidden_files_are_passed_over_and_said_once(tmp_path: Path) -> None:
    counts = {"mac": 3, "jupyter": 1, "windows": 1, "MAC.ZIP": 3}
    for kind, path in people_s_folders(tmp_path).items():
        told: list[str] = []
        assert len(load_image_set(path, note=told.append)) == 3
        assert len(told) == 1
        assert told[0].startswith(f"{counts[kind]} hidden files of {path} are passed over")
    hidden_root = tmp_path / ".cache"
    saved(Image.new("RGB", (4, 6), "red"), tmp_path / "x.png")
    hidden_root.mkdir()
    (hidden_root / "x.png").write_bytes((tmp_path / "x.png").read_bytes())
    assert len(load_image_set(hidden_root)) == 1  # a folder that the user names is not hidden


def test_copies_in_a_set_and_what_its_images_have_in_common_are_said_once(tmp_path: Path) -> None:
    told: list[str] = []
    for name in "abc":
        saved(Image.fromarray(np.full((6, 4), 4000, np.uint16)), tmp_path / f"{name}.png")
    images = load_image_set(tmp_path, note=told.append)
    assert len(images) == 3
    assert told[0].startswith(f"3 images of {tmp_path}, the first a.png: each has 4000 as its largest value")
    assert told[1] == f"2 of 3 images of {tmp_path} are copies of others: b.png of a.png, c.png of a.png"
    assert len(told) == 2
    assert load_image_set(tmp_path, white=4000, note=told.append).min() == 255


def test_studies_and_recipes_state_white(tmp_path: Path) -> None:
    from midguide.studies.kinds.images import ImageProblem
    from midguide.studies.kinds.images import _images as of_study
    from midguide.training.base import Data
    from midguide.training.config import AutoencoderTrainingConfig, TrainingConfig
    from midguide.training.jobs import _images as of_recipe

    for name, white in (("a", 4095), ("b", 2000)):
        saved(Image.fromarray(np.full((6, 4), white, np.uint16)), tmp_path / f"{name}.png")
    assert int(of_study(str(tmp_path), RGB, 4095).max()) == 255
    assert int(of_recipe(Data(path=tmp_path), flip=False, white=4095)[0].pixels.max()) == 255
    assert all(
        "white" in kind.__dataclass_fields__ for kind in (ImageProblem, TrainingConfig, AutoencoderTrainingConfig)
    )
