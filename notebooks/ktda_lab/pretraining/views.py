"""Pairs of pictures of the same ground from the source worlds, and crops of them that know which places they show.

No label comes along: `render_views` hands out images only.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ktda_lab.worlds import render_views

FIRST_SCENE = 100_000  # the pool's scenes are none of those that `make_world` writes
_MARGIN = 3  # the second crop lies up to so many patches away from the first


@dataclass(frozen=True)
class ViewPool:
    """Rendered pairs: `first` and `second` (S, size, size, 3) uint8, the same ground twice."""

    first: np.ndarray
    second: np.ndarray


@dataclass(frozen=True)
class PairBatch:
    """Crops of both views.

    Attributes:
        first, second: (N, 3, crop, crop) in [0, 1].
        first_places, second_places: (N, L) int64, the patch of ground that each token shows, unique over the batch.
    """

    first: Tensor
    second: Tensor
    first_places: Tensor
    second_places: Tensor


def render_pool(names: Sequence[str], scenes: int, size: int = 192, seed: int = 0) -> ViewPool:
    """Render so many scenes of each source world twice.

    In grass both views have their own season, sun, haze and sensor. In cloud they are a moment apart: clouds and sun
    stay, so that clouds and their shadows are things that both views show.

    Args:
        names: ``demo_grass`` and/or ``demo_cloud``.
        scenes: of each.
        size: side in pixels.
        seed: of the source worlds.
    """
    jobs = [(name, index) for index in range(scenes) for name in names]
    render = partial(_render, size=size, seed=seed)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        first, second = zip(*pool.map(render, jobs), strict=True)
    return ViewPool(np.stack(first), np.stack(second))


def _render(job: tuple[str, int], size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    name, index = job
    return render_views(name, "source", seed, FIRST_SCENE + index, size, same_weather=name == "demo_cloud")


def draw_pairs(pool: ViewPool, count: int, crop: int, patch: int, rng: np.random.Generator) -> PairBatch:
    """Draw crops of both views that overlap, the second shifted by whole patches, flipped and rotated.

    The shift and the turn keep a network from recognising a place by where it stands in the crop.

    Args:
        pool: to draw scenes from.
        count: pairs N.
        crop: side of both crops in pixels, a multiple of `patch`.
        patch: side of a token in pixels.
        rng: of all draws.
    """
    scenes, size = pool.first.shape[:2]
    reach = min(_MARGIN, (size - crop) // (2 * patch)) * patch
    tokens, stride = crop // patch, -(-size // patch) + 1
    grid = np.arange(tokens)[:, None] * stride + np.arange(tokens)  # (h, w) of place numbers from a corner on
    images, places = ([], []), ([], [])
    for n, scene in enumerate(rng.integers(0, scenes, count)):
        corner = rng.integers(reach, size - crop - reach + 1, 2)
        shift = rng.integers(-reach // patch, reach // patch + 1, 2)
        turns = rng.integers(0, 8), rng.integers(0, 8)
        for view, (pictures, steps) in enumerate(((pool.first, (0, 0)), (pool.second, shift))):
            y, x = corner + np.multiply(steps, patch)
            number = (steps[0] + _MARGIN) * stride + steps[1] + _MARGIN  # of the crop's first patch; never below 0
            images[view].append(_turned(pictures[scene, y : y + crop, x : x + crop], turns[view]))
            places[view].append(_turned(grid + number, turns[view]).reshape(-1) + n * stride * (stride + 2 * _MARGIN))
    # (N, crop, crop, 3) bytes -> (N, 3, crop, crop) in [0, 1]
    first, second = (torch.from_numpy(np.stack(i)).permute(0, 3, 1, 2).float() / 255 for i in images)
    return PairBatch(first, second, *(torch.from_numpy(np.stack(p)) for p in places))


def _turned(array: np.ndarray, turn: int) -> np.ndarray:
    """One of the eight flips and rotations of the first two axes."""
    turned = np.rot90(array, turn % 4)
    return turned[:, ::-1] if turn >= 4 else turned
