"""Starting from trained weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import SPEC, make_set, manifest_of, tiny

from ktda.build import build, describe, make_teacher
from ktda.errors import InputError
from ktda.model import KTDA
from ktda.training import train
from ktda.warm_start import initialise

pytestmark = pytest.mark.usefixtures("quiet")


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
