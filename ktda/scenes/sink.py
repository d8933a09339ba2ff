"""The map on disk: rows as they come, then a cloud-optimised GeoTIFF with its source's place.

While it grows, a map is plain bytes in ``NAME.partial/`` with a count of the rows that are on the
disk. A call that was interrupted goes on there; the final name holds a whole map or nothing.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktda.errors import InputError
from ktda.files import content_hash, write_json
from ktda.scenes.blend import FILL, Strip

BLOCK = 512  # side of the blocks of the GeoTIFF
STATE = "state.json"
TAG = "KTDA_JOB"  # in a finished map: a hash of all that it depends on


class Sink:
    """The growing map of one scene.

    Args:
        out: final name, ``*.tif``.
        size: (H, W).
        job: what the map depends on, plain values; another job's rows are not taken over.
        confidence: keep the confidence too.

    Attributes:
        files: the map, and the confidence where it is kept.
        finished: whether they are there already, of the same job.
        rows: rows that are on the disk.
    """

    def __init__(
        self, out: Path, size: tuple[int, int], job: dict[str, Any], confidence: bool
    ) -> None:
        self.out = out
        self.size = size
        self.folder = out.with_name(out.name + ".partial")
        self.layers = ["classes", "confidence"] if confidence else ["classes"]
        self._job = job
        self.files = [out, *([out.with_name(f"{out.stem}.confidence.tif")] if confidence else [])]
        self.finished = all(map(self._is_finished, self.files))
        if self.finished:
            return
        self.rows = self._rows_of_same_job()
        if not self.rows:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        for layer in self.layers:
            path = self.path(layer)
            path.touch()
            os.truncate(path, self.rows * size[1])  # what came after the last count is not trusted

    def path(self, layer: str) -> Path:
        return self.folder / f"{layer}.raw"

    def _rows_of_same_job(self) -> int:
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            rows = state["rows"] if state["job"] == self._job else 0
            whole = all(self.path(x).stat().st_size >= rows * self.size[1] for x in self.layers)
            return rows if whole and 0 <= rows <= self.size[0] else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _is_finished(self, path: Path) -> bool:
        import rasterio

        try:
            with rasterio.open(path) as file:
                return file.tags().get(TAG) == content_hash(self._job)
        except rasterio.errors.RasterioError:
            return False

    def write(self, strip: Strip) -> None:
        """Append a strip; when this returns, it is on the disk and counted."""
        percent = np.rint(100 * strip.confidence.numpy()).astype(np.uint8)
        percent[strip.classes.numpy() == FILL] = FILL
        for layer in self.layers:
            with self.path(layer).open("ab") as file:
                file.write((strip.classes.numpy() if layer == "classes" else percent).tobytes())
                file.flush()
                os.fsync(file.fileno())
        self.rows = strip.row + len(strip.classes)
        write_json(self.folder / STATE, {"rows": self.rows, "job": self._job})

    def layer(self, name: str) -> NDArray:
        """A layer (H, W) uint8, read from the disk where it is used."""
        return np.memmap(self.path(name), np.uint8, "r", shape=self.size)

    def finish(
        self, place: dict[str, Any], classes: Sequence[str], palette: Sequence[Sequence[int]]
    ) -> None:
        """Write the GeoTIFFs under their final names and remove the partial folder.

        The place is ``crs`` and ``transform`` of the source.
        """
        if self.rows != self.size[0]:
            raise ValueError(f"{self.rows} of {self.size[0]} rows are there")
        colours = {i: (*colour, 255) for i, colour in enumerate(palette)} | {FILL: (0, 0, 0, 0)}
        tags = {f"CLASS_{i}": name for i, name in enumerate(classes)}
        tags[TAG] = content_hash(self._job)
        if "confidence" in self.layers:
            about = {"UNIT": "percent", TAG: tags[TAG]}
            self._write_cog("confidence", self.files[1], place, about, None)
        self._write_cog("classes", self.out, place, tags, colours)
        shutil.rmtree(self.folder)

    def _write_cog(
        self, layer: str, out: Path, place: dict, tags: dict[str, str], colours: dict | None
    ) -> None:
        import rasterio
        import rasterio.shutil
        from rasterio.windows import Window

        plain = self.folder / f"{layer}.tif"
        cog = self.folder / f"{layer}.cog.tif"
        height, width = self.size
        profile = {"driver": "GTiff", "height": height, "width": width, "count": 1}
        profile |= {"dtype": "uint8", "nodata": FILL, "bigtiff": "if_safer", **place}
        if min(self.size) >= BLOCK:
            profile |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
        values = self.layer(layer)
        with rasterio.open(plain, "w", **profile) as file:
            for top in range(0, height, BLOCK):
                rows = np.ascontiguousarray(values[top : top + BLOCK])
                file.write(rows, 1, window=Window(0, top, width, len(rows)))
            file.update_tags(**tags)
            if colours:
                file.write_colormap(1, colours)
        options = {"COMPRESS": "DEFLATE", "OVERVIEW_RESAMPLING": "NEAREST", "BIGTIFF": "IF_SAFER"}
        rasterio.shutil.copy(plain, cog, driver="COG", **options)
        with cog.open("rb+") as file:
            os.fsync(file.fileno())
        cog.replace(out)


def check_out(out: Path) -> None:
    """Refuse a map's folder that is a file."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder for the maps")
