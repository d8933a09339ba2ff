"""Which tiles a run trains on, selects its weights on, and reports.

honest: select on data that is not reported. Where the set has both ``val`` and ``test`` that is
``val``; where it has only one of them (the released grass set), a part of ``train`` is held out, by
whole scenes where the scene is known. The reported split is scored once.
paper: select on the reported split, as the authors' code does (grass: val; cloud: its "val" reads
the test folder).
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ktda.data.folder import Pair, TileSet
from ktda.errors import InputError
from ktda.seeding import derive_seed, generator

_ATTEMPTS = 500  # draws before class_tiles is called out of reach


@dataclass(frozen=True)
class Splits:
    """Tiles by role.

    Attributes:
        train: tiles with labels that the optimiser sees.
        select: tiles on which the kept weights are chosen, and the name of where they came from.
        report: tiles of the reported split, and its name.
        unlabelled: tiles of the training split that `tiles` and `scenes` leave out; no loss sees
            their labels (a draw with `class_tiles` looks at the labels of the whole split).
    """

    train: list[Pair]
    select: list[Pair]
    select_name: str
    report: list[Pair]
    report_name: str
    unlabelled: list[Pair] = field(default_factory=list)


def choose_splits(
    tile_set: TileSet,
    protocol: str = "honest",
    holdout: float = 0.2,
    tiles: int = 0,
    scenes: int = 0,
    seed: int = 0,
    class_tiles: int = 0,
    unlabelled_tiles: int = 0,
) -> Splits:
    """The tiles of a run.

    Args:
        tile_set: the data.
        protocol: "honest" or "paper".
        holdout: share of train to hold out where "honest" finds no split to select on. The same
            tiles for every seed, so that runs can be compared.
        tiles, scenes: keep only so many training tiles, scenes; 0 keeps all. Drawn by `seed`.
        seed: of the draw.
        class_tiles: draw again until every class occurs in at least so many of the tiles.
        unlabelled_tiles: keep only so many of the tiles left out; 0 keeps all. Drawn by `seed`.

    Raises:
        InputError: no split to train on or to report, an empty one, or fewer tiles or scenes than
            asked for.
    """
    present = tile_set.splits()
    reported = next((split for split in ("test", "val") if split in present), None)
    if "train" not in present or reported is None:
        needed = "training needs train and val or test under img_dir and ann_dir"
        has = ", ".join(present) or "none"
        raise InputError(f"{tile_set.root} has the splits {has}; {needed}")
    train = tile_set.pairs("train")
    report = _some_pairs(tile_set, reported)
    if protocol == "paper":
        select, select_name = report, reported
    elif reported == "test" and "val" in present:
        select, select_name = _some_pairs(tile_set, "val"), "val"
    else:
        train, select = _hold_out(tile_set, train, holdout)
        select_name = "held out of train"
    chosen = _draw(tile_set, train, tiles, scenes, seed, class_tiles)
    kept = {pair.stem for pair in chosen}
    left_out = [pair for pair in train if pair.stem not in kept]
    if unlabelled_tiles:
        if unlabelled_tiles > len(left_out):
            found = f"the draw leaves {len(left_out)} tiles of {tile_set.name}"
            raise InputError(f"unlabelled_tiles={unlabelled_tiles}, but {found}; 0 takes all")
        order = torch.randperm(len(left_out), generator=generator(seed, "unlabelled")).tolist()
        left_out = [left_out[i] for i in sorted(order[:unlabelled_tiles])]
    return Splits(chosen, select, select_name, report, reported, left_out)


def check_tiles(tile_set: TileSet, splits: Splits, labelled: bool = True) -> TileSet:
    """Read what a run would read at its end only, and the labels to train on.

    Args:
        labelled: whether labels are trained on.

    Returns:
        The data with a note on classes that no training label names.

    Raises:
        InputError: a tile to score, or a training mask, cannot be read; or no pixel has a class.
    """
    seen = np.zeros(256, bool)

    def read(pair: Pair) -> None:
        tile_set.read(pair)

    def look(pair: Pair) -> None:
        seen[np.unique(tile_set.read_labels(pair.mask))] = True

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter lock
        any(pool.map(read, dict.fromkeys(splits.select + splits.report)))
        any(pool.map(look, splits.train if labelled else ()))
    absent = [name for name, there in zip(tile_set.classes, seen, strict=False) if not there]
    if labelled and len(absent) == tile_set.num_classes:
        cure = "name the classes' values in value_map"
        raise InputError(f"{tile_set.root}: no pixel of the training tiles has a class; {cure}")
    if not labelled or not absent:
        return tile_set
    note = f"no training pixel is {', '.join(absent)}: nothing can be learned of it"
    return replace(tile_set, notes=(*tile_set.notes, note))


def _some_pairs(tile_set: TileSet, split: str) -> list[Pair]:
    pairs = tile_set.pairs(split)
    if not pairs:
        cure = "add some, or remove its folders"
        raise InputError(f"split {split} of {tile_set.root} holds no tiles; {cure}")
    return pairs


def _scenes(tile_set: TileSet, pairs: list[Pair]) -> dict[str, list[Pair]]:
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(tile_set.scene_of(pair.stem), []).append(pair)
    return groups


def _hold_out(tile_set: TileSet, pairs: list[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """Whole scenes, in an order given by the hash of their names, until the share is reached."""
    groups = _scenes(tile_set, pairs)
    if len(groups) < 2:
        found = f"{len(groups)} training scenes: none can be held out"
        raise InputError(f"{tile_set.root} has {found}; add a val split")
    order = sorted(groups, key=lambda scene: derive_seed("holdout", scene))
    held: list[Pair] = []
    for scene in order[:-1]:  # one scene stays to train on
        if len(held) >= share * len(pairs):
            break
        held += groups[scene]
    stems = {pair.stem for pair in held}
    kept = [pair for pair in pairs if pair.stem not in stems]
    return kept, [pair for pair in pairs if pair.stem in stems]


def _draw(
    tile_set: TileSet, pairs: list[Pair], tiles: int, scenes: int, seed: int, class_tiles: int
) -> list[Pair]:
    """The first draw in which every class occurs in enough tiles."""
    if not class_tiles:
        return _subset(tile_set, pairs, tiles, scenes, seed)
    occurs: dict[str, np.ndarray] = {}  # stem -> (K,) whether the class is in the mask
    for attempt in range(_ATTEMPTS):
        key = (seed, attempt) if attempt else (seed,)  # the first draw is the one without a wish
        chosen = _subset(tile_set, pairs, tiles, scenes, *key)
        for pair in chosen:
            if pair.stem not in occurs:
                _, mask = tile_set.read(pair)
                occurs[pair.stem] = np.isin(np.arange(tile_set.num_classes), mask)
        counts = np.sum([occurs[pair.stem] for pair in chosen], axis=0)  # (K,) tiles per class
        if counts.min() >= class_tiles:
            return chosen
    found = f"no {_ATTEMPTS} draws of {len(chosen)} tiles of {tile_set.name} have every class"
    cure = "lower class_tiles, or raise tiles or scenes"
    raise InputError(f"{found} in {class_tiles} of them; {cure}")


def _subset(
    tile_set: TileSet, pairs: list[Pair], tiles: int, scenes: int, seed: int, *attempt: int
) -> list[Pair]:
    """So many scenes, then so many of their tiles, drawn by the seed."""
    if scenes:
        names = sorted(_scenes(tile_set, pairs))
        if scenes > len(names):
            found = f"{tile_set.name} has {len(names)} training scenes"
            raise InputError(f"scenes={scenes}, but {found}; 0 takes all")
        draw = generator(seed, "scenes", *attempt)
        order = torch.randperm(len(names), generator=draw).tolist()
        chosen = {names[i] for i in order[:scenes]}
        pairs = [pair for pair in pairs if tile_set.scene_of(pair.stem) in chosen]
    if tiles:
        if tiles > len(pairs):
            found = f"{tile_set.name} has {len(pairs)} to train on"
            raise InputError(f"tiles={tiles}, but {found}; 0 takes all")
        draw = generator(seed, "tiles", *attempt)
        order = torch.randperm(len(pairs), generator=draw).tolist()
        pairs = [pairs[i] for i in sorted(order[:tiles])]
    return pairs
