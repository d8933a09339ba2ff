"""Figures: the values and artists in them, not their pixels."""

import ast
import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("matplotlib")

import matplotlib.pyplot as plt
from PIL import Image

import ktda
from ktda.data.folder import TileSet
from ktda.scores.metrics import scores
from ktda_lab import figures, galleries
from ktda_lab.drawing import RIGHT, UNLABELLED, WRONG, colour_mask, count_pixels, pca_rgb

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.fixture
def tile_set(tmp_path) -> TileSet:
    return TileSet("tiny", tmp_path, ("a", "b", "c"), PALETTE)


@pytest.fixture
def tiles() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images (3, 4, 6) and masks (4, 6): one of class 1 only, one with class 2 and unlabelled pixels."""
    images = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(2, 4, 6, dtype=torch.int64)
    masks[1, :, :3], masks[1, :, 3:] = 2, 255
    return images, masks


@pytest.fixture(autouse=True)
def nothing_is_left_open():
    yield
    assert plt.get_fignums() == [], "an inline notebook would show the figure twice"


def pictures(figure) -> list[list[np.ndarray]]:
    """What is shown, by row and column."""
    specs = [axes.get_subplotspec() for axes in figure.axes]
    rows, columns = specs[0].get_gridspec().get_geometry()
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    return [shown[row * columns : (row + 1) * columns] for row in range(rows)]


def bar_lengths(axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches]


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend_labels(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_mask_colours_are_the_palettes_and_white_is_no_class(tile_set):
    coloured = colour_mask(torch.tensor([[0, 1], [2, 255]]), tile_set)
    assert coloured.dtype == np.uint8
    assert coloured.tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], list(UNLABELLED)]]


def test_pixels_are_counted_per_class_and_others_left_out():
    masks = [torch.tensor([[0, 1], [1, 255]]), np.array([[2, 2], [2, 7]], dtype=np.uint8)]
    assert count_pixels(masks, 3).tolist() == [1, 2, 3]


def test_tile_gallery_shows_images_above_labels_with_their_size(tile_set, tiles):
    images, masks = tiles
    figure = galleries.tile_gallery(images, masks, tile_set, ["one", "two"], "Tiles")
    (top, bottom) = pictures(figure)
    assert np.allclose(top[1], images[1].permute(1, 2, 0))
    assert (bottom[0] == PALETTE[1]).all()
    assert (bottom[1][:, :3] == PALETTE[2]).all()
    assert (bottom[1][:, 3:] == UNLABELLED).all()
    assert figure.axes[2].get_xlabel() == "one\n6 × 4 px"  # width first
    assert figure.axes[2].get_ylabel() == "label"
    assert legend_labels(figure) == ["a", "b", "c", "unlabelled"]
    assert figure.get_suptitle() == "Tiles"


def test_a_legend_names_unlabelled_only_where_there_is_any(tile_set, tiles):
    images, masks = tiles
    assert legend_labels(galleries.tile_gallery(images[:1], masks[:1], tile_set)) == ["a", "b", "c"]


def test_prediction_gallery_marks_wrong_labelled_pixels_only(tile_set, tiles):
    images, masks = tiles
    predictions = torch.ones(2, 4, 6, dtype=torch.int64)
    predictions[1, 0] = 2  # one row of the second tile is right in its labelled half
    errors = pictures(galleries.prediction_gallery(images, masks, predictions, tile_set))[3]
    assert (errors[0] == RIGHT).all()
    assert (errors[1][0, :3] == RIGHT).all()
    assert (errors[1][1:, :3] == WRONG).all()
    assert (errors[1][:, 3:] == UNLABELLED).all()
    figure = galleries.prediction_gallery(images, masks, predictions, tile_set)
    assert [axes.get_xlabel().splitlines()[0] for axes in figure.axes[-2:]] == ["100 % right", "25 % right"]
    assert legend_labels(figure)[-1] == "wrong"


def test_components_separate_what_differs_and_do_not_depend_on_sign():
    generator = torch.Generator().manual_seed(1)
    maps = 0.01 * torch.randn(2, 8, 5, 5, generator=generator)
    maps[:, 3, :, 2:] += 10  # one channel tells left from right, in both images
    colours = pca_rgb(maps)
    assert colours.shape == (2, 5, 5, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert np.ptp(colours[..., :2, 0]) < 0.05
    assert np.allclose(colours[..., 2:, 0].mean() - colours[..., :2, 0].mean(), 1, atol=0.05)
    assert np.allclose(pca_rgb(maps.double() + 100), colours, atol=1e-6)  # centred
    assert np.isfinite(pca_rgb(torch.ones(1, 4, 3, 3))).all()  # nothing differs


def test_feature_maps_show_a_row_per_block(tiles):
    maps = [torch.rand(2, 5, 2, 3), torch.rand(2, 5, 2, 3)]
    figure = galleries.feature_maps(tiles[0], maps, ["block 1", "block 5"])
    shown = pictures(figure)
    assert [line[0].shape for line in shown] == [(4, 6, 3), (2, 3, 3), (2, 3, 3)]
    assert [figure.axes[i].get_ylabel() for i in (0, 2, 4)] == ["image", "block 1", "block 5"]
    assert figure.axes[-1].get_xlabel() == "3 × 2 patches\n6 × 4 px"
    assert np.allclose(shown[1][1], pca_rgb(maps[0])[1])


def test_class_shares_of_masks_are_percent_of_labelled_pixels(tile_set):
    masks = torch.tensor([[0, 1, 1, 1, 255, 255]])
    figure = figures.class_shares({"train": iter([masks]), "empty": []}, tile_set)
    assert bar_lengths(figure.axes[0]) == [25, 75, 0]
    assert bar_lengths(figure.axes[1]) == [0, 0, 0]
    assert [bar.get_facecolor()[:3] for bar in figure.axes[0].patches] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert texts(figure.axes[0]) == ["25.0", "75.0", "0.0"]
    assert figure.axes[0].yaxis_inverted()  # class 0 on top
    assert "%" in figure.axes[0].get_xlabel()


def test_scores_show_what_is_undefined_and_both_means_of_f1(tile_set):
    metrics = scores(torch.tensor([[8, 0, 2], [4, 0, 0], [0, 0, 6]]))  # class b is never predicted
    figure = figures.per_class_bars(metrics, tile_set)
    iou, f1, precision, _ = figure.axes
    assert np.allclose(bar_lengths(iou), [100 * 8 / 14, 0, 75])
    assert texts(iou)[1] == "0.0"
    assert texts(precision)[1] == "undefined"
    assert [line.get_xdata()[0] for line in iou.lines] == [100 * metrics["miou"]]
    strict, dropping = (line.get_xdata()[0] for line in f1.lines)
    assert strict == 100 * metrics["mean_f1"]
    assert dropping == 100 * metrics["mean_f1_mmseg"] > strict
    assert legend_labels(figure) == ["mean", "mean, undefined dropped"]


def test_intervals_are_drawn_where_they_are_even_beside_the_value(tile_set):
    ends = np.array([[0.2, 0.4], [0.6, 0.9], [np.nan, np.nan]])
    (axes,) = figures.score_intervals([0.3, 0.5, None], {"scenes": ends}, tile_set).axes
    for lines in axes.collections:  # the line, and its light rim
        segments = [path.vertices[:, 0].tolist() for path in lines.get_paths()]
        assert np.allclose(segments, [[20, 40], [60, 90], [0, 0]])
    assert texts(axes) == ["30.0", "50.0", "undefined"]
    assert axes.texts[1].get_position()[0] > 90  # the number does not lie on the whisker


def test_curves_ring_the_best_score_and_skip_what_was_not_evaluated():
    history = pd.DataFrame(
        {
            "step": [10, 20, 30, 40],
            "learning_rate": [1e-4, 5e-5, 2e-5, 0.0],
            "loss_segmentation": [1.2, 1.0, 0.8, 0.7],
            "loss_distillation": [90.0, 80.0, 70.0, 60.0],
            "select_miou": [None, 0.5, None, 0.4],
        }
    )
    losses, score, rate = figures.learning_curves(history).axes
    assert [line.get_label() for line in losses.lines] == ["segmentation", "distillation"]
    assert losses.get_yscale() == "log"  # terms of two orders of magnitude
    assert score.lines[0].get_xdata().tolist() == [20, 40]
    assert np.allclose(score.lines[0].get_ydata(), [50, 40])
    assert (score.lines[1].get_xdata()[0], score.lines[1].get_ydata()[0]) == (20, 50)
    assert rate.lines[0].get_ydata().tolist() == history["learning_rate"].tolist()
    assert figures.learning_curves(history.drop(columns="loss_distillation")).axes[0].get_yscale() == "linear"


@pytest.mark.filterwarnings("error")
def test_curves_of_a_single_epoch_draw_without_complaint(tmp_path):
    history = pd.DataFrame({"step": [4], "learning_rate": [0.0], "loss_segmentation": [1.0], "select_miou": [0.0]})
    figure = figures.learning_curves(history)
    figures.save_figure(figure, tmp_path, "learning_curves", "One point.")
    assert figure.axes[1].lines[1].get_label() == "kept"


def test_confusion_is_percent_of_rows_and_of_columns():
    left, right = figures.confusion_figure([[3, 1, 0], [0, 0, 0], [1, 3, 0]], ["a", "b", "c"]).axes[:2]
    assert np.asarray(left.images[0].get_array())[0].tolist() == [75, 25, 0]
    assert texts(left) == ["75.0", "25.0", "0.0", "–", "–", "–", "25.0", "75.0", "0.0"]  # no label b
    assert np.asarray(right.images[0].get_array())[:, 0].tolist() == [75, 0, 25]
    assert texts(right)[2::3] == ["–", "–", "–"]  # c is never predicted
    assert (left.get_ylabel(), left.get_xlabel()) == ("label", "prediction")


def test_save_figure_writes_the_picture_and_keeps_the_sidecar(tmp_path, tile_set, tiles):
    out = tmp_path / "new" / "figures"
    figure = galleries.tile_gallery(*tiles, tile_set, title="Tiles")
    assert figures.save_figure(figure, out, "tile_gallery", "Two tiles.") == out / "tile_gallery.png"
    figures.save_figure(figure, out, "other", "The same.")
    figures.save_figure(figure, out, "tile_gallery", "Two tiles, again.")
    assert json.loads((out / "figures.json").read_text()) == [
        {"file": "tile_gallery.png", "title": "Tiles", "caption": "Two tiles, again."},
        {"file": "other.png", "title": "Tiles", "caption": "The same."},
    ]
    assert sorted(path.name for path in out.iterdir()) == ["figures.json", "other.png", "tile_gallery.png"]
    with Image.open(out / "other.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 400


def test_a_figure_needs_a_caption_and_a_plain_name(tmp_path, tile_set, tiles):
    figure = galleries.tile_gallery(*tiles, tile_set)
    with pytest.raises(ValueError, match="no caption"):
        figures.save_figure(figure, tmp_path, "name", " ")
    for name in ("../name", "name.png", ""):
        with pytest.raises(ValueError, match="file stem"):
            figures.save_figure(figure, tmp_path, name, "Caption.")
    assert list(tmp_path.iterdir()) == []


def test_no_other_module_imports_what_needs_matplotlib():
    package = Path(ktda.__file__).parent
    drawn = {"ktda_lab.figures", "ktda_lab.drawing", "matplotlib", "pandas"}
    evaluates = {"drawing", "tables", "statistics", "results", "headline", "laboratory", "pitfalls", "published"}
    for path in package.rglob("*.py"):
        if path.stem.endswith("figures") or path.stem in evaluates or path.parent.name == "explore":
            continue  # what draws, and what evaluates tables of results
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert not {n for n in names if n in drawn or n.split(".")[0] in drawn}, path


def test_a_name_with_dollars_is_no_formula(tile_set):
    named = dataclasses.replace(tile_set, classes=(r"$\href{x}$", *tile_set.classes[1:]))
    figure = figures.class_shares({"all": [np.zeros((4, 4), np.uint8)]}, named, title=r"$\bad{$")
    figure.canvas.draw()
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert r"$\href{x}$" in shown
