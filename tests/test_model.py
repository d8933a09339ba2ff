"""The assembled segmenter, its baselines, and saving."""

from pathlib import Path

import pytest
import torch
from tiny_runs import tiny
from torch import nn

from ktda.baselines import BASELINES, Baseline, TeacherSegmenter
from ktda.build import build, describe, inference_tensors, load_model, make_teacher, save_config
from ktda.errors import InputError
from ktda.images import normalise
from ktda.losses import distillation_loss, segmentation_loss
from ktda.model import KTDA
from ktda.optimisation import parameter_groups
from ktda.teacher import Teacher
from ktda.weights.tensors import save_tensors

PARTS = ("student", "fam", "neck", "fmm", "decode_head", "auxiliary_head")


def images(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def snapshot(teacher: Teacher) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in teacher._model.state_dict().items()}


@pytest.mark.parametrize("size", [(64, 64), (75, 101)])
def test_logits_have_the_images_size(tiny_model: KTDA, size: tuple[int, int]) -> None:
    out = tiny_model(images(*size), outputs=True)
    assert out.logits.shape == out.auxiliary_logits.shape == (2, 3, *size)
    grid = tuple(-(-s // 8) for s in size)
    assert [tuple(m.shape) for m in out.aligned] == [(2, 16, *grid)] * 4
    assert [m.shape[-2:] for m in out.pyramid] == [(int(grid[0] * f), int(grid[1] * f)) for f in (2, 1, 0.5, 0.25)]
    tiny_model.eval()
    assert torch.equal(tiny_model(images(*size)), tiny_model(images(*size), outputs=True).logits)


def test_gradients_reach_every_part_but_not_the_teacher(tiny_arguments: dict, random_teacher: Teacher) -> None:
    model = KTDA(**tiny_arguments | {"width": 192})
    x, masks = images(64, 64), torch.arange(64 * 64).view(1, 64, 64).expand(2, -1, -1) % 3
    before = snapshot(random_teacher)
    model.train()
    optimiser = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-3)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(2):
        out = model(normalise(x), outputs=True)
        loss = segmentation_loss(out.logits, masks) + 0.4 * segmentation_loss(out.auxiliary_logits, masks)
        (loss + distillation_loss(out.aligned, random_teacher(x))).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
        for part in PARTS:
            assert all(p.grad.abs().sum() > 0 for p in [next(getattr(model, part).parameters())]), part
        optimiser.step()
        optimiser.zero_grad()
    after = snapshot(random_teacher)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in random_teacher._model.parameters())
    assert not random_teacher._model.training
    changed = {k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, start[k])}
    assert changed == set(PARTS)


def test_distillation_alone_trains_student_and_fam_only(tiny_arguments: dict, random_teacher: Teacher) -> None:
    model, x = KTDA(**tiny_arguments | {"width": 192}), images(64, 64)
    distillation_loss(model(normalise(x), outputs=True).aligned, random_teacher(x)).backward()
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None} == {"student", "fam"}


def test_the_teacher_is_in_no_model(tiny_model: KTDA, random_teacher: Teacher) -> None:
    segmenter = TeacherSegmenter(3, random_teacher, neck_width=8, decoder_channels=8)
    assert {k.split(".")[0] for k in tiny_model.state_dict()} == set(PARTS)
    assert {k.split(".")[0] for k in segmenter.state_dict()} == {"neck", "decode_head"}
    frozen = {id(p) for p in random_teacher._model.parameters()}
    assert not frozen & {id(p) for p in segmenter.parameters()}
    assert random_teacher._model not in list(segmenter.modules())
    segmenter.train()
    assert not random_teacher._model.training
    before = snapshot(random_teacher)
    out = segmenter(normalise(images(64, 64)), outputs=True)
    optimiser = torch.optim.AdamW(segmenter.parameters(), lr=0.1)
    out.logits.square().mean().backward()
    optimiser.step()
    assert all(torch.equal(v, before[k]) for k, v in snapshot(random_teacher).items())
    assert out.aligned is None


def test_the_teacher_segmenter_gives_the_teacher_plain_rgb() -> None:
    seen = []

    def teacher(x: torch.Tensor) -> list[torch.Tensor]:
        seen.append(x)
        return [nn.functional.avg_pool2d(x, 8, ceil_mode=True)] * 4

    model, x = TeacherSegmenter(3, Teacher(teacher), neck_width=8, decoder_channels=8).eval(), images(75, 100)
    assert model(normalise(x)).shape == (2, 3, 75, 100)
    torch.testing.assert_close(seen[-1], x, atol=1e-6, rtol=0)


