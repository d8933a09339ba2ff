"""Student: four levels of any encoder, norms, weights from files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import LayerNorm2d

from ktda.errors import InputError
from ktda.student import Student
from ktda.weights.encoder import make_encoder

SMALL = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}


@pytest.mark.parametrize("norm", [True, False])
def test_the_norm_is_the_authors_on_every_level(norm: bool) -> None:
    student = Student("tu-convnext_atto", norm, options=SMALL)
    assert all(isinstance(n, LayerNorm2d) and n.eps == 1e-6 for n in student.norms) is norm
    assert all(m.mean(1).abs().max() < 1e-4 for m in student(torch.randn(2, 3, 64, 96))) is norm
    assert student.record.kind == "random"


def test_options_reach_the_encoder() -> None:
    student = Student("tu-convnext_atto", options=SMALL | {"depths": [1, 1, 2, 1], "drop_path_rate": 0.9}).train()
    x = torch.randn(4, 3, 32, 32)
    assert not torch.equal(student(x)[3], student(x)[3])
    student.eval()
    assert torch.equal(student(x)[3], student(x)[3])


@pytest.mark.parametrize("prefix", ["", "student.encoder.", "encoder."])
def test_weights_of_a_file_in_our_layout(tmp_path: Path, prefix: str) -> None:
    for name, options in (("resnet18", None), ("tu-convnext_atto", SMALL)):
        source, _ = make_encoder(name, options=options)
        save_file({prefix + k: v for k, v in source.state_dict().items()}, tmp_path / "w.safetensors")
        student = Student(name, weights=tmp_path / "w.safetensors", options=options)
        assert all(torch.equal(v, source.state_dict()[k]) for k, v in student.encoder.state_dict().items())
        assert (student.record.kind, student.record.source) == ("file", "w.safetensors")


def test_weights_of_a_file_in_timms_layout(tmp_path: Path) -> None:
    import timm

    source = timm.create_model("convnext_atto", **SMALL)
    save_file(source.state_dict(), tmp_path / "timm.safetensors")
    encoder = Student("tu-convnext_atto", weights=tmp_path / "timm.safetensors", options=SMALL).encoder
    ours, theirs = encoder.state_dict(), source.state_dict()
    assert torch.equal(ours["model.stages_3.blocks.0.mlp.fc1.weight"], theirs["stages.3.blocks.0.mlp.fc1.weight"])
    assert torch.equal(ours["model.stem_0.weight"], theirs["stem.0.weight"])
    partial = {k: v for k, v in theirs.items() if "stages.2" not in k}
    save_file(partial, tmp_path / "partial.safetensors")
    with pytest.raises(InputError, match=r"does not fit encoder tu-convnext_atto: .*stages_2"):
        Student("tu-convnext_atto", weights=tmp_path / "partial.safetensors", options=SMALL)


@pytest.mark.parametrize(("name", "options"), [("resnet18", None), ("tu-convnext_atto", SMALL)])
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, options: dict | None) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=f"does not fit encoder {name}: .*missing"):
        Student(name, weights=tmp_path / "other.safetensors", options=options)
    with pytest.raises(InputError, match="no weights file at"):
        Student(name, weights=tmp_path / "absent.safetensors", options=options)
    source, _ = make_encoder(name, options=options)
    tensors = dict(source.state_dict())
    key = next(iter(tensors))
    save_file(tensors | {key: torch.zeros(1, 2)}, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError, match=rf"{key} has shape \(1, 2\), expected"):
        Student(name, weights=tmp_path / "wrong.safetensors", options=options)
