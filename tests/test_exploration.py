"""Measurements of a data set: hand-computed values, limit cases, and what the figures draw."""

import numpy as np
import pytest
from tiny_sets import put_set

from ktda.data.folder import TileSet, open_data
from ktda_lab.tiles import exploration
from ktda_lab.tiles.exploration import ColourModel, SplitSample

GREY, NOISE = np.full((8, 8, 3), 100, np.uint8), np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.fixture
def tile_set(tmp_path) -> TileSet:
    return TileSet("tiny", tmp_path, ("a", "b", "c"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))


def test_read_split_takes_every_nth_tile(tmp_path):
    data = open_data(put_set(tmp_path, "classes: [a, b, c]\nscene: '^(.+)_patch_'\n", {"train": 7}))
    assert exploration.read_split(data, "train", 3).scenes == ["s00", "s03", "s06"]
    assert exploration.read_split(data, "train", 7).scenes == exploration.read_split(data, "train").scenes
    sample = exploration.read_split(data, "train")
    image, mask = data.read(data.pairs("train")[4])
    assert len(sample.images) == 7
    assert (sample.images[4] == image).all()
    assert (sample.masks[4] == mask).all()


def test_scores_leave_out_what_either_mask_leaves_out(tile_set):
    found = exploration.score_masks([np.array([[0, 1, 255, 0]])], [np.array([[0, 1, 0, 255]])], tile_set)
    assert found["confusion_matrix"] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_joint_min_max_has_one_scale_for_all_bands():
    values = np.array([[[10.0, 20.0, 30.0], [60.0, 110.0, 10.0]]])  # (1, 2, 3): b = 255 (v - 10) / 100
    assert exploration.joint_min_max(values).tolist() == [[[0, 26, 51], [128, 255, 0]]]
    assert not exploration.joint_min_max(GREY).any()


def test_flattest_quarter_has_structure_in_a_narrow_range():
    image = NOISE.copy()
    image[4:, :4] = 100
    image[4, :4] = 140  # half-bright row in the bottom left: range 40 of 255
    which, quarter = exploration.flattest_quarter([GREY, image])
    assert which == 1
    assert quarter == (slice(4, 8), slice(0, 4))


def test_border_distance_by_hand():
    distance = exploration.border_distance(np.array([[0, 0, 0, 1], [0, 0, 255, 1]]))
    expected = [[3, 2, 1, 1], [3, 2, np.nan, 2**0.5]]
    np.testing.assert_allclose(distance, expected)
    assert np.isinf(exploration.border_distance(np.zeros((2, 2), np.uint8))).all()
    # Unlabelled ground is no border.
    lonely = exploration.border_distance(np.array([[0, 255]]))
    assert np.isinf(lonely[0, 0])
    assert np.isnan(lonely[0, 1])


def test_recall_by_distance_by_hand(tile_set):
    mask = np.array([[0, 0, 0, 1, 1, 1]])
    guess = np.array([[0, 0, 1, 1, 1, 0]])  # one of two right at distance 1, both at 2, one of two at 3
    found = exploration.recall_by_distance([guess], [mask], [exploration.border_distance(mask)], tile_set)
    assert found == {"1": (0.5, pytest.approx(1 / 3)), "1 to 2": (1, pytest.approx(1 / 3))} | {
        "2 to 4": (0.5, pytest.approx(1 / 3))
    }


def test_sampled_pixels_are_labelled_and_know_their_tile():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    mask = np.full((4, 4), 255, np.uint8)
    mask[0, :3] = 0, 1, 2
    sample = SplitSample([image, NOISE], [mask, np.ones((8, 8), np.uint8)], ["a", "b"])
    colours, labels, places = exploration.sample_pixels(sample, 5, seed=0)
    assert np.bincount(places).tolist() == [3, 5]
    assert {(int(label), *colour) for colour, label in zip(colours[:3].tolist(), labels, strict=False)} == {
        (0, 0.0, 1.0, 2.0),
        (1, 3.0, 4.0, 5.0),
        (2, 6.0, 7.0, 8.0),
    }
    for one, two in zip(exploration.sample_pixels(sample, 5, seed=0), (colours, labels, places), strict=True):
        np.testing.assert_array_equal(one, two)