def test_leaving_one_part_out_does_not_change_how_the_others_start(tiny_arguments: dict) -> None:
    whole = KTDA(**tiny_arguments).state_dict()
    for change in (
        {"neck_scales": None},
        {"fmm": "none"},
        {"auxiliary": "none"},
        {"auxiliary": "fam"},
        {"student_norm": False},
    ):
        torch.rand(7)  # nor does what was drawn before
        other = KTDA(**tiny_arguments | change).state_dict()
        shared = whole.keys() & other.keys()
        assert {k.split(".")[0] for k in shared} >= {"student", "fam", "decode_head"}
        assert not [k for k in shared if not torch.equal(whole[k], other[k])], change
    without_fam = KTDA(**tiny_arguments | {"fam": False}).state_dict()
    shared = [k for k in without_fam if k.startswith(("student", "fmm", "decode_head", "auxiliary"))]
    assert not [k for k in shared if not torch.equal(whole[k], without_fam[k])]
    reseeded = KTDA(**tiny_arguments | {"seed": 1}).state_dict()
    for part in PARTS:
        assert any(not torch.equal(v, reseeded[k]) for k, v in whole.items() if k.startswith(part)), part


def test_building_leaves_the_global_generator_alone(tiny_arguments: dict) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    KTDA(**tiny_arguments)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"fam": False, "neck_scales": (1, 1, 1, 1)},
        {"neck_scales": None},
        {"fmm": "none"},
        {"fmm": "mlp", "fmm_depth": 2},
        {"fam": False, "neck_scales": (), "fmm": "none"},
        {"fam": False, "neck_scales": (), "auxiliary": "fam"},
        {"auxiliary": "none"},
        {"neck_width": 8},
        {"decoder": "segformer"},
        {"encoder": "resnet18", "encoder_options": None},
    ],
)
def test_every_part_can_be_left_out_or_exchanged(tiny_arguments: dict, change: dict) -> None:
    model = KTDA(**tiny_arguments | change)
    out = model(images(75, 100), outputs=True)
    assert out.logits.shape == (2, 3, 75, 100)
    assert (out.aligned is None) is (change.get("fam") is False)
    assert (out.auxiliary_logits is None) is (change.get("auxiliary") == "none")
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    loss = out.logits.square().mean() + (0 if out.auxiliary_logits is None else out.auxiliary_logits.square().mean())
    loss.backward()
    still = [n for n in unused if dict(model.named_parameters())[n].grad is None]
    assert still == []


def test_beside_the_decoder_fam_serves_the_distillation_alone(tiny_arguments: dict) -> None:
    beside = {"fam_path": "beside", "neck_scales": None}
    model, x = KTDA(**tiny_arguments | beside).eval(), images(75, 101)
    calls = []
    model.fam.register_forward_hook(lambda *_: calls.append(1))
    model(x)
    assert not calls  # a prediction does not ask it
    out = model(x, outputs=True)
    assert [tuple(m.shape) for m in out.aligned] == [(2, 16, 10, 13)] * 4  # the teacher's width and grid
    assert [tuple(m.shape[1:]) for m in out.pyramid] == [(8, 18, 25), (8, 9, 12), (16, 4, 6), (16, 2, 3)]
    (out.logits.sum() + out.auxiliary_logits.sum()).backward()
    reached = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert reached == set(PARTS) - {"fam", "neck"}
    # what predicts is the same model without FAM
    plain = KTDA(**tiny_arguments | {"fam": False, "neck_scales": None}).eval()
    plain.load_state_dict(inference_tensors(model))
    model.fam = None
    assert torch.equal(plain(x), out.logits)
    assert torch.equal(model(x), out.logits)


@pytest.mark.parametrize("path", ["through", "beside"])
def test_what_is_distilled_can_be_had_alone(tiny_arguments: dict, path: str) -> None:
    model = KTDA(**tiny_arguments | {"fam_path": path, "neck_scales": None}).eval()
    decoded = []
    model.decode_head.register_forward_hook(lambda *_: decoded.append(1))
    alone = model(images(64, 64), outputs=True, segment=False)
    assert alone.logits is alone.auxiliary_logits is alone.pyramid is None
    assert not decoded
    both = model(images(64, 64), outputs=True)
    assert all(torch.equal(a, b) for a, b in zip(alone.aligned, both.aligned, strict=True))


@pytest.mark.parametrize("place", ["fmm", "fam"])
def test_the_auxiliary_head_reads_where_it_says(tiny_arguments: dict, place: str) -> None:
    model = KTDA(**tiny_arguments | {"auxiliary": place}).eval()
    model(images(64, 64), outputs=True).auxiliary_logits.sum().backward()
    assert (model.fmm.levels[2][0].attn.qkv.weight.grad is not None) is (place == "fmm")
    assert model.fmm.levels[1][0].attn.qkv.weight.grad is None
    assert model.fam.projections[2].weight.grad.abs().sum() > 0
    assert model.fam.projections[1].weight.grad is None


def test_the_second_pass_draws_its_own_drop_path(tiny_arguments: dict) -> None:
    options = tiny_arguments["encoder_options"] | {"depths": [1, 1, 6, 1], "drop_path_rate": 0.5}
    model = KTDA(**tiny_arguments | {"encoder_options": options})
    calls = []
    model.student.register_forward_hook(lambda *_: calls.append(1))
    x = images(64, 64)

    def distilled(second_pass: bool) -> torch.Tensor:
        torch.manual_seed(1)
        return model(x, outputs=True, second_pass=second_pass).aligned[3]

    one = distilled(False)
    assert len(calls) == 1
    two = distilled(True)
    assert len(calls) == 3
    assert not torch.equal(one, two)
    model.eval()
    assert torch.equal(distilled(False), distilled(True))


