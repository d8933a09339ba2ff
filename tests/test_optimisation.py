"""Learning rate and parameter groups, by hand."""

import pytest
import torch
from tiny_runs import tiny

from ktda.build import build, describe, make_teacher
from ktda.config import make_config
from ktda.optimisation import freeze, is_exempt_from_decay, learning_rate, parameter_groups

PEAK = 6e-4


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1e-3),
        (1, 1e-3 + 0.999 / 1149),
        (574, 1e-3 + 0.999 * 574 / 1149),
        (1149, 1.0),  # the last of 1,150 warm-up steps
        (1150, 1.0),  # the decay begins
        (1151, (1 - 1 / 21849) ** 0.9),
        (12_000, (1 - 10_850 / 21849) ** 0.9),
        (22_998, (1 / 21849) ** 0.9),
        (22_999, 0.0),  # the last of 23,000
    ],
)
def test_rate_on_grass(step: int, factor: float) -> None:
    assert learning_rate(step, make_config("paper", data="grass")) == pytest.approx(PEAK * factor, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1e-3),
        (1000, 1e-3 + 0.999 * 1000 / 1999),
        (1500, (1e-3 + 0.999 * 1500 / 1999) * (1 - 500 / 78_999) ** 0.9),  # both apply, multiplied
        (1999, (1 - 999 / 78_999) ** 0.9),
        (40_000, (1 - 39_000 / 78_999) ** 0.9),
        (79_999, 0.0),
    ],
)
def test_rate_on_cloud_where_warm_up_overlaps_the_decay(step: int, factor: float) -> None:
    assert learning_rate(step, make_config("paper", data="cloud")) == pytest.approx(PEAK * factor, rel=1e-9, abs=1e-15)


def test_rate_equals_torchs_chained_schedulers() -> None:
    """The authors' framework multiplies factors step by step; so do PyTorch's schedulers, chained."""
    config = tiny(steps=40, warmup_steps=12, poly_begin=5, learning_rate=0.1)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    warm = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1e-3, total_iters=11)
    decay = torch.optim.lr_scheduler.PolynomialLR(optimiser, total_iters=34, power=0.9)
    for step in range(40):
        assert optimiser.param_groups[0]["lr"] == pytest.approx(learning_rate(step, config), rel=1e-6, abs=1e-12)
        optimiser.step()
        warm.step()
        if step >= 5:
            decay.step()


def test_without_warm_up_and_without_decay_the_rate_stays() -> None:
    config = tiny(warmup_steps=0, poly_begin=99, steps=10, learning_rate=0.5)
    assert {learning_rate(step, config) for step in range(10)} == {0.5}


@pytest.mark.parametrize(
    ("name", "exempt"),
    [
        ("student.encoder.model.stages_1.blocks.0.norm.weight", True),
        ("student.norms.3.bias", True),
        ("fmm.levels.0.0.norm1.weight", True),
        ("network.encoder.model.stages_0.blocks.1.norm.bias", True),
        ("student.encoder.model.stem_1.weight", False),  # the authors' stem LayerNorm has no "norm" in its name
        ("student.encoder.model.stages_1.downsample.0.weight", False),
        ("student.encoder.model.stages_0.blocks.0.gamma", False),
        ("student.encoder.model.stages_0.blocks.0.conv_dw.bias", False),
        ("decode_head.decoder.fpn_lateral_blocks.0.conv_norm_relu.0.weight", False),
        ("auxiliary_head.bn.weight", False),
        ("fmm.levels.0.0.attn.qkv.bias", False),
    ],
)
def test_what_is_exempt_from_decay(name: str, exempt: bool) -> None:
    assert is_exempt_from_decay(name) is exempt


def test_groups_hold_every_trained_parameter_once() -> None:
    config = tiny()
    model = build(describe(config, 3, make_teacher(config)))
    model.student.encoder.requires_grad_(False)
    decayed, exempt = parameter_groups(model, 0.01)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.01, 0.0)
    together = [id(p) for p in decayed["params"] + exempt["params"]]
    assert len(together) == len(set(together))
    assert set(together) == {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in model.student.norms.parameters()} <= {id(p) for p in exempt["params"]}
    assert {id(p) for p in model.decode_head.parameters()} <= {id(p) for p in decayed["params"]}


@pytest.mark.parametrize("model", ["ktda", "unet"])
def test_the_encoder_may_learn_at_a_rate_of_its_own(model: str) -> None:
    config = tiny(model=model)
    network = build(describe(config, 3, make_teacher(config)))
    groups = parameter_groups(network, 0.01, encoder_rate=0.1)
    assert [(g["rate"], g["weight_decay"]) for g in groups] == [(1, 0.01), (1, 0), (0.1, 0.01), (0.1, 0)]
    encoder = {id(p) for p in (network.student if model == "ktda" else network.network).encoder.parameters()}
    assert {id(p) for group in groups[2:] for p in group["params"]} == encoder
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in network.parameters()}
    plain = parameter_groups(network, 0.01)  # the order in which checkpoints hold the optimiser's tensors
    assert [(g["rate"], g["weight_decay"]) for g in plain] == [(1, 0.01), (1, 0)]


def test_distilling_alone_trains_student_and_fam() -> None:
    config = tiny(segmentation_weight=0)
    model = build(describe(config, 3, make_teacher(config)))
    assert freeze(model, config) == []
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"student", "fam"}
    assert freeze(model, tiny(segmentation_weight=0, student_frozen=True)) == [model.student.encoder]
    trained = {n.rsplit(".", 2)[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"student.norms", "fam.projections"}
