"""An open image or mask, read in windows by GDAL, which goes by the file's own tags.

Pillow would drop bands beyond four, cut 16-bit colours to 8, and stretch grey levels of 2 and 4 bits.
"""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ktda.errors import InputError


class Unfit(InputError):
    """A pair that is left out: it cannot be read exactly."""


class Window(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Raster:
    """What an open file says of itself.

    Attributes:
        bands: number of bands, without a last one that is transparency.
        colours: (256, 3) uint8, the colour of each index of a palette, or None.
        lossy: whether the compression changes values.
        place: reference system and transform, or None.
        reduce: so many pixels a side are read as one: their mean, or the middle one's.
        mean: which of the two.
    """

    path: Path
    file: Any
    bands: int
    colours: np.ndarray | None
    lossy: bool
    place: tuple | None
    reduce: int
    mean: bool

    @property
    def size(self) -> tuple[int, int]:
        return self.file.height // self.reduce, self.file.width // self.reduce

    @property
    def dtype(self) -> str:
        return self.file.dtypes[0]

    def read(self, window: Window, bands: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Bands (counted from 1) of a window as (B, H, W), and (H, W) how opaque it is there, 0 for empty."""
        from rasterio.enums import Resampling  # an extra

        top, left, height, width = (self.reduce * number for number in window)
        part = ((top, top + height), (left, left + width))
        shape = window[2:]
        how = Resampling.average if self.mean else Resampling.nearest
        try:
            pixels = self.file.read(bands, window=part, out_shape=(len(bands), *shape), resampling=how)
            return pixels, self.file.dataset_mask(window=part, out_shape=shape)
        except Exception as error:  # on damaged files GDAL raises whatever its drivers raise
            raise _unreadable(self.path, error) from error


def _unreadable(path: Path, error: Exception) -> Unfit:
    reason = " ".join(str(error.__cause__ or error).split())
    return Unfit(f"{path} cannot be read ({reason}); mend it, or take it out")


def check_whole(path: Path) -> None:
    """Raise Unfit for a PNG or JPEG that breaks off, whose missing rows GDAL would make up."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        return
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                image.draft("RGB", (1, 1))  # read to its end, decoded as small as can be
                image.load()
            else:
                image.verify()
    except Exception as error:  # on damaged files Pillow raises whatever its parsers raise
        raise _unreadable(path, error) from error


@contextlib.contextmanager
def open_raster(path: Path, reduce: int = 1, mean: bool = False) -> Iterator[Raster]:
    """Open a file for reading.

    Args:
        path: of the file.
        reduce, mean: see `Raster`; indices of a palette have no mean.

    Raises:
        Unfit: damaged, or of complex numbers or several types.
        InputError: rasterio is not installed.
    """
    try:
        import rasterio  # an extra
    except ImportError as error:
        raise InputError("importing needs rasterio: pip install 'ktda[scenes]'") from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            file = stack.enter_context(rasterio.open(path))
            kinds = [kind.name for kind in file.colorinterp]
            table = file.colormap(1) if kinds[0] == "palette" else None
        except Exception as error:
            raise _unreadable(path, error) from error
        if len(set(file.dtypes)) > 1 or "complex" in file.dtypes[0]:
            raise Unfit(f"{path} has bands of {', '.join(file.dtypes)}, expected one real type")
        bands = file.count - (file.count > 1 and kinds[-1] == "alpha")
        colours = table and np.array([table.get(i, (0, 0, 0))[:3] for i in range(256)], np.uint8)
        lossy = "JPEG" in (file.driver, str(file.profile.get("compress")).upper())
        place = (file.crs, *file.transform) if file.crs else None
        yield Raster(path, file, bands, colours, lossy, place, reduce, mean and colours is None)
