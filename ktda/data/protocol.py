"""Which tiles a run trains on, selects its weights on, and reports.

honest: select on data that is not reported. Where the set has both ``val`` and ``test`` that is ``val``; where it has
only one of them (the released grass set), a part of ``train`` is held out, by whole scenes where the scene is known.
The reported split is scored once.
paper: select on the reported split, as the authors' code does (grass: val; cloud: its "val" reads the test folder).
"""

from dataclasses import dataclass, field

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
        unlabelled: tiles of the training split that `tiles` and `scenes` leave out; no loss sees their labels (a draw
            with `class_tiles` looks at the labels of the whole split to choose).
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
) -> Splits:
    """The tiles of a run.

    Args:
        tile_set: the data.
        protocol: "honest" or "paper".
        holdout: share of train to hold out where "honest" finds no split to select on. The same tiles for every
            seed, so that runs can be compared.
        tiles, scenes: keep only so many training tiles, scenes; 0 keeps all. Drawn by `seed`.
        seed: of the draw.
        class_tiles: draw again until every class occurs in at least so many of the tiles.

    Raises:
        InputError: no split to train on or to report, an empty one, or fewer tiles or scenes than asked for.
    """
    present = tile_set.splits()
    reported = next((s for s in ("test", "val") if s in present), None)
    if "train" not in present or reported is None:
        raise InputError(
            f"{tile_set.root} has the splits {', '.join(present) or 'none'}; training needs train and val or test "
            "under img_dir and ann_dir"
        )
    train, report = tile_set.pairs("train"), tile_set.pairs(reported)
    if not report:
        raise InputError(f"split {reported} of {tile_set.root} holds no tiles; add some, or remove its folders")
    if protocol == "paper":
        select, name = report, reported
    elif reported == "test" and "val" in present:
        select, name = tile_set.pairs("val"), "val"
        if not select:
            raise InputError(f"split val of {tile_set.root} holds no tiles; add some, or remove its folders")
    else:
        train, select = _hold_out(tile_set, train, holdout)
        name = "held out of train"
    chosen = _draw(tile_set, train, tiles, scenes, seed, class_tiles)
    kept = {pair.stem for pair in chosen}
    return Splits(chosen, select, name, report, reported, [pair for pair in train if pair.stem not in kept])


def _scenes(tile_set: TileSet, pairs: list[Pair]) -> dict[str, list[Pair]]:
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(tile_set.scene_of(pair.stem), []).append(pair)
    return groups


def _hold_out(tile_set: TileSet, pairs: list[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """Whole scenes, in an order given by the hash of their names, until the share is reached."""
    groups = _scenes(tile_set, pairs)
    if len(groups) < 2:
        raise InputError(f"{tile_set.root} has {len(groups)} training scenes: none can be held out; add a val split")
    held: set[str] = set()
    for scene in sorted(groups, key=lambda s: derive_seed("holdout", s))[: len(groups) - 1]:
        if sum(len(groups[s]) for s in held) >= share * len(pairs):
            break
        held.add(scene)
    kept = [p for p in pairs if tile_set.scene_of(p.stem) not in held]
    return kept, [p for p in pairs if tile_set.scene_of(p.stem) in held]


def _draw(tile_set: TileSet, pairs: list[Pair], tiles: int, scenes: int, seed: int, class_tiles: int) -> list[Pair]:
    """The first draw in which every class occurs in enough tiles."""
    if not class_tiles:
        return _subset(tile_set, pairs, tiles, scenes, seed)
    present: dict[str, np.ndarray] = {}  # stem -> (K,) whether the class occurs
    for attempt in range(_ATTEMPTS):
        chosen = _subset(tile_set, pairs, tiles, scenes, seed, *([attempt] if attempt else []))
        for pair in chosen:
            if pair.stem not in present:
                present[pair.stem] = np.isin(np.arange(tile_set.num_classes), tile_set.read(pair)[1])
        counts = np.sum([present[pair.stem] for pair in chosen], axis=0)
        if counts.min() >= class_tiles:
            return chosen
    raise InputError(
        f"no {_ATTEMPTS} draws of {len(chosen)} tiles of {tile_set.name} have every class in {class_tiles} of them; "
        "lower class_tiles, or raise tiles or scenes"
    )


def _subset(tile_set: TileSet, pairs: list[Pair], tiles: int, scenes: int, seed: int, *attempt: int) -> list[Pair]:
    """So many scenes, then so many of their tiles, drawn by the seed."""
    if scenes:
        names = sorted(_scenes(tile_set, pairs))
        if scenes > len(names):
            raise InputError(f"scenes={scenes}, but {tile_set.name} has {len(names)} training scenes; 0 takes all")
        order = torch.randperm(len(names), generator=generator(seed, "scenes", *attempt)).tolist()
        chosen = {names[i] for i in order[:scenes]}
        pairs = [p for p in pairs if tile_set.scene_of(p.stem) in chosen]
    if tiles:
        if tiles > len(pairs):
            raise InputError(f"tiles={tiles}, but {tile_set.name} has {len(pairs)} to train on; 0 takes all")
        order = torch.randperm(len(pairs), generator=generator(seed, "tiles", *attempt)).tolist()
        pairs = [pairs[i] for i in sorted(order[:tiles])]
    return pairs
