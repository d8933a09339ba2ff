"""FMM: both forms, and attention that never builds its matrix."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ktda.fmm import KINDS, Bottleneck, FeatureModulation

GRIDS = ((8, 6), (4, 3), (2, 2), (1, 1))


def pyramid(channels: int = 16) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, *grid, generator=g) for grid in GRIDS]


def test_mlp_form_by_hand() -> None:
    fmm = FeatureModulation((16,) * 4, "mlp", 2)
    assert {type(m) for m in fmm.modules()} == {FeatureModulation, nn.ModuleList, nn.Sequential, Bottleneck} | {
        nn.Linear,
        nn.GELU,
    }
    maps = pyramid()
    for x, blocks, out in zip(maps, fmm.levels, fmm(maps), strict=True):
        y = x.permute(0, 2, 3, 1)  # (N, h, w, D)
        for block in blocks:
            assert block.fc1.weight.shape == (4, 16)  # D -> D/4
            y = F.linear(y, block.fc1.weight, block.fc1.bias)
            y = F.linear(F.gelu(y), block.fc2.weight, block.fc2.bias)
        torch.testing.assert_close(out, y.permute(0, 3, 1, 2))
    with torch.no_grad():
        for p in fmm.parameters():
            p.zero_()
    assert not any(m.any() for m in fmm(maps))  # no residual: nothing of the input is left


def test_vit_form_by_hand() -> None:
    """Pre-norm attention of 8 heads and an MLP of 4 D, both residual, no layer scale."""
    fmm = FeatureModulation((16,) * 4, "vit", 1)
    maps = pyramid()
    block, x = fmm.levels[0][0], maps[0].flatten(2).transpose(1, 2)
    names = {n for n, _ in block.named_parameters()}
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert names == {f"{part}.{p}" for part in parts for p in ("weight", "bias")}
    assert block.mlp.fc1.weight.shape == (64, 16)
    y = F.layer_norm(x, (16,), block.norm1.weight, block.norm1.bias, 1e-6)
    q, k, v = block.attn.qkv(y).view(2, 48, 3, 8, 2).permute(2, 0, 3, 1, 4)
    attention = (q @ k.transpose(-1, -2) / 2**0.5).softmax(-1) @ v  # (N, 8, L, 2)
    y = x + block.attn.proj(attention.transpose(1, 2).reshape(2, 48, 16))
    y = y + block.mlp(F.layer_norm(y, (16,), block.norm2.weight, block.norm2.bias, 1e-6))
    torch.testing.assert_close(fmm(maps)[0], y.transpose(1, 2).unflatten(2, GRIDS[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "mlp", "ssf"])
def test_no_positional_embedding(kind: str) -> None:
    """Mirrored places give mirrored maps."""
    fmm, maps = FeatureModulation((16,) * 4, kind, 1), pyramid()
    straight, mirrored = fmm(maps), fmm([m.flip(-1) for m in maps])
    for a, b in zip(straight, mirrored, strict=True):
        torch.testing.assert_close(a.flip(-1), b, atol=1e-5, rtol=1e-5)


# At D 768, four levels of four blocks.
MILLIONS = {"vit": 113.4, "conv": 4.76, "mlp": 4.73, "mona": 1.79, "ssf": 0.0246}


@pytest.mark.parametrize("kind", KINDS)
def test_parameter_counts(kind: str) -> None:
    with torch.device("meta"):
        fmm = FeatureModulation((768,) * 4, kind, 4)
    assert sum(p.numel() for p in fmm.parameters()) / 1e6 == pytest.approx(MILLIONS[kind], rel=0.01)
    assert [len(blocks) for blocks in fmm.levels] == [4] * 4


def test_conv_form_by_hand() -> None:
    block, x = FeatureModulation((16,), "conv", 1).levels[0][0], pyramid()[0]
    y = F.conv2d(x, block.down.weight, block.down.bias)
    y = F.gelu(F.conv2d(y, block.depthwise.weight, block.depthwise.bias, padding=1, groups=4))
    torch.testing.assert_close(block(x), x + F.conv2d(y, block.up.weight, block.up.bias))


def test_mona_form_by_hand() -> None:
    block, x = FeatureModulation((16,), "mona", 1, hidden=6).levels[0][0], pyramid()[0]
    for parameter in (block.norm_scale, block.scale, block.norm.weight, block.norm.bias):
        nn.init.normal_(parameter)
    normed = F.layer_norm(x.permute(0, 2, 3, 1), (16,), block.norm.weight, block.norm.bias, 1e-6).permute(0, 3, 1, 2)
    y = F.conv2d(block.norm_scale * normed + block.scale * x, block.down.weight, block.down.bias)
    scales = [
        F.conv2d(y, c.weight, c.bias, padding=k // 2, groups=6) for c, k in zip(block.depthwise, (3, 5, 7), strict=True)
    ]
    y = y + (scales[0] + scales[1] + scales[2]) / 3
    y = y + F.conv2d(y, block.mix.weight, block.mix.bias)
    torch.testing.assert_close(block(x), x + F.conv2d(F.gelu(y), block.up.weight, block.up.bias))


def test_ssf_starts_as_the_identity_and_scales_each_channel() -> None:
    fmm, maps = FeatureModulation((16,) * 4, "ssf", 2), pyramid()
    assert all(torch.equal(a, b) for a, b in zip(fmm(maps), maps, strict=True))
    first, second = fmm.levels[0]
    for block in (first, second):
        nn.init.normal_(block.scale)
        nn.init.normal_(block.shift)
    by_hand = second.scale * (first.scale * maps[0] + first.shift) + second.shift
    torch.testing.assert_close(fmm(maps)[0], by_hand)


def test_fused_attention_is_what_runs() -> None:
    fmm = FeatureModulation((16,) * 4, "vit", 1)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):  # the plain product would raise
        out = fmm(pyramid())
        sum(m.sum() for m in out).backward()
    assert fmm.levels[0][0].attn.qkv.weight.grad is not None


MEMORY = """
import resource, torch
from ktda.fmm import FeatureModulation
torch.set_num_threads(1)
fmm = FeatureModulation((8,), "vit", 1, heads=1)
fmm([torch.zeros(1, 8, 4, 4)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.no_grad():
    fmm([torch.randn(1, 8, 148, 148)])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_512_pixels_do_not_build_the_attention_matrix() -> None:
    """148 x 148 = 21904 tokens; their matrix has 4.8e8 entries, 1.8 GiB per head."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 300  # MiB
