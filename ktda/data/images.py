"""Decode images and masks with Pillow, strictly.

Images are 8-bit RGB. Masks hold one index per pixel, as grey levels or in palette mode, where the palette is for the
eye and the index is the label (OpenCV would return the colours). Anything else is refused by name instead of being
converted: a conversion that nobody asked for is found weeks later.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from ktda.errors import InputError

MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")


def read_image(path: Path) -> np.ndarray:
    """Decode an 8-bit RGB image to (H, W, 3) uint8; anything else is an ``InputError``."""
    with _opened(path) as image:
        deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))  # Pillow would cut it to 8 bits
        if image.mode != "RGB" or deep:
            got = "16 bits per channel" if deep or image.mode.startswith("I;16") else f"mode {image.mode}"
            raise InputError(f"{path}: expected an 8-bit RGB image, got {got}; convert it to 8-bit RGB first")
        return _pixels(path, image)


def read_mask(path: Path) -> np.ndarray:
    """Decode an index mask (grey levels or palette indices) to (H, W): uint8, or int64 for more than 8 bits."""
    with _opened(path) as mask:
        if mask.mode not in MASK_MODES:
            raise InputError(
                f"{path}: expected a mask with one index per pixel, got colours (mode {mask.mode}); "
                "save class indices as a grey or palette PNG"
            )
        values = _pixels(path, mask)
        return values.astype(np.uint8 if mask.mode in ("1", "L", "P") else np.int64, copy=False)


def map_values(mask: np.ndarray, value_map: dict[int, int] | None) -> np.ndarray:
    """Replace mask values by ``value_map``; values that are not listed stay."""
    if not value_map:
        return mask
    table = np.arange(max(255, int(mask.max(initial=0)), *value_map) + 1)
    table[list(value_map)] = list(value_map.values())
    mapped = table[mask]
    return mapped.astype(np.uint8) if mapped.max(initial=0) <= 255 else mapped


def size_text(pixels: np.ndarray) -> str:
    """Width x height, as image viewers show it."""
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except Exception as error:  # on broken headers Pillow raises whatever its parsers raise
        raise _unreadable(path, error) from error


def _pixels(path: Path, image: Image.Image) -> np.ndarray:
    try:
        return np.array(image)
    except Exception as error:  # truncated or damaged pixel data, the same
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    what = "is empty" if path.is_file() and path.stat().st_size == 0 else "cannot be read as an image"
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path}: {what}" + ("" if what == "is empty" else f" ({reason})"))
