"""The golden numbers of the authors' implementation: every map, the logits and every loss term, in both directions."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PARITY_SETS
from torch import Tensor, nn

from ktda.images import normalise
from ktda.losses import cross_entropy, distillation_loss, kl_divergence
from ktda.official import TEACHER_PREFIX, export_names, load_checkpoint, load_teacher
from ktda.optimisation import is_exempt_from_decay
from ktda.teacher import Teacher
from ktda.weights.tensors import read_tensors

MAPS, LOSS = 1e-4, 1e-5  # absolute, relative


@pytest.fixture(scope="module", params=PARITY_SETS)
def golden(request: pytest.FixtureRequest, shared: Path) -> SimpleNamespace:
    """Model, teacher and recorded values of one set."""
    folder = shared / "parity" / request.param
    recorded = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(folder / "io.npz").items()}
    checkpoint = folder / "checkpoint.pth"
    heads = json.loads((folder / "config.json").read_text())["teacher"]["heads"]
    return SimpleNamespace(
        name=request.param,
        values=recorded,
        checkpoint=checkpoint,
        heads=heads,
        model=load_checkpoint(checkpoint),
        teacher=load_teacher(checkpoint, heads),
        images=recorded["image_rgb_uint8"] / 255,
    )


def accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Percent of the labelled pixels."""
    valid = label != 255
    return 100 * (logits.argmax(1) == label)[valid].float().mean()


@torch.no_grad()
def everything(model: nn.Module, teacher: Teacher, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """All recorded quantities, computed by this package, under the recorded names."""
    student = model.student(values["input"])
    outputs = model(values["input"], outputs=True)
    aligned, pyramid = outputs.aligned, outputs.pyramid
    neck = model.neck(aligned)
    teachers = teacher(values["image_rgb_uint8"] / 255)
    maps = {"student": student, "teacher": teachers, "fam": aligned, "neck": neck, "fmm": pyramid}
    label = values["label"].long()
    return {
        **{f"{name}.{i}": m for name, levels in maps.items() for i, m in enumerate(levels)},
        "logits_low": model.decode_head(pyramid),
        "logits": outputs.logits,
        "aux_logits_low": model.auxiliary_head(pyramid[2]),
        "loss.decode.acc_seg": accuracy(outputs.logits, label),
        "loss.aux.acc_seg": accuracy(outputs.auxiliary_logits, label),
        "loss.decode.loss_ce": cross_entropy(outputs.logits, label),
        "loss.aux.loss_ce": 0.4 * cross_entropy(outputs.auxiliary_logits, label),
        "loss.distill_loss": distillation_loss(outputs.aligned, teachers),
        "loss.kl_per_level": torch.stack([kl_divergence(s, t) for s, t in zip(aligned, teachers, strict=True)]),
        "loss.mse_per_level": torch.stack([F.mse_loss(s, t) for s, t in zip(aligned, teachers, strict=True)]),
    }


def failures(ours: dict[str, Tensor], golden_values: dict[str, Tensor]) -> list[str]:
    """Names of the quantities outside the tolerances."""
    bad = []
    for name, value in ours.items():
        expected = golden_values[name].to(value)
        assert value.shape == expected.shape, name
        difference = (value - expected).abs()
        limit = LOSS * expected.abs() if name.startswith("loss.") else torch.full_like(expected, MAPS)
        if not bool((difference <= limit).all()):
            bad.append(name)
    return bad


def test_every_map_logit_and_loss_equals_the_golden_numbers(golden: SimpleNamespace) -> None:
    ours = everything(golden.model, golden.teacher, golden.values)
    ours["predict_logits"] = golden.model(golden.values["input"]).detach()
    untested = set(golden.values) - set(ours) - {"image_rgb_uint8", "input", "label"}
    assert not untested
    assert failures(ours, golden.values) == []


def test_our_normalisation_gives_the_recorded_input(golden: SimpleNamespace) -> None:
    torch.testing.assert_close(normalise(golden.images), golden.values["input"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("golden", ["vit_blocks"], indirect=True)
def test_a_perturbed_tensor_fails_the_comparison(golden: SimpleNamespace) -> None:
    cases = {
        "student.norms.1.bias": "student.1",
        "fam.projections.0.weight": "fam.0",
        "neck.smooth.3.weight": "neck.3",
        "fmm.levels.2.0.attn.qkv.weight": "fmm.2",
        "decode_head.classifier.bias": "logits",
        "auxiliary_head.bn.running_mean": "aux_logits_low",
    }
    for tensor, broken in cases.items():
        model = copy.deepcopy(golden.model)
        with torch.no_grad():
            model.state_dict()[tensor].add_(0.01)
        bad = failures(everything(model, golden.teacher, golden.values), golden.values)
        assert broken in bad, tensor
        assert "teacher.0" not in bad


def test_a_perturbed_teacher_fails_the_comparison(golden: SimpleNamespace) -> None:
    teacher = load_teacher(golden.checkpoint, golden.heads)
    with torch.no_grad():
        teacher._model.blocks[3].mlp.fc2.bias.add_(0.01)
    bad = failures(everything(golden.model, teacher, golden.values), golden.values)
    assert {"teacher.3", "loss.kl_per_level"} <= set(bad)
    assert "teacher.2" not in bad


@pytest.mark.parametrize("golden", ["resized_grid"], indirect=True)
def test_timm_resampling_differs_from_the_authors(golden: SimpleNamespace) -> None:
    authors = load_teacher(golden.checkpoint, golden.heads)
    teacher = Teacher(authors._model, authors.blocks, resample="timm")
    difference = (teacher(golden.images)[3] - golden.values["teacher.3"]).abs().max()
    assert 1e-3 < difference < 0.1


@pytest.mark.parametrize("golden", ["vit_blocks"], indirect=True)
def test_wrong_constants_fail_the_comparison(golden: SimpleNamespace) -> None:
    """Layer-norm eps of FMM, the norm on every teacher map, another KL axis, average over valid pixels."""
    model, values = copy.deepcopy(golden.model), golden.values
    for module in model.fmm.modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6
            module.eps = 1e-2
    assert "fmm.0" in failures(everything(model, golden.teacher, values), values)
    authors = load_teacher(golden.checkpoint, golden.heads)
    teacher = Teacher(authors._model, authors.blocks, norm="all", resample="authors")
    bad = failures(everything(golden.model, teacher, values), values)
    assert "teacher.0" in bad
    assert "teacher.3" not in bad
    label, logits = values["label"].long(), values["logits"]
    assert cross_entropy(logits, label).item() == pytest.approx(2.26198, abs=1e-5)
    assert cross_entropy(logits, label, average="valid").item() == pytest.approx(2.37323, abs=1e-5)
    for axis in ("channel", "spatial"):
        wrong = kl_divergence(values["fam.0"], values["teacher.0"], axis)
        assert abs(wrong / values["loss.kl_per_level"][0] - 1) > 1e-2


def test_exemption_from_decay_equals_the_authors_groups(golden: SimpleNamespace) -> None:
    """The authors exempt what has "norm" in their name; ours is another naming of the same parameters."""
    theirs = [k for k in read_tensors(golden.checkpoint) if not k.startswith(TEACHER_PREFIX)]
    parameters = dict(golden.model.named_parameters())
    ours = export_names(theirs)
    assert set(ours.values()) == set(golden.model.state_dict())
    compared = {k: v for k, v in ours.items() if v in parameters}
    assert set(compared.values()) == set(parameters)
    assert {k: "norm" in k for k in compared} == {k: is_exempt_from_decay(v) for k, v in compared.items()}
    assert 0 < sum("norm" in k for k in compared) < len(compared)
