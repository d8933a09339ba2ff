"""Pixels as the files hold them: 8-bit RGB images, and masks of one index per pixel.

Masks are grey levels or in palette mode, where the palette is for the eye and the index is the
label (OpenCV would return the colours). Anything else is refused instead of being converted: a
conversion that nobody asked for is found weeks later.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from ktda.errors import InputError

MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B")


def read_image(path: Path) -> np.ndarray:
    """Decode an 8-bit RGB image to (H, W, 3) uint8; anything else is an ``InputError``."""
    return _decode(path, ("RGB",), "an 8-bit RGB image; convert it first")


def read_mask(path: Path, value_map: dict[int, int] | None = None) -> np.ndarray:
    """Decode a mask of indices to (H, W) int32; values that are not in ``value_map`` stay."""
    expected = "one index per pixel; save class indices as a grey or palette PNG"
    mask = _decode(path, MASK_MODES, expected)
    table = np.arange(65536, dtype=np.int32)
    for old, new in (value_map or {}).items():
        table[old] = new
    return table[mask.astype(np.uint16)]


def _decode(path: Path, modes: tuple[str, ...], expected: str) -> np.ndarray:
    """The pixels of a file of one of Pillow's modes."""
    try:
        with Image.open(path) as image:
            # Pillow would cut 16-bit RGB to 8 bits.
            deep = image.mode == "RGB" and any(";16" in str(tile[3]) for tile in image.tile)
            mode = "RGB with 16 bits" if deep else image.mode
            pixels = np.array(image)
    except Exception as error:  # on damaged files Pillow raises whatever its parsers raise
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as an image ({reason})") from error
    if mode not in modes:
        raise InputError(f"{path}: is of mode {mode}, expected {expected}")
    return pixels
