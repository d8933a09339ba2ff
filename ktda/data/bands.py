"""Bands: which of an image the student and the teacher see, and the student's normalisation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ktda.data.folder import TileSet
from ktda.data.layout import Pair
from ktda.errors import InputError
from ktda.images import IMAGENET_MEAN, IMAGENET_STD

RGB = (1, 2, 3)


def teacher_bands(tile_set: TileSet) -> tuple[int, ...]:
    """Places, from 0, of red, green and blue in an image; () where it is RGB already."""
    rgb = tile_set.rgb or RGB
    return () if tile_set.num_bands == 3 and rgb == RGB else tuple(band - 1 for band in rgb)


def describe_bands(
    tile_set: TileSet, pairs: Sequence[Pair], bands: Sequence[int] = ()
) -> dict[str, Any]:
    """What a model must know of its images, the ``normalisation`` in ``config.json``.

    Args:
        tile_set: The data.
        pairs: Tiles on which the statistics are measured where the set gives none.
        bands: Bands that the student reads, counted from 1; () for all.

    Returns:
        ``mean`` and ``std`` of its bands, of values in [0, 1], and ``input`` in words; for other
        images than RGB ``bands`` (numbers from 1), ``of`` (how many an image has), and their
        ``names`` and ``stretch`` where the set has them.

    Raises:
        InputError: The images have no such band.
    """
    count = tile_set.num_bands
    chosen = tuple(bands) or tuple(range(1, count + 1))
    if max(chosen) > count or len(set(chosen)) < len(chosen):
        found = f"bands={','.join(map(str, chosen))}"
        raise InputError(f"{found}; {tile_set.name} has bands 1 to {count}, name each once")
    if tile_set.mean is not None:
        mean, std = tile_set.mean, tile_set.std
    elif tile_set.bands:
        mean, std = band_statistics(tile_set, pairs)
    else:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    places = [band - 1 for band in chosen]
    content: dict[str, Any] = {
        "mean": [mean[place] for place in places],
        "std": [std[place] for place in places],
        "input": "RGB in [0, 1]",
    }
    if tile_set.bands or chosen != RGB:
        content["input"] = f"bands {', '.join(map(str, chosen))} of {count} in [0, 1]"
        content["bands"] = list(chosen)
        content["of"] = count
    if tile_set.bands:
        content["names"] = [tile_set.bands[place] for place in places]
    if tile_set.stretch is not None:
        content["stretch"] = [list(tile_set.stretch[place]) for place in places]
    return content


def band_statistics(
    tile_set: TileSet, pairs: Sequence[Pair]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every band over all pixels of the tiles, in [0, 1].

    Sums of bytes and of their squares are whole numbers: the order of the tiles changes nothing.
    """
    sums = np.zeros((2, tile_set.num_bands), np.int64)
    pixels = 0
    for pair in pairs:
        values = tile_set.read_image(pair.image).reshape(-1, tile_set.num_bands)  # (H * W, bands)
        values = values.astype(np.int64)
        sums += np.stack([values.sum(0), np.square(values).sum(0)])
        pixels += len(values)
    mean, square = sums / pixels
    std = np.sqrt(np.maximum(square - mean**2, 0))
    # a band of one value, such as an empty one, is not blown up
    std = np.where(std > 0, std, 255)
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
