"""The training loop: what it leaves, what it refuses, and that it does what its settings say."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import FILES, SPEC, content_of, make_set, manifest_of, results_of, tiny
from torch import Tensor, nn

from ktda import training
from ktda.build import build, describe, initialise, load_model, make_teacher
from ktda.data.folder import data_hash, open_data
from ktda.data.protocol import choose_splits
from ktda.data.stream import BatchStream, collate
from ktda.data.tiles import Tiles
from ktda.data.transforms import Augment
from ktda.errors import InputError
from ktda.files import content_hash
from ktda.images import normalise
from ktda.losses import distillation_loss, segmentation_loss
from ktda.model import KTDA
from ktda.optimisation import learning_rate, parameter_groups
from ktda.runs import progress
from ktda.scores.metrics import scores
from ktda.teacher import Teacher
from ktda.training import Trainer, train
from ktda.weights import tensors as weights

# Everything that draws: drop path, dropout, flips, rotations, crops, distortion; and the teacher's statistics.
RANDOM = {"student_drop_path": 0.3, "dropout": 0.3, "standardise": True}


class Stop(Exception):
    """Ends a run in the middle."""


def stop_at(monkeypatch: pytest.MonkeyPatch, batch: int, error: BaseException | Callable = Stop) -> None:
    """Let the losses of one batch (0-based) end the run."""
    losses = Trainer.losses

    def stopping(self: Trainer, *tensors: Tensor) -> dict[str, Tensor]:
        if self.progress.batch == batch:
            raise error if isinstance(error, BaseException) else error()
        return losses(self, *tensors)

    monkeypatch.setattr(Trainer, "losses", stopping)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models and teachers that training makes, in order."""
    found: list = []
    for name in ("build", "make_teacher"):
        make = getattr(training, name)
        monkeypatch.setattr(training, name, lambda *a, make=make: (found.append(make(*a)), found[-1])[1])
    return found


# ---- what a run leaves


def test_files_and_status(finished_run: Path) -> None:
    assert {p.name for p in finished_run.iterdir()} == FILES  # nothing half-written either
    assert manifest_of(finished_run)["status"] == "finished"


def test_manifest(finished_run: Path, tiny_set: Path) -> None:
    manifest, config = manifest_of(finished_run), tiny()
    assert manifest["config"] == json.loads(json.dumps(config.as_dict()))
    assert manifest["config_hash"] == content_hash(config.as_dict())
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


# ---- folders in use


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


@pytest.mark.parametrize("folder", ["missing", "empty", "killed at once", "without checkpoint"])
def test_resume_without_a_checkpoint_starts_at_step_0(
    finished_run: Path, tiny_set: Path, tmp_path: Path, folder: str
) -> None:
    out = tmp_path / "run"
    if folder != "missing":
        out.mkdir()
    if folder == "killed at once":
        (out / "manifest.json.partial").write_text("{")
    if folder == "without checkpoint":
        manifest = manifest_of(finished_run) | {"status": "running", "end": None}
        (out / "manifest.json").write_text(json.dumps(manifest))
        (out / "checkpoint.safetensors.partial").write_bytes(b"half")
    train(str(tiny_set), tiny(), out, resume=True)
    assert results_of(out) == results_of(finished_run)
    assert len(manifest_of(out)["resumed"]) == (folder == "without checkpoint")


def test_a_failure_stands_in_the_manifest(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 1, RuntimeError("out of something"))
    with pytest.raises(RuntimeError):
        train(str(tiny_set), tiny(), tmp_path)
    manifest = manifest_of(tmp_path)
    assert (manifest["status"], manifest["error"]) == ("failed", "RuntimeError: out of something")
    assert manifest["end"] >= manifest["start"]
    assert {p.name for p in tmp_path.iterdir()} == {"manifest.json", "config.json"}


