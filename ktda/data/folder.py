"""Data sets in the authors' layout: ``img_dir/<split>/<stem>.png|jpg|tif`` with ``ann_dir/<split>/<stem>.png``.

Images are 8-bit RGB. Masks hold one index per pixel, as grey levels or in palette mode, where the palette is for the
eye and the index is the label (OpenCV would return the colours). Anything else is refused instead of being converted:
a conversion that nobody asked for is found weeks later.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ktda.data import builtin
from ktda.data.spec import FILE, default_palette, read_spec
from ktda.errors import InputError
from ktda.files import file_sha256

SUFFIXES = {"img_dir": (".png", ".jpg", ".jpeg", ".tif", ".tiff"), "ann_dir": (".png",)}
SPLIT_ORDER = ("train", "val", "test")
RGB = ("red", "green", "blue")
MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B")


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
        value_map: Mask value on disk to class index; values that are not listed stay as they are.
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
        return [split for split in SPLIT_ORDER if split in both] + sorted(both.difference(SPLIT_ORDER))

    def pairs(self, split: str) -> list[Pair]:
        """The tiles of a split, sorted by stem.

        Raises:
            InputError: No such split, or a stem without exactly one image and one mask.
        """
        if split not in self.splits():
            raise InputError(f"{self.name} has no split {split!r}; it has {', '.join(self.splits()) or 'none'}")
        pairs, problems = pair_up(self.root, split)
        if problems:
            raise InputError(f"{self.root}: {problems[0]}; `ktda data check {self.root}` lists all")
        return pairs

    def scene_of(self, stem: str) -> str:
        """The scene that a tile was cut from; without a pattern every tile is its own scene."""
        if self.scene is None:
            return stem
        match = re.search(self.scene, stem)
        if match is None or match[1] is None:
            raise InputError(f"{self.root / FILE}: scene {self.scene!r} does not fit the file name {stem!r}; mend it")
        return match[1]

    def read(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Decode one tile.

        Returns:
            The image (H, W, 3), uint8 RGB, and the mask (H, W), uint8, of class indices and ``ignore_index``.

        Raises:
            InputError: A file cannot be read, is not 8-bit RGB or not an index mask, the two differ in size, or a
                label (after ``value_map``) is none of the classes.
        """
        image, mask = read_image(pair.image), read_mask(pair.mask, self.value_map)
        if image.shape[:2] != mask.shape:
            sizes = [f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (image, mask)]
            raise InputError(f"{pair.image}: the image is {sizes[0]} pixels and its mask {sizes[1]}; make them equal")
        wrong = np.unique(mask[(mask >= self.num_classes) & (mask != self.ignore_index)])
        if wrong.size:
            known = f"a class (0 to {self.num_classes - 1}) nor ignore_index {self.ignore_index}"
            got = ", ".join(map(str, wrong[:8]))
            raise InputError(f"{pair.mask}: labels {got} are neither {known}; mend the mask, the classes or value_map")
        return image, mask.astype(np.uint8)


def open_data(data: str | Path) -> TileSet:
    """Open a data set by built-in name or by folder.

    Args:
        data: A name of ``ktda.data.builtin.NAMES`` or a folder in the authors' layout. A name wins over a folder of
            the same name in the working directory; write ``./cloud``, or pass a ``Path``, for the folder.

    Returns:
        The data set. Where there is no ``dataset.yaml`` with classes, they are 0 to the largest label found in the
        masks, and ``notes`` says so. Demo sets are made on first use.

    Raises:
        InputError: Nothing of that name, a folder in another layout, or a bad ``dataset.yaml``.
    """
    if isinstance(data, str) and data in builtin.NAMES:
        name, spec, folder = data, builtin.built_in_spec(data), builtin.locate(data)
        if folder is None and data in builtin.DEMOS:
            folder = builtin.make_demo(data)
        if folder is None:
            raise InputError(f"{data} is not in {builtin.data_root()}; to get it: {builtin.how_to_get(data)}")
    else:
        folder = Path(data).expanduser().absolute()
        name, spec = folder.resolve().name, {}
        if not folder.is_dir():
            names = ", ".join(builtin.NAMES)
            raise InputError(f"{str(data)!r} is neither a folder nor a built-in data set; built in are {names}")

    # An unpacked archive may hold the root one folder deeper.
    roots = [folder] if (folder / "img_dir").is_dir() else [path.parent for path in folder.glob("*/img_dir")]
    if len(roots) != 1 or not (roots[0] / "ann_dir").is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise InputError(f"{folder}: found {found}, expected img_dir/<split>/*.png and ann_dir/<split>/*.png")
    root, path = roots[0], roots[0] / FILE
    spec = {key: value for key, value in (read_spec(path) if path.exists() else spec).items() if key != "source"}
    if "classes" not in spec:
        largest = _largest_label(root, spec.get("value_map"), spec.get("ignore_index", 255))
        spec["classes"] = tuple(map(str, range(largest + 1)))
        spec["notes"] = (f"{path} names no classes: taken as 0 to {largest}, the largest label in the masks",)
    tile_set = TileSet(name, root, **{"palette": default_palette(len(spec["classes"]))} | spec)
    classes, colours = tile_set.num_classes, len(tile_set.palette)
    if colours != classes:
        raise InputError(f"{path}: palette has {colours} colours for {classes} classes; give one per class")
    if tile_set.ignore_index < classes:
        raise InputError(f"{path}: ignore_index {tile_set.ignore_index} is one of the {classes} classes; use 255")
    return tile_set


