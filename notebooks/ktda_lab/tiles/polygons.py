"""From drawn polygons to a mask of levels, by the rules behind the paper's grass set.

Polygons are painted one after the other, so that the later one wins where two overlap; what nobody drew is level 0,
"low"; and ground that was drawn as "barren" is level 0 too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ktda.errors import InputError

GRASS_LEVELS = {"barren": 0, "low": 0, "middle-low": 1, "middle": 2, "middle-high": 3, "high": 4}


class Polygon(NamedTuple):
    """A drawn outline: its label, and its corners (x, y) in pixels, x to the right and y down."""

    label: str
    points: Sequence[tuple[float, float]]


def rasterise(
    polygons: Sequence[Polygon],
    size: tuple[int, int],
    order: Sequence[int] | None = None,
    background: int = 0,
    levels: Mapping[str, int] = GRASS_LEVELS,
) -> np.ndarray:
    """Paint polygons into a mask.

    Args:
        polygons: Outlines; parts outside the mask are cut off. Pixels on an outline belong to it.
        size: Height and width of the mask in pixels.
        order: Position in `polygons` of the one painted first, second, ...; as they stand by default.
        background: Value of what no polygon covers: 0 as released, or the ignored label, 255.
        levels: Mask value of each label; labels with the same value are merged.

    Returns:
        (H, W) uint8.

    Raises:
        InputError: An empty mask, an order that is not a permutation, a value outside 0 to 255, an unknown label, or
            fewer than three corners.
    """
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"mask of {height} × {width} pixels; height and width must be at least 1")
    order = range(len(polygons)) if order is None else order
    if sorted(order) != list(range(len(polygons))):
        raise InputError(f"order {list(order)}; name each of the positions 0 to {len(polygons) - 1} once")
    for value in (background, *levels.values()):
        if not 0 <= value <= 255:
            raise InputError(f"mask value {value}; give one from 0 to 255")
    for i, (label, points) in enumerate(polygons):
        if label not in levels:
            raise InputError(f"polygon {i}: label {label!r} has no level; known are {', '.join(levels)}")
        if len(points) < 3 or not all(len(p) == 2 and math.isfinite(p[0]) and math.isfinite(p[1]) for p in points):
            raise InputError(f"polygon {i} ({label}): give at least three corners (x, y), all finite")
    mask = Image.new("L", (width, height), background)
    draw = ImageDraw.Draw(mask)
    for i in order:
        draw.polygon([tuple(point) for point in polygons[i].points], fill=levels[polygons[i].label])
    return np.array(mask)
