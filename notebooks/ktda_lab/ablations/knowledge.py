"""What the study of knowledge shows: luck between equal rows, contrasts as written down, and what a label is worth."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ktda_lab.ablations.statistics import summarise
from ktda_lab.drawing import FAINT, SERIES, WIDTH, styled, titled

AGAIN = "_again"  # ends the name of a row that trains another once more


def luck(results: pd.DataFrame, metric: str = "select_miou") -> pd.DataFrame:
    """How far apart two trainings of equal settings on the same draw of tiles end.

    Args:
        results: a line per run; the rows NAME and NAME_again differ by ``repeat`` alone.
        metric: column of `results`; by default the score on the selection tiles.

    Returns:
        A line per data set and NAME: ``n`` pairs, ``mean`` score of both, ``sd`` of the difference of two (its root
        mean square: two equal rows differ by zero on average), all fractions.
    """
    wide = results.pivot_table(index=["data", "seed"], columns="row", values=metric, sort=False)
    lines = []
    for name in [row for row in wide if f"{row}{AGAIN}" in wide]:
        both = wide[[name, f"{name}{AGAIN}"]].dropna()
        for data, found in both.groupby(level="data", sort=False):
            apart = found[name] - found[f"{name}{AGAIN}"]
            sd = float(np.sqrt((apart**2).mean()))
            lines.append({"data": data, "row": name, "n": len(found), "mean": found.to_numpy().mean(), "sd": sd})
    return pd.DataFrame(lines, columns=["data", "row", "n", "mean", "sd"])


def stated_contrasts(table: Mapping[str, Any], results: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """The contrasts of a grid's table whose rows were run, as `ktda_lab.ablations.laboratory.contrasts` takes them."""
    run = set(results["row"])
    return {f"{row} − {rival}": (row, rival) for row, rival, _ in table["contrasts"] if {row, rival} <= run}


def worth_in_labels(results: pd.DataFrame, row: str, plain: str) -> pd.Series:
    """How many labelled tiles the plain student needs for the mean score of `row`, per data set.

    Args:
        results: a line per run; rows PLAIN_TILES, such as ``plain_128``.
        row: name of a row.
        plain: PLAIN.

    Returns:
        Tiles, interpolated over their logarithm between the doses that were run; 0 below the smallest, infinite above
        the largest.
    """
    summary = summarise(results)
    found = {}
    for data, lines in summary.groupby("data", sort=False):
        means = lines.set_index("row")["mean"]
        doses = {int(name.rpartition("_")[2]): means[name] for name in means.index if _is_dose(name, plain)}
        tiles = sorted(doses)
        best = np.maximum.accumulate([doses[t] for t in tiles])  # a dip by luck is no loss of knowledge
        sought = means[row]
        if sought > best[-1]:
            found[data] = np.inf
        elif sought < best[0]:
            found[data] = 0.0
        else:
            found[data] = float(2 ** np.interp(sought, best, np.log2(tiles)))
    return pd.Series(found, name="labelled tiles")


def pool_table(results: pd.DataFrame, pools: Mapping[str, str]) -> pd.DataFrame:
    """Mean mIoU and its 95 % interval in percent, as text, per data set and number of unlabelled tiles.

    Args:
        results: a line per run.
        pools: row -> what the table calls it, in its order.
    """
    lines = summarise(results[results["row"].isin(pools)])
    ends = 100 * lines[["mean", "low", "high"]]
    lines["mIoU (%)"] = [f"{mean:.1f} ({low:.1f} to {high:.1f})" for mean, low, high in ends.to_numpy()]
    lines["unlabelled tiles"] = lines["row"].map(pools)
    return lines.pivot(index="unlabelled tiles", columns="data", values="mIoU (%)").reindex(pools.values())


def _is_dose(name: str, model: str) -> bool:
    head, _, tail = name.rpartition("_")
    return head == model and tail.isdigit()


