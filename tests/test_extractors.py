"""Backbones that are no plain transformer: one width and one grid per level, from the name to the loss."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_runs import tiny

from ktda.build import describe, load_model, make_teacher
from ktda.errors import InputError
from ktda.images import normalise
from ktda.teacher import Teacher
from ktda.training import train

STRIDES = (4, 8, 16, 32)
SMALL = {"dims": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}
# name -> stages, widths, patches
HIERARCHIES = {
    "convnext_atto": ((0, 1, 2, 3), (40, 80, 160, 320), STRIDES),
    "mobilenetv3_small_050": ((1, 2, 3, 4), (8, 16, 24, 288), STRIDES),
    "tf_efficientnet_lite0": ((1, 2, 3, 4), (24, 40, 112, 320), STRIDES),
    "pvt_v2_b0": ((0, 1, 2, 3), (32, 64, 160, 256), STRIDES),
    "vit_tiny_r_s16_p8_224": ((2, 5, 8, 11), (192,) * 4, (32,) * 4),  # a hybrid
}
SLOW = {
    "swin_tiny_patch4_window7_224": ((0, 1, 2, 3), (96, 192, 384, 768), STRIDES),
    "swinv2_tiny_window8_256": ((0, 1, 2, 3), (96, 192, 384, 768), STRIDES),
    "convnext_tiny.dinov3_lvd1689m": ((0, 1, 2, 3), (96, 192, 384, 768), STRIDES),
    "hieradet_small": ((0, 1, 2, 3), (96, 192, 384, 768), STRIDES),
    "efficientnet_b0": ((1, 2, 3, 4), (24, 40, 112, 320), STRIDES),
    "vitamin_small_224": ((3, 6, 10, 13), (384,) * 4, (16,) * 4),
    "samvit_base_patch16": ((2, 5, 8, 11), (768,) * 4, (16,) * 4),
    "naflexvit_base_patch16_gap": ((2, 5, 8, 11), (768,) * 4, (16,) * 4),
}


def images(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*HIERARCHIES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_each_level_has_its_width_and_its_grid(name: str) -> None:
    teacher = Teacher(name, pretrained=False)
    blocks, dims, patches = (HIERARCHIES | SLOW)[name]
    assert (teacher.blocks, teacher.dims, teacher.patches) == (blocks, dims, patches)
    grids = [(-(-200 // p), -(-152 // p)) for p in patches]
    assert teacher.grids(200, 152) == grids
    expected = [(2, d, *grid) for d, grid in zip(dims, grids, strict=True)]
    assert [tuple(m.shape) for m in teacher(images(200, 152))] == expected


@pytest.mark.parametrize("name", ["hiera_tiny_224", "maxvit_rmlp_pico_rw_256", "levit_128s", "cait_xxs24_224"])
def test_a_backbone_of_one_image_size_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match=f"teacher {name} does not take images of any size .*a callable") as error:
        Teacher(name, pretrained=False)
    assert "\n" not in str(error.value)


def test_maps_are_timms_of_the_padded_image_cut_to_the_grid() -> None:
    model, x = timm.create_model("pvt_v2_b0", num_classes=0), images(40, 70)
    padded = torch.zeros(2, 3, 64, 96)  # zeros after the normalisation
    padded[..., :40, :70] = normalise(x)
    with torch.no_grad():
        theirs = model.eval().forward_intermediates(padded, intermediates_only=True)
    for ours, m, p in zip(Teacher(model)(x), theirs, STRIDES, strict=True):
        assert torch.equal(ours, m[..., : -(-40 // p), : -(-70 // p)])


def test_the_last_norm_is_applied_to_the_last_map_where_there_is_one() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=24, depths=(1, 1, 1, 1), dynamic_img_size=True)
    for parameter in model.norm.parameters():
        torch.nn.init.normal_(parameter)
    x = images(64, 64)
    with torch.no_grad():
        theirs = model.eval().forward_intermediates(normalise(x), norm=True, intermediates_only=True)
    for ours, m in zip(Teacher(model)(x), theirs, strict=True):
        torch.testing.assert_close(ours, m)
    with pytest.raises(InputError, match="teacher_norm=all, but teacher SwinTransformer has widths 24, 48, 96, 192"):
        Teacher(model, norm="all")


def test_stages_can_be_chosen_and_the_module_stays_frozen() -> None:
    model = timm.create_model("convnext_atto", **SMALL).train()
    teacher = Teacher(model, blocks=(1, 3))
    assert (teacher.dims, teacher.patches, teacher.dim, teacher.patch) == ((8, 24), (8, 32), 24, 32)
    assert not any(p.requires_grad for p in model.parameters())
    model.train()
    maps = teacher(images(64, 64))
    assert not model.training
    assert not any(m.requires_grad for m in maps)


def test_a_file_with_its_classifier(tmp_path: Path) -> None:
    model, x = timm.create_model("mobilenetv3_small_050"), images(64, 64)
    path = tmp_path / "mobilenetv3_small_050.safetensors"
    save_file(model.state_dict(), path)
    for ours, theirs in zip(Teacher(path)(x), Teacher(model)(x), strict=True):
        assert torch.equal(ours, theirs)


PYRAMID = {"teacher": "mobilenetv3_small_050", "teacher_pretrained": False, "neck_scales": (1.0, 1.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    "changes",
    [{}, {"neck_width": 0}, {"neck_scales": (), "neck_width": 0}, {"fam_path": "beside"}, {"model": "teacher"}],
)
def test_a_student_learns_from_a_hierarchy(tiny_set: Path, tmp_path: Path, changes: dict) -> None:
    config = tiny(**PYRAMID | {"steps": 2, "fmm": "ssf"} | changes)
    train(str(tiny_set), config, tmp_path)
    model, description = load_model(tmp_path)
    assert model(images(40, 40)).shape == (2, 3, 40, 40)
    if not changes:
        assert description["arguments"]["width"] == [8, 16, 24, 288]
        assert description["arguments"]["patch"] == list(STRIDES)
        assert [p.weight.shape[0] for p in model.fam.projections] == [8, 16, 24, 288]
        aligned = model(images(40, 40), outputs=True).aligned
        teachers = make_teacher(config)(images(40, 40))
        assert [m.shape for m in aligned] == [m.shape for m in teachers]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neck_scales": (2.0, 1.0, 0.5, 0.25)}, "a pyramid already; set neck_scales=1,1,1,1"),
        ({"distill_sum": True}, "distill_sum=true wants one grid and one width"),
    ],
)
def test_settings_for_one_grid_are_refused(changes: dict, message: str) -> None:
    config = tiny(**PYRAMID | changes)
    with pytest.raises(InputError, match=message):
        describe(config, 3, make_teacher(config))
