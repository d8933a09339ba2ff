"""Evaluation: order, shares of processes, scores of a finished run, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import make_set
from torch import Tensor, nn

from ktda.build import load_model
from ktda.data.folder import open_data
from ktda.errors import InputError
from ktda.images import IMAGENET_MEAN, IMAGENET_STD, normalise
from ktda.scores import evaluate
from ktda.scores.evaluate import confusions, evaluate_run, save_confusions


class Brightest(nn.Module):
    """Predicts for each pixel the channel that is brightest: a known answer."""

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return images * std.view(3, 1, 1) + mean.view(3, 1, 1)


def expected(tile_set, split: str) -> np.ndarray:
    matrices = []
    for pair in tile_set.pairs(split):
        image, mask = tile_set.read(pair)
        matrix = np.zeros((3, 3), int)
        # back in float32 the brightest of two equal channels may be the other one: ties are rare, not absent
        np.add.at(matrix, (mask, image.argmax(2)), 1)
        matrices.append(matrix)
    return np.stack(matrices)


@pytest.mark.parametrize("pixels", [1, 2 * 40 * 40, 2**16])
def test_matrices_come_in_the_order_of_the_pairs(tiny_set: Path, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktda.scores.evaluate.BATCH_PIXELS", pixels)
    tile_set = open_data(tiny_set)
    pairs = tile_set.pairs("train")
    found = confusions(Brightest(), tile_set, pairs).numpy()
    assert found.shape == (6, 3, 3)
    assert found.dtype == np.int64
    assert (found.sum((1, 2)) == 40 * 40).all()
    assert np.abs(found - expected(tile_set, "train")).max() <= 20  # pixels with two equal channels
    assert (confusions(Brightest(), tile_set, pairs[::-1]).numpy() == found[::-1]).all()


def test_ignored_pixels_do_not_count(tmp_path: Path) -> None:
    spec = "classes: [a, b]\nignore_index: 2\n"
    tile_set = open_data(make_set(tmp_path / "set", {"test": 2}, spec=spec))
    model = nn.Conv2d(3, 2, 1)
    model.mean, model.std = IMAGENET_MEAN, IMAGENET_STD
    found = confusions(model, tile_set, tile_set.pairs("test"))
    labelled = [(tile_set.read(pair)[1] != 2).sum() for pair in tile_set.pairs("test")]
    assert found.sum((1, 2)).tolist() == labelled


@pytest.mark.parametrize("training", [True, False])
def test_the_model_gets_its_mode_back(tiny_set: Path, training: bool) -> None:
    tile_set, model = open_data(tiny_set), Brightest().train(training)
    confusions(model, tile_set, tile_set.pairs("test"))
    assert model.training is training


def test_processes_share_the_images(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tile_set = open_data(tiny_set)
    pairs = tile_set.pairs("train") + tile_set.pairs("val")  # 9 images for 2 processes
    shares: list[list] = []
    monkeypatch.setattr(evaluate, "gather_object", lambda found: (shares.append(found), found)[1])
    for rank in range(2):
        confusions(Brightest(), tile_set, pairs, rank=rank, world=2)
    assert [[index for index, _ in share] for share in shares] == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]
    monkeypatch.setattr(evaluate, "gather_object", lambda found: shares[0] + shares[1])
    assert torch.equal(
        confusions(Brightest(), tile_set, pairs, rank=1, world=2), confusions(Brightest(), tile_set, pairs)
    )


def test_a_run_scored_again_gives_its_own_metrics(finished_run: Path) -> None:
    metrics = json.loads((finished_run / "metrics.json").read_text())
    again = evaluate_run(finished_run)
    assert (again["split"], again["protocol"], again["images"], again["data"]) == ("test", "honest", 2, "tiny")
    for key in ("miou", "overall_accuracy", "iou", "f1", "precision", "recall", "mean_f1", "confusion_matrix"):
        assert again[key] == metrics[key], key
    assert evaluate_run(finished_run, split="val")["confusion_matrix"] == metrics["splits"]["val"]["confusion_matrix"]


def test_on_other_data_and_without_a_manifest(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    other = make_set(tmp_path / "other", {"val": 1, "extra": 3}, size=56)
    found = evaluate_run(finished_run, str(other), "extra")
    assert (found["data"], found["images"]) == ("other", 3)
    assert np.sum(found["confusion_matrix"]) == 3 * 56 * 56
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(finished_run / name, bare)
    assert evaluate_run(bare, str(tiny_set))["confusion_matrix"] == evaluate_run(finished_run)["confusion_matrix"]
    with pytest.raises(InputError, match="no manifest that names its data; give --data"):
        evaluate_run(bare)


def test_what_is_refused(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere holds no trained model \(config.json and model.safetensors\)"):
        evaluate_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match="tiny has no split 'winter'; it has train, val, test"):
        evaluate_run(finished_run, split="winter")
    four = make_set(tmp_path / "four", {"test": 1}, classes=4, spec="classes: [a, b, c, d]\n")
    with pytest.raises(InputError, match=r"the model knows 3 classes \(a, b, c\), four has 4"):
        evaluate_run(finished_run, str(four))
    empty = make_set(tmp_path / "empty", {"val": 1})
    for part in ("img_dir", "ann_dir"):
        (empty / part / "test").mkdir()
    with pytest.raises(InputError, match=r"split test of .* holds no tiles"):
        evaluate_run(finished_run, str(empty))


def test_a_label_outside_the_classes_names_the_file(finished_run: Path, tmp_path: Path) -> None:
    wrong = make_set(tmp_path / "wrong", {"test": 1}, classes=7)
    with pytest.raises(InputError, match=r"test0_patch_0.png: labels 3, 4, 5, 6 are neither a class"):
        evaluate_run(finished_run, str(wrong))


def test_the_model_of_a_run_takes_normalised_images_of_any_size(finished_run: Path) -> None:
    model, description = load_model(finished_run)
    assert not model.training
    assert description["normalisation"]["input"] == "RGB in [0, 1]"
    with torch.inference_mode():
        assert model(normalise(torch.rand(2, 3, 50, 70))).shape == (2, 3, 50, 70)


def test_confusions_are_written_whole_and_need_no_pickle(tmp_path: Path) -> None:
    matrices = {"held out of train": torch.arange(8).reshape(2, 2, 2), "val": torch.ones(1, 2, 2, dtype=torch.long)}
    stems = {"held out of train": ["x", "longer"], "val": ["y"]}
    save_confusions(tmp_path / "confusions.npz", matrices, stems)
    assert [p.name for p in tmp_path.iterdir()] == ["confusions.npz"]
    with np.load(tmp_path / "confusions.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"held out of train", "held out of train_stems", "val", "val_stems"}
        assert (arrays["held out of train"] == matrices["held out of train"].numpy()).all()
        assert arrays["held out of train_stems"].tolist() == ["x", "longer"]
