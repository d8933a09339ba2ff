"""Checkpoints in the authors' layout: sizes read off the tensors, and errors that name the key.

The checkpoints are made here, by the inverse of the reader's names; the real ones are compared in test_parity.
"""

import ast
import copy
import functools
import itertools
import pickle
from pathlib import Path
from unittest import mock

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import ktda.official
from ktda.errors import InputError
from ktda.model import KTDA
from ktda.official import _SEGMENTER_RULES, _TEACHER_RULES, TEACHER_PREFIX, _rename, load_checkpoint, load_teacher

SIZES = {
    "num_classes": 3,
    "encoder": "tu-convnext_base",
    "encoder_options": {"dims": [8, 8, 16, 24], "depths": [1, 1, 2, 1]},
    "width": 16,
    "fmm_depth": 1,
    "decoder_channels": 12,
    "auxiliary_channels": 6,
}


_calls = itertools.count()


@functools.cache
def _built(arguments: str) -> KTDA:
    with mock.patch("timm.models.convnext.trunc_normal_"):  # the slow part of a ConvNeXt-B's start
        return KTDA(**ast.literal_eval(arguments)).eval()


def build(**arguments: object) -> KTDA:
    """A model of these arguments with weights of its own; a copy, since SMP builds a full-size ConvNeXt each time."""
    model = copy.deepcopy(_built(repr(arguments)))
    generator = torch.Generator().manual_seed(next(_calls))
    with torch.no_grad():
        for value in model.parameters():
            value += 0.01 * torch.randn(value.shape, generator=generator)
    return model


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ktda.official, "KTDA", build)


def their_names(tensors: dict[str, Tensor], rules: list) -> dict[str, Tensor]:
    inverse = [(ours, theirs) for theirs, ours in rules]
    return {_rename(k, inverse, "test"): v for k, v in tensors.items()}


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save({"meta": {"epoch": 1}, "state_dict": tensors, "message_hub": {}}, path)
    return path