@pytest.mark.parametrize("encoder", ["resnet18", "tu-convnext_atto"])
@pytest.mark.parametrize("name", list(BASELINES))
def test_baselines_take_any_size_and_start_as_the_student(name: str, encoder: str) -> None:
    options = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]} if encoder.startswith("tu-") else None
    model = Baseline(name, 3, encoder, encoder_options=options).eval()
    x = images(75, 100)
    with torch.no_grad():
        out = model(x, outputs=True, second_pass=True)
        assert out.logits.shape == (2, 3, 75, 100)
        assert torch.equal(model(x), out.logits)
    assert out.aligned is out.auxiliary_logits is out.pyramid is None
    student = KTDA(3, encoder, encoder_options=options, fam=False, neck_scales=None, fmm="none", decoder_channels=8)
    start = student.student.encoder.state_dict()
    assert all(torch.equal(v, start[k]) for k, v in model.network.encoder.state_dict().items())


def test_normalise() -> None:
    x = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1) / 255
    torch.testing.assert_close(normalise(x), torch.zeros(1, 3, 1, 1), atol=1e-6, rtol=0)
    one = normalise(torch.ones(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(
        one, torch.tensor([(255 - 123.675) / 58.395, (255 - 116.28) / 57.12, (255 - 103.53) / 57.375])
    )


def test_wrong_arguments_are_named(tiny_arguments: dict) -> None:
    with pytest.raises(ValueError, match="auxiliary 'neck'"):
        KTDA(**tiny_arguments | {"auxiliary": "neck"})
    with pytest.raises(ValueError, match="fam_path 'above'"):
        KTDA(**tiny_arguments | {"fam_path": "above"})
    with pytest.raises(InputError, match="3 FMM heads"):
        KTDA(**tiny_arguments | {"fmm_heads": 3})


def test_saved_and_loaded_models_agree(tmp_path: Path, tiny_arguments: dict) -> None:
    descriptions = {
        "ktda": {"model": "ktda", "arguments": tiny_arguments},
        "unet": {"model": "unet", "arguments": {"num_classes": 3, "encoder": "resnet18"}},
        "teacher": {
            "model": "teacher",
            "arguments": {"num_classes": 3, "neck_width": 8, "decoder_channels": 8},
            "teacher": {"name": "random", "seed": 3},
        },
    }
    x = images(75, 100)
    for name, description in descriptions.items():
        folder = tmp_path / name
        folder.mkdir()
        model = build(description)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        model.train()
        model(x)  # running statistics that are not the start's
        save_tensors(folder / "model.safetensors", model.state_dict())
        save_config(folder, description, ["a", "b", "c"], [(0, 0, 0)] * 3, 255)
        loaded, content = load_model(folder)
        assert not loaded.training
        assert content["classes"] == ["a", "b", "c"]
        assert torch.equal(loaded(x), model.eval()(x)), name
        assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(InputError, match="holds no trained model"):
        load_model(tmp_path / "absent")


def test_the_description_is_that_of_the_first_format() -> None:
    """Folders of trained models are read for years: what stands in them is written out here."""
    config = tiny()
    teacher = make_teacher(config)
    heads = {"decoder": "upernet", "decoder_channels": 16, "dropout": 0.1}
    student = {"num_classes": 3, "encoder": "tu-test_convnext", "encoder_options": {}, "seed": 0}
    auxiliary = {"student_norm": True, "auxiliary": "fmm", "auxiliary_channels": 8}
    neck = {"neck_scales": (2.0, 1.0, 0.5, 0.25), "neck_width": 16}
    transfer = {"width": 192, "patch": 8, "fam": True, "fmm": "vit", "fmm_depth": 1, "fmm_heads": 2, **neck}
    no_transfer = {"fam": False, "neck_scales": (), "fmm": "none"}
    expected = {
        "ktda": student | heads | auxiliary | transfer,
        "upernet": student | heads | auxiliary | no_transfer,
        "unet": student,
        "teacher": {"num_classes": 3, "seed": 0, **heads, **neck},
    }
    for model, arguments in expected.items():
        found = describe(tiny(model=model), 3, teacher if model in ("ktda", "teacher") else None)
        assert found["arguments"] == arguments, model
        assert found["model"] == ("ktda" if model == "upernet" else model)
    assert found["teacher"]["name"] == "random"


def test_a_model_with_fam_beside_is_kept_without_it(tmp_path: Path) -> None:
    config = tiny(fam_path="beside")
    description = describe(config, 3, make_teacher(config))
    assert description["arguments"]["fam_path"] == "beside"
    model = build(description).eval()
    save_tensors(tmp_path / "model.safetensors", inference_tensors(model))
    save_config(tmp_path, description, ["a", "b", "c"], [(0, 0, 0)] * 3, 255)
    loaded, content = load_model(tmp_path)
    assert (loaded.fam, loaded.neck, content["arguments"]["fam"]) == (None, None, False)
    x = images(75, 100)
    assert torch.equal(loaded(x), model(x))
