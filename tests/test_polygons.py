"""Polygons to masks: painting order, undrawn and merged ground, and every refusal."""

import numpy as np
import pytest

from ktda.errors import InputError
from ktda_lab.tiles.polygons import GRASS_LEVELS, Polygon, rasterise

LEFT = Polygon("high", [(0, 0), (2, 0), (2, 3), (0, 3)])  # columns 0 to 2
RIGHT = Polygon("middle", [(2, 0), (3, 0), (3, 3), (2, 3)])  # columns 2 and 3


def test_pixels_on_the_outline_belong_to_it_and_nothing_else():
    mask = rasterise([Polygon("middle-low", [(1, 1), (3, 1), (3, 2), (1, 2)])], (4, 5))
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]


def test_the_later_polygon_wins():
    assert rasterise([LEFT, RIGHT], (1, 4)).tolist() == [[4, 4, 2, 2]]
    assert rasterise([LEFT, RIGHT], (1, 4), order=[1, 0]).tolist() == [[4, 4, 4, 2]]


def test_undrawn_ground_is_low_or_what_is_asked_for():
    assert rasterise([LEFT], (1, 5)).tolist() == [[4, 4, 4, 0, 0]]
    assert rasterise([LEFT], (1, 5), background=255).tolist() == [[4, 4, 4, 255, 255]]
    assert rasterise([], (2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_barren_is_low_unless_it_has_a_level_of_its_own():
    barren = Polygon("barren", RIGHT.points)
    assert rasterise([LEFT, barren], (1, 4)).tolist() == [[4, 4, 0, 0]]
    assert rasterise([LEFT, barren], (1, 4), levels=GRASS_LEVELS | {"barren": 5}).tolist() == [[4, 4, 5, 5]]


def test_what_hangs_over_the_rim_is_cut_off():
    assert (rasterise([Polygon("high", [(-9, -9), (99, -9), (99, 99), (-9, 99)])], (3, 4)) == 4).all()


@pytest.mark.parametrize(
    ("polygons", "options", "message"),
    [
        ([Polygon("meadow", LEFT.points)], {}, "polygon 0: label 'meadow' has no level; known are barren, low"),
        ([LEFT, Polygon("low", [(0, 0), (1, 1)])], {}, r"polygon 1 \(low\): give at least three corners"),
        ([Polygon("low", [(0, 0), (1, 1), (np.nan, 2)])], {}, "all finite"),
        ([Polygon("low", [(0, 0, 0), (1, 1, 1), (2, 0, 1)])], {}, r"corners \(x, y\)"),
        ([LEFT, RIGHT], {"order": [0, 0]}, r"order \[0, 0\]; name each of the positions 0 to 1 once"),
        ([LEFT], {"order": []}, "name each"),
        ([LEFT], {"background": 256}, "mask value 256; give one from 0 to 255"),
        ([LEFT], {"levels": {"high": -1}}, "mask value -1"),
        ([LEFT], {"size": (0, 4)}, "mask of 0 × 4 pixels"),
    ],
)
def test_refusals_name_the_cure(polygons, options, message):
    with pytest.raises(InputError, match=message):
        rasterise(polygons, **{"size": (4, 4)} | options)
