"""What the figures are made of: sizes, fonts and colours, galleries of tiles, bars per class.

Class colours come from the data set's palette; everything else is from Okabe and Ito's colours, which are told apart
with every common form of colour blindness. Needs the extra ``notebooks``; only figures import this.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from textwrap import wrap

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from torch import Tensor

from ktda.data.folder import TileSet
from ktda.data.spec import OKABE_ITO

WIDTH = 10.0  # inches, of a full-width figure
TILE = 2.1  # inches, of a tile in a gallery
STYLE = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "figure.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
    "text.parse_math": False,  # a class called $x$ is a name and no formula
}
ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE, GREY = (tuple(v / 255 for v in c) for c in OKABE_ITO)
SERIES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY)  # lines and dots take these in turn
TERM_COLOURS = {"segmentation": BLUE, "auxiliary": SKY, "distillation": VERMILLION}
UNLABELLED, WRONG, RIGHT = (255, 255, 255), (0, 0, 0), (222, 222, 222)
FAINT = "0.4"  # for what is beside the point
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # below text that crosses lines
EDGE = "0.3"  # around bars and patches, so that light class colours stand out from the paper

styled = mpl.rc_context(STYLE)


def colour_mask(mask: Tensor, tile_set: TileSet) -> NDArray:
    """Class indices (H, W) -> palette colours (H, W, 3) uint8; what is no class is white."""
    table = np.array([UNLABELLED] * 256, dtype=np.uint8)
    table[: tile_set.num_classes] = tile_set.palette
    return table[np.asarray(mask)]


def pca_rgb(maps: Tensor) -> NDArray:
    """The first three principal components of patch features as colours.

    The axes are fitted to all patches of all images of the map at once, so a colour means the same in every image of
    it, and something else in another block. Percentiles 2 to 98 of each component are stretched to [0, 1].

    Args:
        maps: (N, D, h, w) with D at least 3.

    Returns:
        (N, h, w, 3) in [0, 1].
    """
    n, d, h, w = maps.shape
    tokens = maps.detach().double().cpu().permute(0, 2, 3, 1).reshape(-1, d)  # (N * h * w, D)
    tokens = tokens - tokens.mean(0)
    axes = torch.linalg.svd(tokens, full_matrices=False).Vh[:3]
    strongest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    values = (tokens @ (axes * strongest.sign()).T).numpy()  # the sign of a component is arbitrary: fix it
    low, high = np.percentile(values, (2, 98), axis=0)
    return np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1).reshape(n, h, w, 3)


def count_pixels(masks: Iterable[Tensor | NDArray], num_classes: int) -> NDArray:
    """Pixels per class (K,) over masks (H, W); other values are left out."""
    total = np.zeros(num_classes, dtype=np.int64)
    for mask in masks:
        total += np.bincount(np.asarray(mask).ravel(), minlength=256)[:num_classes]
    return total


def rgb(image: Tensor) -> NDArray:
    """(3, H, W) in [0, 1] -> (H, W, 3)."""
    return np.asarray(image.detach().cpu()).transpose(1, 2, 0).clip(0, 1)


def unit(colour: Sequence[int]) -> tuple[float, ...]:
    return tuple(v / 255 for v in colour)


def class_patches(tile_set: TileSet, masks: Sequence[Tensor]) -> list[Patch]:
    """A legend entry per class, and one for unlabelled pixels where there are any."""
    pairs = list(zip(tile_set.classes, tile_set.palette, strict=True))
    if any((m == tile_set.ignore_index).any() for m in masks):
        pairs.append(("unlabelled", UNLABELLED))
    return [Patch(facecolor=unit(colour), edgecolor=EDGE, label=name) for name, colour in pairs]


def tile_notes(images: Sequence[Tensor], names: Sequence[str], lines: Sequence[str] = ()) -> list[str]:
    """What stands below a tile: its name, a line of the caller's, and its width and height."""
    names = ["\n".join(wrap(name, 24)) for name in names]  # long stems would run into each other
    sizes = [f"{image.shape[-1]} × {image.shape[-2]} px" for image in images]
    return ["\n".join(filter(None, note)) for note in zip_longest(names, lines, sizes)]


@styled
def gallery(
    rows: Mapping[str, Sequence[NDArray]], notes: Sequence[str], patches: Sequence[Patch] = (), title: str = ""
) -> Figure:
    """Pictures (H, W, 3) in named rows, a column per tile; notes below the columns, a legend of patches."""
    count = len(notes)
    side = min(TILE, (WIDTH - 0.5) / count)
    size = (0.6 + side * count, side * len(rows) + 0.4 * bool(title) + 0.4 * bool(patches) + 0.6)
    figure, grid = plt.subplots(len(rows), count, figsize=size, layout="compressed", squeeze=False)
    for line, (label, pictures) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(label)
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=EDGE, linewidth=0.5)
    for axes, note in zip(grid[-1], notes, strict=True):
        axes.set_xlabel(note, fontsize=9)
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)))
    return titled(figure, title)


def percent(values: Sequence[float | None]) -> NDArray:
    """Scores in [0, 1] as percent, None as NaN."""
    return np.array([np.nan if v is None else 100 * v for v in values])


def panel_row(count: int, classes: int) -> tuple[Figure, Sequence[Axes]]:
    """A row of panels for `class_bars`."""
    figure, panels = plt.subplots(
        1, count, figsize=(WIDTH, 1.5 + 0.38 * classes), layout="constrained", sharey=True, squeeze=False
    )
    return figure, panels[0]


def class_bars(axes: Axes, values: NDArray, tile_set: TileSet, ends: NDArray | None = None) -> None:
    """A horizontal bar per class, in percent, with its value; whiskers from `ends` (K, 2)."""
    places, lengths = np.arange(len(values)), np.nan_to_num(values)
    axes.barh(places, lengths, color=[unit(c) for c in tile_set.palette], edgecolor=EDGE)
    reach = lengths
    if ends is not None:
        ends = np.nan_to_num(ends)
        reach = np.maximum(lengths, ends[:, 1])
        for colour, width in (("white", 4), ("black", 1.5)):  # a light rim, to be seen on dark bars too
            axes.hlines(places, *ends.T, colors=colour, linewidths=width)
    for place, value, end in zip(places, values, reach, strict=True):
        text = "undefined" if np.isnan(value) else f"{value:.1f}"
        axes.text(end + 3, place, text, va="center", fontsize=10, bbox=PAPER)
    axes.set_yticks(places, tile_set.classes)
    axes.set_xlim(0, 125)
    axes.set_xticks((0, 25, 50, 75, 100))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if axes.get_subplotspec().is_first_col() and not axes.yaxis_inverted():
        axes.invert_yaxis()  # class 0 on top; the panels share the axis


def plain_log(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis: 1, 2 and 5 of every decade, or 1 where many decades are shown."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def titled(figure: Figure, title: str) -> Figure:
    """Give the title, and let go of the figure: a notebook would otherwise show it twice."""
    if title:
        figure.suptitle(title)
    plt.close(figure)
    return figure
