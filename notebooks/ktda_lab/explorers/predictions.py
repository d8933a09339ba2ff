"""Prediction explorer: a prediction slid over its image, and where two runs disagree."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from ktda.data.folder import TileSet
from ktda.errors import InputError
from ktda_lab.drawing import (
    BLUE,
    EDGE,
    ORANGE,
    RIGHT,
    WIDTH,
    WRONG,
    class_patches,
    colour_mask,
    rgb,
    styled,
    titled,
    unit,
)

AGREE, ONLY_FIRST, ONLY_SECOND, NEITHER = range(4)
_COLOURS = np.array([RIGHT, *(tuple(round(255 * v) for v in c) for c in (BLUE, ORANGE)), WRONG], dtype=np.uint8)


def swipe(image: NDArray, cover: NDArray, share: float) -> NDArray:
    """`cover` over the left `share` of the columns of `image`, and a black line where it ends.

    Args:
        image, cover: (H, W, 3) of the same type.
        share: in [0, 1]; 0 is the image alone, 1 the cover alone, both without a line.
    """
    edge = round(share * image.shape[1])
    made = np.concatenate((cover[:, :edge], image[:, edge:]), axis=1)
    if 0 < edge < image.shape[1]:
        made[:, edge - 1] = 0
    return made


def disagreement(first: Tensor, second: Tensor, mask: Tensor) -> NDArray:
    """Where two predictions differ, and which of them is right there.

    Args:
        first, second: predicted classes (H, W).
        mask: labels (H, W); on an unlabelled pixel neither is right.

    Returns:
        (H, W) of AGREE (right or wrong), ONLY_FIRST, ONLY_SECOND, NEITHER.
    """
    first, second, mask = (np.asarray(m) for m in (first, second, mask))
    codes = np.where(first == mask, ONLY_FIRST, np.where(second == mask, ONLY_SECOND, NEITHER))
    return np.where(first == second, AGREE, codes)


class PredictionExplorer:
    """Two runs on the same tiles.

    Args:
        images: RGB in [0, 1], (N, 3, H, W).
        masks: labels (N, H, W).
        predictions: of exactly two runs, predicted classes (N, H, W) by the run's name.
        tile_set: gives class names and colours.
        names: one per tile.

    Raises:
        InputError: not two runs.
    """

    def __init__(
        self,
        images: Tensor,
        masks: Tensor,
        predictions: Mapping[str, Tensor],
        tile_set: TileSet,
        names: Sequence[str] = (),
    ) -> None:
        if len(predictions) != 2:
            raise InputError(f"{len(predictions)} runs to compare; give the predictions of two")
        self.images, self.masks, self.tile_set, self.predictions = images, masks, tile_set, dict(predictions)
        self.names = [f"{i}: {name}" for i, name in enumerate(names or ["tile"] * len(images))]

    @styled
    def figure(self, tile: int, share: float = 0.5, title: str = "") -> Figure:
        """The two predictions over the left `share` of the image, the labels, and where the two disagree."""
        image, mask = (255 * rgb(self.images[tile])).round().astype(np.uint8), self.masks[tile]
        first, second = self.predictions
        codes = disagreement(*(self.predictions[run][tile] for run in (first, second)), mask)
        pictures = {
            run: swipe(image, colour_mask(p[tile], self.tile_set), share) for run, p in self.predictions.items()
        }
        pictures[f"labels of {self.names[tile]}"] = colour_mask(mask, self.tile_set)
        pictures[f"they disagree on {100 * (codes != AGREE).mean():.0f} %"] = _COLOURS[codes]
        h, w = mask.shape
        side, head, foot = (WIDTH - 0.2) / 4, 0.35 + 0.35 * bool(title), 0.75  # inches
        height = head + side * h / w + foot
        figure, panels = plt.subplots(1, 4, figsize=(WIDTH, height))
        figure.subplots_adjust(0.01, foot / height, 0.99, 1 - head / height, wspace=0.05)  # faster than a layout engine
        for axes, (name, picture) in zip(panels, pictures.items(), strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set(title=name, xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=EDGE, linewidth=0.5)
        meanings = ("both alike", f"only {first} is right", f"only {second} is right", "neither is right")
        marks = [Patch(facecolor=unit(c), edgecolor=EDGE, label=s) for c, s in zip(_COLOURS, meanings, strict=True)]
        for handles, place in ((class_patches(self.tile_set, [mask]), 0.38), (marks, 0.05)):
            at = (0.5, place / height)
            figure.legend(handles=handles, loc="lower center", bbox_to_anchor=at, ncols=len(handles), borderpad=0)
        return titled(figure, title)
