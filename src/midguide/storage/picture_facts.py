"""What an image file states beside its pixels: used, of no account for their values, or to be named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image

USED = {"exif", "transparency", "Raw profile type exif", "palette"}
"""The orientation in EXIF is applied, transparent pixels are refused."""

NAMED = {"icc_profile", "gamma", "chromaticity"}
"""Named where they say that the pixels are not sRGB."""

IRRELEVANT = {"dpi", "jfif", "jfif_version", "jfif_unit", "jfif_density", "progressive", "progression", "adobe"}
IRRELEVANT |= {"adobe_transform", "photoshop", "comment", "compression", "interlace", "resolution", "srgb", "aspect"}
IRRELEVANT |= {"loop", "duration", "background", "version", "extension", "timestamp", "xmp", "XML:com.adobe.xmp"}
IRRELEVANT |= {
    "mp",
    "mpoffset",
    "default_image",
    "disposal",
    "blend",
    "bbox",
    "timestamp",
    "lossless",
    "compression_type",
}
"""Print sizes, packing, texts and animation say nothing of the values."""

_SRGB_GAMMA = 0.45455
_LARGEST_VALUE, _SMALLEST_VALUE, _PHOTOMETRIC, _WHITE_IS_ZERO = 281, 280, 262, 0


def remarks(image: Image.Image, *, white: float | None) -> Iterator[str]:
    """What a user should know of an open image, not decoded yet, each as what follows its name."""
    info = image.info
    if profile := info.get("icc_profile"):
        if name := _profile_name(profile):
            yield f"has the color profile {name}, which is not applied"
    gamma = info.get("gamma")
    if gamma is not None and "srgb" not in info and abs(float(gamma) - _SRGB_GAMMA) > 1e-3:
        yield f"states a gamma of {float(gamma):g}, which is not applied"
    if image.mode in ("CMYK", "LAB", "HSV", "YCbCr"):
        yield f"is in {image.mode}, turned into RGB by the plain formula"
    if image.mode in ("RGB", "RGBA", "LA", "RGBX") and _sixteen_bits(image):
        yield "has 16 bits of each color, of which 8 are read"
    if white is None and (stated := _tags(image).get(_LARGEST_VALUE)):
        yield f"states {_first(stated)} as its largest value; --white {_first(stated)} takes that as white"
    texts = getattr(image, "text", {}) if image.format == "PNG" else {}
    others = [str(key) for key in info if key not in USED | NAMED | IRRELEVANT and key not in texts]
    if others:
        yield f"states {', '.join(sorted(others))}: not used"


def white_is_zero(image: Image.Image) -> bool:
    """Whether large values are dark, in a TIFF of 16 or 32 bits; of 8 bits Pillow turns them itself."""
    return image.mode not in ("1", "L", "P", "RGB") and _tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def depth_remark(largest: float, bits: int) -> str | None:
    """What to say where the largest value fits a smaller depth; None where it does not."""
    fits = next((depth for depth in ((1, 2, 4) if bits == 8 else (8, 10, 12, 14)) if 0 < largest < 2**depth), None)
    if fits is None:
        return None
    return (
        f"has {largest:.0f} as its largest value, which fits {fits} of its {bits} bits: "
        f"--white {2**fits - 1} makes that white"
    )


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _sixteen_bits(image: Image.Image) -> bool:
    """Whether the decoder drops the lower half of 16 bits: its raw mode ends in `;16`, in some order of bytes."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _profile_name(profile: bytes) -> str:
    """The name of a color profile, empty for sRGB."""
    import io

    from PIL import ImageCms

    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except Exception:  # damaged, or Pillow was built without the library
        return "of an unknown kind"
    return "" if "srgb" in name.lower() else name or "without a name"
