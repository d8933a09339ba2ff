"""Figures of a data set before any training; `ktda_lab.tiles.exploration` measures what they show."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Polygon
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ktda.data.folder import TileSet
from ktda_lab.drawing import EDGE, GREY, SERIES, WIDTH, class_patches, colour_mask, gallery, styled, titled, unit
from ktda_lab.tiles import polygons
from ktda_lab.tiles.exploration import KINDS, ColourModel

MARKERS = "os^DvPX*"
KIND_STYLES = dict(zip(KINDS, zip(SERIES[:3], ("-", "--", ":"), strict=True), strict=True))
RIM = [withStroke(linewidth=3.4, foreground=EDGE)]  # palette colours may be as light as the paper
HALO = [withStroke(linewidth=3, foreground="white")]


@styled
def colour_space(colours: NDArray, labels: NDArray, model: ColourModel, tile_set: TileSet, title: str = "") -> Figure:
    """Pixels in two views of colour space, and the ellipse of two deviations (86 %) of each class.

    Args:
        colours, labels: (P, 3) in bytes, (P,) class indices.
        model: The normal distributions.
    """
    views = {"blue minus red": (-1, 0, 1), "green minus the mean of red and blue": (-0.5, 1, -0.5)}
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 4.6), layout="constrained")
    paint, step = np.array(tile_set.palette) / 255, len(labels) // 4000 + 1
    for axes, (name, weights) in zip(panels, views.items(), strict=True):
        view = np.array([(1 / 3, 1 / 3, 1 / 3), weights])  # (2, 3): brightness, and a difference of bands
        points = colours @ view.T
        axes.scatter(*points[::step].T, c=paint[labels[::step]], s=5, alpha=0.5, linewidths=0)
        for label in np.flatnonzero(model.shares):
            centre = view @ model.means[label]
            (minor, major), axis = np.linalg.eigh(view @ model.covariances[label] @ view.T)
            size, angle = (4 * np.sqrt(major), 4 * np.sqrt(minor)), np.degrees(np.arctan2(axis[1, 1], axis[0, 1]))
            style = {"fill": False, "edgecolor": paint[label], "linewidth": 2, "path_effects": RIM}
            axes.add_patch(Ellipse(centre, *size, angle=angle, **style))
            axes.text(*centre, label, ha="center", va="center", fontsize=13, weight="bold", path_effects=HALO)
        (left, bottom), (right, top) = np.percentile(points, (0.2, 99.8), axis=0)
        axes.set(xlim=(left - 15, right + 15), ylim=(bottom - 15, top + 15))
        axes.set(title=name, xlabel="brightness, mean of the bands (bytes)", ylabel="difference (bytes)")
    patches = class_patches(tile_set, [])
    for label, patch in enumerate(patches):
        patch.set_label(f"{label} {patch.get_label()}" if patch.get_label() != str(label) else str(label))
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)))
    return titled(figure, title)


@styled
def border_effect(
    distances: Sequence[NDArray],
    masks: Sequence[NDArray],
    found: Mapping[str, tuple[float, float]],
    tile_set: TileSet,
    title: str = "",
) -> Figure:
    """Left, how many labels are near a border; right, how well they are found.

    Args:
        distances: (H, W) each, as `exploration.border_distance` gives them.
        masks: (H, W) class indices.
        found: As `exploration.recall_by_distance` gives it.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.9), layout="constrained", width_ratios=(1.25, 1))
    far, labels = (np.concatenate([values.ravel() for values in group]) for group in (distances, masks))
    limits = np.arange(1, 13)
    for label, (name, colour) in enumerate(zip(tile_set.classes, tile_set.palette, strict=True)):
        values = np.sort(far[labels == label])
        within = 100 * np.searchsorted(values, limits, side="right") / max(1, len(values))
        style = {"marker": MARKERS[label % len(MARKERS)], "markeredgecolor": EDGE, "path_effects": RIM}
        left.plot(limits, within, color=unit(colour), label=name, **style)
    left.set(title="how near a border the labels are", xlabel="distance to another class, at most (pixels)")
    left.set(ylabel="share of the class (%)", ylim=(0, None))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    recall, share = 100 * np.array(list(found.values())).reshape(-1, 2).T
    names = [f"{band}\n{part:.0f} %" for band, part in zip(found, share, strict=True)]
    right.bar_label(right.bar(names, recall, color=GREY, edgecolor=EDGE), fmt="%.0f", padding=3)
    right.set(title="how well colour alone finds them", xlabel="distance (pixels), and share of all labelled pixels")
    right.set(ylabel="recall, mean over classes (%)", ylim=(0, 105))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=min(6, tile_set.num_classes))
    return titled(figure, title)


@styled
def scene_likeness(distances: Mapping[str, NDArray], title: str = "") -> Figure:
    """Share of pairs that are at most so far apart in colour; `distances` as `exploration.likeness` gives them."""
    figure, axes = plt.subplots(figsize=(0.75 * WIDTH, 3.8), layout="constrained")
    for kind, values in distances.items():
        colour, style = KIND_STYLES[kind]
        label = f"{kind}: median {np.median(values):.0f}"
        axes.ecdf(values, color=colour, linestyle=style, linewidth=2.4, label=label)
    axes.set(
        xlabel="difference of colour statistics (bytes, root mean square)", ylabel="share of pairs", xlim=(0, None)
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return titled(figure, title)


@styled
def polygon_masks(
    drawn: Sequence[polygons.Polygon], masks: Mapping[str, NDArray], tile_set: TileSet, title: str = ""
) -> Figure:
    """The masks (H, W) that rules make of drawn outlines, by the rule's name, with the outlines' positions."""
    pictures = [colour_mask(mask, tile_set) for mask in masks.values()]
    figure = gallery({"": pictures}, list(masks), class_patches(tile_set, []), title)
    for axes in figure.axes:
        for position, (_, points) in enumerate(drawn):
            axes.add_patch(Polygon(points, fill=False, edgecolor="black", linewidth=1.3))
            axes.text(*np.mean(points, axis=0), position, ha="center", va="center", weight="bold", path_effects=HALO)
    return figure
