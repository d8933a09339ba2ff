"""Pixels exactly as the files hold them, by what the files' own tags say.

Pillow decodes PNG, JPEG and TIFF. What it would change without a word is found in the tags first:
it drops bands beyond the third, cuts 16-bit colours to 8 bits, spreads grey levels of 2 and 4 bits
over 0 to 255, and inverts levels whose white is 0. Images of several bands, or of other numbers
than bytes, are read by rasterio. EXIF orientation is not applied: the raw rows and columns count.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ktda.errors import InputError

FORMATS = ("PNG", "JPEG", "TIFF")
LABELS = 65536  # that a mask may tell apart
_PNG_COLOURS = {
    0: ("grey", 1),
    2: ("RGB", 3),
    3: ("palette", 1),
    4: ("grey and alpha", 2),
    6: ("RGBA", 4),
}
_TIFF_COLOURS = {0: "grey, white is 0", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "RGB"}
_TIFF_NUMBERS = {1: "uint", 2: "int", 3: "float"}
_LOSSLESS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)  # none, fax, LZW, ZIP, LZMA, ZSTD
_SUBFILE, _REDUCED_OR_MASK = 254, 0b101
_ORIENTATION = 274
_PAGES = 32  # an offset that leads back would never end


class Kind(NamedTuple):
    """What a file holds: bands, their numbers (``uint8``), their meaning, and if it is exact."""

    bands: int
    numbers: str
    colours: str
    exact: bool = True

    def __str__(self) -> str:
        bands = "1 band" if self.bands == 1 else f"{self.bands} bands"
        meaning = "" if self.bands > 1 and self.colours == "grey" else f" ({self.colours})"
        return f"{bands} of {self.numbers}{meaning}"


def kind_of(path: Path) -> Kind:
    """Look at the header of a PNG, JPEG or TIFF.

    Raises:
        InputError: It is none, or damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(26)
            if head.startswith(b"\x89PNG\r\n\x1a\n"):
                colours, bands = _PNG_COLOURS[head[25]]
                return Kind(bands, f"uint{head[24]}", colours)
            if head[:4] in (b"II*\0", b"MM\0*", b"II+\0"):
                return _tiff_kind(file, head)
        with Image.open(path, formats=("JPEG",)) as image:
            colours = "grey" if image.mode == "L" else image.mode
            return Kind(len(image.getbands()), "uint8", colours, exact=False)
    except Exception as error:  # on damaged files Pillow raises whatever its parsers raise
        raise _unreadable(path, error) from error


def is_turned(path: Path) -> bool:
    """Whether tags in the header ask viewers to turn or mirror an image; what is read is raw."""
    with contextlib.suppress(Exception), Image.open(path, formats=FORMATS) as image:
        # of a PNG without such a chunk, Pillow would decode all to look behind the pixels
        known = image.format != "PNG" or "exif" in image.info
        return known and image.getexif().get(_ORIENTATION, 1) != 1
    return False


def read_image(
    path: Path,
    bands: int | None = None,
    stretch: Sequence[tuple[float, float]] | None = None,
) -> np.ndarray:
    """Decode an image to (H, W, bands) uint8.

    Args:
        path: The file.
        bands: How many bands it must have; None for RGB, as its tags must say.
        stretch: One (low, high) per band, for other numbers than bytes; see `stretch_to_bytes`.

    Raises:
        InputError: The file cannot be read, or holds anything else.
    """
    kind = kind_of(path)
    plain = kind[:3] == (3, "uint8", "RGB")
    if bands is None and not plain:
        cure = "convert it by `ktda data import`, or name its bands in dataset.yaml"
        raise InputError(f"{path}: holds {kind}, expected 8-bit RGB; {cure}")
    if plain and bands in (None, 3):
        pixels = _decode(path)
    elif kind.bands != bands:
        raise InputError(f"{path}: holds {kind}, expected {bands} bands as in dataset.yaml")
    else:
        # (bands, H, W) -> (H, W, bands)
        pixels = np.moveaxis(read_raster(path, kind), 0, -1)
    if stretch is not None:
        return stretch_to_bytes(pixels, stretch, path)
    if pixels.dtype != np.uint8:
        cure = "give one [low, high] per band as stretch in dataset.yaml"
        raise InputError(f"{path}: holds {kind}, expected bytes; {cure}")
    return pixels


