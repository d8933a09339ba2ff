"""Training as a whole: every model and part, the protocol, and data that does not do."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import make_set, manifest_of, tiny
from torch import Tensor

from ktda.build import load_model
from ktda.data.folder import open_data
from ktda.data.protocol import choose_splits
from ktda.errors import InputError
from ktda.images import normalise
from ktda.runs import progress
from ktda.training import train

pytestmark = pytest.mark.usefixtures("quiet")


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


@pytest.mark.parametrize("model", ["ktda", "unet", "deeplabv3plus", "pspnet", "segformer", "upernet", "teacher"])
def test_every_model_trains_and_reloads_without_a_network(
    tiny_set: Path, tmp_path: Path, built: list, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    def no_network(*arguments: object, **named: object) -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr("socket.getaddrinfo", no_network)
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
    assert manifest_of(tmp_path / "sizes")["status"] == "failed"
    for name in ("crop", "neck", "labels"):  # found before anything was written
        assert not (tmp_path / name).exists()


def test_a_repeat_is_another_training_on_the_same_draw(tiny_set: Path, tmp_path: Path) -> None:
    settings = {"steps": 1, "tiles": 4}
    for name, more in {"first": {}, "again": {"repeat": 1}, "other": {"seed": 1}}.items():
        train(str(tiny_set), tiny(**settings, **more), tmp_path / name)
    seeds = {name: load_model(tmp_path / name)[1]["arguments"]["seed"] for name in ("first", "again", "other")}
    assert len(set(seeds.values())) == 3
    draws = [
        [pair.stem for pair in choose_splits(open_data(tiny_set), tiles=4, seed=tiny(**more).seed).train]
        for more in ({}, {"repeat": 1}, {"seed": 1})
    ]
    assert draws[0] == draws[1] != draws[2]
    assert tiny().config_hash == tiny(repeat=0).config_hash != tiny(repeat=1).config_hash
