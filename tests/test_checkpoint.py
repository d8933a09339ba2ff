"""A checkpoint is one file that brings model, optimiser and state back to the bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ktda.errors import InputError
from ktda.runs.checkpoint import load_checkpoint, save_checkpoint
from ktda.weights import tensors as weights

STATE = {"batch": 7, "best": 0.25, "history": [{"epoch": 1, "select_miou": None}], "sums": {"segmentation": 1.5}}


def make(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    groups = [{"params": model[0].parameters(), "weight_decay": 0.0}, {"params": list(model[1:].parameters())}]
    return model, torch.optim.AdamW(groups, lr=0.1)


def step(model: nn.Module, optimiser: torch.optim.Optimizer, count: int) -> None:
    model.train()
    for _ in range(count):
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()


def test_a_loaded_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    model, optimiser = make()
    step(model, optimiser, 3)
    extra = {"statistics/0": torch.rand(2, 5)}
    save_checkpoint(tmp_path / "c.safetensors", model, optimiser, STATE, extra)
    step(model, optimiser, 2)  # with draws from the global generator, which the file holds too

    other, another = make(seed=9)
    state, found = load_checkpoint(tmp_path / "c.safetensors", other, another)
    assert state == STATE
    assert torch.equal(found["statistics/0"], extra["statistics/0"])
    step(other, another, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert other[1].num_batches_tracked == 5
    assert [g["weight_decay"] for g in another.param_groups] == [0.0, 0.01]


def test_it_is_one_safetensors_file_with_json_in_its_header(tmp_path: Path) -> None:
    model, optimiser = make()
    step(model, optimiser, 1)
    save_checkpoint(tmp_path / "c.safetensors", model, optimiser, STATE, {})
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        assert json.loads(file.metadata()["state"]) == STATE
        parts = {key.split("/")[0] for key in file.keys()}  # noqa: SIM118 (not a dict)
        moments = sum(key.endswith("/exp_avg") for key in file.keys())  # noqa: SIM118
    assert parts == {"model", "optimiser", "generator"}
    assert moments == len(list(model.parameters()))


def test_an_interrupted_write_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, (model, optimiser) = tmp_path / "c.safetensors", make()
    step(model, optimiser, 1)
    save_checkpoint(path, model, optimiser, STATE, {})
    before = path.read_bytes()

    def stop(tensors: dict, target: Path, metadata: dict) -> None:
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, model, optimiser, STATE | {"batch": 8}, {})
    assert path.read_bytes() == before
    assert load_checkpoint(path, *make())[0]["batch"] == 7


def test_other_files_are_refused(tmp_path: Path) -> None:
    model, optimiser = make()
    step(model, optimiser, 1)
    path = tmp_path / "c.safetensors"
    with pytest.raises(InputError, match="no weights file at"):
        load_checkpoint(path, model, optimiser)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="is no training checkpoint"):
        load_checkpoint(path, model, optimiser)
    path.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        load_checkpoint(path, model, optimiser)
    save_checkpoint(path, nn.Conv2d(3, 5, 1), torch.optim.AdamW(nn.Conv2d(3, 5, 1).parameters()), STATE, {})
    with pytest.raises(InputError, match="is of another model") as caught:
        load_checkpoint(path, model, optimiser)
    assert "\n" not in str(caught.value)
