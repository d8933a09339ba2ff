"""Feature Modulation Module (FMM): adapts the transferred knowledge to the target domain.

Per level a stack of blocks; there is no positional embedding and the output replaces the input.
Sizes are parameters at D = 768, of four levels of four blocks.

- "vit", as released: pre-norm vision-transformer blocks on the flattened tokens (8 heads, MLP
  ratio 4, qkv bias, no layer scale, no dropout); 113.4 M.
- "mlp", the authors' other form: `Bottleneck`; 4.7 M.
- "conv", 4.8 M, "mona", 1.8 M, and "ssf", 0.02 M, are not the authors': `ktda.adapters`.

Attention is timm's fused one (`scaled_dot_product_attention`): at 512 px level 0 has 148 x 148 =
21904 tokens, and one unfused attention matrix of it would take 14 GB.
"""

from collections.abc import Sequence
from functools import partial

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ktda import adapters
from ktda.errors import InputError, check_choice

_ON_TOKENS = ("vit", "mlp")
KINDS = (*_ON_TOKENS, *adapters.KINDS)


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
    """Blocks over each level.

    Args:
        channels: channels of each level (all D in the authors' form).
        kind: one of `KINDS`.
        depth: blocks per level, at least 1.
        heads: attention heads of the "vit" form; must divide the channels.
        hidden: width inside a block; 0 takes 4 D ("vit"), D / 4 ("mlp") or the adapter's own.
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
        check_choice("FMM kind", kind, KINDS)
        if depth < 1:
            raise ValueError(f"FMM depth {depth}; expected at least 1 (fmm=none leaves it out)")
        if kind == "vit" and any(c % heads for c in channels):
            divided = f"{heads} FMM heads do not divide the channels {tuple(channels)}"
            raise InputError(f"{divided}; choose other fmm_heads")
        self.on_tokens = kind in _ON_TOKENS
        self.levels = nn.ModuleList()
        for dim in channels:
            blocks = (_block(kind, dim, heads, hidden) for _ in range(depth))
            self.levels.append(nn.Sequential(*blocks))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(N, D, h, w) per level -> the same shapes."""
        levels = zip(self.levels, maps, strict=True)
        if not self.on_tokens:
            return [blocks(x) for blocks, x in levels]
        out = []
        for blocks, x in levels:
            tokens = x.flatten(2).transpose(1, 2)  # (N, D, h, w) -> (N, h * w, D)
            tokens = blocks(tokens)
            out.append(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))  # -> (N, D, h, w)
        return out


def _block(kind: str, dim: int, heads: int, hidden: int) -> nn.Module:
    if kind == "mlp":
        return Bottleneck(dim, hidden or dim // 4)
    if kind != "vit":
        return adapters.make_adapter(kind, dim, hidden)
    ratio = hidden / dim if hidden else 4.0
    # eps 1e-6, not PyTorch's 1e-5: timm's default, measured on the authors' maps
    norm = partial(nn.LayerNorm, eps=1e-6)
    return Block(dim, heads, ratio, qkv_bias=True, norm_layer=norm)
