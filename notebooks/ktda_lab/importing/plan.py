"""What an import will do, found out by reading every mask, before anything is written."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from tqdm import tqdm

from ktda.errors import InputError
from ktda_lab.importing.labels import Labels, MaskValues, decide, read_labels
from ktda_lab.importing.pairing import find_pairs
from ktda_lab.importing.raster import Raster, Unfit, Window, check_whole, open_raster
from ktda_lab.importing.splits import Tile, draw_splits, keep_splits, scene_of, scene_pattern
from ktda_lab.importing.wishes import Wishes


@dataclass(frozen=True)
class Plan:
    """An import, ready to be carried out.

    Attributes:
        tiles: by split.
        channels: bands of the images to write.
        images: kinds of the images that are there, such as "3 bands of uint8", and how many are of each.
        pattern: finds the scene in a tile's name, or None.
        notes: sentences for the user.
    """

    wishes: Wishes
    labels: Labels
    tiles: dict[str, list[Tile]]
    channels: int
    images: Counter
    pattern: str | None
    notes: list[str]

    def shares(self) -> list[tuple[str, ...]]:
        """A table: per split its scenes, images and tiles, the share of each class, and of ignored pixels."""
        classes = self.labels.classes
        rows = [("split", "scenes", "images", "tiles", *classes, "ignored")]
        for split, tiles in self.tiles.items():
            counts = sum((tile.counts for tile in tiles), np.zeros(256, np.int64))
            labelled = counts[: len(classes)]
            shares = [*labelled / max(1, labelled.sum()), counts[self.labels.ignore_index] / max(1, counts.sum())]
            distinct = (len({tile.scene for tile in tiles}), len({tile.pair for tile in tiles}), len(tiles))
            rows.append((split, *map(str, distinct), *(f"{100 * share:.1f} %" for share in shares)))
        return rows


def make_plan(wishes: Wishes) -> Plan:
    """Look at every image and mask, and decide on classes, tiles and splits.

    Raises:
        InputError: nothing to import, or something that the user has to decide.
    """
    pairs, left_out = find_pairs(wishes.source)
    looks = []
    factor = wishes.reduce
    images, sizes, channels = Counter(), Counter(), Counter()
    for pair in tqdm(pairs, desc="reading masks", disable=None, leave=False):
        try:
            check_whole(pair.image)
            check_whole(pair.mask)
            with open_raster(pair.image, factor, mean=True) as image, open_raster(pair.mask, factor) as mask:
                _check_fit(image, mask)
                windows = list(cut(*image.size, wishes))
                counts = [_count(read_labels(mask, window)) for _, _, window in windows]
                looks.append((pair, windows, counts, MaskValues(mask.bands == 3, mask.colours, sum(counts, Counter()))))
                images[f"{image.bands} bands of {image.dtype}" if image.colours is None else "palette"] += 1
                sizes[f"{image.size[1]}x{image.size[0]}"] += 1
                channels[len(choose_bands(image, wishes.bands))] += 1
        except Unfit as error:
            left_out.append(str(error))
    if not looks:
        raise InputError(f"{wishes.source}: none of {len(pairs)} pairs can be read; {left_out[-1]}")
    if len(channels) > 1:
        raise InputError(f"the images differ ({', '.join(images)}); say which bands to take, such as --bands 3,2,1")
    labels = decide([values for *_, values in looks], wishes.spec)

    kept = not wishes.shares and not wishes.block and any(pair.split for pair, *_ in looks)
    named = wishes.spec.get("scene")
    grouped = not kept and all(pair.group for pair, *_ in looks)
    tiles = []
    for pair, windows, counts, values in looks:
        for (block, suffix, window), raw in zip(windows, counts, strict=True):
            pixels = labels.count(raw, values.colours)
            if pixels[: len(labels.classes)].sum() >= wishes.min_labelled * pixels.sum():
                scene = scene_of(pair, block, named, grouped)
                tiles.append(Tile(pair, window, pair.name + block + suffix, scene, pixels))
    few = sum(len(windows) for _, windows, *_ in looks) - len(tiles)
    if few:
        left_out.append(f"{few} tiles, of which less than {100 * wishes.min_labelled:g} % has a class")
    pattern = scene_pattern(tiles, wishes.tile > 0, wishes.block > 0, named, grouped)
    if kept:
        how, splits = "as the folders say", keep_splits(tiles, named is not None)
    else:
        how = f"drawn by {'block' if wishes.block else 'scene' if named else 'folder' if grouped else 'image'}"
        splits = draw_splits(tiles, wishes.shares or (0.6, 0.2, 0.2), wishes.seed)
    most = ", ".join(size for size, _ in sizes.most_common(3)) + (", ..." if len(sizes) > 3 else "")
    notes = [f"{len(looks)} pairs; images of {', '.join(images)}, {most} px; masks of {labels.note}; splits {how}"]
    if how.endswith("by image"):
        notes.append("each image counts as a scene of its own; if it is not, name the scenes with --scene")
    if max(channels) > 3:
        notes.append("the first three bands are red, green and blue for a teacher; --bands puts them in order")
    trained = sum((tile.counts for tile in splits.get("train", [])), np.zeros(256, np.int64))
    absent = [name for name, pixels in zip(labels.classes, trained, strict=False) if not pixels]
    notes += [f"warning: train has no pixel of {', '.join(absent)}"] * bool(absent)
    notes += [f"left out: {reason}" for reason in left_out]
    return Plan(wishes, labels, splits, next(iter(channels)), images, pattern, notes)


def _count(raw: np.ndarray) -> Counter:
    values, counts = np.unique(raw, return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _check_fit(image: Raster, mask: Raster) -> None:
    if image.size != mask.size:
        sizes = ["{1}x{0}".format(*raster.size) for raster in (image, mask)]
        raise Unfit(f"{image.path} is {sizes[0]} px and its mask {sizes[1]}")
    if image.place and mask.place:
        same = np.allclose(image.place[1:], mask.place[1:], rtol=1e-9)
        if not same or image.place[0] != mask.place[0]:
            raise Unfit(f"{image.path} and its mask lie at different places")


def choose_bands(image: Raster, wanted: tuple[int, ...]) -> list[int]:
    """Bands to write, counted from 1: those wanted, or all; a single one as three equal ones."""
    bands = list(wanted or range(1, image.bands + 1))
    if max(bands) > image.file.count or len(bands) == 2:
        raise InputError(f"{image.path} has {image.file.count} bands; name one, three or more, such as --bands 3,2,1")
    return bands * 3 if len(bands) == 1 else bands


def cut(height: int, width: int, wishes: Wishes) -> Iterator[tuple[str, str, Window]]:
    """Windows of an image, and what block and place add to its name; the last of a row is moved inwards.

    Each block is cut for itself: tiles of two blocks share no pixel.
    """
    side = wishes.tile
    if not side:
        yield "", "", Window(0, 0, height, width)
        return
    step = max(1, round(side * (1 - wishes.overlap)))
    for row, (top, bottom) in enumerate(_blocks(height, side * wishes.block)):
        for column, (left, right) in enumerate(_blocks(width, side * wishes.block)):
            for y in _starts(top, bottom, side, step):
                for x in _starts(left, right, side, step):
                    window = Window(y, x, min(side, bottom - y), min(side, right - x))
                    yield f"_b{row}-{column}" if wishes.block else "", f"_y{y}_x{x}", window


def _blocks(length: int, side: int) -> list[tuple[int, int]]:
    parts = max(1, length // side) if side else 1
    edges = [length * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


def _starts(first: int, end: int, side: int, step: int) -> list[int]:
    last = max(first, end - side)
    return [*range(first, last, step), last]
