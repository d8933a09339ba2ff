"""A raster of any size, row by row: chosen bands, stretched to [0, 1], and where it holds data."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktda.data.pixels import open_raster
from ktda.errors import InputError

STRETCHES = ("fixed", "percentile", "per-tile")
PERCENTILES = (2, 98)
SAMPLE = 1024  # side of the decimated image that percentiles are taken from
GRID = 512  # side of the cells of "per-tile", whatever the tiles of the prediction are
CACHE_BYTES = 64 * 2**20  # of GDAL's own cache, which would take 5 % of the machine's memory


class Source:
    """An open raster.

    Args:
        path: the file.
        file: rasterio's data set.
        bands: the bands to read, counted from 1; None takes the first `count`.
        count: bands that the model takes.
        nodata: value of fill; "none" takes everything for data; None goes by the file's own nodata,
            mask or transparency, and without any by pixels that are 0 in every band that is read.
        stretch: one of `STRETCHES`.
        limits: (low, high) per band, the values that become 0 and 1, for "fixed".

    Attributes:
        notes: what had to be assumed of the file, a sentence each.
    """

    def __init__(
        self,
        path: Path,
        file: Any,
        bands: list[int] | None,
        count: int,
        nodata: float | str | None,
        stretch: str,
        limits: NDArray | None,
    ) -> None:
        self.path = path
        self.file = file
        self.size: tuple[int, int] = (file.height, file.width)
        self.bands = self._check_bands(bands, count)
        self.nodata = nodata
        self.stretch = stretch
        self.notes: list[str] = []
        self._by_zero = nodata is None and not self._says_where()
        if self._by_zero:
            assumed = "pixels that are 0 in every band are taken for it"
            self.notes.append(f"{path.name} names no fill: {assumed}")
        self._cells: dict[int, NDArray] = {}
        self._limits = limits if stretch == "fixed" else None
        if stretch == "percentile":
            self._limits = self._percentiles()

    def _check_bands(self, bands: list[int] | None, count: int) -> list[int]:
        present = self.file.count
        alpha = present > 1 and self.file.colorinterp[-1].name == "alpha"
        colours = present - alpha
        if bands is None:
            if colours != count:
                found = f"{self.path} has {colours} bands, the model takes {count}"
                raise InputError(f"{found}; choose with --bands")
            bands = list(range(1, count + 1))
        if len(bands) != count or not all(1 <= band <= present for band in bands):
            named = ",".join(map(str, bands))
            has = f"the model takes {count}, and {self.path} has 1 to {colours}"
            raise InputError(f"--bands {named}: {has}")
        kind = self.file.dtypes[bands[0] - 1]
        if "complex" in kind or self.file.colorinterp[bands[0] - 1].name == "palette":
            raise InputError(f"{self.path} is no image of plain values; convert it first")
        return bands

    def _says_where(self) -> bool:
        """Whether the file itself tells fill from data."""
        flags = [flag.name for band in self.bands for flag in self.file.mask_flag_enums[band - 1]]
        return any(flag != "all_valid" for flag in flags)

    def _raw(self, begin: int, end: int) -> tuple[NDArray, NDArray]:
        """Rows [begin, end): values (C, rows, W) as stored, and where they are data, (rows, W)."""
        window = ((begin, end), (0, self.size[1]))
        try:
            values = self.file.read(self.bands, window=window)
            return values, self._data(values, window=window)
        except Exception as error:  # on damaged files GDAL raises whatever its drivers raise
            reason = " ".join(str(error).split())
            place = f"{self.path} cannot be read from row {begin} on"
            raise InputError(f"{place} ({reason})") from error

    def _data(self, values: NDArray, **where: Any) -> NDArray:
        if self._by_zero:
            data = (values != 0).any(0)
        elif self.nodata is None:
            data = self.file.read_masks(self.bands, **where).any(0)
        elif self.nodata == "none":
            data = np.ones(values.shape[1:], bool)
        else:
            data = (values != self.nodata).any(0)
        if values.dtype.kind == "f":
            data &= np.isfinite(values).all(0)
        return data

    def _percentiles(self) -> NDArray:
        """(C, 2) percentiles of the data, from rows and columns thinned out to `SAMPLE`."""
        height, width = (min(side, SAMPLE) for side in self.size)
        shape = (len(self.bands), height, width)
        values = self.file.read(self.bands, out_shape=shape)  # nearest neighbours
        data = self._data(values, out_shape=shape)
        if not data.any():
            return np.tile([0.0, 1.0], (len(self.bands), 1))
        return np.percentile(values[:, data].astype(np.float64), PERCENTILES, axis=1).T

    def _cell_limits(self, row: int) -> NDArray:
        """(2, W) lowest and highest value of all bands in the cells of one row of the grid."""
        if row not in self._cells:
            values, data = self._raw(row * GRID, min((row + 1) * GRID, self.size[0]))
            limits = np.tile(np.array([[0.0], [1.0]]), self.size[1])
            for left in range(0, self.size[1], GRID):
                cell = values[:, :, left : left + GRID][:, data[:, left : left + GRID]]
                if cell.size:
                    limits[:, left : left + GRID] = [[cell.min()], [cell.max()]]
            self._cells = {k: v for k, v in self._cells.items() if k >= row - 2} | {row: limits}
        return self._cells[row]

    def read(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Rows ``[begin, end)``.

        Returns:
            Values (C, rows, W) in [0, 1], in 256 steps as in training, 0 at fill; and where they
            are data, (rows, W) bool.
        """
        values, data = self._raw(begin, end)
        if self._limits is not None:
            low, high = self._limits.T[:, :, None, None]  # (C, 1, 1) each
        else:
            rows = np.arange(begin, end) // GRID
            cells = np.stack([self._cell_limits(row) for row in range(rows[0], rows[-1] + 1)])
            low, high = cells[rows - rows[0]].transpose(1, 0, 2)[:, None]  # (1, rows, W) each
        span = np.maximum(high - low, np.finfo(np.float32).tiny)
        scaled = values - low
        scaled /= span  # in place: these are the largest arrays of a prediction
        np.copyto(scaled, 0, where=~data)
        np.clip(scaled, 0, 1, out=scaled)
        scaled *= 255
        np.rint(scaled, out=scaled)
        scaled /= 255
        return torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(data)


@contextlib.contextmanager
def open_source(
    path: Path,
    bands: list[int] | None,
    count: int,
    nodata: float | str | None = None,
    stretch: str | None = None,
    limits: NDArray | None = None,
) -> Iterator[Source]:
    """Open a raster for prediction; arguments as of `Source`.

    Without a stretch it is ``fixed``, but ``percentile`` where neither training nor bytes say what
    is dark and what is bright; a note tells so.

    Raises:
        InputError: rasterio is missing, the file is none that GDAL reads, or it does not fit.
    """
    with open_raster(path, "maps", GDAL_CACHEMAX=CACHE_BYTES) as file:
        unknown = limits is None and file.dtypes[0] != "uint8"
        found = f"{path.name} holds {file.dtypes[0]}, and the training recorded no stretch"
        if stretch == "fixed" and unknown:
            raise InputError(f"{found}; choose --stretch percentile or per-tile")
        if limits is None:
            limits = np.tile([0.0, 255.0], (count, 1))
        kind = stretch or ("percentile" if unknown else "fixed")
        source = Source(path, file, bands, count, nodata, kind, limits)
        if stretch is None and unknown:
            source.notes.append(
                f"{found}: percentiles 2 and 98 of the scene become dark and bright"
            )
        yield source
