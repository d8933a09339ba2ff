"""Numbers of patch tokens: attention, how alike two sets of maps are, what a padded patch sees."""

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor

from ktda.errors import InputError
from ktda.images import patch_grid
from ktda.teacher import Teacher


def queries_keys_values(teacher: Teacher, images: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What the attention of each chosen block works on, which the fused kernels do not give away.

    Args:
        teacher: a vision transformer of timm.
        images: RGB in [0, 1], (N, 3, H, W).

    Returns:
        Per block of `teacher.blocks` queries, keys and values, each (N, heads, T, d); the T tokens are class and
        register tokens first, then the h * w patches row by row. Queries are scaled by d ** -0.5.

    Raises:
        InputError: the teacher has no attention of timm's plain form.
    """
    layers = [getattr(block, "attn", None) for block in getattr(teacher._model, "blocks", ())]
    layers = [layers[block] for block in teacher.blocks if layers]
    if not layers or any(type(layer) is not Attention for layer in layers):
        raise InputError(f"teacher {teacher.name} has no plain attention; take a vision transformer such as 'demo'")
    inputs: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in layers]
    try:
        teacher(images)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    with torch.no_grad():
        for layer, x in zip(layers, inputs, strict=True):
            found.append(attended(layer, x))
    return found


def attended(layer: Attention, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, scaled by d ** -0.5, keys and values of a layer that is given (N, T, D): each (N, heads, T, d)."""
    q, k, v = layer.qkv(tokens).unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return layer.q_norm(q) * layer.scale, layer.k_norm(k), v


def attention(queries: Tensor, keys: Tensor) -> Tensor:
    """``softmax(Q K^T)`` over the keys: (..., S, d) and (..., T, d) -> (..., S, T), rows that sum to 1."""
    return (queries @ keys.mT).softmax(-1)


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al., ICML 2019) of two sets of vectors of the same places.

    ``||Y^T X||^2 / (||X^T X|| ||Y^T Y||)`` with centred X (M, D) and Y (M, E) and Frobenius norms: 1 where one is a
    rotation and scaling of the other, 0 where no linear map of one says anything about the other, or one is constant.

    Args:
        first, second: maps (N, D, h, w) and (N, E, h, w).
    """
    x, y = (m.detach().double().transpose(0, 1).flatten(1).T for m in (first, second))  # (N * h * w, D)
    x, y = x - x.mean(0), y - y.mean(0)
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return float((y.T @ x).square().sum() / scale) if scale > 0 else 0.0


def patch_coverage(height: int, width: int, patch: int) -> Tensor:
    """Share of each patch that lies on the image and not on the padding: (h, w) of `patch_grid`, in (0, 1]."""
    sides = zip((height, width), patch_grid(height, width, patch), strict=True)
    return torch.outer(*((size - patch * torch.arange(count)).clamp(max=patch) / patch for size, count in sides))