@pytest.mark.parametrize(
    ("error", "raised"),
    [(lambda: os.kill(os.getpid(), signal.SIGTERM), SystemExit), (KeyboardInterrupt, KeyboardInterrupt)],
)
def test_a_stopped_run_says_so(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable, raised: type
) -> None:
    def stop() -> BaseException:
        result = error()
        return result if isinstance(result, BaseException) else Stop("the signal should have come first")

    stop_at(monkeypatch, 1, stop)
    with pytest.raises(raised):
        train(str(tiny_set), tiny(), tmp_path)
    assert manifest_of(tmp_path)["status"] == "failed"
    assert manifest_of(tmp_path)["error"].startswith(raised.__name__)


@pytest.mark.parametrize(
    ("overrides", "batch"),
    [
        # three batches per epoch: checkpoints after the evaluations at batch 3 and 5, and at 2 and 4
        ({"steps": 5, "checkpoint_steps": 2}, 2),  # in mid-epoch, first batch after a checkpoint
        ({"steps": 5, "checkpoint_steps": 2}, 4),  # in mid-epoch, second epoch
        ({"steps": 6, "tiles": 4, "unlabelled": 1, "crop": 0, "photometric": False}, 4),  # kept teacher maps
        ({"steps": 3, "accumulate": 2}, 5),  # the epoch ends between two halves of a step: the checkpoint waits
    ],
)
def test_a_run_resumed_in_mid_epoch_is_bit_identical(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: dict, batch: int
) -> None:
    config = tiny(**RANDOM, **overrides)
    train(str(tiny_set), config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, batch)
        with pytest.raises(Stop):
            train(str(tiny_set), config, tmp_path / "cut")
    seen = []
    losses = Trainer.losses
    monkeypatch.setattr(Trainer, "losses", lambda self, *t: (seen.append(self.progress.batch), losses(self, *t))[1])
    torch.manual_seed(1234)  # the state of the global generator does not matter
    begun = manifest_of(tmp_path / "cut")["start"]
    train(str(tiny_set), config, tmp_path / "cut", resume=True)
    assert seen[0] > 0  # it did go on, and did not start again
    assert results_of(tmp_path / "cut") == results_of(tmp_path / "whole")
    whole, cut = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    manifest = manifest_of(tmp_path / "cut")
    assert (manifest["status"], manifest["start"], len(manifest["resumed"])) == ("finished", begun, 1)
    assert "error" not in manifest


def test_a_run_killed_before_its_report_only_reports(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished_run, tmp_path / "run")
    (out / "metrics.json").unlink()
    (out / "confusions.npz").unlink()
    (out / "manifest.json").write_text(json.dumps(manifest_of(out) | {"status": "running"}))
    train(str(tiny_set), tiny(), out, resume=True)
    assert results_of(out) == results_of(finished_run)


