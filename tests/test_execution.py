"""Settings that only say how a step is run: the losses stay what they were, within the arithmetic's precision."""

from pathlib import Path

import pytest
import torch
from tiny_runs import make_set, results_of, tiny
from torch import nn

from ktda.config import make_config
from ktda.model import KTDA
from ktda.optimisation import arrange
from ktda.training import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("execution") / "set")


def losses(data: Path, out: Path, **more: object) -> list[float]:
    """All losses of a run's epochs, in a row."""
    train(str(data), tiny(steps=6, student_drop_path=0.2, **more), out)
    rows = results_of(out)["history"]
    return [float(value) for row in rows for name, value in row.items() if name.startswith("loss_")]


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(data, tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"checkpoint_activations": True}, 0.0),  # drop path draws the same again
        ({"tf32": True}, 0.0),  # says nothing to a CPU
        ({"channels_last": True}, 1e-5),
        ({"precision": "bf16"}, 1e-2),
        ({"precision": "bf16", "checkpoint_activations": True, "channels_last": True}, 1e-2),
        pytest.param({"compile": True}, 1e-4, marks=pytest.mark.slow),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_the_losses_of_a_run_stay(
    settings: dict, tolerance: float, data: Path, plain: list[float], tmp_path: Path
) -> None:
    assert losses(data, tmp_path / "run", **settings) == pytest.approx(plain, rel=tolerance, abs=0)


def kept_bytes(**settings: object) -> int:
    """What autograd keeps for the backward pass of a small model, parameters left out."""
    model = KTDA(3, "tu-test_convnext", width=16, neck_scales=(1, 1, 1, 1), decoder_channels=8, fmm_heads=2)
    arrange(model, make_config("smoke", settings))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(torch.rand(2, 3, 64, 64), outputs=True)
    assert out.logits.requires_grad
    return sum(kept.values())


def test_checkpointed_blocks_keep_less() -> None:
    assert kept_bytes(checkpoint_activations=True) < 0.7 * kept_bytes()


def test_shared_statistics_keep_every_name_and_value() -> None:
    model = KTDA(3, "tu-test_resnet", width=16, neck_scales=(1, 1, 1, 1), decoder_channels=8, fmm_heads=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    arrange(model, make_config("smoke", {"sync_batch_norm": True}))
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) == norms > 0
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_execution_does_not_tell_runs_apart_at_its_defaults() -> None:
    for name in ("tf32", "channels_last", "compile", "checkpoint_activations", "sync_batch_norm"):
        assert name not in make_config("paper").identity()
