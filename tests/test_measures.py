"""Measures of notebooks 03 and 04 against hand-computed values and the layers themselves."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ktda.fmm import FeatureModulation
from ktda.model import KTDA
from ktda_lab.modules.measures import (
    align_only,
    block_attention,
    fmm_cost,
    frechet_distance,
    gradient_norms,
    milliseconds,
    signal_through,
    transfer_terms,
)


def test_transfer_terms_are_the_losses() -> None:
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 5, 3, 4, generator=g), torch.randn(2, 5, 3, 4, generator=g)
    terms = transfer_terms([s, t], [t, t])  # the second level costs nothing
    groups = {"width": 15, "channel": 12, "spatial": 5}
    assert set(terms) == {f"KL {axis}, {form}" for axis in groups for form in ("sum", "mean")} | {"MSE"}
    assert terms["MSE"].item() == pytest.approx((s - t).square().mean().item() / 2, rel=1e-5)
    log_q, log_p = s.log_softmax(1), t.log_softmax(1)
    channel = (log_p.exp() * (log_p - log_q)).sum(1).mean().item()
    assert terms["KL channel, mean"].item() == pytest.approx(channel / 2, rel=1e-4)
    for axis, count in groups.items():
        assert (terms[f"KL {axis}, sum"] / terms[f"KL {axis}, mean"]).item() == pytest.approx(count, rel=1e-4)


def test_align_only_lowers_its_objective_and_moves_nothing_else() -> None:
    model = KTDA(3, "resnet18", width=8, patch=8, fmm="none", decoder_channels=8, auxiliary="none")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = [torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(level)) for level in range(4)]
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    history, aligned = align_only(model, images, maps, "MSE", 3)
    assert [line["step"] for line in history] == [0, 1, 2, 3]
    assert history[-1]["MSE"] < history[0]["MSE"]
    assert transfer_terms(aligned, maps)["MSE"].item() == pytest.approx(history[-1]["MSE"])
    moved = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"student", "fam"}


def test_gradient_norms_by_hand() -> None:
    a, b = torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.nn.Parameter(torch.tensor([3.0]))
    terms = {"both": 3 * a[0] + 4 * b[0], "one": a.square().sum(), "none": torch.ones((), requires_grad=True) * 2}
    norms = gradient_norms(terms, iter([a, b]))
    assert norms == pytest.approx({"both": 5.0, "one": math.sqrt(4 + 16), "none": 0.0})
    assert a.grad is None  # measuring leaves no gradient behind


def test_signal_through_a_known_map() -> None:
    fmm = FeatureModulation((4,), "mlp", 1, hidden=4)
    x = 10 + torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))  # where GELU(x) is x
    with torch.no_grad():
        for layer in (fmm.levels[0][0].fc1, fmm.levels[0][0].fc2):
            layer.weight.copy_(torch.eye(4))
            layer.bias.fill_(7.0)  # a constant is no signal
        fmm.levels[0][0].fc2.weight.mul_(-3)
    spread, cosine, gradient = signal_through(fmm, x)
    assert (spread, cosine) == pytest.approx((3, -1), abs=1e-4)
    assert gradient == pytest.approx(3, rel=0.2)  # 72 draws of deviation 1, times 3


def test_frechet_distance_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=g, dtype=torch.float64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    shift = torch.arange(6.0)
    assert frechet_distance(x, x + shift) == pytest.approx(55, rel=1e-9)  # 0 + 1 + 4 + 9 + 16 + 25
    # x and 3 x share their axes: the trace term is (3 - 1)^2 tr C
    centred = x - x.mean(0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * centred.T.cov().trace().item(), rel=1e-9)
    other = torch.randn(300, 6, generator=g) @ torch.randn(6, 6, generator=g)
    assert frechet_distance(x, other) == pytest.approx(frechet_distance(other, x), rel=1e-6)
    one = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]])  # deviations 2^0.5 and 8^0.5
    assert frechet_distance(*one) == pytest.approx((5 - 1) ** 2 + (8**0.5 - 2**0.5) ** 2)


def test_block_attention_is_what_the_block_uses() -> None:
    torch.manual_seed(0)
    block, tokens = FeatureModulation((16,), depth=1).levels[0][0], torch.randn(2, 12, 16)
    weights = block_attention(block, tokens)
    assert weights.shape == (2, 8, 12, 12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 8, 12))
    values = block.attn.qkv(block.norm1(tokens))[..., 32:].unflatten(-1, (8, 2)).transpose(1, 2)  # (N, heads, L, 2)
    mixed = block.attn.proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, block.attn(block.norm1(tokens)))


@pytest.mark.parametrize("kind", ["vit", "mlp"])
@pytest.mark.parametrize("hidden", [0, 24])
def test_cost_is_that_of_the_layers(kind: str, hidden: int) -> None:
    fmm, cost = FeatureModulation((32,), kind, 1, hidden=hidden), fmm_cost(35, 32, kind, hidden=hidden)
    assert cost["parameters"] == sum(p.numel() for p in fmm.parameters())
    with FlopCounterMode(display=False) as counter:  # of shapes alone, where every version counts attention
        fmm.to("meta")([torch.zeros(1, 32, 7, 5, device="meta")])
    assert cost["gflops"] * 1e9 == pytest.approx(counter.get_total_flops())
    assert cost["gflops"] == cost["linear"] + cost["attention"]


def test_cost_at_the_papers_sizes() -> None:
    assert fmm_cost(81, 768)["parameters"] == pytest.approx(7.09e6, rel=1e-3)
    levels = [fmm_cost(side**2, 768) for side in (76, 38, 19, 9)]
    # four blocks per level: 436 giga multiply-adds, 219 of them attention products
    assert 4 * sum(c["gflops"] for c in levels) / 2 == pytest.approx(436, rel=2e-3)
    assert 4 * sum(c["attention"] for c in levels) / 2 == pytest.approx(219, rel=2e-3)
    assert fmm_cost(148**2, 768)["matrix"] == pytest.approx(14.3, abs=0.05)
    assert fmm_cost(148**2, 768, "mlp")["matrix"] == 0


def test_milliseconds_warms_up_once() -> None:
    calls = []
    assert milliseconds(lambda: calls.append(torch.is_inference_mode_enabled()), repeats=2) >= 0
    assert calls == [True] * 3