@styled
def label_efficiency(
    results: pd.DataFrame, models: Mapping[str, str], levels: Mapping[str, pd.Series], title: str = ""
) -> Figure:
    """Score over the number of labelled tiles, a line per model and a panel per data set.

    Args:
        results: a line per run; rows are called MODEL_TILES.
        models: MODEL -> what the legend calls it.
        levels: what the legend calls it -> mean score per data set, drawn as a dotted line.
        title: of the figure.
    """
    summary = summarise(results)
    names = list(summary["data"].unique())
    figure, panels = plt.subplots(1, len(names), figsize=(WIDTH, 4.4), layout="constrained", squeeze=False)
    for axes, data in zip(panels[0], names, strict=True):
        ticks: set[int] = set()
        for number, (model, label) in enumerate(models.items()):
            lines = summary[(summary["data"] == data) & summary["row"].map(lambda name, m=model: _is_dose(name, m))]
            lines = lines.assign(tiles=lines["row"].str.rpartition("_")[2].astype(int)).sort_values("tiles")
            ends = 100 * (lines["mean"] - lines["low"]), 100 * (lines["high"] - lines["mean"])
            style = {"color": SERIES[number], "marker": "os^D"[number % 4], "capsize": 3}
            axes.errorbar(lines["tiles"] * 1.03**number, 100 * lines["mean"], ends, label=label, **style)
            ticks |= set(lines["tiles"])
        for number, (label, level) in enumerate(levels.items()):
            if data in level:
                axes.axhline(100 * level[data], color=FAINT, linestyle=(":", "--")[number % 2], label=label)
        seen = 100 * results[results["data"] == data]["miou"]  # an interval of two seeds would fill the panel
        axes.set_ylim(max(0, seen.min() - 8), seen.max() + 8)
        axes.set_xscale("log")
        axes.set_xticks(sorted(ticks), [f"{tick:,}" for tick in sorted(ticks)])
        axes.minorticks_off()
        axes.set(title=data, xlabel="labelled tiles")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("mIoU (%)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return titled(figure, title)


@styled
def ranking(results: pd.DataFrame, table: Mapping[str, Any], title: str = "") -> Figure:
    """Mean score of every row with its 95 % interval and its seeds, a panel per data set, in the table's order.

    Args:
        results: a line per run.
        table: the grid's table; rows of one group have one colour.
        title: of the figure.
    """
    summary = summarise(results)
    rows = [row for row in table["rows"] if row["name"] in set(summary["row"])]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    names = list(summary["data"].unique())
    size = (WIDTH, 1.6 + 0.3 * len(rows))
    figure, panels = plt.subplots(1, len(names), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, data in zip(panels[0], names, strict=True):
        own = summary[summary["data"] == data].set_index("row")
        for place, row in enumerate(rows):
            if row["name"] not in own.index:
                continue
            mean, low, high = 100 * own.loc[row["name"], ["mean", "low", "high"]].astype(float)
            colour = SERIES[groups.index(row["group"]) % len(SERIES)]
            seeds = results[(results["data"] == data) & (results["row"] == row["name"])]["miou"]
            axes.plot(100 * seeds, [place + 0.25] * len(seeds), ".", color="0.5", markersize=3.5)
            axes.hlines(place, low, high, color=colour, linewidth=1.8)
            axes.plot(mean, place, "o", color=colour, markersize=6)
        reach = 100 * results[results["data"] == data]["miou"]  # an interval of two seeds would fill the panel
        axes.set(title=data, xlabel="mIoU (%)", xlim=(reach.min() - 6, reach.max() + 6))
        axes.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks(range(len(rows)), [row["name"] for row in rows])
    panels[0][0].invert_yaxis()
    handles = [plt.Line2D([], [], marker="o", color=SERIES[i % len(SERIES)], label=g) for i, g in enumerate(groups)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(groups))
    return titled(figure, title)


def scored(results: pd.DataFrame) -> pd.DataFrame:
    """Without the runs that segment nothing (a first stage), whose score is undefined."""
    return results.dropna(subset="miou")
