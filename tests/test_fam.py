"""FAM: the teacher's grid, and the two orders of its two steps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ktda.fam import FeatureAlignment
from ktda.images import patch_grid, resize

CHANNELS = (4, 6, 8, 10)


def student_maps(size: tuple[int, int]) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, -(-size[0] // s), -(-size[1] // s), generator=g)
        for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(
    ("size", "patch", "grid"),
    [((256, 256), 14, (19, 19)), ((512, 512), 14, (37, 37)), ((75, 101), 14, (6, 8)), ((1, 17), 8, (1, 3))],
)
def test_the_grid_is_the_image_over_the_patch_rounded_up(size: tuple, patch: int, grid: tuple) -> None:
    assert patch_grid(*size, patch) == grid


@pytest.mark.parametrize(("size", "patch"), [((256, 256), 14), ((75, 101), 14), ((64, 64), 2)])
def test_projecting_and_resizing_commute(size: tuple[int, int], patch: int) -> None:
    """The authors project first; here the cheaper order is taken."""
    fam, grid = FeatureAlignment(CHANNELS, 12), patch_grid(*size, patch)
    for projection in fam.projections:
        nn.init.normal_(projection.bias)  # the bias is what could make a difference
    students = student_maps(size)
    for ours, projection, x in zip(fam(students, grid), fam.projections, students, strict=True):
        theirs = F.interpolate(projection(x), size=grid, mode="bilinear", align_corners=False)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        swapped = projection(F.interpolate(x, size=grid, mode="bilinear", align_corners=False))
        torch.testing.assert_close(ours, swapped, atol=1e-5, rtol=0)


def test_start_is_truncated_normal() -> None:
    torch.manual_seed(0)
    fam = FeatureAlignment((512, 512), 256)
    for projection in fam.projections:
        assert projection.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert not projection.bias.any()


def test_resize_is_bilinear_without_aligned_corners() -> None:
    x = torch.tensor([[[[0.0, 1.0]]]])
    assert resize(x, (1, 4)).flatten().tolist() == [0, 0.25, 0.75, 1]
    assert resize(x, (1, 2)) is x
