"""Images much larger than those of the training are scored as scenes are mapped: by blended tiles.

A model has seen one size of image; far beyond it, its grid of patches is one that it never met, and
attention over all of them costs with the square of the pixels. So an image of more than `LARGER`
times the pixels of a training tile, of twice its side, is cut into tiles of that size, whose
probabilities are blended (`ktda.scenes.blend`). All others are scored whole, and so is everything
under ``protocol=paper``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ktda.config import Config
from ktda.data.folder import Pair, TileSet
from ktda.data.unlabelled import image_size
from ktda.images import model_input
from ktda.scenes.blend import blend

LARGER = 4
OVERLAP = 0.25


def training_tile(config: Config, tile_set: TileSet, pairs: Sequence[Pair]) -> int:
    """The side in pixels of what the model sees in training; 0 without training tiles."""
    if config.crop or not pairs:
        return config.crop
    return min(image_size(pairs[0].image, tile_set))  # without a crop all are of one size


def is_large(size: Sequence[int], tile: int) -> bool:
    """Whether an image (H, W) is scored by tiles; never where `tile` is 0."""
    height, width = size
    return 0 < LARGER * tile**2 < height * width


def describe_evaluation(tile_set: TileSet, pairs: Sequence[Pair], tile: int) -> str:
    """How these images are scored, in words."""
    large = [is_large(image_size(pair.image, tile_set), tile) for pair in pairs]
    if not any(large):
        return "whole image"
    tiles = f"blended tiles of {tile} px, overlap {OVERLAP}"
    return tiles if all(large) else f"{tiles}; whole image up to {LARGER * tile**2} px in area"


def predict_classes(
    model: nn.Module, images: Tensor, num_classes: int, tile: int, device: torch.device | str
) -> Tensor:
    """Images of one size (N, all bands, H, W) in [0, 1] -> classes (N, H, W) int64, as scored.

    Args:
        model: called with normalised images.
        images: on any device.
        num_classes: of the model.
        tile: side of the training tiles, see `is_large`; 0 takes every image whole.
        device: of the model.
    """
    if is_large(images.shape[2:], tile):
        maps = [_by_tiles(model, image, num_classes, tile, device) for image in images]
        return torch.stack(maps).long().to(device)
    return model(model_input(model, images.to(device))).argmax(1)  # (N, K, H, W) -> (N, H, W)


def _by_tiles(
    model: nn.Module, image: Tensor, num_classes: int, tile: int, device: torch.device | str
) -> Tensor:
    """Image (all bands, H, W) -> classes (H, W) uint8, on the CPU."""

    def read(begin: int, end: int) -> tuple[Tensor, Tensor]:
        rows = image[:, begin:end]
        return rows, torch.ones(rows.shape[1:], dtype=torch.bool)

    def predict(windows: Tensor) -> Tensor:
        return model(model_input(model, windows.to(device)))

    strips = blend(read, predict, image.shape[1:], num_classes, tile, OVERLAP)
    return torch.cat([strip.classes for strip in strips])