def stretch_to_bytes(
    pixels: np.ndarray, stretch: Sequence[tuple[float, float]], path: Path
) -> np.ndarray:
    """(H, W, C) of any real numbers to uint8: low to 0, high to 255, rounded, clipped outside.

    Raises:
        InputError: A pixel is not a finite number.
    """
    if not np.isfinite(pixels).all():
        cure = "`ktda data import` makes such pixels the ignored label"
        raise InputError(f"{path}: holds pixels that are no numbers; {cure}")
    low, high = np.array(stretch, np.float32).T  # (C,) each
    shares = (pixels.astype(np.float32) - low) / (high - low)
    return np.rint(shares.clip(0, 1) * 255).astype(np.uint8)


def read_mask(path: Path, value_map: dict[int, int] | None = None) -> np.ndarray:
    """Decode a mask of one label per pixel, grey or palette, to (H, W) int32.

    In palette mode the palette is for the eye, and the index is the label.

    Args:
        path: PNG or TIFF, compressed without loss.
        value_map: Value in the file to label; values that it does not list stay.

    Raises:
        InputError: The file cannot be read exactly, or holds anything but labels 0 to 65535.
    """
    kind = kind_of(path)
    if kind.colours not in ("grey", "palette") or kind.bands > 1 or "float" in kind.numbers:
        cure = "`ktda data import` decodes it" + (" by palette" if "RGB" in kind.colours else "")
        named = "mask is RGB" if kind[1:3] == ("uint8", "RGB") else f"mask holds {kind}"
        raise InputError(f"{path}: {named}, expected one class index per pixel; {cure}")
    if not kind.exact:
        raise InputError(f"{path}: is compressed with loss, which changes labels; save it as PNG")
    # Pillow spreads grey levels of few bits over 0 to 255: times 85 or 17, which is undone exactly.
    spread = {"uint2": 85, "uint4": 17}.get(kind.numbers, 1) if kind.colours == "grey" else 1
    mask = _decode(path).astype(np.int64) // spread
    low, high = mask.min(initial=0), mask.max(initial=0)
    if low < 0 or high >= LABELS:
        raise InputError(f"{path}: holds values from {low} to {high}; labels are 0 to {LABELS - 1}")
    table = np.arange(LABELS, dtype=np.int32)
    for value, label in (value_map or {}).items():
        table[value] = label
    return table[mask]


def _tiff_kind(file: BinaryIO, head: bytes) -> Kind:
    """By the tags of the first page; further ones may only be overviews and masks of it."""
    head = head[: 16 if head[2] == 43 else 8]  # 43: BigTIFF
    offset = ImageFileDirectory_v2(head).next
    pages: list[ImageFileDirectory_v2] = []
    while offset:
        page = ImageFileDirectory_v2(head)
        file.seek(offset)
        page.load(file)
        pages.append(page)
        if len(pages) > 1 and not page.get(_SUBFILE, 0) & _REDUCED_OR_MASK:
            raise ValueError("several pages; expected one")
        offset = page.next if len(pages) < _PAGES else 0
    first = pages[0]
    bits = sorted(set(first.get(258, (1,))))
    form = _TIFF_NUMBERS.get(first.get(339, (1,))[0], "other numbers of ")
    colours = _TIFF_COLOURS.get(first[262], "other colours")
    exact = first.get(259, 1) in _LOSSLESS
    return Kind(first.get(277, 1), f"{form}{'/'.join(map(str, bits))}", colours, exact)


def _decode(path: Path) -> np.ndarray:
    """Pixels by Pillow."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return np.array(image)
    except Exception as error:
        raise _unreadable(path, error) from error


@contextlib.contextmanager
def open_raster(path: Path, who: str, **settings: Any) -> Iterator[Any]:
    """A file as rasterio's data set, whether it has a place on Earth or not; settings are GDAL's.

    Raises:
        InputError: rasterio is not installed (`who` needs it), or GDAL cannot open the file.
    """
    try:
        import rasterio  # an extra
    except ImportError as error:
        raise InputError(f"{who} need rasterio: pip install 'ktda[scenes]'") from error
    with rasterio.Env(**settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            file = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path} is no raster that can be read ({reason})") from error
        with file:
            yield file


def read_raster(path: Path, kind: Kind, window: tuple | None = None) -> np.ndarray:
    """Pixels (bands, H, W), of ((top, bottom), (left, right)) or of the whole file."""
    with open_raster(path, f"{path}: {kind}") as file:
        try:
            return file.read(window=window)
        except Exception as error:  # on damaged files GDAL raises whatever its drivers raise
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"{path}: cannot be read as PNG, JPEG or TIFF ({reason})")
