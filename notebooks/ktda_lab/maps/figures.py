"""Figures of notebook 07; every function returns a matplotlib `Figure`."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from ktda.scenes.blend import FILL, gaussian, starts
from ktda_lab.drawing import BLUE, EDGE, SERIES, WIDTH, styled, titled, unit


def colour_map(classes: NDArray, palette: Sequence[Sequence[int]]) -> NDArray:
    """Classes (H, W) with `FILL` -> (H, W, 3) uint8; fill is white."""
    table = np.full((FILL + 1, 3), 255, np.uint8)
    table[: len(palette)] = palette
    return table[classes]


def _bare(axes: plt.Axes, title: str) -> None:
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set(visible=True, color=EDGE, linewidth=0.5)


@styled
def tile_weights(length: int, tile: int, overlap: float, title: str = "") -> Figure:
    """Along a side: the weights of each tile, and each tile's share of the decision at a pixel; right, one tile."""
    layout = {"layout": "constrained", "width_ratios": (1.6, 1.6, 1)}
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(WIDTH, 3.2), **layout)
    line = gaussian(1, tile)[0].numpy()
    weights = np.zeros((0, length))
    for first in starts(length, tile, overlap):
        row = np.zeros((1, length))
        row[0, first : first + tile] = line
        weights = np.concatenate((weights, row))
    for index, (weight, share) in enumerate(zip(weights, weights / weights.sum(0), strict=True)):
        colour = SERIES[index % len(SERIES)]
        left.plot(np.where(weight > 0, weight, np.nan), color=colour)
        middle.plot(np.where(weight > 0, 100 * share, np.nan), color=colour)
    left.set(title="weights of the tiles", xlabel="pixel along the side", ylabel="weight")
    middle.set(title="share of each tile in the decision", xlabel="pixel along the side", ylabel="%")
    image = right.imshow(gaussian(tile, tile), cmap="cividis", vmin=0, vmax=1)
    _bare(right, f"one tile, {tile} px")
    figure.colorbar(image, ax=right, label="weight", shrink=0.8)
    return titled(figure, title)


@styled
def seam_closeup(
    pictures: Mapping[str, NDArray], tile: int, classes: Sequence[str], palette: Sequence, title: str = ""
) -> Figure:
    """Pictures (h, w, 3) side by side, cut so that tiles side by side would begin at multiples of `tile`.

    Dashes mark those borders.
    """
    count = len(pictures)
    figure, panels = plt.subplots(1, count, figsize=(WIDTH, WIDTH / count + 0.7), layout="compressed")
    for axes, (name, shown) in zip(panels, pictures.items(), strict=True):
        axes.imshow(shown, interpolation="nearest")
        for border in range(tile, len(shown), tile):
            for draw in (axes.axhline, axes.axvline):
                draw(border - 0.5, color="white", linewidth=0.8, linestyle=(0, (4, 4)))
                draw(border - 0.5, color="black", linewidth=0.8, linestyle=(4, (4, 4)))
        _bare(axes, name)
    patches = [Patch(facecolor=unit(c), edgecolor=EDGE, label=n) for n, c in zip(classes, palette, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)))
    return titled(figure, title)


@styled
def border_errors(curves: Mapping[str, pd.Series], title: str = "") -> Figure:
    """Share of wrong pixels over the distance to the nearest border of tiles side by side, a line per map."""
    figure, axes = plt.subplots(figsize=(0.65 * WIDTH, 3.4), layout="constrained")
    for (name, curve), colour in zip(curves.items(), SERIES, strict=False):
        axes.plot(curve.index, 100 * curve, color=colour, marker="o", markersize=3, label=name)
    axes.set(xlabel="distance to the nearest border (px)", ylabel="wrong pixels (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    return titled(figure, title)


@styled
def scene_and_map(
    scene: NDArray,
    classes: NDArray,
    confidence: NDArray,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    title: str = "",
    tile: float = 0,
) -> Figure:
    """A scene (h, w, 3), its map of classes (h, w) and the confidence (h, w) in percent; both `FILL` without data.

    `tile` is the side of a tile in pixels of these pictures: one is drawn in the middle of the scene.
    """
    figure, panels = plt.subplots(1, 3, figsize=(WIDTH, WIDTH / 3 + 0.1), layout="compressed")
    panels[0].imshow(scene)
    if tile:
        middle = (scene.shape[1] - tile) / 2, (scene.shape[0] - tile) / 2
        panels[0].add_patch(Rectangle(middle, tile, tile, facecolor="none", edgecolor="white", linewidth=1.5))
    panels[1].imshow(colour_map(classes, palette), interpolation="nearest")
    shown = np.ma.masked_equal(confidence, FILL)
    image = panels[2].imshow(shown, cmap="cividis", vmin=100 / len(names), vmax=100)
    for axes, name in zip(panels, ("scene", "map", "confidence"), strict=True):
        _bare(axes, name)
    patches = [Patch(facecolor=unit(c), edgecolor=EDGE, label=n) for n, c in zip(names, palette, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)))
    figure.colorbar(image, ax=panels, label="%", shrink=0.75)
    return titled(figure, title)


@styled
def confidence_and_truth(table: pd.DataFrame, title: str = "") -> Figure:
    """What the model thinks of itself against what is right: `ktda_lab.maps.seams.reliability`."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(0.8 * WIDTH, 3.4), layout="constrained")
    left.plot([0, 100], [0, 100], color="0.35", linestyle="--", linewidth=1.2, label="as right as it thinks")
    left.plot(100 * table["confidence"], 100 * table["right"], marker="o", markersize=5, color=BLUE, label="the map")
    low = 100 * min(table["confidence"].min(), table["right"].min()) - 3
    left.set(xlabel="confidence (%)", ylabel="right pixels (%)", xlim=(low, 102), ylim=(low, 102))
    left.grid(alpha=0.3)
    left.legend()
    width = 80 * float(np.diff(table["confidence"]).min()) if len(table) > 1 else 5
    right.bar(100 * table["confidence"], 100 * table["share"], width=width, color=BLUE, edgecolor=EDGE)
    right.set(xlabel="confidence (%)", ylabel="of all pixels (%)", xlim=(low, 102))
    return titled(figure, title)
