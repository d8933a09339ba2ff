"""The table of teachers against timm, and what the command prints of it."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from ktda.extractors import is_plain
from ktda.teacher import Teacher
from ktda.weights.teachers import KNOWN, Known
from ktda.weights.vision_transformer import _create

LARGE = 512  # channels from which a random start takes many seconds


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: row.name)
def test_a_row_is_timms(row: Known) -> None:
    with torch.device("meta"):
        model = _create(row.name)
    assert timm.get_pretrained_cfg(row.name).license == row.licence
    if is_plain(model):
        patch, width = model.patch_embed.patch_size[0], model.embed_dim
        assert (row.patches, row.widths, row.prefix) == ((patch,) * 4, (width,) * 4, model.num_prefix_tokens)
    else:
        stages = model.feature_info[-4:]
        assert row.patches == tuple(stage["reduction"] for stage in stages)
        assert row.prefix == 0
    norm = getattr(model, "norm", nn.Identity())
    assert row.last_norm is not isinstance(norm, nn.Identity)


@pytest.mark.parametrize(
    "row",
    [pytest.param(r, marks=[pytest.mark.slow] * (max(r.widths) > LARGE)) for r in KNOWN if max(r.widths) < 1024],
    ids=lambda row: row.name,
)
def test_a_row_is_what_a_teacher_gives(row: Known) -> None:
    teacher = Teacher(row.name, pretrained=False)
    assert (teacher.dims, teacher.patches) == (row.widths, row.patches)
    maps = teacher(torch.rand(1, 3, 200, 152, generator=torch.Generator().manual_seed(0)))
    grids = [(-(-200 // p), -(-152 // p)) for p in row.patches]
    assert [tuple(m.shape) for m in maps] == [(1, d, *grid) for d, grid in zip(row.widths, grids, strict=True)]


def test_the_command_prints_every_row_and_needs_no_torch() -> None:
    block = """
import sys
from ktda.cli.main import app
app(["teachers"], standalone_mode=False)
assert not {"torch", "timm"} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=True)
    assert all(row.name in run.stdout for row in KNOWN)
    (satellite,) = [line for line in run.stdout.splitlines() if line.startswith("vit_large_patch16_dinov3.sat493m")]
    assert satellite.split()[1:6] == ["16", "1024", "5", "dinov3-license", "no"]
