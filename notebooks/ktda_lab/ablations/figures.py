"""Figures of a table of runs: differences with their intervals, classes, cost, learning curves.

Every function returns a matplotlib `Figure`; `ktda_lab.figures.save_figure` writes it with its caption. Scores
come as fractions and are drawn in percent, differences in points.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ktda_lab.drawing import BLUE, FAINT, PAPER, SERIES, WIDTH, plain_log, styled, titled

LINE = 0.27  # inches, of a line of a forest plot or a heat map
COSTS = {"seconds": "training time (s)", "gflops": "GFLOPs per image (a multiply-add is 2)"}


@styled
def forest(
    differences: pd.DataFrame, pairs: pd.DataFrame, baseline: str, score: str = "mIoU", title: str = ""
) -> Figure:
    """Differences to the baseline with 95 % intervals, a panel per data set.

    Args:
        differences: of `ktda_lab.ablations.statistics.paired_differences`, completed by the rows that were not run.
        pairs: of `ktda_lab.ablations.statistics.seed_differences`: each seed is a small dot.
        baseline: name of the zero line.
        score: name of the score.
    """
    names, lines = list(differences["data"].unique()), _grouped(differences)
    size = (WIDTH, 1.9 + LINE * len(lines))
    figure, panels = plt.subplots(1, len(names), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, data in zip(panels[0], names, strict=True):
        own = differences[differences["data"] == data].set_index("row")
        dots = pairs[pairs["data"] == data]
        noise = 100 * own["noise"].max()
        reach = _reach(100 * own, 100 * dots["difference"], noise)
        axes.axvspan(-noise, noise, color="0.88", linewidth=0)
        axes.axvline(0, color="0.2", linewidth=1)
        for place, row in lines.items():
            if row not in own.index:
                continue
            found = own.loc[row]
            if not found["n"]:
                axes.text(0, place, "not run", ha="center", va="center", fontsize=8.5, color=FAINT, bbox=PAPER)
                continue
            seeds = 100 * dots.loc[dots["row"] == row, "difference"]
            axes.plot(seeds, [place + 0.26] * len(seeds), ".", color="0.4", markersize=3.5)
            mean, low, high = 100 * found[["mean", "low", "high"]].astype(float)
            axes.hlines(place, max(low, -reach), min(high, reach), color=BLUE, linewidth=1.8)
            for end, marker in ((low, "<"), (high, ">")):
                if abs(end) > reach:
                    axes.plot(np.sign(end) * reach, place, marker, color=BLUE, markersize=5)
            fill = BLUE if found["p_holm"] < 0.05 else "white"
            axes.plot(mean, place, "o", markersize=6, markeredgecolor=BLUE, markerfacecolor=fill)
        axes.set(title=data, xlabel=f"{score}, difference to {baseline} (points)", xlim=(-1.06 * reach, 1.06 * reach))
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    _row_labels(panels[0][0], lines, differences)
    handles = [
        Line2D([], [], color=BLUE, marker="o", markerfacecolor="white", label="mean, 95 % interval"),
        Line2D([], [], color=BLUE, marker="o", linestyle="", label="p < 0.05 (Holm)"),
        Line2D([], [], color="0.4", marker=".", linestyle="", markersize=4, label="one seed"),
        Patch(color="0.88", label=f"seed noise of {baseline} (± sd)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return titled(figure, title)


@styled
def class_heat_map(summary: pd.DataFrame, baseline: str, title: str = "") -> Figure:
    """Mean IoU per class minus the baseline's, in points: a panel per data set, a line per row that was run at all.

    Args:
        summary: of `ktda_lab.ablations.statistics.summarise`, completed by the rows that were not run.
        baseline: name of the row that is subtracted.
    """
    names, rows = list(summary["data"].unique()), list(summary.loc[summary["n"] > 0, "row"].unique())
    rows.remove(baseline)
    classes = {data: _classes(summary, data) for data in names}
    shape = {"width_ratios": [len(c) + 1 for c in classes.values()]}
    size = (WIDTH, 2.2 + LINE * len(rows))
    figure, panels = plt.subplots(
        1, len(names), figsize=size, layout="constrained", sharey=True, squeeze=False, gridspec_kw=shape
    )
    changes = {}
    for data in names:
        own = summary[summary["data"] == data].set_index("row")[[f"iou_{k}" for k in range(len(classes[data]))]]
        changes[data] = 100 * (own.reindex(rows) - own.loc[baseline]).to_numpy()
    values = np.abs(np.concatenate([change.ravel() for change in changes.values()]))
    limit = max(np.nanpercentile(values, 95), 0.1)
    for axes, (data, change) in zip(panels[0], changes.items(), strict=True):
        image = axes.imshow(change, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
        for (line, column), value in np.ndenumerate(change):
            if not np.isnan(change[line]).all():
                text, colour = f"{round(value, 1) + 0:+.1f}", "white" if abs(value) > 0.6 * limit else "black"
                text, colour = ("–", FAINT) if np.isnan(value) else (text.replace("-", "−"), colour)
                axes.text(column, line, text, ha="center", va="center", fontsize=9, color=colour)
            elif column == 0:
                middle = (change.shape[1] - 1) / 2
                axes.text(middle, line, "not run", ha="center", va="center", fontsize=8.5, color=FAINT)
        axes.set_xticks(range(len(classes[data])), classes[data], rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_title(data)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=list(panels[0]), extend="both", fraction=0.03, pad=0.02)
    bar.set_label(f"IoU, difference to {baseline} (points)")
    return titled(figure, title)


@styled
def cost_figure(summary: pd.DataFrame, cost: str = "gflops", title: str = "") -> Figure:
    """Cost, on a logarithmic scale, against mIoU with its 95 % interval; a panel per data set, a colour per group.

    Args:
        summary: of `ktda_lab.ablations.statistics.summarise`.
        cost: column of `summary`: gflops or seconds.
    """
    seen = summary[summary["n"] > 0].dropna(subset=cost)
    names, groups = list(seen["data"].unique()), list(seen["group"].unique())
    height = 1.6 + 0.2 * max(seen.groupby("data").size().max(), 12)
    figure, panels = plt.subplots(1, len(names), figsize=(WIDTH, height), layout="constrained", squeeze=False)
    for axes, data in zip(panels[0], names, strict=True):
        own = seen[seen["data"] == data].sort_values("mean")
        low, high = 100 * own["mean"].min(), 100 * own["mean"].max()
        middle, half = (low + high) / 2, max(0.62 * (high - low), 1.0)
        places = np.linspace(middle - half, middle + half, len(own)) if len(own) > 1 else [middle]
        looks = [_look(groups.index(group)) for group in own["group"]]
        axes.set(xscale="log", xlim=(own[cost].min() / 1.3, own[cost].max() * 1.3))
        plain_log(axes.xaxis)
        for place, (colour, marker), (_, line) in zip(places, looks, own.iterrows(), strict=True):
            mean, low, high = 100 * line[["mean", "low", "high"]].astype(float)
            axes.vlines(line[cost], low, high, color=colour, linewidth=1)
            axes.plot(line[cost], mean, marker, color=colour, markersize=5)
            axes.plot([line[cost], axes.get_xlim()[1]], [mean, place], color=colour, alpha=0.35, linewidth=0.8)
        axes.set_ylim(middle - 1.12 * half, middle + 1.12 * half)
        names_beside = axes.twinx()  # a name per point, spread over the right edge in the order of the scores
        names_beside.set_ylim(axes.get_ylim())
        names_beside.set_yticks(places, own["row"], fontsize=8.5)
        names_beside.tick_params(length=0)
        for label, (colour, _) in zip(names_beside.get_yticklabels(), looks, strict=True):
            label.set_color(colour)
        axes.set(title=data, xlabel=COSTS.get(cost, cost))
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    looks = [_look(number) for number in range(len(groups))]
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=name)
        for (colour, marker), name in zip(looks, groups, strict=True)
    ]
    panels[0][0].set_ylabel("mIoU (%)")
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(groups), 8))
    return titled(figure, title)


@styled
def grid_curves(histories: pd.DataFrame, results: pd.DataFrame, rows: Sequence[str], title: str = "") -> Figure:
    """mIoU on the selection tiles over the steps, mean over seeds with the band from lowest to highest.

    Args:
        histories: ``id``, ``step``, ``select_miou``.
        results: a line per run; says row, data set and seed of an id.
        rows: which to draw, up to eight.
    """
    curves = histories.dropna(subset="select_miou").merge(results[["id", "data", "row"]], on="id")
    curves = curves[curves["row"].isin(rows)]
    names = list(curves["data"].unique())
    figure, panels = plt.subplots(1, len(names), figsize=(WIDTH, 3.8), layout="constrained", squeeze=False)
    for axes, data in zip(panels[0], names, strict=True):
        for number, row in enumerate(rows):
            steps = curves[(curves["data"] == data) & (curves["row"] == row)].groupby("step")["select_miou"]
            band = 100 * steps.agg(["mean", "min", "max"])
            colour, dash = SERIES[number % len(SERIES)], ("-", "--", ":", "-.")[number % 4]
            axes.fill_between(band.index, band["min"], band["max"], color=colour, alpha=0.18, linewidth=0)
            axes.plot(band.index, band["mean"], color=colour, linestyle=dash, marker="o", markersize=3, label=row)
        axes.set(title=data, xlabel="optimiser step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, steps=(1, 2, 5, 10)))
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("mIoU of the selection tiles (%)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(rows), 6))
    return titled(figure, title)


def _look(number: int) -> tuple[tuple[float, ...], str]:
    """Colour and marker of a group: another marker where the colours begin again."""
    return SERIES[number % len(SERIES)], "os^D"[number // len(SERIES) % 4]


def _grouped(frame: pd.DataFrame) -> dict[int, str]:
    """Place -> row, with a place left free above each group for its name."""
    rows = frame[["row", "group"]].drop_duplicates("row")
    places = {}
    for group in rows["group"].unique():
        start = len(places) and max(places) + 1
        places[start] = f"\0{group}"
        places |= {start + 1 + i: row for i, row in enumerate(rows.loc[rows["group"] == group, "row"])}
    return places


def _row_labels(axes: Axes, lines: dict[int, str], frame: pd.DataFrame) -> None:
    axes.set_yticks(list(lines), [name.removeprefix("\0") for name in lines.values()])
    ran = set(frame.loc[frame["n"] > 0, "row"])
    for label, name in zip(axes.get_yticklabels(), lines.values(), strict=True):
        if name.startswith("\0"):
            label.set(fontweight="bold", fontsize=9.5)
        elif name not in ran:
            label.set_color(FAINT)
    axes.set_ylim(max(lines) + 0.7, min(lines) - 0.7)


def _reach(own: pd.DataFrame, dots: pd.Series, noise: float) -> float:
    """Half the width of a panel: all intervals, but never so wide that the dots fall into one."""
    inner = np.nanmax([*np.abs(dots), noise, 0.1])
    ends = np.nanmax([*np.abs(own["low"]), *np.abs(own["high"]), inner])
    return 1.05 * min(ends, 2.2 * inner)


def _classes(summary: pd.DataFrame, data: str) -> list[str]:
    return summary.loc[summary["data"] == data, "classes"].dropna().iloc[0].split("|")