def test_colour_model_weighs_distance_width_and_prior():
    rng = np.random.default_rng(0)
    narrow, wide = rng.normal(100, 2, (300, 3)), rng.normal(100, 40, (100, 3))
    labels = np.repeat([0, 2], [300, 100])
    model = ColourModel.fit(np.concatenate([narrow, wide]), labels, 4)
    np.testing.assert_allclose(model.shares, [0.75, 0, 0.25, 0])
    np.testing.assert_allclose(model.covariances[0], np.cov(narrow.T) + np.eye(3))
    # The same mean: what is near it is of the narrow class, what is far away of the wide one.
    assert model.predict(np.array([[[100, 100, 100], [160, 150, 60]]])).tolist() == [[0, 2]]
    # One colour of equal density: the prior decides.
    even = ColourModel(np.array([0.4, 0.6]), np.zeros((2, 3)), np.tile(np.eye(3), (2, 1, 1)))
    assert even.predict(np.array([3, 1, 2])) == 1


def test_nearest_labels_never_look_into_their_own_fold():
    colours = np.array([[0.0, 0, 0], [1, 0, 0], [9, 0, 0], [4, 0, 0]])
    labels = np.array([0, 1, 2, 3])
    assert exploration.nearest_labels(colours, labels, np.arange(4)).tolist() == [1, 0, 3, 1]
    assert exploration.nearest_labels(colours, labels, np.array([0, 0, 1, 1])).tolist() == [3, 3, 1, 1]


def test_likeness_sorts_pairs_by_kind():
    half = GREY.copy()
    half[:, 4:] += 60  # means differ by 60, deviations do not: root of 60² / 2
    found = exploration.likeness([half, GREY, GREY], ["a", "a", "b"])
    assert {kind: len(values) for kind, values in found.items()} == {
        "halves of one tile": 3,
        "tiles of one scene": 4,
        "tiles of different scenes": 8,
    }
    np.testing.assert_allclose(sorted(found["halves of one tile"]), [0, 0, 60 / 2**0.5])
    assert "tiles of one scene" not in exploration.likeness([half, GREY], ["a", "b"])


def test_nearest_tiles_find_copies_of_another_size():
    nearest, difference = exploration.nearest_tiles(
        [GREY, NOISE], [NOISE + np.uint8(1), NOISE, np.tile(GREY, (4, 4, 1))]
    )
    assert nearest.tolist() == [2, 1]
    np.testing.assert_allclose(difference, 0)
    _, difference = exploration.nearest_tiles([GREY], [GREY + np.uint8(7)])
    np.testing.assert_allclose(difference, 7)


def test_figures_draw_what_was_measured(tile_set):
    pytest.importorskip("matplotlib")
    from ktda_lab.tiles import figures

    mask = np.array([[0, 0, 0, 1, 1, 1]])
    distance = exploration.border_distance(mask)
    found = exploration.recall_by_distance([mask], [mask], [distance], tile_set)
    left, right = figures.border_effect([distance], [mask], found, tile_set).axes
    np.testing.assert_allclose(left.lines[0].get_ydata()[:4], [100 / 3, 200 / 3, 100, 100])
    assert not left.lines[2].get_ydata().any()
    assert [bar.get_height() for bar in right.patches] == [100, 100, 100]
    (axes,) = figures.scene_likeness({"halves of one tile": np.array([1.0, 3.0])}).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["halves of one tile: median 2"]
    model = ColourModel(np.array([0.5, 0, 0.5]), np.full((3, 3), 90.0), np.tile(np.diag([9.0, 9, 9]), (3, 1, 1)))
    for axes in figures.colour_space(np.full((5, 3), 90.0), np.zeros(5, int), model, tile_set).axes:
        assert [text.get_text() for text in axes.texts] == ["0", "2"]
        (ellipse, _) = axes.patches
        assert tuple(ellipse.center) == pytest.approx((90, 0))
    np.testing.assert_allclose(ellipse.get_width(), 4 * (9 * 1.5) ** 0.5)  # variance of G - (R + B) / 2
