"""Which tile trains and which is scored: by whole scenes or blocks, so that nothing seen is scored."""

import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from ktda.data.layout import SPLIT_ORDER
from ktda.errors import InputError
from ktda_lab.importing.pairing import Pair
from ktda_lab.importing.raster import Window

CUT = r"_y\d+_x\d+"  # what a window adds to the name of its image


class Tile(NamedTuple):
    """A window of a pair that becomes a tile; `counts` (256,) are pixels per class index."""

    pair: Pair
    window: Window
    name: str
    scene: str
    counts: np.ndarray


def scene_of(pair: Pair, block: str, pattern: str | None, grouped: bool) -> str:
    """The scene of a tile: a block of its image, what a pattern finds, the image's folder, or the image."""
    if block:
        return pair.name + block
    if pattern is None:
        return pair.group if grouped else pair.name
    match = re.search(pattern, pair.name)
    if match is None or not match[1]:
        raise InputError(f"scene {pattern!r} does not fit the name {pair.name!r}; give --scene one that does")
    return match[1]


def scene_pattern(tiles: list[Tile], cut: bool, blocks: bool, pattern: str | None, grouped: bool) -> str | None:
    """A regular expression that finds the scenes in the names of tiles, for ``dataset.yaml``."""
    if blocks:
        found = rf"^(.+_b\d+-\d+){CUT}$"
    elif pattern:
        found = pattern[:-1] + CUT + "$" if cut and pattern.endswith("$") else pattern
    elif grouped:
        groups = sorted({tile.scene for tile in tiles}, key=len, reverse=True)
        found = f"^({'|'.join(map(re.escape, groups))})_"
    else:
        found = rf"^(.+){CUT}$" if cut else None
    for tile in tiles if found else ():
        match = re.search(found, tile.name)
        if match is None or match[1] != tile.scene:
            raise InputError(f"scene {found!r} does not find {tile.scene!r} in {tile.name!r}; change --scene")
    return found


def keep_splits(tiles: list[Tile], known_scenes: bool) -> dict[str, list[Tile]]:
    """The splits that folders name.

    Raises:
        InputError: a tile is in none, or a scene in two.
    """
    splits: dict[str, list[Tile]] = {}
    place: dict[str, str] = {}
    cure = "draw new splits by scene, with --split 0.6,0.2,0.2"
    for tile in tiles:
        split = tile.pair.split
        if split is None:
            raise InputError(f"{tile.pair.image} is in no split's folder; {cure}")
        if place.setdefault(tile.scene, split) != split and known_scenes:
            raise InputError(f"scene {tile.scene} is in {place[tile.scene]} and {split}; {cure}")
        splits.setdefault(split, []).append(tile)
    return {name: splits[name] for name in SPLIT_ORDER if name in splits}


def draw_splits(tiles: list[Tile], shares: tuple[float, ...], seed: int) -> dict[str, list[Tile]]:
    """Whole scenes, in an order keyed by the seed, each to the split that lacks most pixels.

    Raises:
        InputError: fewer scenes than splits.
    """
    from ktda.seeding import derive_seed  # it brings torch, and a mistake shall be told before

    wanted = {name: share for name, share in zip(SPLIT_ORDER, shares, strict=False) if share}
    sizes: Counter = Counter()
    for tile in tiles:
        sizes[tile.scene] += tile.window.height * tile.window.width
    if len(sizes) < len(wanted):
        cure = "split within images (--tile 256 --block 4), or into fewer (--split 0.8,0.2)"
        raise InputError(f"{len(sizes)} scenes do not fill {', '.join(wanted)}; {cure}")
    lacking = {name: share * sizes.total() for name, share in wanted.items()}
    chosen: dict[str, str] = {}
    for scene in sorted(sizes, key=lambda name: derive_seed(seed, "import", name)):
        empty = [name for name in wanted if name not in chosen.values()]
        last = len(sizes) - len(chosen) <= len(empty)  # these go to splits that have none
        chosen[scene] = max(empty if last else wanted, key=lacking.get)
        lacking[chosen[scene]] -= sizes[scene]
    return {name: [tile for tile in tiles if chosen[tile.scene] == name] for name in wanted}
