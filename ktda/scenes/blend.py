"""Segment an image of any size by overlapping tiles, strip by strip, in memory that its width sets.

Every tile's class probabilities are weighted by a Gaussian that is highest at the tile's centre,
where the model has seen most context; the weighted mean of all tiles over a pixel decides. Rows of
tiles are computed from top to bottom; what no later row of tiles touches is final and leaves.

Source of the weights: Isensee et al., nnU-Net, Nature Methods 2021.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

SIGMA = 0.125  # standard deviation of the weights, in sides of a tile
LEAST_WEIGHT = 1e-3  # of the highest one: corners that a single tile covers count as well
BATCH_PIXELS = 2**17  # of one pass of the model: two tiles of 256 px, eight of 128 px
AHEAD = 4  # passes of the model that are asked for before their turn, in a pool


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


def count_passes(size: tuple[int, int], tile: int, overlap: float) -> int:
    """How often `blend` calls the model for an image (H, W) that holds data everywhere."""
    tall, wide = (min(tile, side) for side in size)
    rows, columns = (len(starts(side, min(tile, side), overlap)) for side in size)
    return rows * math.ceil(columns / max(1, BATCH_PIXELS // (tall * wide)))


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
    pool: Executor | None = None,
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
        pool: threads that call `predict`, a few passes ahead; None calls it here. They add up in
            the same order.

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

    def passes() -> Iterator[_Pass]:
        """Every pass of the model, in order; a row of tiles without data has an empty one."""
        for top, following in zip(tops, [*tops[1:], height], strict=True):
            if top + tall <= first:  # reaches no row that is wanted
                continue
            rows, data = read(top, top + tall)
            batches = _batches(lefts, data, wide, max(1, BATCH_PIXELS // (tall * wide)))
            for chosen in batches:
                windows = [rows[:, :, left : left + wide] for left in chosen]
                step = partial(_probabilities, predict, windows)
                result = pool.submit(step).result if pool and chosen else step
                yield _Pass(top, following, data, chosen, result, chosen is batches[-1])

    previous = None
    for part in _ahead(passes(), AHEAD if pool else 1):
        top = part.top
        if top != previous:
            if previous is not None:
                for buffer in (sums, total, valid):
                    _scroll(buffer, top - previous)
            previous = top
            valid |= part.data
        if part.lefts:
            for left, map_ in zip(part.lefts, part.result(), strict=True):
                sums[:, :, left : left + wide].addcmul_(map_, weights)
                total[:, left : left + wide] += weights
        if part.last and part.following > first:
            begin = max(0, first - top)
            count = part.following - top
            yield _finish(top + begin, sums[:, begin:count], total[begin:count], valid[begin:count])


class _Pass(NamedTuple):
    """Some tiles of a row: where it starts and the next one does, and what they come to."""

    top: int
    following: int
    data: Tensor  # (tall, W) bool, of the whole row
    lefts: list[int]
    result: Callable[[], Tensor]  # (N, K, tall, wide)
    last: bool  # of its row


def _probabilities(predict: Predict, windows: list[Tensor]) -> Tensor:
    """Windows (C, h, w) -> (N, K, h, w), on the CPU."""
    return predict(torch.stack(windows)).float().softmax(1).cpu()


def _ahead(parts: Iterator[_Pass], count: int) -> Iterator[_Pass]:
    """The same parts; so many of them are taken before the first is handed on."""
    waiting = deque(itertools.islice(parts, count))
    while waiting:
        yield waiting.popleft()
        waiting.extend(itertools.islice(parts, 1))


def _batches(lefts: list[int], data: Tensor, wide: int, most: int) -> list[list[int]]:
    """Tiles of one row that hold any data in batches alike in size; one empty batch for none."""
    columns = data.any(0)  # (W,)
    chosen = [left for left in lefts if columns[left : left + wide].any()]
    size = math.ceil(len(chosen) / max(1, math.ceil(len(chosen) / most)))
    return [chosen[begin : begin + size] for begin in range(0, len(chosen), max(1, size))] or [[]]


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
