"""What the teacher makes of a tile: its patches and padding, and an explorer of any pixel's patch."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LinearLocator
from numpy.typing import NDArray
from torch import Tensor

from ktda.errors import InputError
from ktda.teacher import Teacher
from ktda_lab.drawing import EDGE, WIDTH, pca_rgb, rgb, styled, titled
from ktda_lab.features.tokens import attention, patch_coverage, queries_keys_values


@styled
def padding_figure(image: Tensor, teacher: Teacher, agreement: Tensor, title: str = "") -> Figure:
    """The image as the teacher takes it in, the share of each patch that is image, and how alike its vectors stay.

    Args:
        image: RGB in [0, 1], (3, H, W), not a multiple of the patch.
        teacher: gives patch and mean colour (a zero after normalisation is the mean).
        agreement: (h, w) in [-1, 1], cosine similarity to the vectors of the whole image.
    """
    patch, (height, width) = teacher.patch, image.shape[1:]
    h, w = agreement.shape
    padded = torch.tensor(teacher.mean).view(3, 1, 1).repeat(1, h * patch, w * patch)
    padded[:, :height, :width] = image
    share = 100 * patch_coverage(height, width, patch)
    figure, (seen, covered, kept) = plt.subplots(1, 3, figsize=(WIDTH, 3.9), layout="compressed")
    seen.imshow(rgb(padded))
    for draw, count in ((seen.axvline, w), (seen.axhline, h)):
        for place in range(1, count):
            draw(place * patch - 0.5, color="white", linewidth=0.5)
    seen.set(title=f"{width} × {height} px\npadded to {w * patch} × {h * patch}", xlabel=f"{w} × {h} patches")
    bars = {"orientation": "horizontal", "shrink": 0.9}
    figure.colorbar(covered.imshow(share, vmin=0, vmax=100), ax=covered, **bars, format="{x:g} %", ticks=(0, 50, 100))
    covered.set_title("share of the patch\nthat is image")
    figure.colorbar(kept.imshow(np.asarray(agreement), vmax=1), ax=kept, **bars)
    kept.set_title("cosine similarity to the\nvectors of the whole image")
    for axes in (seen, covered, kept):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=EDGE, linewidth=0.5)
    return titled(figure, title)


class FeatureExplorer:
    """The teacher's view of some tiles; the teacher is asked once, all later questions are about what it said.

    Args:
        teacher: a vision transformer.
        images: RGB in [0, 1], (N, 3, H, W).
        names: one per tile.

    Attributes:
        maps: per block (N, D, h, w).
        colours: per block (N, h, w, 3), see `pca_rgb`; a colour means the same in all tiles of a block.
        blocks, names: what stands at the controls.
    """

    def __init__(self, teacher: Teacher, images: Tensor, names: Sequence[str] = ()) -> None:
        self.images, self.patch = images, teacher.patch
        self.names = [f"{i}: {name}" for i, name in enumerate(names or ["tile"] * len(images))]
        self.blocks = [f"block {block}" for block in teacher.blocks]
        self.maps = teacher(images)
        self.colours = [pca_rgb(m) for m in self.maps]
        self._attended = [(q, k) for q, k, _ in queries_keys_values(teacher, images)]

    def patch_of(self, row: int, column: int) -> tuple[int, int]:
        """The patch (row, column) that holds a pixel.

        Raises:
            InputError: no such pixel.
        """
        height, width = self.images.shape[-2:]
        if not (0 <= row < height and 0 <= column < width):
            raise InputError(
                f"pixel ({row}, {column}); the tiles have rows 0 to {height - 1}, columns 0 to {width - 1}"
            )
        return row // self.patch, column // self.patch

    def similarity(self, tile: int, level: int, row: int, column: int) -> Tensor:
        """Cosine similarity (h, w) of the pixel's patch to all patches of the tile."""
        maps, (r, c) = self.maps[level][tile], self.patch_of(row, column)
        return F.cosine_similarity(maps, maps[:, r, c, None, None], dim=0)

    def attention(self, tile: int, level: int, row: int, column: int) -> Tensor:
        """How the pixel's patch spreads its attention over the patches, (heads, h, w).

        A head sums to 1 together with what goes to class and register tokens, which have no place on the map.
        """
        grid = self.maps[level].shape[-2:]
        q, k = (part[tile] for part in self._attended[level])  # (heads, T, d)
        first = k.shape[1] - grid.numel()  # class and register tokens come before the patches
        r, c = self.patch_of(row, column)
        query = q[:, first + r * grid[1] + c, None]  # (heads, 1, d)
        return attention(query, k)[:, 0, first:].unflatten(1, grid)

    @styled
    def figure(self, tile: int, levels: Sequence[int], row: int, column: int, title: str = "") -> Figure:
        """A line per level: the image with the pixel's patch, principal components, similarity and mean attention."""
        h, w = self.images.shape[-2:]
        line, head = (WIDTH - 0.5) / 4 * h / w + 0.35, 0.6 + 0.3 * bool(title)  # inches, of one level and above all
        size = (WIDTH, head + line * len(levels))
        figure, lines = plt.subplots(len(levels), 4, figsize=size, squeeze=False)
        # Placed by hand: what matplotlib's layout engines do takes longer than drawing, and a slider waits for it.
        figure.subplots_adjust(0.04, 0.3 / size[1], 0.99, 1 - head / size[1], wspace=0.06, hspace=0.4 / (line - 0.4))
        for axes, level in zip(lines, levels, strict=True):
            axes[0].imshow(rgb(self.images[tile]))
            axes[0].set_ylabel(self.blocks[level])
            self._show(axes[1], self.colours[level][tile])
            self._show(axes[2], self.similarity(tile, level, row, column), "{x:.2g}", vmin=0, vmax=1)
            self._show(axes[3], 100 * self.attention(tile, level, row, column).mean(0), "{x:.2g} %", vmin=0)
            for panel in axes:
                self._mark(panel, row, column)
        names = (
            f"{self.names[tile]}\nrow {row}, column {column}",
            "principal components\nas colours",
            "cosine similarity\nto the framed patch",
            "its attention,\nmean of heads",
        )
        for axes, name in zip(lines[0], names, strict=True):
            axes.set_title(name)
        return titled(figure, title)

    def _show(self, axes: Axes, values: Tensor | NDArray, unit: str = "", **scale: float) -> None:
        h, w = values.shape[:2]
        extent = (-0.5, w * self.patch - 0.5, h * self.patch - 0.5, -0.5)  # in pixels, as the image
        shown = axes.imshow(np.asarray(values), extent=extent, cmap="viridis", interpolation="nearest", **scale)
        if unit:
            bar = axes.inset_axes((0.06, -0.07, 0.88, 0.04))
            axes.figure.colorbar(shown, cax=bar, orientation="horizontal", format=unit, ticks=LinearLocator(3))

    def _mark(self, axes: Axes, row: int, column: int) -> None:
        """Frame the pixel's patch, in black on white to be seen on any colour."""
        r, c = (self.patch * place - 0.5 for place in self.patch_of(row, column))
        for colour, width in (("white", 3.5), ("black", 1.5)):
            axes.add_patch(Rectangle((c, r), self.patch, self.patch, fill=False, edgecolor=colour, linewidth=width))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=EDGE, linewidth=0.5)