def make(folder: Path, **changes: object) -> tuple[KTDA, dict[str, Tensor], Path]:
    model = build(**SIZES | changes)
    tensors = their_names(model.state_dict(), _SEGMENTER_RULES)
    return model, tensors, write(folder / "checkpoint.pth", tensors)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fmm": "mlp", "fmm_depth": 3},
        {"fmm": "none"},
        {"neck_scales": None},
        {"auxiliary": "none"},
        {"neck_scales": None, "auxiliary": "none", "fmm": "mlp", "fmm_depth": 1},
        {"neck_width": 24},
        {"fmm_hidden": 40},
        {"fmm": "mlp", "fmm_hidden": 6},
    ],
)
def test_sizes_are_inferred_and_logits_equal(tmp_path: Path, changes: dict) -> None:
    model, _, path = make(tmp_path, **changes)
    read = load_checkpoint(path)
    assert not read.training
    assert {k: v.shape for k, v in read.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    x = torch.randn(1, 3, 70, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read(x), model(x))
    assert (read.fmm is None) == (changes.get("fmm") == "none")
    assert (read.neck is None) == ("neck_scales" in changes)


def test_the_teacher_is_dropped_and_tells_the_patch(tmp_path: Path) -> None:
    _, tensors, _ = make(tmp_path)
    tensors[TEACHER_PREFIX + "patch_embed.projection.weight"] = torch.zeros(16, 3, 16, 16)
    model = load_checkpoint(write(tmp_path / "with.pth", tensors))
    assert model.patches == (16,) * 4
    assert not any("teach" in k for k in model.state_dict())


KEYS = [
    "backbone.downsample_layers.0.0.weight",
    "backbone.stages.2.1.gamma",
    "backbone.norm3.bias",
    "fam.convert.2.bias",
    "neck.convs.1.conv.weight",
    "fmm.adapters.3.0.attn.qkv.weight",
    "decode_head.psp_modules.2.1.bn.running_var",
    "decode_head.lateral_convs.0.conv.weight",
    "decode_head.conv_seg.bias",
    "auxiliary_head.convs.0.bn.num_batches_tracked",
]


@pytest.mark.parametrize(
    "key",
    [
        *KEYS,
        "fam.convert.0.weight",
        "backbone.norm0.weight",
        "decode_head.conv_seg.weight",
        "auxiliary_head.conv_seg.weight",
        "neck.convs.0.conv.weight",
        "backbone.stages.0.0.depthwise_conv.weight",
    ],
)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    _, tensors, _ = make(tmp_path)
    del tensors[key]
    with pytest.raises(InputError) as error:
        load_checkpoint(write(tmp_path / "missing.pth", tensors))
    assert f"key {key} is missing" in str(error.value)


@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_shape_is_named_with_both_shapes(tmp_path: Path, key: str) -> None:
    _, tensors, _ = make(tmp_path)
    right = tuple(tensors[key].shape)
    for wrong in (tensors[key][None], torch.zeros(*right, 2)):  # also one that holds the same numbers
        with pytest.raises(InputError) as error:
            load_checkpoint(write(tmp_path / "wrong.pth", tensors | {key: wrong}))
        assert all(part in str(error.value) for part in (key, str(tuple(wrong.shape)), str(right)))


@pytest.mark.parametrize(
    "key", ["backbone.stem.weight", "module.fam.convert.0.weight", "fam.convert.9.weight", "decode_head.norm.weight"]
)
def test_an_unknown_key_is_named(tmp_path: Path, key: str) -> None:
    _, tensors, _ = make(tmp_path)
    with pytest.raises(InputError, match=key.replace(".", r"\.")):
        load_checkpoint(write(tmp_path / "unknown.pth", tensors | {key: torch.zeros(1)}))


def test_a_stage_without_blocks_is_an_error(tmp_path: Path) -> None:
    _, tensors, _ = make(tmp_path)
    rest = {k: v for k, v in tensors.items() if not k.startswith("backbone.stages.3.")}
    with pytest.raises(InputError, match=r"backbone\.stages\.3\.0\.depthwise_conv\.weight is missing"):
        load_checkpoint(write(tmp_path / "stage.pth", rest))


class Malicious:
    """Unpickling an instance writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    _, tensors, _ = make(tmp_path)
    harmed, path = tmp_path / "harmed", tmp_path / "malicious.pth"
    torch.save({"state_dict": tensors, "meta": Malicious(harmed)}, path)
    for load in (load_checkpoint, load_teacher):
        with pytest.raises(InputError, match="weights_only"):
            load(path)
    assert not harmed.exists()
    pickle.loads(pickle.dumps(Malicious(harmed)))  # the pickle is a live one
    assert harmed.exists()


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights file at"):
        load_checkpoint(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(InputError, match="does not open"):
        load_checkpoint(tmp_path / "text.pth")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers.pth")
    with pytest.raises(InputError, match="no dictionary of tensors"):
        load_checkpoint(tmp_path / "numbers.pth")


@pytest.fixture
def teacher_tensors() -> tuple[VisionTransformer, dict[str, Tensor]]:
    sizes = {"img_size": 28, "patch_size": 14, "embed_dim": 64, "depth": 4, "num_heads": 1, "num_classes": 0}
    model = VisionTransformer(**sizes, init_values=0.1, dynamic_img_size=True).eval()
    named = their_names(model.state_dict(), _TEACHER_RULES)
    return model, {TEACHER_PREFIX + k: v for k, v in named.items()}


def test_the_teacher_loads_by_the_same_kind_of_mapping(tmp_path: Path, teacher_tensors: tuple) -> None:
    model, tensors = teacher_tensors
    teacher = load_teacher(write(tmp_path / "t.pth", tensors))  # one head per 64 channels
    assert (teacher.patch, teacher.dim, teacher.blocks, teacher.resample) == (14, 64, (0, 1, 2, 3), "authors")
    assert {k: v for k, v in teacher._model.state_dict().items() if not torch.equal(v, model.state_dict()[k])} == {}
    with pytest.raises(InputError, match="5 heads"):
        load_teacher(tmp_path / "t.pth", heads=5)
    for key in ("layers.2.attn.qkv.bias", "ln1.weight", "pos_embed"):
        rest = {k: v for k, v in tensors.items() if k != TEACHER_PREFIX + key}
        with pytest.raises(InputError, match=f"{key} is missing".replace(".", r"\.")):
            load_teacher(write(tmp_path / "missing.pth", rest))
    with pytest.raises(InputError, match=r"unknown key layers\.0\.extra"):
        load_teacher(write(tmp_path / "extra.pth", tensors | {TEACHER_PREFIX + "layers.0.extra": torch.zeros(1)}))
