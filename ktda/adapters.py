"""Adapters from the literature that may stand in the FMM in place of the authors' blocks.

There they sit inside a frozen backbone; here they read bare maps (N, D, h, w). Sizes are parameters
at D = 768.
"""

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

KINDS = ("conv", "mona", "ssf")


def make_adapter(kind: str, dim: int, hidden: int = 0) -> nn.Module:
    """One of `KINDS` for D channels; `hidden` 0 is D / 4 ("conv") or 64 ("mona")."""
    if kind == "conv":
        return ConvAdapter(dim, hidden or dim // 4)
    if kind == "mona":
        return Mona(dim, hidden or 64)
    return ScaleShift(dim)


class ConvAdapter(nn.Module):
    """``x + up(GELU(depthwise(down(x))))``: 1x1 D -> hidden, 3x3 by channel, 1x1 back; 298 k.

    Source: Chen et al., Conv-Adapter, CVPR Workshops 2024; without its learned factor.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(dim, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.GELU()
        self.up = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, D, h, w)."""
        return x + self.up(self.act(self.depthwise(self.down(x))))


class Mona(nn.Module):
    """Multi-scale depthwise convolutions in a bottleneck, around it a residual; 112 k.

    ``y = down(a LayerNorm(x) + b x)``, ``z = y + mean of 3x3, 5x5 and 7x7 by channel``,
    ``x + up(GELU(z + 1x1(z)))``. a starts at 1e-6 and b at 1, so that the norm fades in.
    Source: Yin et al., 5%>100% (Mona), CVPR 2025; without its dropout.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(dim)
        self.norm_scale = nn.Parameter(torch.full((dim, 1, 1), 1e-6))
        self.scale = nn.Parameter(torch.ones(dim, 1, 1))
        self.down = nn.Conv2d(dim, hidden, 1)
        depthwise = (nn.Conv2d(hidden, hidden, k, padding=k // 2, groups=hidden) for k in (3, 5, 7))
        self.depthwise = nn.ModuleList(depthwise)
        self.mix = nn.Conv2d(hidden, hidden, 1)
        self.act = nn.GELU()
        self.up = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, D, h, w)."""
        y = self.down(self.norm_scale * self.norm(x) + self.scale * x)  # (N, hidden, h, w)
        y = y + sum(convolution(y) for convolution in self.depthwise) / len(self.depthwise)
        y = y + self.mix(y)
        return x + self.up(self.act(y))


class ScaleShift(nn.Module):
    """``scale * x + shift`` by channel, the identity at the start; 1.5 k.

    Blocks in a row are still one scale and shift: depth 1 says the same.
    Source: Lian et al., Scaling & Shifting Your Features (SSF), NeurIPS 2022.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim, 1, 1))
        self.shift = nn.Parameter(torch.zeros(dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, D, h, w)."""
        return self.scale * x + self.shift
