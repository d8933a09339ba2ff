"""Losses against values worked out by hand."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from ktda.losses import cross_entropy, distillation_loss, kl_divergence, segmentation_loss
from ktda.relations import cosine_distance, relational_distance


def maps(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


TEACHER, STUDENT = [0.7, 0.3], [0.4, 0.6]
ONE = kl(TEACHER, STUDENT)  # 0.7 ln 1.75 + 0.3 ln 0.5 = 0.1837868


@pytest.mark.parametrize(
    ("axis", "view"), [("width", (1, 1, 1, 2)), ("channel", (1, 2, 1, 1)), ("spatial", (1, 1, 2, 1))]
)
def test_kl_of_two_values_lies_along_its_axis(axis: str, view: tuple) -> None:
    t, s = torch.tensor(TEACHER).log().view(view), torch.tensor(STUDENT).log().view(view)
    assert kl_divergence(s, t, axis).item() == pytest.approx(0.1837868, abs=1e-6)
    for other in {"width", "channel", "spatial"} - {axis}:
        if not (axis == "width" and other == "spatial"):  # one row: spatial is the width
            assert kl_divergence(s, t, other).item() == pytest.approx(0, abs=1e-6)


def test_kl_is_from_teacher_to_student() -> None:
    t, s = torch.tensor(TEACHER).log().view(1, 1, 1, 2), torch.tensor(STUDENT).log().view(1, 1, 1, 2)
    assert kl_divergence(t, s).item() == pytest.approx(kl(STUDENT, TEACHER), abs=1e-6)
    assert kl(STUDENT, TEACHER) != pytest.approx(ONE, abs=1e-3)


@pytest.mark.parametrize(("axis", "distributions"), [("width", 5 * 3), ("channel", 3 * 4), ("spatial", 5)])
def test_reductions_count_distributions(axis: str, distributions: int) -> None:
    s, t = maps(2, 5, 3, 4), maps(2, 5, 3, 4, seed=1)
    total, mean = kl_divergence(s, t, axis), kl_divergence(s, t, axis, reduction="mean")
    assert (total / mean).item() == pytest.approx(distributions, rel=1e-5)
    doubled = kl_divergence(torch.cat([s, s]), torch.cat([t, t]), axis)  # a mean over images, not a sum
    torch.testing.assert_close(doubled, total)


def test_temperature_divides_the_maps_and_is_squared() -> None:
    s, t = maps(1, 2, 3, 4), maps(1, 2, 3, 4, seed=1)
    torch.testing.assert_close(kl_divergence(s, t, temperature=4.0), 16 * kl_divergence(s / 4, t / 4))


@pytest.mark.parametrize("axis", ["width", "channel", "spatial"])
def test_equal_maps_cost_nothing_and_others_do(axis: str) -> None:
    t = maps(2, 4, 3, 5)
    assert kl_divergence(t, t, axis).item() == pytest.approx(0, abs=1e-6)
    assert distillation_loss([t], [t], axis=axis).item() == pytest.approx(0, abs=1e-6)
    assert kl_divergence(maps(2, 4, 3, 5, seed=1), t, axis) > 0


def test_alpha_mixes_and_alpha_0_is_halved_as_released() -> None:
    s, t = [maps(2, 4, 3, 5), maps(2, 4, 2, 2, seed=2)], [maps(2, 4, 3, 5, seed=1), maps(2, 4, 2, 2, seed=3)]
    k = [kl_divergence(a, b) for a, b in zip(s, t, strict=True)]
    m = [F.mse_loss(a, b) for a, b in zip(s, t, strict=True)]
    close = torch.testing.assert_close
    close(distillation_loss(s, t), (0.5 * k[0] + 0.5 * m[0] + 0.5 * k[1] + 0.5 * m[1]) / 2)
    close(distillation_loss(s, t, alpha=0.3), (0.3 * (k[0] + k[1]) + 0.7 * (m[0] + m[1])) / 2)
    close(distillation_loss(s, t, alpha=1), (k[0] + k[1]) / 2)
    close(distillation_loss(s, t, alpha=0), (m[0] + m[1]) / 4)
    close(distillation_loss(s, t, alpha=0, reduction="mean"), (m[0] + m[1]) / 2)


def test_cosine_sees_directions_of_places_alone() -> None:
    t = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).T.reshape(1, 2, 1, 2)
    s = torch.tensor([[4.0, 3.0], [0.0, 5.0]]).T.reshape(1, 2, 1, 2)
    assert cosine_distance(s, t).item() == pytest.approx(1 - (24 / 25 + 0) / 2)
    assert cosine_distance(7 * t, t).item() == pytest.approx(0, abs=1e-6)
    assert cosine_distance(-t, t).item() == pytest.approx(2)


@pytest.mark.parametrize(("width", "grid"), [(5, (3, 4)), (40, (3, 4)), (16, (37, 37))])
def test_relational_is_the_mean_square_difference_of_patch_similarities(width: int, grid: tuple) -> None:
    s, t = maps(2, 5, *grid) + 0.5, maps(2, width, *grid, seed=1) + 0.5
    gram = [
        F.cosine_similarity(m.flatten(2)[..., None], m.flatten(2)[:, :, None], dim=1)  # (N, L, L)
        for m in (s.double(), t.double())
    ]
    by_hand = (gram[0] - gram[1]).square().mean().item()
    assert by_hand > 0.01
    assert relational_distance(s, t).item() == pytest.approx(by_hand, rel=1e-4)
    rotation = torch.linalg.qr(maps(width, width, seed=2)).Q
    turned = torch.einsum("ed,ndhw->nehw", rotation, t) * 3
    assert relational_distance(turned, t).item() == pytest.approx(0, abs=1e-6)


def test_other_distances_are_averaged_over_levels_and_read_no_alpha() -> None:
    s, t = [maps(2, 4, 3, 5), maps(2, 4, 2, 2, seed=2)], [maps(2, 4, 3, 5, seed=1), maps(2, 4, 2, 2, seed=3)]
    for kind, distance in {"cosine": cosine_distance, "relational": relational_distance}.items():
        expected = sum(distance(a, b) for a, b in zip(s, t, strict=True)) / 2
        torch.testing.assert_close(distillation_loss(s, t, alpha=0, kind=kind), expected)
        student = s[0].bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = distillation_loss([student], [t[0].bfloat16().requires_grad_()], kind=kind)
        loss.backward()
        assert loss.dtype == torch.float32
        assert student.grad.abs().sum() > 0


MEMORY = """
import resource, torch
from ktda.relations import relational_distance
torch.set_num_threads(1)
s = torch.randn(2, 1, 64, 128, 128)
relational_distance(s[0, ..., :4, :4], s[1, ..., :4, :4])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
relational_distance(s[0].requires_grad_(), s[1]).backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_relational_never_builds_the_matrix_of_places() -> None:
    """128 x 128 places: 1 GiB for one image and one matrix."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 300  # MiB


def test_gradients_reach_the_student_only_and_are_right() -> None:
    s, t = maps(1, 3, 2, 4).double().requires_grad_(), maps(1, 3, 2, 4, seed=1).double().requires_grad_()
    distillation_loss([s], [t]).backward()
    assert s.grad.abs().sum() > 0
    assert t.grad is None
    # d KL / d s = softmax(s) - softmax(t), d MSE / d s = 2 (s - t) / n
    by_hand = 0.5 * (s.softmax(-1) - t.softmax(-1)) + 0.5 * 2 * (s - t) / s.numel()
    torch.testing.assert_close(s.grad, by_hand.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("axis", ["width", "channel", "spatial"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_maps_stay_finite_in_half_precision(axis: str, dtype: torch.dtype) -> None:
    s, t = maps(1, 8, 4, 6, scale=500).to(dtype).requires_grad_(), maps(1, 8, 4, 6, seed=1, scale=500).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = distillation_loss([s], [t], axis=axis)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(s.grad).all()
    assert s.grad.abs().sum() > 0
    log_of_softmax = (t.softmax(-1) * (t.softmax(-1).log() - s.softmax(-1).log())).sum()
    assert not torch.isfinite(log_of_softmax)  # why log_softmax


# Two classes; pixel losses ln 4, ln 2 and (ignored) nothing.
LOGITS = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]]).log().T.reshape(1, 2, 1, 3)
MASK = torch.tensor([[[0, 1, 255]]])
LN2 = math.log(2)


def test_cross_entropy_averages_over_all_or_valid_pixels() -> None:
    assert cross_entropy(LOGITS, MASK).item() == pytest.approx(3 * LN2 / 3)
    assert cross_entropy(LOGITS, MASK, average="valid").item() == pytest.approx(3 * LN2 / 2)
    assert cross_entropy(LOGITS, torch.tensor([[[0, 1, 7]]]), ignore_index=7).item() == pytest.approx(LN2)


def test_class_weights_multiply_each_pixel() -> None:
    weights = torch.tensor([3.0, 0.5])
    assert cross_entropy(LOGITS, MASK, class_weights=weights).item() == pytest.approx((3 * 2 + 0.5) * LN2 / 3)
    valid = cross_entropy(LOGITS, MASK, average="valid", class_weights=weights)
    assert valid.item() == pytest.approx((3 * 2 + 0.5) * LN2 / 2)


@pytest.mark.parametrize("average", ["authors", "valid"])
def test_all_pixels_ignored_gives_0_and_no_gradient(average: str) -> None:
    logits = maps(2, 3, 4, 4).requires_grad_()
    masks = torch.full((2, 4, 4), 255)
    loss = segmentation_loss(logits, masks, average=average, dice=1.0, focal=1.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_cross_entropy_is_finite_for_large_logits_under_autocast() -> None:
    logits = maps(1, 4, 5, 5, scale=1e4).bfloat16().requires_grad_()
    masks = torch.arange(25).view(1, 5, 5) % 4
    with torch.autocast("cpu", torch.bfloat16):
        loss = segmentation_loss(logits, masks, dice=1.0, focal=1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_dice_and_focal_are_added_by_weight() -> None:
    logits, masks = maps(1, 3, 4, 4), torch.arange(16).view(1, 4, 4) % 3
    plain = segmentation_loss(logits, masks)
    torch.testing.assert_close(plain, F.cross_entropy(logits, masks))
    for term in ("dice", "focal"):
        one = segmentation_loss(logits, masks, **{term: 1.0}) - plain
        half = segmentation_loss(logits, masks, **{term: 0.5}) - plain
        assert one > 0
        torch.testing.assert_close(half, one / 2, atol=1e-6, rtol=1e-5)
    perfect = F.one_hot(masks, 3).permute(0, 3, 1, 2) * 200.0 - 100
    assert segmentation_loss(perfect, masks, dice=1.0, focal=1.0).item() == pytest.approx(0, abs=1e-5)


def test_ignored_pixels_have_no_say_in_dice_and_focal() -> None:
    logits, masks = maps(1, 3, 4, 4), torch.arange(16).view(1, 4, 4) % 3
    masks[0, 0] = 255
    other = logits.clone()
    other[..., 0, :] = 50 * maps(1, 3, 4, seed=5)
    a, b = (segmentation_loss(x, masks, dice=1.0, focal=1.0) for x in (logits, other))
    torch.testing.assert_close(a, b)
