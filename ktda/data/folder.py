"""Data sets in the authors' layout: ``img_dir/<split>/<stem>`` with ``ann_dir/<split>/<stem>``.

A tile is an image and a mask with the same stem in the folders of the same split. What the masks
mean stands in ``dataset.yaml`` beside them (`ktda.data.spec`).
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ktda.data import builtin
from ktda.data.pixels import read_image, read_mask
from ktda.data.spec import FILE, default_palette, read_spec
from ktda.errors import InputError
from ktda.files import file_sha256

KINDS = ("img_dir", "ann_dir")
SUFFIXES = {"img_dir": (".png", ".jpg", ".jpeg", ".tif", ".tiff"), "ann_dir": (".png",)}
SPLIT_ORDER = ("train", "val", "test")
RGB = ("red", "green", "blue")


class Pair(NamedTuple):
    """One tile: an image and its mask."""

    stem: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class TileSet:
    """A data set on disk: where it is, what its mask values mean, and which tiles it has.

    Attributes:
        name: Built-in name, or the folder's own.
        root: Folder that holds ``img_dir`` and ``ann_dir``.
        classes: Class names in index order.
        palette: One (red, green, blue), 0 to 255, per class.
        ignore_index: Mask value that counts in no loss and no score.
        value_map: Mask value on disk to class index; values that are not listed stay.
        scene: Regular expression whose first group names the scene of a stem.
        bands: Names of the bands of every image, in the order of the file.
        rgb: The bands, counted from 1, that a teacher sees as red, green and blue.
        stretch: One (low, high) per band: the values that become 0 and 255; None for bytes.
        mean, std: One number per band, of values in [0, 1], that normalise the student's input.
        notes: What had to be assumed, in sentences for the user.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int = 255
    value_map: dict[int, int] | None = None
    scene: str | None = None
    bands: tuple[str, ...] = RGB
    rgb: tuple[int, int, int] = (1, 2, 3)
    stretch: tuple[tuple[float, float], ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def splits(self) -> list[str]:
        """Splits that have images and masks: train, val, test, then others by name."""
        both = split_folders(self.root, "img_dir") & split_folders(self.root, "ann_dir")
        known = [split for split in SPLIT_ORDER if split in both]
        return known + sorted(both.difference(SPLIT_ORDER))

    def pairs(self, split: str) -> list[Pair]:
        """The tiles of a split, sorted by stem.

        Raises:
            InputError: No such split, or a stem without exactly one image and one mask.
        """
        splits = self.splits()
        if split not in splits:
            has = ", ".join(splits) or "none"
            raise InputError(f"{self.name} has no split {split!r}; it has {has}")
        pairs, problems = pair_up(self.root, split)
        if problems:
            cure = f"`ktda data check {self.root}` lists all"
            raise InputError(f"{self.root}: {problems[0]}; {cure}")
        return pairs

    def scene_of(self, stem: str) -> str:
        """The scene that a tile was cut from; without a pattern every tile is its own scene."""
        if self.scene is None:
            return stem
        match = re.search(self.scene, stem)
        if match is None or match[1] is None:
            found = f"scene {self.scene!r} does not fit the file name {stem!r}"
            raise InputError(f"{self.root / FILE}: {found}; mend it")
        return match[1]

    def read(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Decode one tile.

        Returns:
            The image (H, W, 3), uint8 RGB, and the mask (H, W), uint8, of class indices and
            ``ignore_index``.

        Raises:
            InputError: A file cannot be read, is not 8-bit RGB or not an index mask, the two
                differ in size, or a label (after ``value_map``) is none of the classes.
        """
        image = read_image(pair.image)
        mask = read_mask(pair.mask, self.value_map)
        if image.shape[:2] != mask.shape:
            sizes = [f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (image, mask)]
            found = f"the image is {sizes[0]} pixels and its mask {sizes[1]}"
            raise InputError(f"{pair.image}: {found}; make them equal")
        wrong = np.unique(mask[(mask >= self.num_classes) & (mask != self.ignore_index)])
        if wrong.size:
            labels = ", ".join(map(str, wrong[:8]))
            known = f"a class (0 to {self.num_classes - 1}) nor ignore_index {self.ignore_index}"
            cure = "mend the mask, the classes or value_map"
            raise InputError(f"{pair.mask}: labels {labels} are neither {known}; {cure}")
        return image, mask.astype(np.uint8)


def open_data(data: str | Path) -> TileSet:
    """Open a data set by built-in name or by folder.

    Args:
        data: A name of ``ktda.data.builtin.NAMES`` or a folder in the authors' layout. A name wins
            over a folder of the same name in the working directory; write ``./cloud``, or pass a
            ``Path``, for the folder.

    Returns:
        The data set. Where there is no ``dataset.yaml`` with classes, they are 0 to the largest
        label found in the masks, and ``notes`` says so. Demo sets are made on first use.

    Raises:
        InputError: Nothing of that name, a folder in another layout, or a bad ``dataset.yaml``.
    """
    name, folder, spec = _find(data)
    # An unpacked archive may hold the root one folder deeper.
    deeper = [path.parent for path in folder.glob("*/img_dir")]
    roots = [folder] if (folder / "img_dir").is_dir() else deeper
    if len(roots) != 1 or not (roots[0] / "ann_dir").is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        expected = "img_dir/<split>/*.png and ann_dir/<split>/*.png"
        raise InputError(f"{folder}: found {found}, expected {expected}")
    root = roots[0]
    path = root / FILE
    if path.exists():
        spec = read_spec(path)
    spec = {key: value for key, value in spec.items() if key != "source"}
    if "classes" not in spec:
        ignore_index = spec.get("ignore_index", 255)
        largest = _largest_label(root, spec.get("value_map"), ignore_index)
        spec["classes"] = tuple(map(str, range(largest + 1)))
        note = f"{path} names no classes: taken as 0 to {largest}, the largest label in the masks"
        spec["notes"] = (note,)
    classes = len(spec["classes"])
    spec.setdefault("palette", default_palette(classes))
    tile_set = TileSet(name, root, **spec)
    colours = len(tile_set.palette)
    if colours != classes:
        found = f"palette has {colours} colours for {classes} classes"
        raise InputError(f"{path}: {found}; give one per class")
    if tile_set.ignore_index < classes:
        found = f"ignore_index {tile_set.ignore_index} is one of the {classes} classes"
        raise InputError(f"{path}: {found}; use 255")
    return tile_set


def _find(data: str | Path) -> tuple[str, Path, dict[str, Any]]:
    """Name, folder, and what the package knows of a data set."""
    if isinstance(data, str) and data in builtin.NAMES:
        folder = builtin.locate(data)
        if folder is None and data in builtin.DEMOS:
            folder = builtin.make_demo(data)
        if folder is None:
            cure = f"to get it: {builtin.how_to_get(data)}"
            raise InputError(f"{data} is not in {builtin.data_root()}; {cure}")
        return data, folder, builtin.built_in_spec(data)
    folder = Path(data).expanduser().absolute()
    if not folder.is_dir():
        known = f"built in are {', '.join(builtin.NAMES)}"
        raise InputError(f"{str(data)!r} is neither a folder nor a built-in data set; {known}")
    return folder.resolve().name, folder, {}


def split_folders(root: Path, kind: str) -> set[str]:
    """Names of the folders in ``img_dir`` or ``ann_dir``."""
    folders = (path.name for path in (root / kind).iterdir() if path.is_dir())
    return {name for name in folders if not name.startswith(".")}


def pair_up(root: Path, split: str) -> tuple[list[Pair], list[str]]:
    """Match images and masks of a split by stem.

    Returns:
        The complete pairs sorted by stem, and one sentence per stem that has not exactly one image
        and one mask.
    """
    found: dict[str, list[Path]] = {}
    for kind in KINDS:
        for path in sorted((root / kind / split).iterdir()):
            visible = path.is_file() and not path.name.startswith(".")
            if visible and path.suffix.lower() in SUFFIXES[kind]:
                found.setdefault(path.stem, []).append(path)
    pairs = []
    problems = []
    for stem, paths in sorted(found.items()):
        if [path.parent.parent.name for path in paths] == list(KINDS):
            pairs.append(Pair(stem, *paths))
        else:
            names = ", ".join(path.relative_to(root).as_posix() for path in paths)
            problems.append(f"{stem} of {split} needs one image and one mask, has {names}")
    return pairs, problems


def data_hash(tile_set: TileSet) -> str:
    """SHA-256 over what training can see: the classes, and names and contents of the pairs."""
    spec = [
        tile_set.classes,
        tile_set.palette,
        tile_set.ignore_index,
        tile_set.value_map,
        tile_set.scene,
    ]
    total = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for split in tile_set.splits():
        for pair in tile_set.pairs(split):
            for path in (pair.image, pair.mask):
                name = path.relative_to(tile_set.root).as_posix()
                total.update(f"{name}\0{file_sha256(path)}\n".encode())
    return total.hexdigest()


def _largest_label(root: Path, value_map: dict[int, int] | None, ignore_index: int) -> int:
    """The largest label in the masks that can be read (`ktda data check` reports the others)."""
    largest = -1
    for path in (root / "ann_dir").glob("*/*.png"):
        try:
            mask = read_mask(path, value_map)
        except InputError:
            continue
        largest = max(largest, int(mask[mask != ignore_index].max(initial=-1)))
    if not 1 <= largest < 255:
        found = largest if largest >= 0 else "none"
        cure = f"name classes and value_map in {FILE}"
        raise InputError(f"{root}: the largest label in the masks is {found}; {cure}")
    return largest
