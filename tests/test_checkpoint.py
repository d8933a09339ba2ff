"""A checkpoint is one file that brings model, optimiser and state back to the bit."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tiny_runs import content_of
from torch import nn

from ktda.errors import InputError
from ktda.runs.checkpoint import NAME, PREVIOUS, has_checkpoint, load_checkpoint, save_checkpoint
from ktda.weights import tensors as weights

STATE = {"batch": 7, "seconds": 2.5, "best": 0.25, "best_step": 4, "sums": {"segmentation": 1.5}}
STATE |= {"history": [{"epoch": 1, "select_miou": None}]}


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
    save_checkpoint(tmp_path, model, optimiser, STATE, extra)
    step(model, optimiser, 2)  # with draws from the global generator, which the file holds too

    other, another = make(seed=9)
    state, found = load_checkpoint(tmp_path, other, another)
    assert state == STATE
    assert torch.equal(found["statistics/0"], extra["statistics/0"])
    step(other, another, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert other[1].num_batches_tracked == 5
    assert [g["weight_decay"] for g in another.param_groups] == [0.0, 0.01]


def test_it_is_one_safetensors_file_with_json_in_its_header(tmp_path: Path) -> None:
    model, optimiser = make()
    step(model, optimiser, 1)
    save_checkpoint(tmp_path, model, optimiser, STATE, {})
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    with safe_open(tmp_path / NAME, "pt") as file:
        assert json.loads(file.metadata()["state"]) == STATE
        parts = {key.split("/")[0] for key in file.keys()}  # noqa: SIM118 (not a dict)
        moments = sum(key.endswith("/exp_avg") for key in file.keys())  # noqa: SIM118
    assert parts == {"model", "optimiser", "generator"}
    assert moments == len(list(model.parameters()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two checkpoints: of batch 7, and before it of batch 6."""
    model, optimiser = make()
    step(model, optimiser, 1)
    save_checkpoint(tmp_path, model, optimiser, STATE | {"batch": 6}, {})
    step(model, optimiser, 1)
    save_checkpoint(tmp_path, model, optimiser, STATE, {})
    return tmp_path


def flip_one_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_an_interrupted_write_leaves_the_last_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_of(folder)

    def stop(tensors: dict, target: Path, metadata: dict) -> None:
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, *make(), STATE | {"batch": 8}, {})
    assert content_of(folder) == before
    assert load_checkpoint(folder, *make())[0]["batch"] == 7


def test_a_flipped_bit_is_found_and_the_one_before_is_used(folder: Path) -> None:
    size = (folder / NAME).stat().st_size
    sound = (folder / NAME).read_bytes()
    begin = 8 + int.from_bytes(sound[:8], "little")  # of the tensors
    state = sound.index(b'\\"batch\\": 7')  # within the header
    for place in (state + len(b'\\"batch\\": '), begin, (begin + size) // 2, size - 1):
        (folder / NAME).write_bytes(sound)
        flip_one_bit(folder / NAME, place)
        with pytest.warns(UserWarning, match=rf"{NAME} is damaged: .*; going on from {PREVIOUS}"):
            assert load_checkpoint(folder, *make())[0]["batch"] == 6
    flip_one_bit(folder / PREVIOUS, begin)
    with pytest.raises(InputError, match=f"{PREVIOUS} is damaged"):
        load_checkpoint(folder, *make())


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_half_a_file_is_found(folder: Path, cut: int) -> None:
    (folder / NAME).write_bytes((folder / NAME).read_bytes()[:cut])
    with pytest.warns(UserWarning, match="is not a readable safetensors file"):
        assert load_checkpoint(folder, *make())[0]["batch"] == 6


def test_the_one_before_serves_where_the_newest_is_not_yet_there(folder: Path) -> None:
    (folder / NAME).unlink()  # killed between two renames
    assert has_checkpoint(folder)
    with pytest.warns(UserWarning, match="no weights file at"):
        assert load_checkpoint(folder, *make())[0]["batch"] == 6
    (folder / PREVIOUS).unlink()
    assert not has_checkpoint(folder)


def test_a_checkpoint_without_a_hash_still_loads(folder: Path) -> None:
    """Files of before have none."""
    tensors, header = weights.read_tensors(folder / NAME), weights.read_metadata(folder / NAME)
    del header[weights.HASH]
    save_file(tensors, folder / NAME, header)
    assert load_checkpoint(folder, *make())[0]["batch"] == 7


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("", "state: it is not json"),
        ("[]", "state: it holds a list, expected an object"),
        ("{}", "state: it has no field batch"),
        (json.dumps(STATE | {"batch": "7"}), "state: batch is text, expected a whole number"),
        (json.dumps(STATE | {"batch": True}), "state: batch is true or false, expected a whole number"),
        (json.dumps(STATE | {"history": None}), "state: history is null, expected a list"),
    ],
)
def test_a_header_that_is_wrong_is_named(folder: Path, state: str, message: str) -> None:
    (folder / PREVIOUS).unlink()
    tensors = weights.read_tensors(folder / NAME)
    save_file(tensors, folder / NAME, {"state": state, "optimiser": "{}"})
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(folder, *make())
    assert NAME in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_named_with_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the library tells it; the checkpoint of before stays."""

    def full(tensors: dict, target: Path, metadata: dict) -> None:
        Path(target).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    before = content_of(folder)
    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_checkpoint(folder, *make(), STATE, {})
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(folder / NAME)
    assert content_of(folder) == before


def test_other_files_are_refused(tmp_path: Path) -> None:
    model, optimiser = make()
    step(model, optimiser, 1)
    path = tmp_path / NAME
    with pytest.raises(InputError, match="no weights file at"):
        load_checkpoint(tmp_path, model, optimiser)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="is no training checkpoint"):
        load_checkpoint(tmp_path, model, optimiser)
    path.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        load_checkpoint(tmp_path, model, optimiser)
    other = nn.Conv2d(3, 5, 1)
    save_checkpoint(tmp_path, other, torch.optim.AdamW(other.parameters()), STATE, {})
    with pytest.raises(InputError, match="is of another model") as caught:
        load_checkpoint(tmp_path, model, optimiser)
    assert "\n" not in str(caught.value)
