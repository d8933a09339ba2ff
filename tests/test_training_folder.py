"""What a run leaves in its folder, and whose folder it refuses."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import FILES, content_of, make_set, manifest_of, tiny, train_until

from ktda.build import load_model, make_teacher
from ktda.data.folder import data_hash, open_data
from ktda.errors import InputError
from ktda.optimisation import learning_rate
from ktda.scores.metrics import scores
from ktda.training import train

pytestmark = pytest.mark.usefixtures("quiet")


def test_files_and_status(finished_run: Path) -> None:
    assert {p.name for p in finished_run.iterdir()} == FILES  # nothing half-written either
    assert manifest_of(finished_run)["status"] == "finished"


def test_manifest(finished_run: Path, tiny_set: Path) -> None:
    manifest, config = manifest_of(finished_run), tiny()
    assert manifest["config"] == json.loads(json.dumps(config.as_dict()))
    assert manifest["config_hash"] == config.config_hash
    assert manifest["seed"] == 0
    assert manifest["end"] >= manifest["start"]
    assert {"commit", "dirty", "source_hash", "versions", "command", "processes", "init", "resumed"} <= manifest.keys()
    assert manifest["machine"]["device"] in ("cpu", "cuda")
    data = manifest["data"]
    assert data["hash"] == data_hash(open_data(tiny_set))
    assert (data["source"], data["name"], data["classes"]) == (str(tiny_set), "tiny", ["a", "b", "c"])
    assert data["tiles"] == {"train": 6, "select": 3, "report": 2}
    assert (data["selected_on"], data["reported"]) == ("val", "test")
    record = {"source": "seed 0", "sha256": None, "licence": None, "kind": "random"}
    assert manifest["weights"]["teacher"] == {"name": "random", "used": True, **record}
    assert manifest["weights"]["student"] == record | {"source": "random start"}
    tensors = load_file(finished_run / "model.safetensors")
    model, _ = load_model(finished_run)
    count = sum(p.numel() for p in model.parameters())
    assert manifest["parameters"]["trained"] == count < sum(t.numel() for t in tensors.values())  # BatchNorm buffers
    assert 0 < manifest["parameters"]["inference"] < count
    assert manifest["parameters"]["teacher"] == make_teacher(config).parameters


def test_metrics(finished_run: Path) -> None:
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert (metrics["split"], metrics["protocol"], metrics["selected_on"]) == ("test", "honest", "val")
    matrix = np.array(metrics["confusion_matrix"])
    assert matrix.shape == (3, 3)
    assert matrix.sum() == 2 * 40 * 40
    for key in ("iou", "f1", "precision", "recall"):
        assert len(metrics[key]) == 3
    again = scores(torch.tensor(matrix))
    assert {key: metrics[key] for key in again} == again
    assert set(metrics["splits"]) == {"val"}
    assert metrics["splits"]["val"]["images"] == 3
    assert set(again) <= metrics["splits"]["val"].keys()
    assert metrics["seconds"] > 0


def test_rows_of_the_confusion_matrix_are_labels(finished_run: Path, tiny_set: Path) -> None:
    tile_set = open_data(tiny_set)
    masks = np.stack([tile_set.read(pair)[1] for pair in tile_set.pairs("test")])
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert np.sum(metrics["confusion_matrix"], 1).tolist() == np.bincount(masks.ravel(), minlength=3).tolist()


def test_confusions_of_every_image(finished_run: Path, tiny_set: Path) -> None:
    metrics = json.loads((finished_run / "metrics.json").read_text())
    with np.load(finished_run / "confusions.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"test", "test_stems", "val", "val_stems"}
        assert arrays["test"].shape == (2, 3, 3)
        assert arrays["test"].sum(0).tolist() == metrics["confusion_matrix"]
        assert arrays["val"].sum(0).tolist() == metrics["splits"]["val"]["confusion_matrix"]
        assert arrays["val_stems"].tolist() == [p.stem for p in open_data(tiny_set).pairs("val")]


def test_history_has_a_line_per_epoch(finished_run: Path) -> None:
    with (finished_run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "4")]
    assert list(rows[0]) == [
        "epoch",
        "step",
        "learning_rate",
        "loss_segmentation",
        "loss_auxiliary",
        "loss_distillation",
        "seconds",
        "select_miou",
    ]
    metrics = json.loads((finished_run / "metrics.json").read_text())
    best = max(rows, key=lambda row: float(row["select_miou"]))
    assert metrics["best_step"] == int(best["step"])
    assert metrics["splits"]["val"]["miou"] == float(best["select_miou"])
    assert float(rows[1]["learning_rate"]) == learning_rate(3, tiny())


def test_config_json_rebuilds_the_model(finished_run: Path) -> None:
    content = json.loads((finished_run / "config.json").read_text())
    assert content["model"] == "ktda"
    assert content["classes"] == ["a", "b", "c"]
    assert content["ignore_index"] == 255
    assert content["normalisation"]["mean"] == [0.485, 0.456, 0.406]
    assert len(content["palette"]) == 3


def test_the_teacher_is_in_no_file_and_stays_as_it_was(tiny_set: Path, tmp_path: Path, built: list) -> None:
    train(str(tiny_set), tiny(steps=2), tmp_path / "run")
    teacher, model = built
    assert not teacher._model.training
    assert not any(p.requires_grad for p in teacher._model.parameters())
    fresh = make_teacher(tiny())._model.state_dict()
    kept = teacher._model.state_dict()
    assert all(torch.equal(fresh[k], kept[k]) for k in fresh if k != "pos_embed")
    own = load_file(tmp_path / "run" / "model.safetensors")
    held = load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert own.keys() == model.state_dict().keys() == {k[6:] for k in held if k.startswith("model/")}
    assert not any("teacher" in key for key in [*own, *held])
    assert sum(key.endswith("exp_avg") for key in held) == len(list(model.parameters()))


def test_a_folder_with_a_run_is_refused(finished_run: Path, tiny_set: Path) -> None:
    before = content_of(finished_run)
    with pytest.raises(InputError, match=r"holds a run \(finished\); go on with --resume, or choose another --out"):
        train(str(tiny_set), tiny(), finished_run)
    with pytest.raises(InputError, match=r"was started with other settings \(steps=4\)"):
        train(str(tiny_set), tiny(steps=5), finished_run, resume=True)
    assert content_of(finished_run) == before


def test_resuming_a_finished_run_changes_no_byte(finished_run: Path, tiny_set: Path) -> None:
    before = content_of(finished_run)
    metrics = train(str(tiny_set), tiny(), finished_run, resume=True)
    assert metrics == json.loads((finished_run / "metrics.json").read_text())
    assert content_of(finished_run) == before


def test_a_failure_stands_in_the_manifest(tiny_set: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        train_until(1, tiny_set, tiny(), tmp_path, raising=RuntimeError("out of something"))
    manifest = manifest_of(tmp_path)
    assert (manifest["status"], manifest["error"]) == ("failed", "RuntimeError: out of something")
    assert manifest["end"] >= manifest["start"]
    assert {p.name for p in tmp_path.iterdir()} == {"manifest.json", "config.json"}


@pytest.mark.parametrize("stopped", [SystemExit, KeyboardInterrupt])
def test_a_stopped_run_says_so(tiny_set: Path, tmp_path: Path, stopped: type) -> None:
    def stop() -> None:
        if stopped is KeyboardInterrupt:
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(stopped):
        train_until(1, tiny_set, tiny(), tmp_path, raising=stop)
    assert manifest_of(tmp_path)["status"] == "failed"
    assert manifest_of(tmp_path)["error"].startswith(stopped.__name__)


def test_a_finished_run_is_not_shown_for_other_data(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    manifest = manifest_of(finished_run)
    config = tiny(**{k: tuple(v) if isinstance(v, list) else v for k, v in manifest["config"].items()})
    copy = shutil.copytree(tiny_set, tmp_path / "copy")
    before = content_of(finished_run)
    assert train(str(copy), config, finished_run, resume=True)["split"] == "test"  # the same content elsewhere
    other = make_set(tmp_path / "other", {"train": 4, "val": 2, "test": 2})
    with pytest.raises(InputError, match="whose content was not that of"):
        train(str(other), config, finished_run, resume=True)
    assert content_of(finished_run) == before
