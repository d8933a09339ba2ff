"""A scene to map: a real one where it is on this machine, else a simulated one; pictures of what came out."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image

from ktda.files import project_root

LANDSAT = "LC08_224078_20200518_RGB.tif"


class SceneFile(NamedTuple):
    """A raster and how it is read; see `ktda.scenes.predict.Options`."""

    path: Path
    bands: list[int] | None  # red, green, blue
    stretch: str
    real: bool


def find_scene(shared: Path | str | None = None) -> SceneFile | None:
    """The real Landsat scene, bands as blue, green, red, or None where it is not on this machine.

    Args:
        shared: folder that holds ``data/scenes``; by default ``$KTDA_SHARED``, or ``shared`` beside the checkout.
    """
    folder = Path(shared or os.environ.get("KTDA_SHARED") or project_root().parent / "shared").expanduser().absolute()
    path = folder / "data" / "scenes" / LANDSAT
    return SceneFile(path, [3, 2, 1], "percentile", True) if path.is_file() else None


def write_scene(image: NDArray, path: Path) -> SceneFile:
    """Write an image (H, W, 3) uint8 as a scene without a place on Earth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return SceneFile(path, None, "fixed", False)


def read_overview(path: Path, bands: list[int] | None = None, side: int = 800) -> NDArray:
    """A raster thinned out to at most `side` pixels a side: (bands, h, w), as stored."""
    with rasterio.open(path) as file:
        scale = max(1.0, max(file.height, file.width) / side)
        shape = round(file.height / scale), round(file.width / scale)
        bands = bands or list(range(1, min(3, file.count) + 1))
        return file.read(bands, out_shape=(len(bands), *shape))


def picture(scene: SceneFile, side: int = 800) -> NDArray:
    """A scene as a picture (h, w, 3) in [0, 1], stretched to percentiles 2 and 98 of its data where it is no bytes."""
    values = read_overview(scene.path, scene.bands, side).astype(np.float64)
    low, high = np.zeros((3, 1)), np.full((3, 1), 255.0)
    if scene.stretch != "fixed":
        data = (values != 0).any(0)
        low, high = np.percentile(values[:, data], (2, 98), axis=1)[..., None]
    shares = (values - low[..., None]) / (high - low)[..., None]
    return np.moveaxis(shares.clip(0, 1), 0, -1)
