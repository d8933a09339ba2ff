"""Figures of the pretraining: pairs of views, and how recipes fare in the probe."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ktda.evaluation.drawing import WIDTH, gallery, styled, titled
from ktda.pretraining.views import ViewPool


@styled
def view_gallery(pool: ViewPool, scenes: Sequence[int], title: str = "") -> Figure:
    """The same grounds under two conditions, one above the other.

    Args:
        pool: rendered pairs.
        scenes: positions in the pool, up to about eight.
    """
    rows = {"first view": [pool.first[i] for i in scenes], "second view": [pool.second[i] for i in scenes]}
    return gallery(rows, [f"ground {i}" for i in scenes], [], title)


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
