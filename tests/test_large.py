"""Large images are scored by blended tiles: as whole where the model looks at pixels alone, and said so."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import make_set, tiny
from torch import Tensor, nn

from ktda.data.folder import open_data
from ktda.errors import InputError
from ktda.files import write_json
from ktda.images import IMAGENET_MEAN, IMAGENET_STD
from ktda.scores.evaluate import confusions, evaluate_run
from ktda.scores.large import describe_evaluation, is_large, training_tile


class Identity(nn.Module):
    """Sure of the band that is brightest, one pixel at a time; keeps the sizes that it was asked for."""

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[tuple[int, int]] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.add(tuple(images.shape[-2:]))
        values = images * torch.tensor(self.std).view(3, 1, 1) + torch.tensor(self.mean).view(3, 1, 1)
        return 1000 * values


@pytest.mark.parametrize(("size", "tile", "large"), [(80, 0, False), (80, 80, False), (80, 40, False), (80, 39, True)])
def test_an_image_is_large_from_twice_the_side_of_a_training_tile_on(size: int, tile: int, large: bool):
    assert is_large((size, size), tile) is large


@pytest.mark.parametrize("size", [70, 101])
def test_an_identity_model_scores_the_same_by_tiles_and_whole(tmp_path: Path, size: int):
    tile_set = open_data(make_set(tmp_path / "set", {"test": 3}, size=size))
    pairs, model = tile_set.pairs("test"), Identity()
    whole = confusions(model, tile_set, pairs)
    assert model.sizes == {(size, size)}
    model.sizes.clear()
    tiled = confusions(model, tile_set, pairs, tile=32)
    assert model.sizes == {(32, 32)}
    assert tiled.sum() == whole.sum() == 3 * size * size
    # back from normalised values the brighter of two equal bands may be the other one: rare, not absent
    assert (tiled - whole).abs().max() <= size * size / 100
    assert np.trace(tiled.sum(0)) < 3 * size * size  # the labels are no copy of the image: it could differ


def test_small_images_beside_large_ones_stay_whole(tmp_path: Path):
    tile_set = open_data(make_set(make_set(tmp_path / "set", {"test": 2}, size=80), {"val": 2}, size=40))
    small, large = tile_set.pairs("val"), tile_set.pairs("test")
    model = Identity()
    both = confusions(model, tile_set, small + large, tile=32)
    assert model.sizes == {(40, 40), (32, 32)}
    assert torch.equal(both[:2], confusions(model, tile_set, small))
    tiles = "blended tiles of 32 px, overlap 0.25"
    texts = [describe_evaluation(tile_set, pairs, 32) for pairs in (small, large, small + large)]
    assert texts == ["whole image", tiles, f"{tiles}; whole image up to 4096 px in area"]
    assert describe_evaluation(tile_set, large, 0) == "whole image"


def test_the_training_tile_is_the_crop_or_the_tile(tiny_set: Path):
    tile_set = open_data(tiny_set)
    pairs = tile_set.pairs("train")
    assert training_tile(tiny(), tile_set, pairs) == 32
    assert training_tile(tiny(crop=0), tile_set, pairs) == 40


def test_a_run_says_how_it_was_scored_and_is_scored_so_again(finished_run: Path, tmp_path: Path):
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert metrics["evaluation"] == evaluate_run(finished_run)["evaluation"] == "whole image"
    run = shutil.copytree(finished_run, tmp_path / "run")
    large = str(make_set(tmp_path / "large", {"test": 1}, size=96))
    assert json.loads((run / "config.json").read_text())["tile"] == 32
    found = evaluate_run(run, large)
    assert found["evaluation"] == "blended tiles of 32 px, overlap 0.25"
    assert np.sum(found["confusion_matrix"]) == 96 * 96
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["config"]["protocol"] = "paper"  # the authors score every image whole
    write_json(run / "manifest.json", manifest)
    whole = evaluate_run(run, large)
    assert whole["evaluation"] == "whole image"
    assert whole["confusion_matrix"] != found["confusion_matrix"]


def test_a_run_from_before_is_scored_whole_and_a_strange_tile_refused(finished_run: Path, tmp_path: Path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    large = str(make_set(tmp_path / "large", {"test": 1}, size=96))
    content = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", {**content, "tile": "x"})
    with pytest.raises(InputError, match="tile is x, expected a side"):
        evaluate_run(run, large)
    del content["tile"]
    write_json(run / "config.json", content)
    assert evaluate_run(run, large)["evaluation"] == "whole image"
