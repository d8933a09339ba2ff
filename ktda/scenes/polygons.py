"""A map as polygons in a GeoPackage: traced strip by strip, joined where an object crosses strips.

What reaches a strip's last row stays in memory until it ends; so memory grows with the objects that
are open there, and not with the height of the map.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktda.errors import InputError
from ktda.files import replacing
from ktda.scenes.blend import FILL

ROWS = 512  # of a strip
BATCH = 10_000  # polygons that are written together


def check_polygons() -> None:
    """Raise `InputError` unless what writes polygons is installed."""
    try:
        import pyogrio  # noqa: F401, an extra
        import shapely  # noqa: F401
    except ImportError as error:
        cure = "pip install 'ktda[scenes]'"
        raise InputError(f"--polygons needs pyogrio and shapely: {cure}") from error


def write_polygons(map_path: Path, out: Path, classes: Sequence[str], rows: int = ROWS) -> int:
    """Write the polygons of a finished map and return how many there are.

    Pixels of one class that share an edge are one polygon. Its fields: ``class`` (index), ``name``,
    and ``area`` in squares of the reference system's unit (of pixels, without one).

    Args:
        map_path: GeoTIFF of classes, `FILL` where there are none.
        out: the GeoPackage; its layer is called ``classes``.
        classes: names by index.
        rows: height of a strip, of which memory depends.
    """
    import rasterio
    import shapely

    count = 0
    with rasterio.open(map_path) as file, replacing(out) as partial:
        a, b, c, d, e, f = file.transform[:6]
        columns = np.array([[a, d], [b, e]])
        for found, labels in _traced(file, rows):
            for begin in range(0, len(found), BATCH):
                some = shapely.transform(
                    found[begin : begin + BATCH], lambda xy: xy @ columns + (c, f)
                )
                _append(partial, some, labels[begin : begin + BATCH], classes, file.crs, count)
                count += len(some)
        if not count:
            _append(partial, np.array([], object), np.array([], np.uint8), classes, file.crs, 0)
    return count


def _traced(file: Any, rows: int) -> Iterator[tuple[NDArray, NDArray]]:
    """Whole polygons in pixels, and their classes, as soon as nothing below can touch them."""
    import shapely
    from rasterio.features import shapes
    from rasterio.transform import Affine
    from rasterio.windows import Window

    height, width = file.height, file.width
    opened, kinds = np.array([], object), np.array([], np.uint8)  # of the strip above
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        values = file.read(1, window=Window(0, top, width, bottom - top))
        traced = shapes(values, values != FILL, 4, Affine.translation(0, top))
        traced = [(shapely.geometry.shape(outline), label) for outline, label in traced]
        found = np.array([polygon for polygon, _ in traced], object)
        labels = np.array([label for _, label in traced], np.uint8)
        from_above = (shapely.bounds(found)[:, 1] == top) & (top > 0)
        done, done_labels = [found[~from_above]], [labels[~from_above]]
        for kind in np.unique(np.concatenate((kinds, labels[from_above]))):
            pieces = found[from_above & (labels == kind)]
            pieces = np.concatenate((opened[kinds == kind], pieces))
            parts = shapely.get_parts(shapely.union_all(pieces))
            done.append(shapely.simplify(parts, 0))  # without the points where strips met
            done_labels.append(np.full(len(parts), kind, np.uint8))
        found, labels = np.concatenate(done), np.concatenate(done_labels)
        goes_on = (shapely.bounds(found)[:, 3] == bottom) & (bottom < height)
        opened, kinds = found[goes_on], labels[goes_on]
        yield found[~goes_on], labels[~goes_on]


def _append(
    path: Path, found: NDArray, labels: NDArray, classes: Sequence[str], crs: Any, before: int
) -> None:
    import shapely
    from pyogrio.raw import write

    fields = {
        "class": labels.astype(np.int32),
        "name": np.array([classes[label] for label in labels], object),
        "area": shapely.area(found),
    }
    about = {"layer": "classes", "driver": "GPKG", "geometry_type": "Polygon"}
    about["crs"] = crs.to_wkt() if crs else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name without .gpkg, of a map without a place
        values = list(fields.values())
        write(path, shapely.to_wkb(found), values, list(fields), append=before > 0, **about)
