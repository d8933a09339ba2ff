"""Figures of the published numbers and of what may be concluded from them.

Every function returns a matplotlib `Figure`; `ktda_lab.figures.save_figure` writes it with its caption. Scores
come as fractions and are drawn in percent, differences in points.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from ktda_lab.drawing import BLUE, EDGE, FAINT, ORANGE, SERIES, VERMILLION, WIDTH, plain_log, styled, titled, unit

LINE = 0.29  # inches, of a row
STYLES = {True: (VERMILLION, "D"), False: (BLUE, "o")}  # the method, another row


@styled
def score_ruler(scores: pd.DataFrame, method: str, rerun: float, title: str = "") -> Figure:
    """Published mIoU, a panel per data set, beside a band of what a second run of one seed may change.

    Args:
        scores: ``data``, ``method``, ``miou``, ``source``; rows whose source is not "paper" are open.
        method: the row around which the band lies.
        rerun: half the width of the band.
    """
    names, most = list(scores["data"].unique()), scores.groupby("data").size().max()
    figure, panels = plt.subplots(
        1, len(names), figsize=(WIDTH, 1.7 + LINE * most), layout="constrained", squeeze=False
    )
    for axes, data in zip(panels[0], names, strict=True):
        own = scores[scores["data"] == data].sort_values("miou").reset_index()
        middle = 100 * own.loc[own["method"] == method, "miou"].item()
        axes.axvspan(middle - 100 * rerun, middle + 100 * rerun, color="0.86", linewidth=0)
        for place, row in own.iterrows():
            colour, marker = STYLES[row["method"] == method]
            fill = colour if row["source"] == "paper" else "white"
            axes.plot(100 * row["miou"], place, marker, color=colour, markerfacecolor=fill, markersize=7)
            axes.annotate(
                f"{100 * row['miou']:.2f}",
                (100 * row["miou"], place),
                (9, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        reach = 100 * np.ptp(own["miou"])
        axes.set_xlim(100 * own["miou"].min() - 0.06 * reach, 100 * own["miou"].max() + 0.2 * reach)
        axes.set(title=data, xlabel="mIoU (%)")
        _rows(axes, list(own["method"]))
    handles = [
        Line2D([], [], color=VERMILLION, marker="D", linestyle="", label=method),
        Line2D([], [], color=BLUE, marker="o", linestyle="", label="other row of the paper"),
        Line2D([], [], color=BLUE, marker="o", linestyle="", markerfacecolor="white", label="not in the paper's table"),
        Patch(color="0.86", label=f"{method} ± {100 * rerun:.1f}, seen between two runs of one seed"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return titled(figure, title)


@styled
def class_dumbbells(pairs: Mapping[str, pd.DataFrame], palettes: Mapping[str, Sequence], title: str = "") -> Figure:
    """IoU per class of two methods, joined by a bar in the colour of the class; the difference beside it.

    Args:
        pairs: by data set; index = classes, first two columns = the other method and the method, fractions.
        palettes: by data set; RGB in 0 to 255 per class.
    """
    most = max(map(len, pairs.values()))
    figure, panels = plt.subplots(
        1, len(pairs), figsize=(WIDTH, 1.7 + 0.45 * most), layout="constrained", squeeze=False
    )
    for axes, (data, pair) in zip(panels[0], pairs.items(), strict=True):
        pair = pair.iloc[:, :2]
        for place, (values, colour) in enumerate(zip(100 * pair.to_numpy(), palettes[data], strict=True)):
            axes.barh(place, np.ptp(values), left=values.min(), height=0.36, color=unit(colour), edgecolor=EDGE)
            for value, (shade, marker), size in zip(values, (STYLES[False], STYLES[True]), (8, 6), strict=True):
                axes.plot(
                    value, place, marker, color=shade, markersize=size, markeredgecolor="white", clip_on=False, zorder=3
                )
            axes.text(104, place, f"{values[1] - values[0]:+.2f}".replace("-", "−"), va="center", fontsize=10)
        axes.set(title=data, xlabel="IoU (%)", xlim=(-5, 124))
        axes.set_xticks((0, 25, 50, 75, 100))
        _rows(axes, list(pair.index))
        axes.invert_yaxis()
        handles = [
            Line2D([], [], color=c, marker=m, linestyle="", label=name)
            for (c, m), name in zip((STYLES[False], STYLES[True]), pair, strict=True)
        ]
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.45, -0.17), ncols=2)
    return titled(figure, title)


@styled
def f1_conventions(frame: pd.DataFrame, title: str = "") -> Figure:
    """Mean F1, strict and with undefined classes dropped, and the published one; a panel per data set.

    Args:
        frame: ``data``, ``method``, ``strict``, ``dropped``, and ``mean_f1`` as published, NaN where it was not.
    """
    names, most = list(frame["data"].unique()), frame.groupby("data").size()
    shape = [most[data] + 1.5 for data in names]
    columns = min(2, len(names))
    figure, panels = plt.subplots(
        -(-len(names) // columns),
        columns,
        figsize=(WIDTH, 1.2 + 0.5 * LINE * sum(shape) + 1.0),
        layout="constrained",
        squeeze=False,
        gridspec_kw={"height_ratios": [max(shape[i : i + columns]) for i in range(0, len(shape), columns)]},
    )
    for axes in panels.flat[len(names) :]:
        axes.remove()
    for axes, data in zip(panels.flat, names, strict=False):
        own = 100 * frame[frame["data"] == data].set_index("method")[["strict", "dropped", "mean_f1"]]
        places = np.arange(len(own))
        axes.hlines(places, own["strict"], own["dropped"], color="0.6", linewidth=1.5, zorder=1)
        axes.plot(own["dropped"], places, "s", color=ORANGE, markersize=7)
        axes.plot(own["strict"], places, "o", color=BLUE, markersize=6)
        axes.plot(own["mean_f1"], places, "|", color="black", markersize=19, markeredgewidth=2)
        axes.set(title=data, xlabel="mean F1 (%)")
        axes.set_ylim(len(own) - 0.4, -0.6)
        axes.margins(x=0.12)
        _rows(axes, list(own.index))
    handles = [
        Line2D([], [], color=BLUE, marker="o", linestyle="", label="strict: a missed class counts 0"),
        Line2D([], [], color=ORANGE, marker="s", linestyle="", label="undefined classes dropped"),
        Line2D([], [], color="black", marker="|", linestyle="", markersize=12, markeredgewidth=2, label="as published"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return titled(figure, title)


@styled
def interval_widths(widths: pd.DataFrame, marks: Mapping[str, float], tiles: int, title: str = "") -> Figure:
    """Half-width of the 95 % interval against the number of test tiles, both logarithmic; a panel per data set.

    Args:
        widths: ``data``, ``tiles``, ``what`` (a curve's name), ``half_width``.
        marks: horizontal lines, such as claims, by name.
        tiles: vertical line: size of the published test set.
    """
    names, whats = list(widths["data"].unique()), list(widths["what"].unique())
    sizes = sorted(widths["tiles"].unique())
    figure, panels = plt.subplots(1, len(names), figsize=(WIDTH, 4.2), layout="constrained", sharey=True, squeeze=False)
    for axes, data in zip(panels[0], names, strict=True):
        for number, what in enumerate(whats):
            own = widths[(widths["data"] == data) & (widths["what"] == what)]
            axes.plot(own["tiles"], 100 * own["half_width"], label=what, **_curve(number))
        for value in marks.values():
            axes.axhline(100 * value, color=FAINT, linewidth=0.9, linestyle=":")
        _vertical(axes, tiles, f" {tiles}: the paper's grass", "left")
        axes.set(title=data, xlabel="tiles in the test set", xscale="log", yscale="log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        plain_log(axes.yaxis)
        axes.grid(alpha=0.3)
    for name, value in marks.items():
        place = {"transform": panels[0][-1].get_yaxis_transform(), "va": "center", "fontsize": 9, "color": FAINT}
        panels[0][-1].text(1.01, 100 * value, name, **place)
    panels[0][0].set_ylabel("half of the 95 % interval (points of mIoU)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(whats)))
    return titled(figure, title)


@styled
def selection_optimism(counts: Sequence[int], gains: Mapping[str, NDArray], published: int, title: str = "") -> Figure:
    """By how much the best of N evaluations flatters, against N on a logarithmic axis.

    Args:
        counts: numbers of evaluations.
        gains: (counts,) of mIoU, by the curve's name.
        published: number of evaluations in the paper's protocol, a vertical line.
    """
    figure, axes = plt.subplots(figsize=(0.75 * WIDTH, 4), layout="constrained")
    for number, (name, values) in enumerate(gains.items()):
        axes.plot(counts, 100 * np.asarray(values), label=name, **_curve(number))
    _vertical(axes, published, f"the paper: {published} ", "right")
    axes.set(xlabel="evaluations to choose from", ylabel="best minus true level (points)", xscale="log")
    axes.set_ylim(bottom=0)
    axes.set_xticks(counts, [str(c) for c in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return titled(figure, title)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _curve(number: int) -> dict[str, Any]:
    """Curves come in pairs: a colour per pair, the second of it dashed."""
    line = {"color": SERIES[number // 2 % len(SERIES)], "linestyle": ("-", "--")[number % 2]}
    return line | {"marker": "os^D"[number % 4], "markersize": 4}


def _vertical(axes: Axes, place: float, text: str, side: str) -> None:
    axes.axvline(place, color=FAINT, linewidth=0.9, linestyle=":")
    height = 0.95 if side == "left" else 0.02  # away from curves that fall, or rise
    axes.text(place, height, text, transform=axes.get_xaxis_transform(), ha=side, fontsize=9, color=FAINT)
