"""Figures of notebooks 03 and 04: the values and artists in them."""

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("matplotlib")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ktda_lab.drawing import pca_rgb
from ktda_lab.modules import figures


def drawn(figure: Figure) -> Figure:
    figure.canvas.draw()
    assert not plt.fignum_exists(figure.number)  # a notebook would show it twice
    return figure


def test_bar_panels() -> None:
    table = pd.DataFrame({"value": [1.0, 400.0, 0.25], "gradient": [1.0, 50.0, 0.0]}, index=["ce", "sum", "mean"])
    left, right = drawn(figures.bar_panels(table, "loud", log=True, pale=1)).axes
    assert [bar.get_width() for bar in left.patches] == [1, 400, 0.25]
    assert [bar.get_facecolor() for bar in left.patches][1] != left.patches[0].get_facecolor()
    assert left.get_xscale() == "log"
    assert [text.get_text() for text in left.texts] == ["1", "400", "0.25"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["ce", "sum", "mean"]
    assert left.yaxis_inverted()
    assert right.get_xlabel() == "gradient"
    assert drawn(figures.bar_panels(table)).axes[0].get_xlim()[0] == 0


def test_line_panels() -> None:
    table = pd.DataFrame(
        {"step": [0, 1, 0, 1], "on": list("aabb"), "kl": [4.0, 2.0, 4.0, 1.0], "mse": [1.0, 1, 1, 0.5]}
    )
    figure = drawn(figures.line_panels(table, "step", "on", ["kl", "mse"], "t", {"kl"}, {"here": 0.5}))
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.lines[:2]] == [[4, 2], [4, 1]]
    assert len({(line.get_color(), line.get_marker()) for line in left.lines[:2]}) == 2
    assert (left.get_yscale(), right.get_yscale(), left.get_xscale()) == ("log", "linear", "linear")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "here"]


def test_compared_maps_share_their_colours() -> None:
    g = torch.Generator().manual_seed(0)
    images, teacher = torch.rand(2, 3, 8, 8, generator=g), torch.randn(2, 5, 4, 4, generator=g)
    maps = {"teacher": teacher, "same": teacher.clone(), "other": -teacher}
    figure = drawn(figures.compared_maps(images, maps, ["s1", "s2"], "t"))
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    assert len(pictures) == 2 * 4  # a row per image: itself and three maps
    np.testing.assert_array_equal(pictures[1], pictures[2])
    np.testing.assert_allclose(pictures[5], pca_rgb(torch.cat(list(maps.values())))[1])  # second image, teacher
    assert not np.allclose(pictures[1], pictures[3])
    assert [axes.get_xlabel() for axes in figure.axes[4:]] == ["image", *maps]
    assert figure.axes[4].get_ylabel() == "s2"


def test_attention_maps_count_even_shares() -> None:
    even, one = torch.full((2, 4), 1 / 8), torch.tensor([[0.5, *[1 / 14] * 3], [1 / 14] * 4])
    figure = drawn(figures.attention_maps(torch.rand(3, 16, 32), {"even": even, "one": one}, (1, 3), "t"))
    image, first, second, bar = figure.axes
    np.testing.assert_allclose(first.images[0].get_array(), 1)
    assert second.images[0].get_array()[0, 0] == pytest.approx(4)
    low, high = second.images[0].get_clim()
    assert low * high == pytest.approx(1)  # an even share is the middle of the colours
    assert bar.get_ylabel() == "× an even share"
    for axes in (image, first, second):  # place (1, 3) of a 2 x 4 grid in 16 x 32 pixels
        assert axes.lines[0].get_xydata().tolist() == [[28, 12]]


def test_scatter_groups() -> None:
    along = torch.tensor([[1.0, 1.0, 0.0]])
    groups = {"a": torch.arange(4.0)[:, None] * along, "b": torch.arange(6.0, 9.0)[:, None] * along}
    axes = drawn(figures.scatter_groups(groups, "t", "tile")).axes[0]
    assert axes.get_xlabel() == "component 1 (100 % of the variance)"
    first, second = (points.get_offsets() for points in axes.collections)
    assert (len(first), len(second)) == (4, 3)
    np.testing.assert_allclose(np.abs(np.diff(first[:, 0])), 2**0.5, rtol=1e-6)  # distances survive
    assert axes.get_legend().get_title().get_text() == "each point: one tile"
