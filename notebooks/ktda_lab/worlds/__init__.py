"""Simulated worlds for a machine without data: `demo_grass` and `demo_cloud`, each as source and as target.

Everything follows from (name, world, seed, scene index). Source and target never share a ground: their
terrain seeds come from two halves of the number range.
"""

import dataclasses
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from ktda.errors import InputError
from ktda_lab.worlds import clouds, grass
from ktda_lab.worlds.conditions import Conditions, draw_conditions
from ktda_lab.worlds.fields import rng_of

NAMES = {"demo_grass": grass, "demo_cloud": clouds}
WORLDS = ("source", "target")
GRID = 3  # a scene is GRID x GRID tiles
FIRST_SCENE = {"train": 0, "val": 10_000, "test": 20_000}


@dataclass(frozen=True)
class Scene:
    """One rendered scene.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8, index into the world's classes.
        conditions: season, sun, haze and sensor of the scene.
    """

    image: np.ndarray
    mask: np.ndarray
    conditions: Conditions


def terrain_seed(name: str, world: str, seed: int, scene_index: int) -> int:
    """The seed of a scene's ground: below 2**62 in the source world, from 2**62 to 2**63 in the target."""
    _check(name, world)
    digest = hashlib.sha256(f"{name}/{world}/{seed}/{scene_index}".encode()).digest()
    return (int.from_bytes(digest[:8], "little") >> 2) + (2**62 if world == "target" else 0)


def render_scene(name: str, world: str, seed: int, scene_index: int, size_px: int) -> Scene:
    """Render one square scene in memory.

    Args:
        name: ``demo_grass`` or ``demo_cloud``.
        world: ``source`` or ``target``.
        seed: of the world.
        scene_index: 0, 1, ... without end; `make_world` takes its training scenes from 0, its validation
            scenes from 10000 and its test scenes from 20000 on.
        size_px: side in pixels.

    Raises:
        InputError: for an unknown name or world.
    """
    return _render(name, world, terrain_seed(name, world, seed, scene_index), size_px)


def render_views(
    name: str, world: str, seed: int, scene_index: int, size_px: int, same_weather: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Render the same ground twice, under other season, sun, haze and sensor. No labels come with it.

    Args:
        name: ``demo_grass`` or ``demo_cloud``.
        world: ``source`` or ``target``.
        seed: of the world.
        scene_index: as in `render_scene`; the first view is the image of that scene.
        size_px: side in pixels.
        same_weather: both views are a moment apart: the same clouds and the same sun, so the same shadows. Otherwise
            each has its own (two dates).

    Returns:
        Two images (size_px, size_px, 3) uint8.
    """
    ground = terrain_seed(name, world, seed, scene_index)
    first = _render(name, world, ground, size_px)
    second = _render(name, world, ground, size_px, view=1, weather=0 if same_weather else 1)
    return first.image, second.image


def _render(name: str, world: str, ground: int, size: int, view: int = 0, weather: int = 0) -> Scene:
    conditions = draw_conditions(rng_of(ground, "conditions", view), world)
    if weather == 0 and view:  # a moment later the sun has not moved
        before = draw_conditions(rng_of(ground, "conditions", 0), world)
        sun = {"sun_elevation": before.sun_elevation, "sun_azimuth": before.sun_azimuth}
        conditions = dataclasses.replace(conditions, **sun)
    draws = rng_of(ground, "terrain"), rng_of(ground, "weather", weather), rng_of(ground, "sensor", view)
    return Scene(*NAMES[name].render(*draws, conditions, size), conditions)


def make_world(
    name: str,
    out: str | Path,
    world: str = "target",
    tiles: int = 96,
    size: int = 128,
    seed: int = 0,
    val: int | None = None,
    test: int | None = None,
) -> Path:
    """Write a simulated data set in the authors' layout.

    `tiles` training tiles; half as many for validation and as many for test, if not told otherwise. Every split has
    scenes of its own; a scene is cut into 3 x 3 tiles. The files of a split, sorted, go round its scenes, so that
    the first n tiles come from as many scenes as there are; the stem carries the scene: ``00007_s00002_r1_c0``.

    Args:
        name: ``demo_grass`` or ``demo_cloud``.
        out: root to write; must not exist or be empty.
        world: ``target`` or ``source``.
        tiles: number of training tiles, at least 2.
        size: side of a tile in pixels, 32 to 512; what the pixels show stays as large.
        seed: of the world.
        val, test: number of validation and of test tiles.

    Returns:
        The root, with ``img_dir/{train,val,test}``, ``ann_dir/{train,val,test}`` and ``dataset.yaml``.

    Raises:
        InputError: for an unknown name or world, a bad size or number, or a root that holds something.
    """
    _check(name, world)
    if tiles < 2:
        raise InputError(f"got tiles={tiles}, expected at least 2")
    if not 32 <= size <= 512:
        raise InputError(f"got size={size}, expected a tile side of 32 to 512 pixels")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty: choose another --out or remove it")
    jobs = []
    beside = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        counts = {
            "train": tiles,
            "val": round(tiles / 2) if val is None else val,
            "test": tiles if test is None else test,
        }
        for split, count in counts.items():
            for folder in ("img_dir", "ann_dir"):
                (beside / folder / split).mkdir(parents=True)
            scenes = -(-count // GRID**2)
            for scene in range(scenes):
                ordinals = range(scene, count, scenes)
                jobs.append((name, world, seed, FIRST_SCENE[split] + scene, size, split, ordinals, beside))
        # Once a large array was freed, glibc keeps the memory of smaller ones instead of asking for fresh pages.
        np.empty(30 * 2**20, np.uint8)
        # Threads are enough: numpy and the png encoder let go of the interpreter while they work.
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            for _ in pool.map(_write_scene, jobs):
                pass
        spec = {
            "classes": list(NAMES[name].CLASSES),
            "palette": [list(colour) for colour in NAMES[name].PALETTE],
            "ignore_index": 255,
            "scene": r"_(s\d+)_",
        }
        (beside / "dataset.yaml").write_text(yaml.safe_dump(spec, sort_keys=False, default_flow_style=None))
        if out.exists():
            out.rmdir()
        beside.replace(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def _write_scene(job: tuple) -> None:
    """Render one scene and write the tiles that a split takes of it."""
    name, world, seed, index, size, split, ordinals, root = job
    scene = render_scene(name, world, seed, index, GRID * size)
    places = rng_of(terrain_seed(name, world, seed, index), "places").permutation(GRID**2)
    colours = [value for colour in NAMES[name].PALETTE for value in colour]
    for ordinal, place in zip(ordinals, places, strict=False):
        row, column = divmod(int(place), GRID)
        window = slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)
        stem = f"{ordinal:05d}_s{index:05d}_r{row}_c{column}"
        Image.fromarray(scene.image[window]).save(root / "img_dir" / split / f"{stem}.png", compress_level=1)
        mask = Image.fromarray(scene.mask[window])
        mask.putpalette(colours)
        mask.save(root / "ann_dir" / split / f"{stem}.png")


def _check(name: str, world: str) -> None:
    if name not in NAMES:
        raise InputError(f"unknown simulated world {name!r}: expected one of {', '.join(NAMES)}")
    if world not in WORLDS:
        raise InputError(f"got world={world!r}, expected source or target")
