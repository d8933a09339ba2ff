"""Data sets in the authors' layout: ``img_dir/<split>/<stem>`` with ``ann_dir/<split>/<stem>``.

Which files count as tiles says `ktda.data.layout`, how they are decoded `ktda.data.pixels`, what
the masks mean ``dataset.yaml`` beside the two folders (`ktda.data.spec`).
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ktda.data import builtin
from ktda.data.layout import (
    SPLIT_ORDER,
    Pair,
    check_name,
    layout_problems,
    pair_up,
    split_folders,
    tile_files,
)
from ktda.data.pixels import read_image, read_mask
from ktda.data.spec import FILE, default_palette, read_spec
from ktda.errors import InputError
from ktda.files import file_sha256


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
        bands: Names of the bands of every image, in the order of the file; () for 8-bit RGB.
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
    bands: tuple[str, ...] = ()
    rgb: tuple[int, int, int] | None = None
    stretch: tuple[tuple[float, float], ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def num_bands(self) -> int:
        return len(self.bands) or 3

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
            The image (H, W, bands), uint8 (RGB where the set names no bands), and the mask (H, W),
            uint8, of class indices and ``ignore_index``.

        Raises:
            InputError: A file cannot be read, has other bands, or is not an index mask; the two
                differ in size; or a label (after ``value_map``) is none of the classes.
        """
        image = self.read_image(pair.image)
        mask = self.read_labels(pair.mask)
        if image.shape[:2] != mask.shape:
            sizes = [f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (image, mask)]
            found = f"the image is {sizes[0]} pixels and its mask {sizes[1]}"
            raise InputError(f"{pair.image}: {found}; make them equal")
        return image, mask

    def read_labels(self, path: Path) -> np.ndarray:
        """Decode a mask alone, as `read` does: (H, W) uint8."""
        mask = read_mask(path, self.value_map)
        wrong = np.unique(mask[(mask >= self.num_classes) & (mask != self.ignore_index)])
        if wrong.size:
            labels = ", ".join(map(str, wrong[:8]))
            known = f"a class (0 to {self.num_classes - 1}) nor ignore_index {self.ignore_index}"
            cure = "mend the mask, the classes or value_map"
            raise InputError(f"{path}: labels {labels} are neither {known}; {cure}")
        return mask.astype(np.uint8)

    def read_image(self, path: Path) -> np.ndarray:
        """Decode an image alone, as `read` does: (H, W, bands) uint8."""
        return read_image(path, len(self.bands) or None, self.stretch)


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
    name, root, spec = _find(data)
    path = root / FILE
    if path.exists() or path.is_symlink():  # one that leads nowhere is not passed over
        spec = read_spec(path)
    spec = {key: value for key, value in spec.items() if key != "source"}
    if "classes" not in spec:
        largest = _largest_label(root, spec.get("value_map"), spec.get("ignore_index", 255))
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
    _check_bands(path, tile_set)
    return tile_set


def _check_bands(path: Path, tile_set: TileSet) -> None:
    """What stands in the lists must fit the number of bands."""
    bands = tile_set.num_bands
    if bands != 3 and tile_set.rgb is None:
        cure = "add rgb, such as [3, 2, 1], the three that a teacher sees, counted from 1"
        raise InputError(f"{path}: names {bands} bands; {cure}")
    if max(tile_set.rgb or (1,)) > bands:
        raise InputError(f"{path}: rgb is {list(tile_set.rgb)}, but the images have {bands} bands")
    for key in ("stretch", "mean", "std"):
        given = getattr(tile_set, key)
        if given is not None and len(given) != bands:
            raise InputError(f"{path}: {key} has {len(given)} entries for {bands} bands; one each")
    if (tile_set.mean is None) != (tile_set.std is None):
        raise InputError(f"{path}: mean and std belong together; give both, or none")


def check_layout(data: str | Path) -> None:
    """Raise `InputError` where the folders of a set stop a training; no file is opened."""
    _, root, _ = _find(data)
    problems = layout_problems(root)
    if problems:
        raise InputError(f"{root}: {problems[0]}")


def _find(data: str | Path) -> tuple[str, Path, dict[str, Any]]:
    """Name, root with ``img_dir`` and ``ann_dir``, and what the package knows of a data set."""
    spec = {}
    if isinstance(data, str) and data in builtin.NAMES:
        name = data
        spec = builtin.built_in_spec(data)
        folder = builtin.locate(data)
        if folder is None and data in builtin.DEMOS:
            folder = builtin.make_demo(data)
        if folder is None:
            cure = f"to get it: {builtin.how_to_get(data)}"
            raise InputError(f"{data} is not in {builtin.data_root()}; {cure}")
    else:
        folder = Path(data).expanduser().absolute()
        name = folder.resolve().name
        check_name(folder)
        if not folder.is_dir():
            known = f"built in are {', '.join(builtin.NAMES)}"
            raise InputError(f"{str(data)!r} is neither a folder nor a built-in data set; {known}")
    # An unpacked archive may hold the root one folder deeper.
    deeper = [path.parent for path in folder.glob("*/img_dir")]
    roots = [folder] if (folder / "img_dir").is_dir() else deeper
    if len(roots) != 1 or not (roots[0] / "ann_dir").is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        expected = "img_dir/<split> and ann_dir/<split>; `ktda data import` makes them"
        raise InputError(f"{folder}: found {found}, expected {expected}")
    return name, roots[0], spec


def data_hash(tile_set: TileSet) -> str:
    """SHA-256 over what training can see: the classes, and names and contents of the pairs."""
    names = ("classes", "palette", "ignore_index", "value_map", "scene")
    spec = [getattr(tile_set, name) for name in names]
    if tile_set.bands:
        names = ("bands", "rgb", "stretch", "mean", "std")
        spec.append({name: getattr(tile_set, name) for name in names})
    total = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for split in tile_set.splits():
        for pair in tile_set.pairs(split):
            for path in (pair.image, pair.mask):
                name = path.relative_to(tile_set.root).as_posix()
                total.update(f"{name}\0{file_sha256(path)}\n".encode())
    return total.hexdigest()


def _largest_label(root: Path, value_map: dict[int, int] | None, ignore_index: int) -> int:
    """The largest label in the masks that can be read (`ktda data check` reports the others).

    Raises:
        InputError: No such label can be a number of classes; the message says why.
    """
    splits = sorted(split_folders(root, "img_dir") & split_folders(root, "ann_dir"))
    masks = [path for split in splits for path in tile_files(root, "ann_dir", split)[0]]
    labels: set[int] = set()
    unread: list[InputError] = []
    for path in masks:
        try:
            labels.update(np.unique(read_mask(path, value_map)).tolist())
        except InputError as error:
            unread.append(error)
    ignored = labels & {ignore_index}
    labels -= ignored
    if labels and 1 <= max(labels) < 255:
        return max(labels)
    cure = f"name classes and value_map in {FILE}"
    if not masks:
        raise InputError(f"{root}: {(layout_problems(root) or ['ann_dir holds no masks'])[0]}")
    if not labels and unread:
        raise unread[0]
    if ignored and len(labels) < 2:
        found = " and ".join(map(str, sorted(labels | ignored)))
        why = f"{ignore_index} is the ignore index; if it is a class, {cure}"
        raise InputError(f"{root}: the masks hold {found}, and {why}")
    raise InputError(f"{root}: the masks hold labels up to {max(labels)}; {cure}")
