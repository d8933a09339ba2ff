"""Look at every file of a set before training does: what fails, what leaks, what weighs what."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ktda.data.folder import Pair, TileSet, open_data, pair_up, split_folders
from ktda.errors import InputError


@dataclass
class SplitCount:
    """What one split holds, in tiles without errors.

    Attributes:
        pixels: (K,) pixels per class.
        ignored: Pixels of ``ignore_index``.
        scenes: Number of different scenes; 0 where the set has no scene pattern.
        sizes: Number of tiles per image size, as text such as ``256x256``.
    """

    pixels: np.ndarray
    ignored: int = 0
    scenes: int = 0
    sizes: Counter = field(default_factory=Counter)

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


def check(data: str | Path) -> CheckResult:
    """Read a data set completely.

    Errors are: files without a partner or with a shared stem, tiles that `TileSet.read` refuses
    (damaged, of another kind, of two sizes, with labels outside the classes), a stem that the scene
    pattern does not fit, a split without labelled pixels, and a scene or the very same image in two
    splits.

    Args:
        data: A built-in name or a folder.

    Raises:
        InputError: There is no such data set, or its layout or ``dataset.yaml`` cannot be
            understood at all.
    """
    tile_set = open_data(data)
    result = CheckResult(tile_set, warnings=list(tile_set.notes))
    images = split_folders(tile_set.root, "img_dir")
    masks = split_folders(tile_set.root, "ann_dir")
    for split in sorted(images - masks):
        result.warnings.append(f"img_dir/{split} has no ann_dir/{split}: left out")
    for split in sorted(masks - images):
        result.errors.append(f"ann_dir/{split} has no img_dir/{split}: left out")
    if tile_set.scene is None:
        unknown = "whether tiles of one scene are in two splits cannot be checked"
        result.warnings.append(f"no scene pattern: {unknown}")
    # (scene | image, which) -> split -> one of its stems
    places: dict[tuple[str, str], dict[str, str]] = {}
    for split in tile_set.splits():
        _count(result, split, places)
    for (kind, _), found in places.items():
        if len(found) > 1:
            named = " and ".join(f"{split}/{stem}" for split, stem in found.items())
            result.errors.append(f"the same {kind} is in {named}: what is trained on is scored")
    return result


def _count(result: CheckResult, split: str, places: dict[tuple[str, str], dict[str, str]]) -> None:
    """Read the tiles of one split into the result, and note where scenes and images are."""
    tile_set = result.tile_set
    pairs, problems = pair_up(tile_set.root, split)
    result.errors += problems
    count = SplitCount(np.zeros(tile_set.num_classes, dtype=np.int64))
    result.splits[split] = count
    scenes = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter lock
        futures = [pool.submit(_examine, tile_set, pair) for pair in pairs]
    for pair, future in zip(pairs, futures, strict=True):
        try:
            size, pixels, identity = future.result()
        except InputError as error:
            result.errors.append(str(error))
            continue
        count.sizes[size] += 1
        count.pixels += pixels[: tile_set.num_classes]
        count.ignored += int(pixels[tile_set.ignore_index])
        scenes.add(identity.get("scene"))
        for which in identity.items():
            places.setdefault(which, {}).setdefault(split, pair.stem)
    count.scenes = len(scenes - {None})
    if not count.pixels.sum():
        result.errors.append(f"{split}: no pixel has a class")


def _examine(tile_set: TileSet, pair: Pair) -> tuple[str, np.ndarray, dict[str, str]]:
    """Size, pixels per mask value (256,), and by what the tile is known in another split."""
    image, mask = tile_set.read(pair)
    identity = {}
    if tile_set.scene is not None:
        identity["scene"] = tile_set.scene_of(pair.stem)
    if (image != image[:1, :1]).any():  # images of one colour, such as fill, are no copies
        content = image.tobytes() + str(image.shape).encode()
        identity["image"] = hashlib.sha256(content).hexdigest()
    size = f"{mask.shape[1]}x{mask.shape[0]}"
    return size, np.bincount(mask.ravel(), minlength=256), identity
