"""Images as tensors: normalised, resized, and the grid of patches that a transformer reads."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(
    images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """``(x - mean) / std`` per channel: (N, C, H, W) in [0, 1] -> what a model takes.

    The one normalisation in training, prediction and export.
    """
    mean = images.new_tensor(mean).view(-1, 1, 1)
    std = images.new_tensor(std).view(-1, 1, 1)
    return (images - mean) / std


def model_input(model: nn.Module, images: Tensor) -> Tensor:
    """A segmenter's ``bands``, places from 0, of images in [0, 1], normalised by its statistics."""
    places = list(getattr(model, "bands", ()))
    chosen = images[:, places] if places else images  # (N, all bands, H, W) -> (N, C, H, W)
    return normalise(chosen, model.mean, model.std)


def per_level(value: int | Sequence[int], levels: int) -> tuple[int, ...]:
    """One value per level, from one for all or from one each."""
    values = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(values) != levels:
        raise ValueError(f"{values} for {levels} levels; give one value, or one per level")
    return values


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """The grid of an image padded at bottom and right: ``ceil(image / patch)``, 256 / 14 -> 19."""
    return -(-height // patch), -(-width // patch)


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """(N, C, H, W) -> (N, C, *size): bilinear, corners not aligned, no antialiasing (authors')."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
