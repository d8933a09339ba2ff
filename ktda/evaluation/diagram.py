"""The method as a drawing: what feeds what, what is trained, and what is gone at inference.

Needs the extra ``notebooks``.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ktda.evaluation.drawing import BLUE, GREEN, GREY, ORANGE, VERMILLION, WIDTH, styled, titled

# key of the part: (left, bottom, title, what it does, colour); boxes of `_SIZE`
_BOXES = {
    "student": (0.0, 1.2, "student", "CNN, four levels\nstrides 4 to 32", BLUE),
    "fam": (2.3, 1.2, "FAM", "onto the teacher's\nchannels and grid", ORANGE),
    "neck": (4.6, 1.2, "neck", "back to a pyramid\nof four sizes", GREY),
    "fmm": (6.9, 1.2, "FMM", "attention blocks\nadapt to the domain", ORANGE),
    "decode_head": (9.2, 1.2, "decode head", "UPerNet: a class\nfor every pixel", GREEN),
    "teacher": (0.0, 2.85, "teacher (frozen)", "vision transformer\nfour of its blocks", GREY),
    "auxiliary_head": (9.2, -0.25, "auxiliary head", "a second opinion\nfrom level 2", GREEN),
}
_SIZE = (1.75, 1.0)


@styled
def method_diagram(parameters: Mapping[str, int] | None = None, title: str = "") -> Figure:
    """Student, FAM, neck, FMM and heads, the teacher above them, and where the three losses act.

    Dashed is what only training needs.

    Args:
        parameters: Numbers of parameters by part (``student``, ``fam``, ``neck``, ``fmm``, ``decode_head``,
            ``auxiliary_head``, ``teacher``), written into the boxes.
        title: Of the figure.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 4.1), layout="constrained")
    for key, (left, bottom, name, what, colour) in _BOXES.items():
        dashed = key in ("teacher", "auxiliary_head")
        style = {"facecolor": (*colour, 0.18), "edgecolor": colour, "linewidth": 1.8}
        box = FancyBboxPatch((left, bottom), *_SIZE, "round,pad=0.06", linestyle="--" if dashed else "-", **style)
        axes.add_patch(box)
        axes.text(left + _SIZE[0] / 2, bottom + 0.84, name, ha="center", va="center", fontsize=10, fontweight="bold")
        count = (parameters or {}).get(key)
        lines = what if count is None else f"{what}\n{_millions(count)}"
        axes.text(left + _SIZE[0] / 2, bottom + 0.33, lines, ha="center", va="center", fontsize=8.5)
    for left in (1.81, 4.11, 6.41, 8.71):
        _arrow(axes, (left, 1.7), (left + 0.43, 1.7))
    _arrow(axes, (-0.6, 2.45), (-0.06, 1.7))
    _arrow(axes, (-0.6, 2.45), (-0.06, 3.35), dashed=True)
    _arrow(axes, (7.78, 1.14), (9.14, 0.25), dashed=True)
    _arrow(axes, (1.81, 3.35), (2.75, 2.95), dashed=True)
    _arrow(axes, (3.18, 2.26), (3.18, 2.66), dashed=True)
    axes.text(-0.65, 2.45, "image", rotation=90, ha="right", va="center")
    losses = {(2.5, 2.82): "distillation loss", (11.1, 1.7): "cross-entropy", (11.1, 0.25): "cross-entropy"}
    for (x, y), text in losses.items():
        axes.text(x, y, text, va="center", color=VERMILLION, fontsize=10, fontweight="bold")
    axes.set(xlim=(-1.0, 12.6), ylim=(-0.4, 4.0), aspect="equal")
    axes.axis("off")
    return titled(figure, title)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], dashed: bool = False) -> None:
    style = {"arrowstyle": "-|>", "color": "0.25", "linewidth": 1.4, "linestyle": "--" if dashed else "-"}
    axes.annotate("", end, start, arrowprops=style)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e4 else f"{count:,}"
