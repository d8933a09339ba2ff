"""Segment an image of any size by overlapping tiles, strip by strip, in memory that its width sets.

Every tile's class probabilities are weighted by a Gaussian that is highest at the tile's centre,
where the model has seen most context; the weighted mean of all tiles over a pixel decides. Rows of
tiles are computed from top to bottom; what no later row of tiles touches is final and leaves.

Source of the weights: Isensee et al., nnU-Net, Nature Methods 2021.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

SIGMA = 0.125  # standard deviation of the weights, in sides of a tile
LEAST_WEIGHT = 1e-3  # of the highest one: corners that a single tile covers count as well
BATCH_PIXELS = 2**18  # of one pass of the model: one tile of 512 px, four of 256 px


class Strip(NamedTuple):
    """Rows of the result that are final.

    Attributes:
        row: position of the first one in the image.
        classes: (rows, W) uint8, `FILL` where the image holds nothing.
        confidence: (rows, W) float32, the blended probability of the class that won; 0 at fill.
    """

    row: int
    classes: Tensor
    confidence: Tensor


FILL = 255  # in a map of classes: no data

Read = Callable[[int, int], tuple[Tensor, Tensor]]
Predict = Callable[[Tensor], Tensor]


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of tiles along a side, evenly spread, from 0 to one that is flush with the end.

    Args:
        length: pixels of the side.
        tile: side of a tile, at most `length`.
        overlap: least share of a tile that its neighbour covers too, in [0, 1).
    """
    stride = max(1, math.floor(tile * (1 - overlap)))
    count = math.ceil((length - tile) / stride) + 1
    if count == 1:
        return [0]
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def gaussian(height: int, width: int) -> Tensor:
    """Weights (height, width) of a tile, fp32: 1 at the centre, at least `LEAST_WEIGHT`."""
    sides = []
    for side in (height, width):
        offset = torch.arange(side) - (side - 1) / 2  # (side,) from the centre
        sides.append(torch.exp(-0.5 * (offset / (SIGMA * side)).square()))
    return torch.outer(*sides).clamp(min=LEAST_WEIGHT)


def blend(
    read: Read,
    predict: Predict,
    size: tuple[int, int],
    num_classes: int,
    tile: int,
    overlap: float,
    first: int = 0,
) -> Iterator[Strip]:
    """The strips of an image, from top to bottom.

    Args:
        read: rows ``[begin, end)`` -> images (C, rows, W) as `predict` wants them, and where they
            hold data, (rows, W) bool.
        predict: (N, C, h, w) -> logits (N, K, h, w).
        size: (H, W) of the image.
        num_classes: classes K, at most 255.
        tile: side of a tile in pixels; a side of the image that is shorter is taken whole.
        overlap: see `starts`.
        first: the first row that is wanted, the begin of a strip of an earlier, interrupted call.
            The tiles that reach into it from above are computed again, in the same order: the
            strips are the same to the bit.

    Yields:
        Strips that follow each other and cover the image from `first` on.
    """
    height, width = size
    tall, wide = min(tile, height), min(tile, width)
    tops = starts(height, tall, overlap)
    lefts = starts(width, wide, overlap)
    weights = gaussian(tall, wide)
    sums = torch.zeros(num_classes, tall, width)  # weighted probabilities of the rows from `top` on
    total = torch.zeros(tall, width)  # and their weights
    valid = torch.zeros(tall, width, dtype=torch.bool)
    previous = None
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        if top + tall <= first:  # reaches no row that is wanted
            continue
        if previous is not None:
            for buffer in (sums, total, valid):
                _scroll(buffer, top - previous)
        previous = top
        rows, data = read(top, top + tall)
        valid |= data
        for chosen in _batches(lefts, data, wide, max(1, BATCH_PIXELS // (tall * wide))):
            windows = [rows[:, :, left : left + wide] for left in chosen]
            windows = torch.stack(windows)  # (N, C, tall, wide)
            probabilities = predict(windows).float().softmax(1).cpu()  # (N, K, tall, wide)
            for left, map_ in zip(chosen, probabilities, strict=True):
                sums[:, :, left : left + wide] += map_ * weights
                total[:, left : left + wide] += weights
        if following > first:
            begin = max(0, first - top)
            count = following - top
            yield _finish(top + begin, sums[:, begin:count], total[begin:count], valid[begin:count])


def _batches(lefts: list[int], data: Tensor, wide: int, count: int) -> Iterator[list[int]]:
    """Tiles of one row that hold any data, `count` at a time."""
    columns = data.any(0)  # (W,)
    chosen = [left for left in lefts if columns[left : left + wide].any()]
    for begin in range(0, len(chosen), count):
        yield chosen[begin : begin + count]


def _scroll(buffer: Tensor, rows: int) -> None:
    """Drop the first rows of (..., rows, W), move the others up, and fill with 0."""
    kept = buffer.shape[-2] - rows
    if kept > 0:
        buffer[..., :kept, :] = buffer[..., rows:, :].clone()
    buffer[..., max(0, kept) :, :] = 0


def _finish(row: int, sums: Tensor, total: Tensor, valid: Tensor) -> Strip:
    """Sums of weighted probabilities (K, rows, W) -> classes and confidence."""
    best, classes = sums.max(0)  # (rows, W) each
    confidence = best / total.clamp(min=LEAST_WEIGHT)
    classes = classes.to(torch.uint8)
    classes[~valid] = FILL
    confidence[~valid] = 0
    return Strip(row, classes, confidence)
