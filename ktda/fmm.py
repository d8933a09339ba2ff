"""Feature Modulation Module (FMM): adapts the transferred knowledge to the target domain.

Per level a stack of blocks on the flattened tokens; there is no positional embedding and the
output replaces the input. The released form is 4 pre-norm vision-transformer blocks (8 heads, MLP
ratio 4, qkv bias, no layer scale, no dropout); the other form is n times Linear D -> D/4, GELU,
Linear D/4 -> D without residual and without norm.

Attention is timm's fused one (`scaled_dot_product_attention`): at 512 px level 0 has 148 x 148 =
21904 tokens, and one unfused attention matrix of it would take 14 GB.
"""

from collections.abc import Sequence
from functools import partial

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


class FeatureModulation(nn.Module):
    """Blocks over the tokens of each level.

    Args:
        channels: channels of each level (all D in the authors' form).
        kind: "vit" (transformer blocks) or "mlp" (bottlenecks).
        depth: blocks per level, at least 1.
        heads: attention heads of the "vit" form; must divide the channels.
        hidden: width inside a block's MLP; 0 takes the authors' 4 D ("vit") or D / 4 ("mlp").
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
        if kind not in ("vit", "mlp"):
            raise ValueError(f"FMM kind {kind!r}; expected 'vit' or 'mlp'")
        if depth < 1:
            raise ValueError(f"FMM depth {depth}; expected at least 1 (fmm=none leaves it out)")
        if kind == "vit" and any(c % heads for c in channels):
            divided = f"{heads} FMM heads do not divide the channels {tuple(channels)}"
            raise InputError(f"{divided}; choose other fmm_heads")

        def block(dim: int) -> nn.Module:
            if kind == "mlp":
                return Bottleneck(dim, hidden or dim // 4)
            ratio = hidden / dim if hidden else 4.0
            # eps 1e-6, not PyTorch's 1e-5: timm's own default, measured against the authors' maps
            norm = partial(nn.LayerNorm, eps=1e-6)
            return Block(dim, heads, ratio, qkv_bias=True, norm_layer=norm)

        stacks = (nn.Sequential(*(block(c) for _ in range(depth))) for c in channels)
        self.levels = nn.ModuleList(stacks)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(N, D, h, w) per level -> the same shapes."""
        out = []
        for x, blocks in zip(maps, self.levels, strict=True):
            grid = x.shape[-2:]
            tokens = x.flatten(2).transpose(1, 2)  # (N, D, h, w) -> (N, h * w, D)
            tokens = blocks(tokens)
            x = tokens.transpose(1, 2).unflatten(2, grid)  # (N, h * w, D) -> (N, D, h, w)
            out.append(x)
        return out
