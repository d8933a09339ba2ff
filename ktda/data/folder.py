"""Data sets in the authors' layout: ``img_dir/<split>/<stem>.png|jpg|tif`` with ``ann_dir/<split>/<stem>.png``.

The layout is that of the data sets published with the paper.
"""

import difflib
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ktda.data import builtin
from ktda.data.images import map_values, read_image, read_mask, size_text
from ktda.data.spec import FILE, IGNORE_INDEX, Spec, default_palette, read_spec
from ktda.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
MASK_SUFFIXES = (".png",)
SPLIT_ORDER = ("train", "val", "test")


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
        notes: What had to be assumed, in sentences for the user.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int = IGNORE_INDEX
    value_map: dict[int, int] | None = None
    scene: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def splits(self) -> list[str]:
        """Splits that have images and masks: train, val, test, then others by name."""
        return [split for split in split_names(self.root) if (self.root / "ann_dir" / split).is_dir()]

    def pairs(self, split: str) -> list[Pair]:
        """The tiles of a split, sorted by stem.

        Raises:
            InputError: No such split, or an image without a mask, a mask without an image, or two of one stem.
        """
        if split not in self.splits():
            raise InputError(f"{self.name} has no split {split!r}; it has {', '.join(self.splits()) or 'none'}")
        pairs, problems = pair_up(self.root, split)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise InputError(f"{self.root}: {problems[0]}{more}; `ktda data check {self.root}` lists all")
        return pairs

    def scene_of(self, stem: str) -> str:
        """The scene that a tile was cut from; without a pattern every tile is its own scene."""
        if self.scene is None:
            return stem
        match = re.search(self.scene, stem)
        if match is None or match[1] is None:
            raise InputError(
                f"{self.name}: the scene pattern {self.scene!r} does not fit the file name {stem!r}; "
                f"mend `scene` in {self.root / FILE}"
            )
        return match[1]

    def read(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Decode one tile.

        Returns:
            The image (H, W, 3), uint8 RGB, and the mask (H, W) after ``value_map``: uint8, or int64 where values over
            255 remain.

        Raises:
            InputError: A file cannot be read, is not 8-bit RGB or not an index mask, or the two differ in size.
        """
        image, mask = read_image(pair.image), map_values(read_mask(pair.mask), self.value_map)
        if image.shape[:2] != mask.shape:
            raise InputError(
                f"{pair.image}: the image is {size_text(image)} pixels and its mask {size_text(mask)}; "
                "they must be equal"
            )
        return image, mask


def open_data(data: str | Path) -> TileSet:
    """Open a data set by built-in name or by folder.

    Args:
        data: A name of ``ktda.data.builtin.NAMES`` or a folder in the authors' layout. A name wins over a folder of
            the same name in the working directory; write ``./cloud``, or pass a ``Path``, for the folder.

    Returns:
        The data set. Where the folder has no ``dataset.yaml`` with classes, they are 0 to the largest label found in
        the masks, and ``notes`` says so. Demo sets are made on first use.

    Raises:
        InputError: Nothing of that name, a folder in another layout, or a bad ``dataset.yaml``.
    """
    if isinstance(data, str) and data in builtin.NAMES:
        root, spec = builtin.locate(data), builtin.built_in_spec(data)
        if root is None and data in builtin.DEMOS:
            root = builtin.make_demo(data, builtin.data_root() / data)
        if root is None:
            raise InputError(f"{data} is not on this machine (looked for {builtin.data_root() / data}); "
                             f"to get it: {builtin.how_to_get(data)}")  # fmt: skip
        return _open_root(data, find_root(root), spec)
    folder = Path(data).expanduser()
    if not _is_folder(folder):
        near = difflib.get_close_matches(str(data), builtin.NAMES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        problem = "is neither a folder nor a built-in data set"
        raise InputError(f"{str(data)!r} {problem}; {hint}built in are {', '.join(builtin.NAMES)} (`ktda data list`)")
    root = find_root(folder.absolute())
    return _open_root(folder.resolve().name, root, None)


def find_root(folder: Path) -> Path:
    """The folder that holds ``img_dir``: the given one, or its only subfolder that does (an unpacked archive)."""
    if (folder / "img_dir").is_dir():
        root = folder
    else:
        inner = sorted(path.parent for path in folder.glob("*/img_dir") if path.is_dir())
        if len(inner) != 1:
            found = f"{len(inner)} of its subfolders do" if inner else f"it holds {_listing(folder)}"
            raise InputError(f"{folder} has no img_dir ({found}); expected img_dir/<split>/*.png with "
                             "ann_dir/<split>/*.png, see data/README.md")  # fmt: skip
        root = inner[0]
    if not (root / "ann_dir").is_dir():
        raise InputError(f"{root} has img_dir and no ann_dir; expected the masks in ann_dir/<split>/<same stem>.png")
    if not split_names(root):
        raise InputError(f"{root / 'img_dir'} has no split folders; expected img_dir/train, img_dir/val and so on")
    return root


def split_names(root: Path) -> list[str]:
    """Names of the folders in ``img_dir``: train, val, test, then others by name."""
    names = {path.name for path in (root / "img_dir").iterdir() if path.is_dir() and not path.name.startswith(".")}
    first = [name for name in SPLIT_ORDER if name in names]
    return first + sorted(names.difference(first))


def pair_up(root: Path, split: str) -> tuple[list[Pair], list[str]]:
    """Match images and masks of a split by stem.

    Returns:
        The complete pairs sorted by stem, and one sentence per file that has no partner or shares its stem.
    """
    images = _by_stem(root / "img_dir" / split, IMAGE_SUFFIXES)
    masks = _by_stem(root / "ann_dir" / split, MASK_SUFFIXES)
    pairs, problems = [], []
    for stem in sorted(images.keys() | masks.keys()):
        found = images.get(stem, []), masks.get(stem, [])
        for files in found:
            if len(files) > 1:
                problems.append(f"{split}: {' and '.join(path.name for path in files)} share a stem")
        if not found[1]:
            problems.append(f"img_dir/{split}/{found[0][0].name} has no mask ann_dir/{split}/{stem}.png")
        elif not found[0]:
            problems.append(f"ann_dir/{split}/{found[1][0].name} has no image in img_dir/{split}")
        else:
            pairs.append(Pair(stem, found[0][0], found[1][0]))
    return pairs, problems


def data_hash(tile_set: TileSet) -> str:
    """SHA-256 over what training can see: class specification, file names and file contents of all pairs.

    Independent of where the set lies and of how its ``dataset.yaml`` is laid out.
    """
    spec = [tile_set.classes, tile_set.palette, tile_set.ignore_index, tile_set.scene]
    mapped = sorted((tile_set.value_map or {}).items())
    total = hashlib.sha256(json.dumps([*spec, mapped]).encode())
    for split in tile_set.splits():
        for pair in tile_set.pairs(split):
            for path in (pair.image, pair.mask):
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                total.update(f"{path.relative_to(tile_set.root).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def _open_root(name: str, root: Path, fallback: Spec | None) -> TileSet:
    """The folder's own dataset.yaml counts first, then what the package knows of a built-in set, then the masks."""
    notes = []
    spec = read_spec(root / FILE) if (root / FILE).exists() else None
    if spec is None:
        spec = fallback or Spec()
    elif fallback is not None and spec.classes is None:
        given = {key: value for key, value in vars(spec).items() if value is not None}
        spec = replace(fallback, **given)
    classes = spec.classes
    if classes is None:
        classes, notes = _scan_classes(root, spec)
    palette = spec.palette or default_palette(len(classes))
    if len(palette) != len(classes):
        raise InputError(
            f"{root / FILE}: palette has {len(palette)} colours for {len(classes)} classes; give one colour per class"
        )
    if spec.ignore_index < len(classes):
        raise InputError(f"{root / FILE}: ignore_index {spec.ignore_index} is one of the labels 0 to "
                         f"{len(classes) - 1} found in the masks; name the classes")  # fmt: skip
    return TileSet(name, root, classes, palette, spec.ignore_index, spec.value_map, spec.scene, tuple(notes))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for the file system, no permission
        return False


def _scan_classes(root: Path, spec: Spec) -> tuple[tuple[str, ...], list[str]]:
    largest, unreadable = -1, 0
    for split in split_names(root):
        for pair in pair_up(root, split)[0]:
            try:
                values = np.unique(map_values(read_mask(pair.mask), spec.value_map)).astype(np.int64)
            except InputError:
                unreadable += 1
                continue
            largest = max(largest, int(values[values != spec.ignore_index].max(initial=-1)))
    if not 1 <= largest < 255:
        found = "no mask could be read" if largest < 0 else f"the largest label in the masks is {largest}"
        raise InputError(f"{root}: {found}, so the classes cannot be found by looking; name them in {root / FILE} "
                         "(classes, and a value_map where mask values are not 0, 1, 2, ...)")  # fmt: skip
    notes = [f"{root / FILE} names no classes: taken as 0 to {largest}, the largest label in the masks"]
    if unreadable:
        notes.append(f"{unreadable} masks could not be read while looking for labels")
    return tuple(str(index) for index in range(largest + 1)), notes


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
                found.setdefault(path.stem, []).append(path)
    return found


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
