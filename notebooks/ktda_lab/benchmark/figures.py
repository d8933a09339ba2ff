"""Figures of cost: what each part takes of a whole, and which rows of a table no cheaper row beats."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ktda_lab.drawing import BLUE, EDGE, FAINT, SERIES, WIDTH, plain_log, styled, titled


@styled
def stacked(tables: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Bars of forms, cut into parts; a panel per quantity.

    Args:
        tables: axis label -> a line per form, a column per part; the same forms and parts in each.
    """
    forms = list(next(iter(tables.values())).index)
    size = (WIDTH, 1.7 + 0.38 * len(forms))
    figure, panels = plt.subplots(1, len(tables), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, (label, table) in zip(panels[0], tables.items(), strict=True):
        begun = pd.Series(0.0, table.index)
        for number, part in enumerate(table):
            widths = table[part].fillna(0)
            colour = SERIES[number % len(SERIES)]
            axes.barh(range(len(forms)), widths, left=begun, color=colour, edgecolor=EDGE, linewidth=0.5, label=part)
            begun = begun + widths
        for place, total in enumerate(begun):
            axes.text(total + 0.01 * begun.max(), place, f"{total:.3g}", va="center", fontsize=9)
        axes.set(xlabel=label, xlim=(0, 1.16 * begun.max()))
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    panels[0][0].set_yticks(range(len(forms)), forms)
    panels[0][0].invert_yaxis()
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(7, len(labels)))
    return titled(figure, title)


def front(rows: pd.DataFrame, cost: str) -> list[str]:
    """Names of the rows that no row beats at the same cost or less, from cheap to dear.

    Args:
        rows: of one data set, of `ktda_lab.ablations.statistics.summarise`.
        cost: column.
    """
    best, names = float("-inf"), []
    for line in rows.sort_values([cost, "mean"], ascending=[True, False]).itertuples():
        if line.mean > best:
            names.append(line.row)
            best = line.mean
    return names


@styled
def front_figure(summary: pd.DataFrame, costs: Mapping[str, str], title: str = "") -> Figure:
    """Score over cost, a row of panels per data set; the rows on the front are named and joined.

    Args:
        summary: of `ktda_lab.ablations.statistics.summarise`.
        costs: column -> axis label.
    """
    sets: Sequence[str] = list(summary["data"].unique())
    size = (WIDTH, 0.5 + 3.6 * len(sets))
    figure, panels = plt.subplots(len(sets), len(costs), figsize=size, layout="constrained", squeeze=False)
    for line, data in zip(panels, sets, strict=True):
        for axes, (cost, label) in zip(line, costs.items(), strict=True):
            rows = summary[(summary["data"] == data) & (summary["n"] > 0)].dropna(subset=[cost, "mean"])
            rows = rows.set_index("row", drop=False)
            ahead = rows.loc[front(rows, cost)]
            ends = 100 * (rows["mean"] - rows["low"]).fillna(0), 100 * (rows["high"] - rows["mean"]).fillna(0)
            style = {"fmt": "o", "color": FAINT, "markersize": 4, "elinewidth": 0.6, "alpha": 0.7}
            axes.errorbar(rows[cost], 100 * rows["mean"], ends, **style)
            axes.plot(ahead[cost], 100 * ahead["mean"], "o-", drawstyle="steps-post", color=BLUE, markersize=6)
            for number, (name, place) in enumerate(ahead.iterrows()):
                at = (place[cost], 100 * place["mean"])
                shift = (4, 6 + 11 * (number % 2))
                axes.annotate(name, at, shift, textcoords="offset points", fontsize=9, color=BLUE)
            low, high = 100 * rows["mean"].min(), 100 * rows["mean"].max()
            reach = max(high - low, 1)
            axes.set(xscale="log", xlabel=label, ylim=(low - 0.25 * reach, high + 0.35 * reach))
            axes.set_xlim(rows[cost].min() / 1.4, rows[cost].max() * 1.9)
            plain_log(axes.xaxis)
            axes.grid(alpha=0.3)
        line[0].set_ylabel(f"{data}: mIoU (%)")
    return titled(figure, title)
