"""Feature Alignment Module (FAM): student maps on the teacher's channels and grid.

Per level i a 1x1 convolution C_i -> D with bias (no norm, no activation), then bilinear resizing
(align_corners False) to the teacher's grid; weights start truncated normal with std 0.02.
Source: KTDA, ICME 2025, section on knowledge transfer; the authors' released code.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from ktda.images import per_level, resize


class FeatureAlignment(nn.Module):
    """Align the student's four maps with the teacher's.

    Args:
        in_channels: channels C_i of the student's levels, stride 4 first.
        out_channels: the teacher's width D, or one per level.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int | Sequence[int]) -> None:
        super().__init__()
        widths = per_level(out_channels, len(in_channels))
        projections = (nn.Conv2d(c, d, 1) for c, d in zip(in_channels, widths, strict=True))
        self.projections = nn.ModuleList(projections)
        for projection in self.projections:
            nn.init.trunc_normal_(projection.weight, std=0.02)
            nn.init.zeros_(projection.bias)

    def forward(
        self, maps: Sequence[Tensor], grid: tuple[int, int] | Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """(N, C_i, H_i, W_i) per level -> (N, D, h, w) per level.

        `grid` is the teacher's (h, w), or one per level: a function of the image, never of a stored
        embedding.
        """
        grids = [grid] * len(maps) if isinstance(grid[0], int) else grid
        levels = zip(self.projections, maps, grids, strict=True)
        return [align(projection, x, size) for projection, x, size in levels]


def align(projection: nn.Conv2d, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, C, H, W) -> (N, D, h, w), in the cheaper order.

    A 1x1 convolution with bias and bilinear resizing commute (the interpolation weights sum to
    one), so both run at the smaller size: at 256 px level 0 is 64 x 64 and the grid 19 x 19.
    """
    places = x.shape[-2] * x.shape[-1]
    if places > grid[0] * grid[1]:
        return projection(resize(x, grid))  # (N, C, H, W) -> (N, C, h, w) -> (N, D, h, w)
    return resize(projection(x), grid)  # (N, C, H, W) -> (N, D, H, W) -> (N, D, h, w)