def split_folders(root: Path, kind: str) -> set[str]:
    """Names of the folders in ``img_dir`` or ``ann_dir``."""
    return {path.name for path in (root / kind).iterdir() if path.is_dir() and not path.name.startswith(".")}


def pair_up(root: Path, split: str) -> tuple[list[Pair], list[str]]:
    """Match images and masks of a split by stem.

    Returns:
        The complete pairs sorted by stem, and one sentence per stem that has not exactly one image and one mask.
    """
    found: dict[str, list[Path]] = {}
    for kind, suffixes in SUFFIXES.items():
        for path in sorted((root / kind / split).iterdir()):
            if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
                found.setdefault(path.stem, []).append(path)
    pairs, problems = [], []
    for stem, paths in sorted(found.items()):
        if [path.parent.parent.name for path in paths] == list(SUFFIXES):
            pairs.append(Pair(stem, *paths))
        else:
            names = ", ".join(path.relative_to(root).as_posix() for path in paths)
            problems.append(f"{stem} of {split} needs one image and one mask, has {names}")
    return pairs, problems


def read_image(path: Path) -> np.ndarray:
    """Decode an 8-bit RGB image to (H, W, 3) uint8; anything else is an ``InputError``."""
    return _decode(path, ("RGB",), "an 8-bit RGB image; convert it first")


def read_mask(path: Path, value_map: dict[int, int] | None = None) -> np.ndarray:
    """Decode an index mask (grey levels or palette indices) to (H, W) int32; values not in ``value_map`` stay."""
    mask = _decode(path, MASK_MODES, "one index per pixel; save class indices as a grey or palette PNG")
    table = np.arange(65536, dtype=np.int32)
    for old, new in (value_map or {}).items():
        table[old] = new
    return table[mask.astype(np.uint16)]


def data_hash(tile_set: TileSet) -> str:
    """SHA-256 over what training can see: the classes, and names below the root and contents of the files of pairs."""
    spec = [tile_set.classes, tile_set.palette, tile_set.ignore_index, tile_set.value_map, tile_set.scene]
    total = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for split in tile_set.splits():
        for pair in tile_set.pairs(split):
            for path in (pair.image, pair.mask):
                total.update(f"{path.relative_to(tile_set.root).as_posix()}\0{file_sha256(path)}\n".encode())
    return total.hexdigest()


def _decode(path: Path, modes: tuple[str, ...], expected: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            # Pillow would cut 16-bit RGB to 8 bits.
            deep = image.mode == "RGB" and any(";16" in str(tile[3]) for tile in image.tile)
            mode, pixels = "RGB with 16 bits" if deep else image.mode, np.array(image)
    except Exception as error:  # on damaged files Pillow raises whatever its parsers raise
        raise InputError(f"{path}: cannot be read as an image ({' '.join(str(error).split())})") from error
    if mode not in modes:
        raise InputError(f"{path}: is of mode {mode}, expected {expected}")
    return pixels


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
        raise InputError(f"{root}: the largest label in the masks is {found}; name classes and value_map in {FILE}")
    return largest
