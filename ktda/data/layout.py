"""Which files of a data set count, and which image belongs to which mask.

A tile is an image and a mask with the same stem in ``img_dir`` and ``ann_dir``, in the folders of
the same split.
"""

import os
import unicodedata
from collections import Counter
from pathlib import Path, PurePath
from typing import NamedTuple

from ktda.errors import InputError

KINDS = ("img_dir", "ann_dir")
SUFFIXES = {
    "img_dir": (".png", ".jpg", ".jpeg", ".tif", ".tiff"),
    "ann_dir": (".png", ".tif", ".tiff"),
}
SPLIT_ORDER = ("train", "val", "test")
UNLABELLED = "unlabelled"


class Pair(NamedTuple):
    """One tile: an image and its mask."""

    stem: str
    image: Path
    mask: Path


def split_folders(root: Path, kind: str) -> set[str]:
    """Names of the folders in ``img_dir`` or ``ann_dir``."""
    folders = (path.name for path in (root / kind).iterdir() if path.is_dir())
    return {name for name in folders if not name.startswith(".")}


def tile_files(root: Path, kind: str, split: str) -> tuple[list[Path], Counter]:
    """The images or masks of a split, sorted, and how many others lie there, by suffix.

    This is the one rule for what counts: every search of the folders asks here.

    Raises:
        InputError: A name that is not UTF-8, or not printable.
    """
    files: list[Path] = []
    others: Counter = Counter()
    folder = root / kind / split
    if not folder.is_dir():
        return files, others
    with os.scandir(folder) as entries:  # which knows files from folders without asking again
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        suffix = PurePath(entry.name).suffix
        if entry.name.startswith("."):
            continue
        if not entry.is_file():
            others["folders"] += 1
        elif suffix.lower() not in SUFFIXES[kind]:
            others[suffix or "files without a suffix"] += 1
        else:
            path = folder / entry.name
            check_name(path)
            files.append(path)
    return files, others


def check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{os.fsencode(path)!r}: the name is not UTF-8; rename it") from None
    if not path.name.isprintable():
        raise InputError(f"{path}: the name holds control characters; rename it")


def pair_up(root: Path, split: str) -> tuple[list[Pair], list[str]]:
    """Match images and masks of a split by stem.

    Returns:
        The complete pairs sorted by stem, and one sentence per stem that has not exactly one image
        and one mask.
    """
    found: dict[str, list[tuple[str, Path]]] = {}
    for kind in KINDS:
        for path in tile_files(root, kind, split)[0]:
            # an accent of its own (NFD) or one with its letter (NFC): it reads alike
            stem = unicodedata.normalize("NFC", path.stem)
            found.setdefault(stem, []).append((kind, path))
    pairs = []
    problems = []
    for stem, files in sorted(found.items()):
        kinds, paths = zip(*files, strict=True)
        if kinds == KINDS:
            pairs.append(Pair(stem, *paths))
        else:
            names = ", ".join(path.relative_to(root).as_posix() for path in paths)
            problems.append(f"{stem} of {split} needs one image and one mask, has {names}")
    return pairs, problems


def layout_problems(root: Path) -> list[str]:
    """What about the folders stops a training, one sentence each with its cure.

    Training needs ``train`` and one of ``val`` and ``test``, and what is there must hold tiles.
    """
    splits = {kind: split_folders(root, kind) - {UNLABELLED} for kind in KINDS}
    needed = "training needs train, and val or test, under img_dir and ann_dir"
    problems = []
    for kind, names in splits.items():
        if "train" not in names or not names & {"val", "test"}:
            files = sum(path.is_file() for path in (root / kind).iterdir())
            has = ", ".join(sorted(names)) or f"{files} files and no folders"
            cure = "`ktda data import` splits, or rename" if names else "`ktda data import` splits"
            problems.append(f"{kind} has {has}; {needed}: {cure}")
    both = splits["img_dir"] & splits["ann_dir"]
    if not problems and not ("train" in both and both & {"val", "test"}):
        has = "; ".join(f"{kind} has {', '.join(sorted(names))}" for kind, names in splits.items())
        problems.append(f"{has}; {needed}")
    for split in (name for name in SPLIT_ORDER if name in both):
        for kind in KINDS:
            files, others = tile_files(root, kind, split)
            if not files:
                has = counted(others) or "nothing"
                wanted = ", ".join(SUFFIXES[kind])
                problems.append(f"{kind}/{split} holds {has}; expected {wanted}")
    return problems


def counted(others: Counter) -> str:
    """How many of what, such as ``3 .bmp, 1 folders``."""
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
