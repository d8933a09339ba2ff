"""Feature Modulation Module (FMM): adapts the transferred knowledge to the target domain.

Per level a stack of blocks; there is no positional embedding and the output replaces the input.
Sizes are parameters at D = 768, here of four levels of four blocks, further down of one block.

- "vit", as released: pre-norm vision-transformer blocks on the flattened tokens (8 heads, MLP
  ratio 4, qkv bias, no layer scale, no dropout); 113.4 M.
- "mlp", the authors' other form: `Bottleneck`; 4.7 M.
- "conv": `ConvAdapter`, 4.8 M; "mona": `Mona`, 1.8 M; "ssf": `ScaleShift`, 0.02 M. Adapters from
  the literature, where they sit inside a frozen backbone; here they read bare maps.

Attention is timm's fused one (`scaled_dot_product_attention`): at 512 px level 0 has 148 x 148 =
21904 tokens, and one unfused attention matrix of it would take 14 GB.
"""

from collections.abc import Sequence
from functools import partial

import torch
from timm.layers import LayerNorm2d
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ktda.errors import InputError


class Bottleneck(nn.Module):
    """Linear D -> hidden, GELU, Linear back to D: (N, L, D) -> (N, L, D), no residual, no norm."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(tokens)))


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


KINDS = ("vit", "mlp", "conv", "mona", "ssf")
_ON_TOKENS = ("vit", "mlp")


class FeatureModulation(nn.Module):
    """Blocks over each level.

    Args:
        channels: channels of each level (all D in the authors' form).
        kind: "vit", "mlp", "conv", "mona" or "ssf", see above.
        depth: blocks per level, at least 1.
        heads: attention heads of the "vit" form; must divide the channels.
        hidden: width inside a block; 0 takes 4 D ("vit"), D / 4 ("mlp", "conv") or 64 ("mona").
    """

    def __init__(
        self,
        channels: Sequence[int],
        kind: str = "vit",
        depth: int = 4,
        heads: int = 8,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"FMM kind {kind!r}; expected one of {', '.join(KINDS)}")
        if depth < 1:
            raise ValueError(f"FMM depth {depth}; expected at least 1 (fmm=none leaves it out)")
        if kind == "vit" and any(c % heads for c in channels):
            divided = f"{heads} FMM heads do not divide the channels {tuple(channels)}"
            raise InputError(f"{divided}; choose other fmm_heads")

        def block(dim: int) -> nn.Module:
            if kind == "vit":
                ratio = hidden / dim if hidden else 4.0
                # eps 1e-6, not PyTorch's 1e-5: timm's default, measured on the authors' maps
                norm = partial(nn.LayerNorm, eps=1e-6)
                return Block(dim, heads, ratio, qkv_bias=True, norm_layer=norm)
            if kind == "ssf":
                return ScaleShift(dim)
            if kind == "mona":
                return Mona(dim, hidden or 64)
            return {"mlp": Bottleneck, "conv": ConvAdapter}[kind](dim, hidden or dim // 4)

        self.on_tokens = kind in _ON_TOKENS
        stacks = (nn.Sequential(*(block(c) for _ in range(depth))) for c in channels)
        self.levels = nn.ModuleList(stacks)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(N, D, h, w) per level -> the same shapes."""
        out = []
        for x, blocks in zip(maps, self.levels, strict=True):
            if self.on_tokens:
                grid = x.shape[-2:]
                tokens = x.flatten(2).transpose(1, 2)  # (N, D, h, w) -> (N, h * w, D)
                tokens = blocks(tokens)
                x = tokens.transpose(1, 2).unflatten(2, grid)  # (N, h * w, D) -> (N, D, h, w)
            else:
                x = blocks(x)
            out.append(x)
        return out
