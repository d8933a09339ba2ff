"""How much of a map is the tiling's own doing: class changes and errors at the borders of tiles."""

import time

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ktda.scenes.blend import blend, starts
from ktda.scenes.predict import predictor


def map_image(
    model: nn.Module, image: Tensor, num_classes: int, tile: int, overlap: float
) -> tuple[NDArray, NDArray, float]:
    """Map an image (3, H, W) in [0, 1] by tiles.

    Returns:
        Classes (H, W) uint8, confidence (H, W) in [0, 1], seconds.
    """

    def read(begin: int, end: int) -> tuple[Tensor, Tensor]:
        rows = image[:, begin:end]
        return rows, torch.ones(rows.shape[1:], dtype=torch.bool)

    begun = time.perf_counter()
    strips = list(blend(read, predictor(model, "cpu"), image.shape[1:], num_classes, tile, overlap))
    seconds = time.perf_counter() - begun
    parts = zip(*((strip.classes, strip.confidence) for strip in strips), strict=True)
    classes, confidence = (torch.cat(part).numpy() for part in parts)
    return classes, confidence, seconds


def borders(length: int, tile: int, overlap: float) -> NDArray:
    """Positions along a side where a tile begins or ends, the ends of the side left out."""
    first = np.array(starts(length, tile, overlap))
    both = np.union1d(first, first + tile)
    return both[(both > 0) & (both < length)]


def seam_ratio(classes: NDArray, tile: int, overlap: float) -> float:
    """How many times as often the class changes across a tile's border as between other neighbours; 1: no seam."""
    at_border, elsewhere = [], []
    for lines in (classes, classes.T):
        changes = (lines[1:] != lines[:-1]).mean(1)  # (H - 1,) at each step from row to row
        here = np.zeros(len(changes), bool)
        here[borders(len(lines), tile, overlap) - 1] = True
        at_border.append(changes[here].mean())
        elsewhere.append(changes[~here].mean())
    return float(np.sum(at_border) / np.sum(elsewhere))


def errors_by_distance(classes: NDArray, labels: NDArray, tile: int) -> pd.Series:
    """Share of wrong pixels by their distance, in pixels, to the nearest border of tiles laid side by side.

    Only distances that every tile has: a tile at the scene's own border reaches further from its neighbours.
    """
    sides = []
    for length in labels.shape:
        place = np.arange(length)
        edges = np.append(borders(length, tile, 0.0), [-(10**6), 10**6])  # a scene's own border is none
        right, left = edges - 1, edges
        sides.append(np.minimum(np.abs(place[:, None] - left), np.abs(place[:, None] - right)).min(1))
    distance = np.minimum(sides[0][:, None], sides[1][None])  # (H, W)
    frame = pd.DataFrame({"distance": distance.ravel(), "wrong": (classes != labels).ravel()})
    return frame[frame["distance"] < tile // 2].groupby("distance")["wrong"].mean()


def reliability(confidence: NDArray, right: NDArray, bins: int = 10) -> pd.DataFrame:
    """Mean confidence, share of right pixels and share of all pixels, in bins of the confidence."""
    edges = np.linspace(confidence.min(), 1, bins + 1)
    place = np.clip(np.digitize(confidence.ravel(), edges) - 1, 0, bins - 1)
    frame = pd.DataFrame({"bin": place, "confidence": confidence.ravel(), "right": right.ravel()})
    table = frame.groupby("bin").agg(confidence=("confidence", "mean"), right=("right", "mean"), n=("right", "size"))
    return table.assign(share=table.pop("n") / confidence.size)
