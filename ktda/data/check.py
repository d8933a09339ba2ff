"""Look at every file of a set before training does: what fails, what leaks, what weighs what."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ktda.data.folder import TileSet, check_layout, open_data
from ktda.data.layout import (
    KINDS,
    UNLABELLED,
    Pair,
    counted,
    layout_problems,
    pair_up,
    split_folders,
    tile_files,
)
from ktda.data.pixels import is_turned
from ktda.errors import InputError

MUCH = 0.25  # share of ignored pixels that wants a look
USUAL_PIXELS = 512**2


@dataclass
class SplitCount:
    """What one split holds, in tiles without errors.

    Attributes:
        pixels: (K,) pixels per class.
        ignored: Pixels of ``ignore_index``.
        scenes: Number of different scenes; 0 where the set has no scene pattern.
        sizes: Number of tiles per image size (width, height).
    """

    pixels: np.ndarray
    ignored: int = 0
    scenes: int = 0
    sizes: Counter = field(default_factory=Counter)

    @property
    def shares(self) -> np.ndarray:
        """(K,) share of each class in the pixels that have a class; all 0 where none has."""
        return self.pixels / max(1, self.pixels.sum())

    @property
    def ignored_share(self) -> float:
        """Share of ``ignore_index`` in all pixels."""
        return self.ignored / max(1, self.pixels.sum() + self.ignored)


@dataclass
class CheckResult:
    """The findings: errors stop a training or spoil its result, warnings want a look."""

    tile_set: TileSet
    splits: dict[str, SplitCount] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unlabelled: int = 0  # images in img_dir/unlabelled


def check(data: str | Path) -> CheckResult:
    """Read a data set completely.

    Errors are: folders that training cannot use, files without a partner or with a shared stem,
    tiles that `TileSet.read` refuses (damaged, of another kind, of two sizes, with labels outside
    the classes), a stem that the scene pattern does not fit, a split without labelled pixels, a
    ``train`` of one class only, and a scene or the very same image in two splits.

    Args:
        data: A built-in name or a folder.

    Raises:
        InputError: There is no such data set, or its layout or ``dataset.yaml`` cannot be
            understood at all.
    """
    try:
        tile_set = open_data(data)
    except InputError:
        check_layout(data)  # folders that cannot train are the first thing to mend
        raise
    root = tile_set.root
    result = CheckResult(tile_set, warnings=list(tile_set.notes), errors=layout_problems(root))
    folders = {kind: split_folders(root, kind) for kind in KINDS}
    for split in sorted(folders["img_dir"] - folders["ann_dir"] - {UNLABELLED}):
        result.warnings.append(f"img_dir/{split} has no ann_dir/{split}: left out")
    for split in sorted(folders["ann_dir"] - folders["img_dir"]):
        result.errors.append(f"ann_dir/{split} has no img_dir/{split}: left out")
    if tile_set.scene is None:
        unknown = "whether tiles of one scene are in two splits cannot be checked"
        result.warnings.append(f"no scene pattern: {unknown}")
    # (scene | image, which) -> split -> one of its stems
    places: dict[tuple[str, str], dict[str, str]] = {}
    for split in tile_set.splits():
        for kind in KINDS:
            others = tile_files(root, kind, split)[1]
            if others:
                result.warnings.append(f"{kind}/{split}: left out {counted(others)}")
        _count(result, split, places)
        _weigh(result, split)
    _count_unlabelled(result)
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
    refused = []
    scenes = set()
    turned = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter lock
        futures = [pool.submit(_examine, tile_set, pair) for pair in pairs]
    for pair, future in zip(pairs, futures, strict=True):
        try:
            size, pixels, identity, turns = future.result()
        except InputError as error:
            refused.append(error)
            continue
        count.sizes[size] += 1
        count.pixels += pixels[: tile_set.num_classes]
        count.ignored += int(pixels[tile_set.ignore_index])
        scenes.add(identity.get("scene"))
        turned += [pair.image.name] * turns
        for which in identity.items():
            places.setdefault(which, {}).setdefault(split, pair.stem)
    count.scenes = len(scenes - {None})
    result.errors += _once_each(refused)
    if turned:
        cure = "masks must lie on the pixels as they are stored, not as viewers turn them"
        many = f"{turned[0]} and {len(turned) - 1} more" if turned[1:] else turned[0]
        result.warnings.append(f"{split}: EXIF orientation in {many}: {cure}")


def _count_unlabelled(result: CheckResult) -> None:
    """Read the images that have no masks, for the distillation alone."""
    tile_set = result.tile_set
    refused = []
    for path in tile_files(tile_set.root, "img_dir", UNLABELLED)[0]:
        result.unlabelled += 1
        try:
            tile_set.read_image(path)
        except InputError as error:
            refused.append(error)
    result.errors += _once_each(refused)


def _once_each(refused: list[InputError]) -> list[str]:
    """The same fault of many files in one line, with the first of them."""
    causes: dict[str, list[str]] = {}
    for error in refused:
        file, _, cause = str(error).partition(": ")
        causes.setdefault(cause, []).append(file)
    return [
        f"{files[0]}{f' (and {len(files) - 1} more files)' if files[1:] else ''}: {cause}"
        for cause, files in causes.items()
    ]


def _weigh(result: CheckResult, split: str) -> None:
    """What the counts of one split say: classes that are missing, ignored pixels, sizes."""
    tile_set = result.tile_set
    count = result.splits[split]
    present = np.flatnonzero(count.pixels)
    ignored = f"{count.ignored_share:.1%} of {split} is ignored"
    cure = f"{tile_set.ignore_index} is the ignore index; if it is a class, use value_map"
    if not present.size:
        result.errors.append(f"{split}: no pixel has a class")
    elif split == "train" and present.size == 1 and tile_set.num_classes > 1:
        only = tile_set.classes[present[0]]
        result.errors.append(f"train holds one class only, {only}, and {ignored}: {cure}")
    elif split == "train":
        for index in np.flatnonzero(count.pixels == 0):
            name = tile_set.classes[index]
            result.warnings.append(f"train: no pixel is {name}: nothing can be learned of it")
    if count.ignored_share > MUCH and present.size > 1:
        result.warnings.append(f"{ignored}: {cure}")
    if not count.sizes:
        return
    widths, heights = zip(*count.sizes, strict=True)
    if split == "train" and len(count.sizes) > 1:
        sizes = f"{len(count.sizes)} sizes, {min(widths)} to {max(widths)} wide"
        side = min(*widths, *heights)
        cure = f"set crop, to at most {side}: the tiles of a batch share one size"
        result.warnings.append(f"train: {sizes}, {min(heights)} to {max(heights)} high; {cure}")
    width, height = max(count.sizes, key=lambda size: size[0] * size[1])
    times = width * height / USUAL_PIXELS
    if times > 2:
        cost = f"memory and time of {times:.0f} tiles of 512x512"
        result.warnings.append(f"{split}: an image of {width}x{height} is scored whole: {cost}")


def _examine(
    tile_set: TileSet, pair: Pair
) -> tuple[tuple[int, int], np.ndarray, dict[str, str], bool]:
    """(width, height), pixels per mask value (256,), what a tile is known by, if EXIF turns it."""
    image, mask = tile_set.read(pair)
    identity = {}
    if tile_set.scene is not None:
        identity["scene"] = tile_set.scene_of(pair.stem)
    if (image != image[:1, :1]).any():  # images of one colour, such as fill, are no copies
        content = image.tobytes() + str(image.shape).encode()
        identity["image"] = hashlib.sha256(content).hexdigest()
    pixels = np.bincount(mask.ravel(), minlength=256)
    return mask.shape[::-1], pixels, identity, is_turned(pair.image)
