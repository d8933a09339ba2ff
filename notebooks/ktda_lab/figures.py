"""Figures: every function returns a matplotlib `Figure`, and `save_figure` writes one with its caption, for reports.

Needs the extra ``notebooks``; no other module imports this one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from ktda.data.folder import TileSet
from ktda.files import replacing, write_json
from ktda_lab.drawing import (
    GREEN,
    GREY,
    STYLE,
    TERM_COLOURS,
    WIDTH,
    class_bars,
    count_pixels,
    panel_row,
    percent,
    plain_log,
    styled,
    titled,
)

SCORES = {"iou": "IoU", "f1": "F1", "precision": "precision", "recall": "recall"}


@styled
def class_shares(groups: Mapping[str, Iterable[Tensor | NDArray]], tile_set: TileSet, title: str = "") -> Figure:
    """Share of each class in the labelled pixels, one panel per group of tiles.

    Args:
        groups: Masks (H, W) by the group's name.
        tile_set: Gives class names and colours.
    """
    counts = {name: count_pixels(masks, tile_set.num_classes) for name, masks in groups.items()}
    figure, axes_row = panel_row(len(counts), tile_set.num_classes)
    for axes, (name, pixels) in zip(axes_row, counts.items(), strict=True):
        class_bars(axes, 100 * pixels / max(1, pixels.sum()), tile_set)
        axes.set(title=name, xlabel="share of labelled pixels (%)")
    return titled(figure, title)


@styled
def per_class_bars(metrics: Mapping, tile_set: TileSet, title: str = "") -> Figure:
    """IoU, F1, precision and recall per class, in percent, with the means of IoU and F1 as vertical lines.

    Args:
        metrics: As `ktda.scores.metrics.scores` gives them; None is drawn as "undefined".
        tile_set: Gives class names and colours.
    """
    figure, axes_row = panel_row(len(SCORES), tile_set.num_classes)
    for axes, (key, name) in zip(axes_row, SCORES.items(), strict=True):
        class_bars(axes, percent(metrics[key]), tile_set)
        axes.set(title=name, xlabel=f"{name} (%)")
    for axes, key, style in (
        (axes_row[0], "miou", "--"),
        (axes_row[1], "mean_f1", "--"),
        (axes_row[1], "mean_f1_mmseg", ":"),
    ):
        if metrics[key] is not None:
            label = "mean" if style == "--" else "mean, undefined dropped"
            axes.axvline(100 * metrics[key], color="0.2", linestyle=style, linewidth=1.4, label=label)
    figure.legend(*axes_row[1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return titled(figure, title)


@styled
def score_intervals(
    iou: Sequence[float | None], intervals: Mapping[str, NDArray], tile_set: TileSet, title: str = ""
) -> Figure:
    """IoU per class with its interval, a panel per way of taking the interval.

    Args:
        iou: (K,) in [0, 1], None where undefined.
        intervals: (K, 2) lower and upper ends in [0, 1], by the panel's name.
        tile_set: Gives class names and colours.
    """
    figure, axes_row = panel_row(len(intervals), tile_set.num_classes)
    for axes, (name, ends) in zip(axes_row, intervals.items(), strict=True):
        class_bars(axes, percent(iou), tile_set, 100 * np.asarray(ends))
        axes.set(title=name, xlabel="IoU (%)")
    return titled(figure, title)


@styled
def learning_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """Loss terms, selection score and learning rate over the steps of a run.

    Args:
        history: Content of ``history.csv``: one row per epoch, ``loss_*`` as weighted in the total, ``select_miou``
            in [0, 1] or missing where nothing was evaluated.
    """
    figure, (losses, score, rate) = plt.subplots(
        1, 3, figsize=(WIDTH, 3.4), layout="constrained", width_ratios=(1.3, 1.3, 1)
    )
    terms = [name for name in history if name.startswith("loss_")]
    for name in terms:
        term = name.removeprefix("loss_")
        losses.plot(history["step"], history[name], marker="o", markersize=4, label=term, color=TERM_COLOURS.get(term))
    values = history[terms].to_numpy()
    if values.min() > 0 and values.max() > 30 * values.min():
        losses.set_yscale("log")
        plain_log(losses.yaxis)
    losses.set(title="losses", ylabel="weighted, mean of the epoch")
    losses.legend()
    seen = history.dropna(subset="select_miou")
    score.plot(seen["step"], 100 * seen["select_miou"], marker="o", markersize=4, color=GREEN)
    best = seen["select_miou"].idxmax() if len(seen) else None
    if best is not None:
        at = seen.loc[best, "step"], 100 * seen.loc[best, "select_miou"]
        score.plot(*at, marker="o", markersize=10, markerfacecolor="none", color="0.2", linestyle="", label="kept")
        score.legend()
    score.set(title="selection tiles", ylabel="mIoU (%)", ylim=(0, 115 * max(seen["select_miou"].max(), 0.01)))
    rate.plot(history["step"], history["learning_rate"], marker="o", markersize=4, color=GREY)
    rate.set(title="learning rate", ylim=(0, 1.1 * (history["learning_rate"].max() or 1e-6)))
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    for axes in (losses, score, rate):
        axes.set_xlabel("optimiser step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, steps=(1, 2, 5, 10)))
        axes.grid(alpha=0.3)
    return titled(figure, title)


@styled
def probe_curves(
    curves: Mapping[str, pd.DataFrame], references: Mapping[str, Mapping[str, float]], title: str = ""
) -> Figure:
    """Linear-probe mIoU over the pretraining steps, a panel per world; references as horizontal lines.

    Args:
        curves: by name of the recipe: ``step``, ``loss`` and a column in [0, 1] per world.
        references: by name, such as "raw pixels": mIoU in [0, 1] per world.
    """
    worlds = [name for name in next(iter(curves.values())) if name not in ("step", "loss", "seconds")]
    figure, panels = plt.subplots(1, len(worlds), figsize=(WIDTH, 3.4), layout="constrained", squeeze=False)
    for axes, world in zip(panels[0], worlds, strict=True):
        for name, curve in curves.items():
            axes.plot(curve["step"], 100 * curve[world], marker="o", markersize=4, label=name)
        for (name, scores), style in zip(references.items(), ("--", ":", "-."), strict=False):
            axes.axhline(100 * scores[world], color="0.35", linestyle=style, linewidth=1.2, label=name)
        axes.set(title=f"{world}, held-out source scenes", xlabel="step", ylabel="probe mIoU (%)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
    return titled(figure, title)


@styled
def confusion_figure(matrix: NDArray | Tensor | Sequence, classes: Sequence[str], title: str = "") -> Figure:
    """A confusion matrix twice: in percent of each label (row) and of each prediction (column).

    Args:
        matrix: (K, K) pixels, rows = label.
        classes: K names.
    """
    counts = np.asarray(matrix, dtype=float)
    side = min(WIDTH / 2, 1.9 + 0.75 * len(classes))
    figure, panels = plt.subplots(1, 2, figsize=(2 * side + 0.6, side + 0.3), layout="compressed", sharey=True)
    names = ("where the labelled pixels went\n% of each row", "what the predicted pixels are\n% of each column")
    for axes, axis, name in zip(panels, (1, 0), names, strict=True):
        total = counts.sum(axis, keepdims=True)
        shares = np.divide(100 * counts, total, out=np.full_like(counts, np.nan), where=total > 0)
        image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100)
        for (row, column), value in np.ndenumerate(shares):
            text = "–" if np.isnan(value) else f"{value:.1f}"
            colour = "0.2" if np.isnan(value) else "white" if value < 55 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour)
        axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), classes)
        axes.set(title=name, xlabel="prediction")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    figure.get_layout_engine().set(h_pad=0.1)
    panels[0].set_ylabel("label")
    figure.colorbar(image, ax=panels, label="%", shrink=0.8)
    return titled(figure, title)


def save_figure(figure: Figure, out: Path, name: str, caption: str) -> Path:
    """Write ``OUT/NAME.png``, and the figure's title and the caption into ``OUT/figures.json``.

    Args:
        figure: The figure.
        out: Folder; made if missing.
        name: File stem, by custom the name of the function that drew it. Saving it again replaces it.
        caption: What is seen, and what to make of it.

    Returns:
        The picture's path.
    """
    if not caption.strip():
        raise ValueError(f"figure {name} has no caption; say in a sentence what is seen")
    out = Path(out)
    if not name or Path(name).name != name or name.endswith(".png"):
        raise ValueError(f"figure name {name!r}; expected a file stem such as tile_gallery")
    out.mkdir(parents=True, exist_ok=True)
    path, sidecar = out / f"{name}.png", out / "figures.json"
    with mpl.rc_context(STYLE), replacing(path) as partial:
        figure.savefig(partial, format="png")
    entry = {"file": path.name, "title": figure.get_suptitle() or name.replace("_", " "), "caption": caption}
    entries = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.is_file() else []
    entries = {e["file"]: e for e in entries} | {path.name: entry}
    write_json(sidecar, list(entries.values()))
    return path