def test_resume_on_other_data_is_refused(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(Stop):
            train(str(tiny_set), tiny(), tmp_path / "run")
    before = content_of(tmp_path / "run")
    other = make_set(tmp_path / "other", {"train": 8, "val": 2})
    with pytest.raises(InputError, match=r"was started on .*, whose content was not that of .*resume with the same"):
        train(str(other), tiny(), tmp_path / "run", resume=True)
    assert content_of(tmp_path / "run") == before


# ---- randomness


def test_the_seed_decides(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    train(str(tiny_set), tiny(), tmp_path / "same")
    train(str(tiny_set), tiny(seed=1), tmp_path / "other")
    assert results_of(tmp_path / "same") == results_of(finished_run)
    assert results_of(tmp_path / "other")["model"] != results_of(finished_run)["model"]


def test_workers_change_nothing(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    train(str(tiny_set), tiny(workers=1), tmp_path / "run")
    assert results_of(tmp_path / "run") == results_of(finished_run)


# ---- what a step does


@pytest.mark.parametrize(
    ("overrides", "student", "teacher"),
    [
        ({}, 1, 1),
        ({"student_passes": 2}, 2, 1),
        ({"distill_weight": 0.0}, 1, 0),
        ({"distill_weight": 0.0, "student_passes": 2}, 1, 0),
        ({"fam": False, "neck_scales": (1.0, 1.0, 1.0, 1.0)}, 1, 0),
    ],
)
def test_passes_per_step(
    tiny_set: Path, tmp_path: Path, built: list, monkeypatch: pytest.MonkeyPatch, overrides: dict, student: int,
    teacher: int,
) -> None:  # fmt: skip
    passes, asked = [], []
    call, losses = Teacher.__call__, Trainer.losses

    def counting(self: Trainer, *tensors: Tensor) -> dict[str, Tensor]:
        encoder = self.progress.model.student.encoder
        hook = encoder.register_forward_hook(lambda *_: passes.append(encoder.training))
        terms = losses(self, *tensors)
        hook.remove()
        assert ("distillation" in terms) == bool(teacher)
        return terms

    monkeypatch.setattr(Trainer, "losses", counting)
    monkeypatch.setattr(Teacher, "__call__", lambda self, images: (asked.append(1), call(self, images))[1])
    train(str(tiny_set), tiny(steps=2, standardise=False, **overrides), tmp_path)
    assert passes == [True] * 2 * student
    assert len(asked) == 2 * teacher


def test_accumulation_by_hand(tiny_set: Path, tmp_path: Path) -> None:
    """Two batches of two per step: gradients of half the loss of each are summed."""
    overrides = {"accumulate": 2, "steps": 2, "dropout": 0.0, "standardise": False, "evaluate_epochs": 99}
    config = tiny(**overrides)
    train(str(tiny_set), config, tmp_path)

    tile_set = open_data(tiny_set)
    teacher = make_teacher(config)
    model = build(describe(config, 3, teacher), teacher).train()
    optimiser = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=1.0)
    augment = Augment(config.hflip, config.vflip, config.rot90, config.crop, config.photometric)
    tiles = Tiles(tile_set, choose_splits(tile_set).train, augment, config.seed)
    history = []
    for number, keys in enumerate(BatchStream(6, 2, 4)):
        batch = collate([tiles[key] for key in keys])
        out = model(normalise(batch["image"]), outputs=True)
        terms = [
            segmentation_loss(out.logits, batch["mask"], average="valid"),
            0.4 * segmentation_loss(out.auxiliary_logits, batch["mask"], average="valid"),
            distillation_loss(out.aligned, teacher(batch["image"]), axis="channel", reduction="mean"),
        ]
        history.append([term.item() for term in terms])
        (sum(terms) / 2).backward()
        if number % 2:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(number // 2, config)
            optimiser.step()
            optimiser.zero_grad()

    held = load_file(tmp_path / "checkpoint.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(held[f"model/{name}"], value, rtol=1e-5, atol=1e-6, msg=name)
    with (tmp_path / "history.csv").open() as file:
        rows = [[float(v) for k, v in row.items() if k.startswith("loss_")] for row in csv.DictReader(file)]
    assert rows[0] == pytest.approx(np.mean(history[:3], 0), rel=1e-5)  # an epoch of three batches
    assert rows[1] == pytest.approx(history[3], rel=1e-5)


def test_a_frozen_student_stays_as_it_was(tiny_set: Path, tmp_path: Path) -> None:
    # a student with BatchNorm, whose statistics shall not move either
    config = tiny(student="tu-test_resnet", student_frozen=True, steps=2)
    train(str(tiny_set), config, tmp_path)
    before = build(describe(config, 3, make_teacher(config))).state_dict()
    after = load_file(tmp_path / "model.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert any("running_mean" in key for key in before if key.startswith("student.encoder."))
    assert not any(key.startswith("student.encoder.") for key in changed)
    for part in ("student.norms", "fam", "neck", "fmm", "decode_head", "auxiliary_head"):
        assert any(key.startswith(part) for key in changed), part


def test_bf16_runs_on_a_cpu_and_keeps_fp32_weights(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    train(str(tiny_set), tiny(precision="bf16"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float32}
    assert results_of(tmp_path)["history"] != results_of(finished_run)["history"]
    assert all(np.isfinite(float(v)) for row in results_of(tmp_path)["history"] for v in row.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, where fp16 runs")
def test_fp16_needs_a_gpu(tiny_set: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="precision=fp16 needs a GPU; use bf16 or fp32"):
        train(str(tiny_set), tiny(precision="fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def first_losses(run: Path) -> dict[str, float]:
    with (run / "history.csv").open() as file:
        return {k: float(v) for k, v in next(csv.DictReader(file)).items() if k.startswith("loss_")}


@pytest.fixture(scope="module")
def plain_losses(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Losses of the first step, before anything was learnt."""
    out = tmp_path_factory.mktemp("plain")
    train(str(tiny_set), tiny(steps=1, standardise=False), out)
    return first_losses(out)


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ({"class_weights": (2.0, 2.0, 2.0)}, {"loss_segmentation": 2, "loss_auxiliary": 2}),
        ({"auxiliary_weight": 0.8}, {"loss_auxiliary": 2}),
        ({"distill_weight": 3.0}, {"loss_distillation": 3}),
        ({"dice_weight": 1.0}, {"loss_segmentation": None}),
        ({"focal_weight": 1.0}, {"loss_segmentation": None}),
        ({"standardise": True}, {"loss_distillation": None}),
        ({"alpha": 0.0}, {"loss_distillation": None}),
        ({"kl_axis": "width"}, {"loss_distillation": None}),
        ({"temperature": 4.0}, {"loss_distillation": None}),
        ({"distill_levels": (3,)}, {"loss_distillation": None}),
        ({"distill_sum": True}, {"loss_distillation": None}),
        ({"teacher_images": "other"}, {"loss_distillation": None}),
        ({"teacher_norm": "all"}, {"loss_distillation": None}),
        ({"learning_rate": 0.1}, {}),
    ],
)
def test_settings_reach_their_term_and_no_other(
    tiny_set: Path, tmp_path: Path, plain_losses: dict, overrides: dict, changed: dict
) -> None:
    train(str(tiny_set), tiny(**{"steps": 1, "standardise": False} | overrides), tmp_path)
    found = first_losses(tmp_path)
    for name, value in plain_losses.items():
        if changed.get(name, 1) is None:
            assert abs(found[name] / value - 1) > 1e-4, name
        else:
            assert found[name] == pytest.approx(value * changed.get(name, 1), rel=1e-5), name


def test_every_augmentation_and_the_statistics_of_the_training_set(tiny_set: Path, tmp_path: Path) -> None:
    config = tiny(steps=1, rot90=True, vflip=1.0, hflip=1.0, crop=32, photometric=True, standardise=True)
    train(str(tiny_set), config, tmp_path)
    held = load_file(tmp_path / "checkpoint.safetensors")
    tile_set, teacher = open_data(tiny_set), make_teacher(config)
    images = torch.stack([item["image"] for item in Tiles(tile_set, tile_set.pairs("train"))])
    last = teacher(images)[3]  # (6, D, h, w), whole tiles, no augmentation
    torch.testing.assert_close(held["extra/statistics/3"][0], last.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(held["extra/statistics/3"][1], last.std((0, 2, 3), correction=0), rtol=1e-3, atol=1e-4)


def test_the_weights_that_lead_on_the_selection_tiles_are_kept(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, kept = [], []
    confusions = progress.Progress._confusions

    def falling(self: progress.Progress, pairs: list) -> Tensor:
        scored.append(pairs)
        if len(scored) > 3:
            return confusions(self, pairs)
        kept.append({k: v.clone() for k, v in self.model.state_dict().items()})
        worse = 2 * len(scored)  # the first epoch is the best
        return torch.tensor([[[10 - worse, worse, 0], [worse, 10 - worse, 0], [0, 0, 9]]])

    monkeypatch.setattr(progress.Progress, "_confusions", falling)
    metrics = train(str(tiny_set), tiny(steps=9), tmp_path)
    assert metrics["best_step"] == 3
    tensors = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensors[k], v) for k, v in kept[0].items())
    assert not all(torch.equal(tensors[k], v) for k, v in kept[2].items())
    tile_set = open_data(tiny_set)
    assert scored == [tile_set.pairs("val")] * 4 + [tile_set.pairs("test")]  # the reported split once, at the end


def test_paper_protocol_selects_on_the_reported_split(tiny_set: Path, tmp_path: Path) -> None:
    metrics = train(str(tiny_set), tiny(protocol="paper", steps=1), tmp_path)
    assert (metrics["split"], metrics["protocol"], metrics["selected_on"]) == ("test", "paper", "test")
    assert metrics["splits"] == {}


def test_held_out_tiles_are_reported_as_such(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"train": 6, "val": 2})
    metrics = train(str(tmp_path / "set"), tiny(steps=1), tmp_path / "run")
    assert (metrics["split"], metrics["selected_on"]) == ("val", "held out of train")
    assert metrics["splits"]["held out of train"]["images"] == 2
    assert manifest_of(tmp_path / "run")["data"]["tiles"] == {"train": 4, "select": 2, "report": 2}


# ---- every model


@pytest.mark.parametrize("model", ["ktda", "unet", "deeplabv3plus", "pspnet", "segformer", "upernet", "teacher"])
def test_every_model_trains_and_reloads_without_a_network(
    tiny_set: Path, tmp_path: Path, built: list, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    def no_network(*arguments: object, **named: object) -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(weights, "hub_file", no_network)
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    train(str(tiny_set), tiny(model=model, steps=1), tmp_path)
    trained = built[-1].eval()
    again, content = load_model(tmp_path)
    images = normalise(torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        expected, found = trained(images), again(images)
    assert found.shape == (2, 3, 40, 40)
    assert torch.equal(found, expected)
    assert content["classes"] == ["a", "b", "c"]
    teacher = manifest_of(tmp_path)["weights"]["teacher"]
    assert (teacher is not None and teacher["used"]) == (model in ("ktda", "teacher"))


@pytest.mark.parametrize(
    "overrides",
    [
        {"neck_scales": (), "neck_width": 0, "fmm_heads": 2},
        {"fmm": "mlp"},
        {"fmm": "none", "auxiliary": "none"},
        {"auxiliary": "fam"},
        {"fam": False, "neck_scales": (1.0, 1.0, 1.0, 1.0)},
        {"fam": False, "neck_scales": (), "neck_width": 0, "fmm": "none"},
        {"decoder": "segformer"},
        {"student": "resnet18", "student_norm": False},
    ],
)
def test_every_part_can_be_left_out_or_exchanged(tiny_set: Path, tmp_path: Path, built: list, overrides: dict) -> None:
    train(str(tiny_set), tiny(steps=1, **overrides), tmp_path)
    images = torch.rand(1, 3, 40, 40)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path)[0](images), built[-1].eval()(images))


def test_kept_maps_are_those_of_the_teacher(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(steps=6, crop=0, photometric=False)  # 40 px: flips and rotations of six tiles
    train(str(tiny_set), config, tmp_path / "kept")
    monkeypatch.setattr("ktda.targets.KEPT_BYTES", 0)
    train(str(tiny_set), config, tmp_path / "asked")
    assert results_of(tmp_path / "kept") == results_of(tmp_path / "asked")


def test_unlabelled_tiles_reach_the_distillation_and_no_other_loss(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    losses = Trainer.losses
    monkeypatch.setattr(Trainer, "losses", lambda self, *t: (seen.append(t), losses(self, *t))[1])
    train(str(tiny_set), tiny(steps=3, tiles=3, unlabelled=2), tmp_path)
    for images, masks in seen:
        assert len(images) == 4  # two labelled, two without
        assert (masks[:2] < 3).all()
        assert (masks[2:] == 255).all()
    assert manifest_of(tmp_path)["data"]["tiles"]["train"] == 3
    with pytest.raises(InputError, match="unlabelled=4, but 3 training tiles are left out"):
        train(str(tiny_set), tiny(steps=3, tiles=3, unlabelled=4), tmp_path / "too_many")
    assert not (tmp_path / "too_many").exists()


# ---- starting from weights


@pytest.mark.parametrize("source", ["run", "model.safetensors", "checkpoint.safetensors"])
def test_init_takes_the_weights_over(finished_run: Path, source: str) -> None:
    config = tiny(seed=5)
    model = build(describe(config, 3, make_teacher(config)))
    path = finished_run if source == "run" else finished_run / source
    assert initialise(model, str(path)) == []
    prefix = "model/" if source.startswith("checkpoint") else ""
    held = load_file(finished_run / (source if source != "run" else "model.safetensors"))
    assert all(torch.equal(v, held[prefix + k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("model", ["ktda", "unet", "segformer"])
def test_init_with_another_class_count_starts_the_classifiers_anew_and_says_so(
    tiny_set: Path, tmp_path: Path, built: list, model: str
) -> None:
    train(str(tiny_set), tiny(steps=1, model=model), tmp_path / "first")
    spec = SPEC.replace("[a, b, c]", "[a, b, c, d]")
    make_set(tmp_path / "four", {"train": 4, "val": 2, "test": 2}, classes=4, spec=spec)
    source = str(tmp_path / "first")
    train(str(tmp_path / "four"), tiny(steps=1, model=model, learning_rate=0.0), tmp_path / "second", init=source)
    if model == "ktda":
        heads = [
            f"{head}.classifier.{kind}" for head in ("decode_head", "auxiliary_head") for kind in ("weight", "bias")
        ]
    else:
        heads = ["network.segmentation_head.0.weight", "network.segmentation_head.0.bias"]
    manifest = manifest_of(tmp_path / "second")
    assert (manifest["init"], sorted(manifest["left_fresh"])) == (source, sorted(heads))
    before = load_file(tmp_path / "first" / "model.safetensors")
    after = load_file(tmp_path / "second" / "model.safetensors")
    learnt = dict(built[-1].named_parameters())
    assert all(torch.equal(before[k], after[k]) for k in learnt if k not in heads)  # the rate was 0
    assert all(after[k].shape[0] == 4 for k in heads)


def test_a_resumed_run_keeps_its_init(
    finished_run: Path, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, init = tiny(seed=3, steps=4), str(finished_run)
    train(str(tiny_set), config, tmp_path / "whole", init=init)
    for batch in (1, 3):  # before and after the first checkpoint
        out = tmp_path / f"cut{batch}"
        with monkeypatch.context() as patch:
            stop_at(patch, batch)
            with pytest.raises(Stop):
                train(str(tiny_set), config, out, init=init)
        train(str(tiny_set), config, out, resume=True)
        assert results_of(out) == results_of(tmp_path / "whole")
        assert manifest_of(out)["init"] == init


def test_init_from_something_else_is_refused(
    finished_run: Path, tiny_set: Path, tmp_path: Path, tiny_arguments: dict
) -> None:
    with pytest.raises(InputError, match=r"no weights file at .*nowhere"):
        train(str(tiny_set), tiny(), tmp_path / "run", init=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"weights of .* do not fit this model: .*shape .*, expected"):
        train(str(tiny_set), tiny(decoder_channels=8), tmp_path / "run", init=str(finished_run))
    with pytest.raises(InputError, match=r"do not fit this model: \d+ missing .*; \d+ unknown"):
        train(str(tiny_set), tiny(model="unet"), tmp_path / "run", init=str(finished_run))
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"is missing; expected the layout of the authors' checkpoints") as caught:
        initialise(KTDA(**tiny_arguments), str(tmp_path / "weights.pth"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_init_from_the_authors_checkpoint(shared: Path, tiny_set: Path, tmp_path: Path) -> None:
    path = shared / "parity" / "vit_blocks" / "checkpoint.pth"
    with pytest.raises(InputError, match="do not fit this model") as caught:
        train(str(tiny_set), tiny(), tmp_path / "run", init=str(path))
    assert "\n" not in str(caught.value)


# ---- data that does not do


def run_error(data: Path, out: Path, **overrides: object) -> str:
    with pytest.raises(InputError) as caught:
        train(str(data), tiny(**overrides), out)
    return str(caught.value)


@pytest.mark.parametrize(
    ("splits", "overrides", "message"),
    [
        ({"train": 3, "val": 1, "test": 1}, {"batch_size": 4}, "3 training tiles do not fill one batch of 4"),
        ({"train": 4, "val": 1, "test": 1}, {"tiles": 9}, "tiles=9, but set has 4 to train on"),
        ({"train": 4}, {}, "training needs train and val or test"),
        ({"train": 4, "val": 1, "test": 1}, {"class_weights": (1.0, 2.0)}, "2 class_weights for 3 classes"),
        ({"train": 4, "val": 1, "test": 1}, {"model": "teacher", "student_frozen": True}, "has no student"),
        ({"train": 4, "val": 1, "test": 1}, {"fmm_heads": 7}, "7 FMM heads do not divide the channels"),
        (
            {"train": 4, "val": 1, "test": 1},
            {"model": "teacher", "neck_scales": (), "neck_width": 0},
            "model=teacher needs the neck",
        ),
        ({"train": 4, "val": 1, "test": 1}, {"student": "resnet18", "student_drop_path": 0.1}, "takes no options"),
    ],
)
def test_settings_that_do_not_fit_the_data_leave_no_folder(
    tmp_path: Path, splits: dict, overrides: dict, message: str
) -> None:
    found = run_error(make_set(tmp_path / "set", splits), tmp_path / "run", **overrides)
    assert message in found
    assert "\n" not in found
    assert not (tmp_path / "run").exists()


def test_tiles_that_do_not_fit_end_the_run_in_one_line(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set", {"train": 4, "val": 2})
    assert "40x40" in run_error(data, tmp_path / "crop", crop=64)
    assert "times neck scale 0.2 is nothing" in run_error(data, tmp_path / "neck", neck_scales=(2.0, 1.0, 0.5, 0.2))
    seven = make_set(tmp_path / "seven", {"train": 4, "val": 2}, classes=7)
    assert "labels 3, 4, 5, 6 are neither a class (0 to 2) nor" in run_error(seven, tmp_path / "labels")
    mixed = make_set(tmp_path / "mixed", {"train": 3, "val": 2})
    make_set(tmp_path / "wide", {"train": 4, "val": 2}, size=48)
    for part in ("img_dir", "ann_dir"):
        shutil.copy(tmp_path / "wide" / part / "train" / "train1_patch_3.png", mixed / part / "train")
    error = run_error(mixed, tmp_path / "sizes", crop=0, rot90=False, batch_size=4, holdout=0.01, protocol="paper")
    assert "tiles of one batch are 40x40, 48x48 pixels; set crop, to at most 40" in error
    for name in ("crop", "neck", "labels", "sizes"):
        assert manifest_of(tmp_path / name)["status"] == "failed"


@pytest.fixture(autouse=True)
def _one_line_of_output(capfd: pytest.CaptureFixture) -> Iterator[None]:
    """Nothing is printed where there is no terminal: no bar, no warning."""
    yield
    assert capfd.readouterr().out == ""


def test_a_loss_that_is_no_longer_finite_ends_the_run(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Trainer.losses
    monkeypatch.setattr(Trainer, "losses", lambda *a: {k: v * float("nan") for k, v in losses(*a).items()})
    with pytest.raises(InputError, match="segmentation loss is no longer finite in epoch 1; lower learning_rate"):
        train(str(tiny_set), tiny(), tmp_path / "run")
    assert manifest_of(tmp_path / "run")["status"] == "failed"


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
