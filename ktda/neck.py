"""Neck between FAM and FMM: a pyramid of scales from maps that all stand on the teacher's grid.

Per level a 1x1 convolution, bilinear resizing by a factor (default 4, 2, 1, 0.5) and a 3x3
convolution; no norm, no activation. The paper's figure shows no neck; the authors' code has it.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.images import per_level

AUTHORS_SCALES = (4.0, 2.0, 1.0, 0.5)


class Neck(nn.Module):
    """The pyramid of a grid.

    Args:
        in_channels: channels of each incoming level.
        out_channels: channels D of the outgoing levels, or one per level.
        scales: factor on height and width per level; sizes are floored (19 * 0.5 -> 9).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int | Sequence[int],
        scales: Sequence[float] = AUTHORS_SCALES,
    ) -> None:
        super().__init__()
        levels = len(in_channels)
        if len(scales) != levels:
            raise ValueError(f"{len(scales)} neck scales for {levels} levels; give one per level")
        self.scales = tuple(float(s) for s in scales)
        widths = per_level(out_channels, levels)
        lateral = (nn.Conv2d(c, d, 1) for c, d in zip(in_channels, widths, strict=True))
        self.lateral = nn.ModuleList(lateral)
        self.smooth = nn.ModuleList(nn.Conv2d(d, d, 3, padding=1) for d in widths)
        for convolution in (*self.lateral, *self.smooth):
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(N, C_i, h_i, w_i) per level -> (N, D, floor(h_i s_i), floor(w_i s_i)) per level."""
        out = []
        levels = zip(maps, self.lateral, self.smooth, self.scales, strict=True)
        for x, lateral, smooth, scale in levels:
            h, w = x.shape[-2:]
            if min(h, w) * scale < 1:
                what = f"a grid of {w}x{h} patches times neck scale {scale} is nothing"
                raise InputError(f"{what}; use larger tiles or crops, or larger neck_scales")
            x = lateral(x)  # (N, C_i, h, w) -> (N, D, h, w)
            if scale != 1:
                # By factor, not by size: the samples of an odd grid differ (19 * 0.5 -> 9).
                x = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
            out.append(smooth(x))  # (N, D, h * scale, w * scale)
        return out
