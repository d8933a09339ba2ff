"""Peak memory of a scene's map, from a GeoTIFF to a GeoTIFF: `ktda predict`'s way, and those that hold the scene."""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ktda.build import build, model_config
from ktda.scenes.predict import Options, predict_scene
from ktda_lab.benchmark.forms import CLASSES, Wish
from ktda_lab.benchmark.scenes import OVERLAP, PEERS_ON, TILE, described, peers
from ktda_lab.benchmark.steps import Found, in_new_process, peak_of, process_peak

SIDES = (1024, 2048, 4096, 8192)
OURS = "ktda predict"


def measure_scene_memory(
    wish: Wish,
    pace: float,
    seconds: float,
    tell: Callable[[str], None],
    keep: Callable[[Found], Any] = lambda found: None,
) -> Found:
    """Bytes at the peak of a process that maps one square scene of three bands, libraries included.

    A side is left out where that would take longer than `seconds`, told from `pace`, megapixels a second.

    Returns:
        By side: by way: ``bytes``, or ``failed`` with the reason; nothing where rasterio is not installed.
    """
    if not importlib.util.find_spec("rasterio"):
        tell("memory of a scene: needs rasterio (pip install 'ktda[scenes]')")
        return {}
    ways = [OURS, "plain loop", *(["MONAI"] if importlib.util.find_spec("monai") else [])]
    results: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            if side**2 / 1e6 / pace > seconds:
                tell(f"{side} px: memory left out, about {side**2 / 1e6 / pace:.0f} s")
                continue
            scene = _write_scene(Path(folder) / f"{side}.tif", side)
            found = results[str(side)] = {}
            for way in ways:
                found[way] = peak_of(f"{side} px, {way}", tell, in_new_process, scene_peak, way, scene, wish)
            keep(results)
    return results


def scene_peak(way: str, scene: Path, wish: Wish) -> int:
    """Bytes at the peak of this process after a way has mapped a scene."""
    import rasterio

    description = described(PEERS_ON, wish)
    model = build(description).eval().to(wish.device)
    if way == OURS:
        content = model_config(description, [f"class_{k}" for k in range(CLASSES)], [[0, 0, 0]] * CLASSES)
        options = Options(tile=TILE, overlap=OVERLAP)
        predict_scene(model, content, scene, scene.parent / "maps", options, wish.device)
        return process_peak()
    with rasterio.open(scene) as file:
        pixels = file.read()  # (3, H, W) uint8
        profile = file.profile
    image = torch.from_numpy(pixels).float() / 255
    classes = peers(model, wish)[way](image)  # (H, W)
    with rasterio.open(scene.with_name(f"{way}.tif"), "w", **profile | {"count": 1}) as out:
        out.write(classes.numpy().astype(np.uint8), 1)
    return process_peak()


def _write_scene(path: Path, side: int) -> Path:
    """A tiled GeoTIFF of random bytes."""
    import rasterio

    draw = np.random.default_rng(side)
    how = {"driver": "GTiff", "dtype": "uint8", "tiled": True, "blockxsize": 256, "blockysize": 256}
    place = {"crs": "EPSG:32631", "transform": rasterio.transform.from_origin(500_000, 5_000_000, 10, 10)}
    with rasterio.open(path, "w", width=side, height=side, count=3, **how, **place) as file:
        file.write(draw.integers(0, 256, (3, side, side), dtype=np.uint8))
    return path
