"""Neck: floored sizes, no norm, no activation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ktda.neck import AUTHORS_SCALES, Neck


@pytest.mark.parametrize(("grid", "sizes"), [(19, [76, 38, 19, 9]), (37, [148, 74, 37, 18])])
def test_authors_sizes(grid: int, sizes: list[int]) -> None:
    neck = Neck((2,) * 4, 3)
    assert neck.scales == AUTHORS_SCALES == (4, 2, 1, 0.5)
    assert [tuple(m.shape) for m in neck([torch.zeros(1, 2, grid, grid)] * 4)] == [(1, 3, s, s) for s in sizes]


def test_the_steps_by_hand() -> None:
    neck = Neck((2,) * 4, 3)
    for c in (*neck.lateral, *neck.smooth):
        nn.init.normal_(c.bias)
    x = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    for i, (out, scale) in enumerate(zip(neck([x] * 4), neck.scales, strict=True)):
        y = F.conv2d(x, neck.lateral[i].weight, neck.lateral[i].bias)
        y = F.interpolate(y, scale_factor=scale, mode="bilinear", align_corners=False)
        torch.testing.assert_close(out, F.conv2d(y, neck.smooth[i].weight, neck.smooth[i].bias, padding=1))
        assert (out < 0).any()  # no activation


def test_an_odd_grid_is_sampled_by_factor() -> None:
    """19 * 0.5 = 9: by factor each place reads every second row, by size every 19/9-th."""
    x = torch.arange(19.0).view(1, 1, 1, 19).expand(1, 1, 19, 19)
    neck = Neck((1,), 1, (0.5,))
    nn.init.ones_(neck.lateral[0].weight)
    nn.init.dirac_(neck.smooth[0].weight)
    assert neck([x])[0][0, 0, 4].tolist() == [2 * i + 0.5 for i in range(9)]


def test_start() -> None:
    torch.manual_seed(0)
    neck = Neck((64,) * 4, 64)
    bound = (6 / (64 * 9 * 2)) ** 0.5  # Xavier, uniform
    for c in neck.smooth:
        assert bound * 0.99 < c.weight.abs().max() <= bound
        assert not c.bias.any()
