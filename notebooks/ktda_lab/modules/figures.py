"""Figures that take the method apart, for notebooks 03 and 04; every function returns a matplotlib `Figure`.

Needs the extra ``notebooks``; only notebooks import this.
"""

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ktda_lab.drawing import BLUE, EDGE, GREY, SERIES, TILE, WIDTH, gallery, pca_rgb, plain_log, rgb, styled, titled

MARKERS = "osD^vPX"


@styled
def bar_panels(table: pd.DataFrame, title: str = "", log: bool = False, pale: int = 0) -> Figure:
    """A horizontal bar per row, a panel per column, values written beside.

    Args:
        table: its column names are the axes' labels, so they hold the unit.
        log: logarithmic axes.
        pale: so many rows from the top are grey: what the others are measured against.
    """
    size = WIDTH, 1.3 + 0.36 * len(table)
    figure, panels = plt.subplots(1, table.shape[1], figsize=size, layout="constrained", sharey=True, squeeze=False)
    places, colours = range(len(table)), [GREY] * pale + [BLUE] * (len(table) - pale)
    for axes, (name, values) in zip(panels[0], table.items(), strict=True):
        axes.barh(places, values, color=colours, edgecolor=EDGE)
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:.3g}", (value, place), (4, 0), textcoords="offset points", va="center", fontsize=10)
        low, high = min(v for v in values if v > 0), values.max()
        if log:
            axes.set(xscale="log", xlim=(low / 3, high * (high / low) ** 0.2 * 2))
            plain_log(axes.xaxis)
        else:
            axes.set_xlim(0, 1.25 * high)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(name)
    panels[0][0].set_yticks(places, table.index)
    panels[0][0].invert_yaxis()
    return titled(figure, title)


@styled
def line_panels(
    table: pd.DataFrame,
    x: str,
    lines: str,
    panels: Sequence[str],
    title: str = "",
    log: Collection[str] = (),
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """A line per group of rows, with a colour and a marker of its own; a panel per column.

    Args:
        table: long form.
        x: column of the horizontal axis.
        lines: column whose values make the groups.
        panels: columns to draw; the names of columns are the axes' labels, so they hold the unit.
        log: which of these columns have a logarithmic axis.
        marks: dotted vertical lines, by their name in the legend.
    """
    figure, row = plt.subplots(1, len(panels), figsize=(WIDTH, 3.7), layout="constrained", squeeze=False)
    groups = list(table.groupby(lines, sort=False))
    for axes, name in zip(row[0], panels, strict=True):
        for i, (label, part) in enumerate(groups):
            every = max(1, len(part) // 8)
            style = {"color": SERIES[i % 7], "marker": MARKERS[i % 7], "markersize": 5, "markevery": every}
            axes.plot(part[x], part[name], label=label, **style)
        axes.set(xlabel=x, ylabel=name)
        axes.set(xscale="log" if x in log else "linear", yscale="log" if name in log else "linear")
        for axis, column in ((axes.xaxis, x), (axes.yaxis, name)):
            if column in log:
                plain_log(axis)
        for text, place in (marks or {}).items():
            axes.axvline(place, color="0.3", linestyle=":", linewidth=1.4, label=text)
        if x not in log and pd.api.types.is_integer_dtype(table[x]):
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(alpha=0.3)
    handles, labels = row[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
    return titled(figure, title)


def compared_maps(
    images: Sequence[Tensor], maps: Mapping[str, Tensor], names: Sequence[str] = (), title: str = ""
) -> Figure:
    """A row per image: the image, and feature maps of it that share their principal components.

    A colour means the same in the whole figure, so two maps are alike where their colours are.

    Args:
        images: (3, H, W) in [0, 1], up to about four.
        maps: (N, D, h, w) by the column's name, up to about six; all of one shape.
        names: one per image, written beside it.
    """
    pictures = np.split(pca_rgb(torch.cat(list(maps.values()))), len(maps))  # (N, h, w, 3) each
    names = names or [f"image {i}" for i in range(len(images))]
    rows = {name: [rgb(images[i]), *(part[i] for part in pictures)] for i, name in enumerate(names)}
    return gallery(rows, ["image", *maps], [], title)


@styled
def attention_maps(image: Tensor, weights: Mapping[str, Tensor], place: tuple[int, int], title: str = "") -> Figure:
    """Where one place looks, in multiples of an even share: 1 is what every place would get if nothing mattered.

    Args:
        image: (3, H, W) in [0, 1].
        weights: attention (h, w) from the place, summing to 1, by the panel's name.
        place: row and column of the place on the grid.
    """
    columns = min(5, len(weights) + 1)
    rows = -(-(len(weights) + 1) // columns)
    size = columns * TILE, rows * (TILE + 0.25) + 0.6
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="compressed", squeeze=False)
    shares = {name: np.asarray(part.detach()) * part.numel() for name, part in weights.items()}
    ends = np.percentile(np.stack(list(shares.values())), (0.5, 99.5))
    reach = max(2.0, 1 / ends[0], ends[1])  # the middle of the colours is an even share
    shape = next(iter(shares.values())).shape
    corner = np.array([image.shape[1] / shape[0], image.shape[2] / shape[1]])
    for axes in grid.flat:
        axes.set_axis_off()
    grid.flat[0].imshow(rgb(image), extent=(0, image.shape[2], image.shape[1], 0))
    grid.flat[0].set_title("image", fontsize=10)
    for axes, (name, part) in zip(grid.flat[1:], shares.items(), strict=False):
        extent = (0, image.shape[2], image.shape[1], 0)
        drawn = axes.imshow(
            part, cmap="cividis", norm=LogNorm(1 / reach, reach), extent=extent, interpolation="nearest"
        )
        axes.set_title(name, fontsize=10)
    for axes in grid.flat[: len(shares) + 1]:
        y, x = (np.array(place) + 0.5) * corner
        axes.plot(x, y, marker="o", markersize=9, markerfacecolor="none", markeredgecolor="white", markeredgewidth=3)
        axes.plot(x, y, marker="o", markersize=9, markerfacecolor="none", markeredgecolor="black", markeredgewidth=1.2)
    bar = figure.colorbar(drawn, ax=grid, label="× an even share", shrink=0.8)
    ticks = [v for v in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16) if 1 / reach <= v <= reach]
    bar.set_ticks(ticks, labels=[f"{v:g}" if v >= 1 else f"1/{1 / v:g}" for v in ticks])
    bar.minorticks_off()
    return titled(figure, title)


@styled
def scatter_groups(groups: Mapping[str, Tensor], title: str = "", unit: str = "image") -> Figure:
    """Vectors of several groups on the first two principal components of all of them.

    Args:
        groups: (N, D) by the group's name, such as mean features of images.
        unit: what a point is.
    """
    vectors = torch.cat([g.double() for g in groups.values()])
    mean = vectors.mean(0)
    _, spread, axes_of = torch.linalg.svd(vectors - mean, full_matrices=False)
    share = 100 * spread[:2].square() / spread.square().sum()
    figure, axes = plt.subplots(figsize=(0.7 * WIDTH, 4.6), layout="constrained")
    for i, (name, part) in enumerate(groups.items()):
        x, y = ((part.double() - mean) @ axes_of[:2].T).T
        axes.scatter(
            x, y, s=32, color=SERIES[i % 7], marker=MARKERS[i % 7], edgecolor="white", linewidth=0.5, label=name
        )
    axes.set(xlabel=f"component 1 ({share[0]:.0f} % of the variance)", ylabel=f"component 2 ({share[1]:.0f} %)")
    axes.legend(title=f"each point: one {unit}", loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.3)
    return titled(figure, title)
