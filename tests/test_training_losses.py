"""What a step does: passes, terms and their weights, precision, accumulation, what is frozen."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import make_set, manifest_of, results_of, tiny
from tiny_sets import put_mask
from torch import Tensor, nn

from ktda.build import build, describe, make_teacher
from ktda.data.folder import open_data
from ktda.data.protocol import choose_splits
from ktda.data.stream import BatchStream, collate
from ktda.data.tiles import Tiles
from ktda.data.transforms import Augment
from ktda.errors import InputError
from ktda.images import normalise
from ktda.losses import distillation_loss, segmentation_loss
from ktda.objective import Objective
from ktda.optimisation import learning_rate, parameter_groups
from ktda.runs import progress
from ktda.teacher import Teacher
from ktda.training import train
from ktda.weights.tensors import read_metadata

pytestmark = pytest.mark.usefixtures("quiet")


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
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: dict, student: int,
    teacher: int,
) -> None:  # fmt: skip
    passes, asked = [], []
    call, losses = Teacher.__call__, Objective.__call__

    def counting(self: Objective, model: nn.Module, *batch: Tensor) -> dict[str, Tensor]:
        encoder = model.student.encoder
        hook = encoder.register_forward_hook(lambda *_: passes.append(encoder.training))
        terms = losses(self, model, *batch)
        hook.remove()
        assert ("distillation" in terms) == bool(teacher)
        return terms

    monkeypatch.setattr(Objective, "__call__", counting)
    monkeypatch.setattr(Teacher, "__call__", lambda self, images: (asked.append(1), call(self, images))[1])
    train(str(tiny_set), tiny(steps=2, standardise=False, **overrides), tmp_path)
    assert passes == [True] * 2 * student
    assert len(asked) == 2 * teacher


def test_accumulation_by_hand(tmp_path: Path) -> None:
    """Two batches of two per step, as one of four would be: a labelled pixel weighs the same in either."""
    tiny_set = make_set(tmp_path / "set")
    for pair in open_data(tiny_set).pairs("train")[::2]:  # three of the six tiles have hardly a label
        mask = np.full((40, 40), 255, np.uint8)
        mask[::9, ::9] = 1
        put_mask(pair.mask, mask)
    overrides = {"accumulate": 2, "steps": 2, "dropout": 0.0, "standardise": False, "evaluate_epochs": 99}
    config = tiny(**overrides)
    train(str(tiny_set), config, tmp_path / "run")

    tile_set = open_data(tiny_set)
    teacher = make_teacher(config)
    model = build(describe(config, 3, teacher), teacher).train()
    optimiser = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=1.0)
    augment = Augment(config.hflip, config.vflip, config.rot90, config.crop, config.photometric)
    tiles = Tiles(tile_set, choose_splits(tile_set).train, augment, config.seed)
    history = []
    batches = [collate([tiles[key] for key in keys]) for keys in BatchStream(6, 2, 4)]
    valid = np.array([(batch["mask"] != 255).sum().item() for batch in batches]).reshape(2, 2)  # steps, batches
    shares = (valid / valid.mean(1, keepdims=True)).ravel()
    assert not np.allclose(shares, 1)
    for number, batch in enumerate(batches):
        out = model(normalise(batch["image"]), outputs=True)
        terms = [
            shares[number] * segmentation_loss(out.logits, batch["mask"], average="valid"),
            shares[number] * 0.4 * segmentation_loss(out.auxiliary_logits, batch["mask"], average="valid"),
            distillation_loss(out.aligned, teacher(batch["image"]), axis="channel", reduction="mean"),
        ]
        history.append([term.item() for term in terms])
        (sum(terms) / 2).backward()
        if number % 2:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(number // 2, config)
            optimiser.step()
            optimiser.zero_grad()

    held = load_file(tmp_path / "run" / "checkpoint.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(held[f"model/{name}"], value, rtol=1e-5, atol=1e-6, msg=name)
    with (tmp_path / "run" / "history.csv").open() as file:
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


def test_distilling_alone_claims_no_score(tiny_set: Path, tmp_path: Path) -> None:
    config = tiny(segmentation_weight=0, fam_path="beside", steps=4)  # scored, were it not for that, twice
    metrics = train(str(tiny_set), config, tmp_path)
    model = load_file(tmp_path / "model.safetensors")
    held = load_file(tmp_path / "checkpoint.safetensors")
    assert all(torch.equal(value, held[f"model/{name}"]) for name, value in model.items())  # the last weights
    assert not any(name.startswith("fam.") for name in model)
    assert (metrics["best_step"], metrics["selected_on"]) == (4, "nothing: the last weights")
    assert {metrics[key] for key in ("miou", "miou_all", "overall_accuracy", "mean_f1")} == {None}
    start = build(describe(config, 3, make_teacher(config))).state_dict()
    changed = {name.split(".")[0] for name, value in start.items() if not torch.equal(value, held[f"model/{name}"])}
    assert changed == {"student", "fam"}
    with (tmp_path / "history.csv").open() as file:
        row = next(csv.DictReader(file))
    assert [name for name in row if name.startswith("loss_")] == ["loss_distillation"]
    assert row["select_miou"] == ""
    parameters = manifest_of(tmp_path)["parameters"]
    counts = {part: sum(start[n].numel() for n in start if n.startswith(part)) for part in ("fam", "student")}
    assert parameters["trained"] == counts["fam"] + counts["student"]
    learnt = [n for n in model if "running_" not in n and "num_batches" not in n]
    needed = [n for n in learnt if not n.startswith("auxiliary_head")]
    assert parameters["inference"] == sum(model[n].numel() for n in needed)


def test_averaged_weights_are_scored_and_kept(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    add = progress.Progress.add

    def adding(self: progress.Progress, terms: dict) -> None:
        weights.append({name: value.clone() for name, value in self.model.state_dict().items()})
        add(self, terms)

    monkeypatch.setattr(progress.Progress, "add", adding)
    train(str(tiny_set), tiny(ema=0.75, accumulate=2, steps=3, evaluate_epochs=9), tmp_path)
    expected = {name: value.double() for name, value in weights[1].items()}  # after the first step: as it is
    for state in (weights[3], weights[5]):
        expected = {name: 0.75 * value + 0.25 * state[name].double() for name, value in expected.items()}
    kept = load_file(tmp_path / "model.safetensors")
    for name, value in kept.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert any("running_mean" in name for name in kept)
    assert not torch.equal(kept["fmm.levels.0.0.norm1.weight"], weights[5]["fmm.levels.0.0.norm1.weight"])


def test_bf16_runs_on_a_cpu_and_keeps_fp32_weights(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    train(str(tiny_set), tiny(precision="bf16"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float32}
    assert results_of(tmp_path)["history"] != results_of(finished_run)["history"]
    assert all(np.isfinite(float(v)) for row in results_of(tmp_path)["history"] for v in row.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, where they run")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"precision": "fp16"}, "precision=fp16 needs a GPU; use bf16 or fp32"),
        ({"sync_batch_norm": True}, "sync_batch_norm needs GPUs; on CPUs each process has its own statistics"),
    ],
)
def test_what_needs_a_gpu_says_so(tiny_set: Path, tmp_path: Path, setting: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(str(tiny_set), tiny(**setting), tmp_path / "run")
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
        ({"segmentation_weight": 2.0}, {"loss_segmentation": 2, "loss_auxiliary": 2}),
        ({"distill_weight": 3.0}, {"loss_distillation": 3}),
        ({"dice_weight": 1.0}, {"loss_segmentation": None}),
        ({"focal_weight": 1.0}, {"loss_segmentation": None}),
        ({"standardise": True}, {"loss_distillation": None}),
        ({"alpha": 0.0}, {"loss_distillation": None}),
        ({"kl_axis": "width"}, {"loss_distillation": None}),
        ({"temperature": 4.0}, {"loss_distillation": None}),
        ({"distill_levels": (3,)}, {"loss_distillation": None}),
        ({"distill_sum": True}, {"loss_distillation": None}),
        ({"distillation": "cosine"}, {"loss_distillation": None}),
        ({"distillation": "relational"}, {"loss_distillation": None}),
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


def test_kept_maps_are_those_of_the_teacher(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(steps=6, crop=0, photometric=False)  # 40 px: flips and rotations of six tiles
    train(str(tiny_set), config, tmp_path / "kept")
    monkeypatch.setattr("ktda.targets.KEPT_BYTES", 0)
    train(str(tiny_set), config, tmp_path / "asked")
    assert results_of(tmp_path / "kept") == results_of(tmp_path / "asked")


def test_unlabelled_tiles_reach_the_distillation_and_no_other_loss(tiny_set: Path, tmp_path: Path, seen: list) -> None:
    train(str(tiny_set), tiny(steps=3, tiles=3, unlabelled=2), tmp_path)
    for images, masks in seen:
        assert len(images) == 4  # two labelled, two without
        assert (masks[:2] < 3).all()
        assert (masks[2:] == 255).all()
    assert manifest_of(tmp_path)["data"]["tiles"]["train"] == 3
    with pytest.raises(InputError, match="unlabelled=4, but 3 training tiles are left out"):
        train(str(tiny_set), tiny(steps=3, tiles=3, unlabelled=4), tmp_path / "too_many")
    assert not (tmp_path / "too_many").exists()


def test_a_loss_that_is_no_longer_finite_ends_the_run(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Objective.__call__
    calls = []

    def broken(*given: object) -> dict:
        calls.append(None)
        factor = float("nan") if len(calls) == 2 else 1.0
        return {name: value * factor for name, value in losses(*given).items()}

    monkeypatch.setattr(Objective, "__call__", broken)
    tiles = r"\(tiles train\d_patch_\d\.png, train\d_patch_\d\.png\)"
    with pytest.raises(InputError, match=rf"segmentation loss is not finite at step 2 {tiles}; lower learning_rate"):
        train(str(tiny_set), tiny(checkpoint_steps=1), tmp_path / "run")
    assert manifest_of(tmp_path / "run")["status"] == "failed"
    assert json.loads(read_metadata(tmp_path / "run/checkpoint.safetensors")["state"])["batch"] == 1  # the good one
