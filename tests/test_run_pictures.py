"""Pictures of a run: those that its folder allows, the tiles that they name, and what is missing said in a line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from ktda.config import make_config
from ktda.data.folder import open_data
from ktda.data.tiles import Tiles
from ktda.errors import InputError
from ktda.files import read_json, write_json
from ktda.training import train
from ktda_lab.run_pictures import draw_run, open_run, predict, worst_to_best


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = {"model": "upernet", "student": "tu-mobilenetv3_small_050", "steps": 20, "decoder_channels": 8}
    train("demo_grass", make_config("smoke", settings), out)
    return out


def test_a_run_is_drawn_from_its_folder(run: Path):
    paths = draw_run(run, tiles=3)
    assert [p.name for p in paths] == [
        "learning_curves.png",
        "confusion_figure.png",
        "per_class_bars.png",
        "prediction_gallery.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    entries = json.loads((run / "figures" / "figures.json").read_text())
    captions = {entry["file"]: entry["caption"] for entry in entries}
    assert captions.keys() == {path.name for path in paths}
    assert "test" in captions["confusion_figure.png"]


def test_the_gallery_is_left_out_where_the_data_are_gone(run: Path, tmp_path: Path):
    moved = shutil.copytree(run, tmp_path / "moved")
    text = (moved / "manifest.json").read_text()
    (moved / "manifest.json").write_text(text.replace('"source": "demo_grass"', f'"source": "{tmp_path}/gone"'))
    assert [path.stem for path in draw_run(moved)] == ["learning_curves", "confusion_figure"]


@pytest.mark.parametrize("name", ["manifest.json", "metrics.json", "config.json", "history.csv"])
def test_an_unfinished_run_is_named(run: Path, tmp_path: Path, name: str):
    part = shutil.copytree(run, tmp_path / "part")
    (part / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        draw_run(part)


def test_a_run_is_opened_with_its_own_data_and_settings(run: Path, tmp_path: Path):
    data, config = open_run(run)
    manifest = read_json(run / "manifest.json")
    assert data == "demo_grass"
    assert (config.config_hash, config.seed, config.steps) == (manifest["config_hash"], 0, 20)
    for name in ("repeat", "log_with"):  # settings that an older version did not know
        del manifest["config"][name]
    older = shutil.copytree(run, tmp_path / "older")
    write_json(older / "manifest.json", manifest)
    assert open_run(older)[1] == config


def test_a_run_that_was_not_scored_is_named(run: Path, tmp_path: Path):
    alone = shutil.copytree(run, tmp_path / "alone")
    write_json(alone / "metrics.json", read_json(run / "metrics.json") | {"miou": None})
    for opened in (draw_run, open_run):
        with pytest.raises(InputError, match="alone was not scored"):
            opened(alone)


def test_tiles_run_from_the_worst_to_the_best():
    right = np.array([5, 1, 9, 3, 7])
    matrices = np.zeros((5, 2, 2), int)
    matrices[:, 0, 0] = right
    matrices[:, 0, 1] = 10 - right
    assert right[worst_to_best(matrices, 3)].tolist() == [1, 5, 9]
    assert right[worst_to_best(matrices, 9)].tolist() == [1, 3, 5, 7, 9]


def test_predictions_are_those_that_were_scored(run: Path):
    """The confusion matrix of a tile, counted from the predicted map, is the one that the run keeps.

    Up to ties: the run scored some tiles at a time, which rounds otherwise.
    """
    tile_set = open_data("demo_grass")
    with np.load(run / "confusions.npz") as archive:
        kept = archive["test"][0]
    tile = Tiles(tile_set, tile_set.pairs("test"))[0]
    (predicted,) = predict(run, [tile["image"]])
    counted = np.zeros_like(kept)
    np.add.at(counted, (tile["mask"].numpy().ravel(), predicted.numpy().ravel()), 1)
    assert (kept.sum(0) > 0).sum() > 1  # a model that predicts one class alone would hide a fault
    assert np.abs(counted - kept).sum() <= 0.004 * kept.sum()
