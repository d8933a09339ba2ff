"""Look at every file of a data set before training does: what would fail, what would leak, what the classes weigh."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ktda.data.folder import IMAGE_SUFFIXES, MASK_SUFFIXES, Pair, TileSet, open_data, pair_up, split_names
from ktda.data.images import map_values, read_image, read_mask, size_text
from ktda.errors import InputError


@dataclass
class SplitCount:
    """What one split holds.

    Attributes:
        tiles: Number of pairs that could be read.
        scenes: Number of different scenes.
        sizes: Number of tiles per image size, as text such as ``256x256``.
        pixels: (K,) pixels per class.
        ignored: Pixels of ``ignore_index``.
        outside: Pixels of any other value.
    """

    tiles: int
    scenes: int
    sizes: Counter
    pixels: np.ndarray
    ignored: int = 0
    outside: int = 0

    @property
    def shares(self) -> np.ndarray:
        """(K,) share of each class in the pixels that have a class; all 0 where none has."""
        return self.pixels / max(1, self.pixels.sum())


@dataclass
class CheckResult:
    """The findings: errors stop a training or spoil its result, warnings want a look."""

    tile_set: TileSet
    splits: dict[str, SplitCount] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.errors


@dataclass
class _Tile:
    """What is kept of one pair after looking at it."""

    pair: Pair
    size: str = ""
    values: np.ndarray | None = None  # (V,) mask values present
    counts: np.ndarray | None = None  # (V,) their pixels
    content: bytes | None = None  # digest of the image, None for an image of one colour
    problems: tuple[str, ...] = ()


def check(data: str | Path | TileSet) -> CheckResult:
    """Read a data set completely.

    Errors are: files without a partner or with a shared stem, files that cannot be read, image and mask of different
    size, labels outside the classes, an empty split, a scene (or the very same image) in two splits, a stem that the
    scene pattern does not fit. Damaged and strange files are reported, never fatal.

    Args:
        data: A built-in name, a folder, or an open data set.

    Raises:
        InputError: There is no such data set, or its layout or ``dataset.yaml`` cannot be understood at all.
    """
    tile_set = data if isinstance(data, TileSet) else open_data(data)
    result = CheckResult(tile_set, warnings=list(tile_set.notes))
    result.errors += _strange_entries(tile_set.root)
    scenes: dict[str, dict[str, str]] = {}  # scene -> split -> one of its stems
    contents: dict[bytes, dict[str, str]] = {}  # image content -> split -> one of its files
    for split in split_names(tile_set.root):
        if not (tile_set.root / "ann_dir" / split).is_dir():
            result.warnings.append(f"img_dir/{split} has no ann_dir/{split}: the split is left out")
            continue
        pairs, problems = pair_up(tile_set.root, split)
        result.errors += problems
        tiles = list(_look_at_all(tile_set, pairs))
        result.errors += [problem for tile in tiles for problem in tile.problems]
        result.splits[split] = _count(tile_set, tiles, result.errors)
        if not pairs:
            result.errors.append(f"{split}: no tiles")
        for tile in tiles:
            if tile.content is not None:
                contents.setdefault(tile.content, {}).setdefault(split, tile.pair.image.name)
        for pair in pairs:
            try:
                scenes.setdefault(tile_set.scene_of(pair.stem), {}).setdefault(split, pair.stem)
            except InputError as error:
                result.errors.append(str(error))
    _judge_splits(result, scenes, contents)
    return result


def _look_at_all(tile_set: TileSet, pairs: list[Pair]) -> Iterator[_Tile]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter lock
        yield from pool.map(lambda pair: _look_at(tile_set, pair), pairs)


def _look_at(tile_set: TileSet, pair: Pair) -> _Tile:
    tile, problems = _Tile(pair), []
    try:
        image = read_image(pair.image)
        tile.size = size_text(image)
        if (image != image[:1, :1]).any():
            tile.content = hashlib.blake2b(image.tobytes() + str(image.shape).encode(), digest_size=16).digest()
    except InputError as error:
        image = None
        problems.append(_relative(tile_set, error))
    try:
        mask = map_values(read_mask(pair.mask), tile_set.value_map)
        if image is not None and image.shape[:2] != mask.shape:
            where = pair.image.relative_to(tile_set.root).as_posix()
            problems.append(f"{where}: the image is {size_text(image)} pixels and its mask {size_text(mask)}")
        counts = np.bincount(mask.ravel(), minlength=1) if mask.max(initial=0) <= 65535 else None
        if counts is None:
            tile.values, tile.counts = np.unique(mask, return_counts=True)
        else:
            tile.values = np.flatnonzero(counts)
            tile.counts = counts[tile.values]
    except InputError as error:
        problems.append(_relative(tile_set, error))
    tile.problems = tuple(problems)
    return tile


def _count(tile_set: TileSet, tiles: list[_Tile], errors: list[str]) -> SplitCount:
    read = [tile for tile in tiles if tile.size and tile.values is not None]
    stems = set()
    for tile in read:
        try:
            stems.add(tile_set.scene_of(tile.pair.stem))
        except InputError:
            stems.add(tile.pair.stem)
    pixels = np.zeros(tile_set.num_classes, dtype=np.int64)
    split = SplitCount(len(read), len(stems), Counter(tile.size for tile in read), pixels)
    for tile in tiles:
        if tile.values is None:
            continue
        inside = (tile.values >= 0) & (tile.values < tile_set.num_classes)
        ignored = tile.values == tile_set.ignore_index
        split.pixels[tile.values[inside]] += tile.counts[inside]
        split.ignored += int(tile.counts[ignored].sum())
        wrong = ~inside & ~ignored
        if wrong.any():
            split.outside += int(tile.counts[wrong].sum())
            values = tile.values[wrong].tolist()
            shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
            errors.append(
                f"{tile.pair.mask.relative_to(tile_set.root).as_posix()}: labels {shown} are neither a class (0 to "
                f"{tile_set.num_classes - 1}) nor ignore_index {tile_set.ignore_index}; mend the mask, the classes "
                "or value_map"
            )
    return split


def _judge_splits(
    result: CheckResult, scenes: dict[str, dict[str, str]], contents: dict[bytes, dict[str, str]]
) -> None:
    tile_set = result.tile_set
    if not result.splits:
        result.errors.append("no split has both images and masks")
    for scene, found in scenes.items():
        if len(found) > 1 and tile_set.scene is not None:
            result.errors.append(f"scene {scene!r} is in {' and '.join(found)}: what is trained on is scored")
    twice = [stem for stem, found in scenes.items() if len(found) > 1]
    if twice and tile_set.scene is None:
        result.warnings.append(f"{len(twice)} file names are in two splits, such as {twice[0]!r}: different tiles?")
    if tile_set.scene is None:
        result.warnings.append("no scene pattern: whether tiles of one scene are in two splits cannot be checked")
    for found in contents.values():
        if len(found) > 1:
            places = " and ".join(f"img_dir/{split}/{name}" for split, name in found.items())
            result.errors.append(f"{places} are the same image: what is trained on is scored")
    sizes = Counter()
    for split in result.splits.values():
        sizes.update(split.sizes)
    if len(sizes) > 1:
        common = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(3))
        result.warnings.append(f"{len(sizes)} different tile sizes, such as {common}: training in batches needs a crop")
    for split, count in result.splits.items():
        if count.tiles and not count.pixels.sum():
            result.errors.append(f"{split}: no pixel has a class")
    total = sum((count.pixels for count in result.splits.values()), np.zeros(tile_set.num_classes, dtype=np.int64))
    for split, count in result.splits.items():
        missing = [tile_set.classes[k] for k in np.flatnonzero((count.pixels == 0) & (total > 0))]
        if missing and count.pixels.sum():
            result.warnings.append(f"{split} has no pixel of {', '.join(missing)}")
    never = [tile_set.classes[k] for k in np.flatnonzero(total == 0)]
    if never and total.sum():
        result.warnings.append(f"no split has a pixel of {', '.join(never)}")


def _strange_entries(root: Path) -> list[str]:
    """Entries of the split folders that no reader would open, and mask folders without images."""
    problems = []
    for kind in ("img_dir", "ann_dir"):
        for folder in sorted((root / kind).iterdir()):
            if folder.name.startswith("."):
                continue
            if not folder.is_dir():
                problems.append(f"{kind}/{folder.name}: a file beside the split folders")
                continue
            if kind == "ann_dir" and not (root / "img_dir" / folder.name).is_dir():
                problems.append(f"ann_dir/{folder.name} has no img_dir/{folder.name}")
            wanted = MASK_SUFFIXES if kind == "ann_dir" else IMAGE_SUFFIXES
            for path in sorted(folder.iterdir()):
                where = f"{kind}/{folder.name}/{path.name}"
                if path.name.startswith("."):
                    continue
                if not path.is_file():
                    problems.append(f"{where}: {'a folder' if path.is_dir() else 'not a readable file'}")
                elif path.suffix.lower() not in wanted:
                    problems.append(f"{where}: expected {', '.join(wanted)}")
    return problems


def _relative(tile_set: TileSet, error: InputError) -> str:
    return str(error).replace(f"{tile_set.root}{os.sep}", "", 1)
