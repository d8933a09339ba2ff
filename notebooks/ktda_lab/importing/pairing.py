"""Which image belongs to which mask, in folders and file names of many habits.

Folders and the first or last word of a file's name say what a file is (``images``, ``a_mask``) and
which split it is in (``training``); other folders, such as ``Tile 1``, become part of the name.
"""

import re
from pathlib import Path
from typing import NamedTuple

from ktda.data.spec import FILE
from ktda.errors import InputError

JPEG = (".jpg", ".jpeg")
SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jp2", *JPEG)
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
IMAGE = ("image", "images", "img", "imgs", "sat")
MASK = ("mask", "masks", "label", "labels", "gt", "truth", "groundtruth", "annotation", "annotations", "ann", "seg")
# Folders' names may use more words, which say too little at the end of a file's name.
FOLDERS = {
    "image": (*IMAGE, "rgb", "photo", "photos", "input", "inputs"),
    "mask": (*MASK, "anns", "gts", "target", "targets", "segmentation", "segmentations"),
}
NOISE = ("dir", "ground", "class", "data", "folder", "set", "png", "jpg", "jpeg", "tif", "tiff")
KNOWN = {*NOISE, *(word for words in (*SPLITS.values(), *FOLDERS.values()) for word in words)}


class Pair(NamedTuple):
    """An image and its mask; `name` is unique in a set, `group` what folders add to it."""

    split: str | None
    group: str
    name: str
    image: Path
    mask: Path


def find_pairs(source: Path) -> tuple[list[Pair], list[str]]:
    """Walk a folder and match images with masks.

    Returns:
        The pairs, sorted by split and name, and a sentence per reason why files are left out.

    Raises:
        InputError: there is no such folder, or no pair in it.
    """
    if not source.is_dir():
        raise InputError(f"{source} is no folder; give the one that holds images and masks")
    found: dict[tuple, list[tuple[str | None, Path]]] = {}
    out: dict[str, list[Path]] = {}  # reason -> files
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if any(part.startswith(".") for part in inside.parts) or not path.is_file():
            continue
        if path.suffix.lower() in SUFFIXES:
            kind, *key = read_path(inside)
            found.setdefault(tuple(key), []).append((kind, path))
        elif inside.name != FILE:
            out.setdefault(f"{path.suffix or 'no suffix'} is no image", []).append(path)

    pairs = []
    for (split, group, stem), files in found.items():
        kinds = {kind for kind, _ in files}
        jpegs = [path.suffix.lower() in JPEG for _, path in files]
        if kinds == {None} and sorted(jpegs) == [False, True]:  # a.jpg and a.png: the image and its mask
            files = [("image" if jpeg else "mask", path) for jpeg, (_, path) in zip(jpegs, files, strict=True)]
        images = [path for kind, path in files if kind != "mask"]
        masks = [path for kind, path in files if kind == "mask"]
        if len(images) == len(masks) == 1:
            pairs.append(Pair(split, group, stem, *images, *masks))
        else:
            reason = f"no {'image' if masks else 'mask'} of that name"
            reason = "several images or masks of one name" if images and masks else reason
            out.setdefault(reason, []).extend(images + masks)
    left_out = [f"{len(paths)}, such as {paths[0].relative_to(source)}: {why}" for why, paths in out.items()]
    if not pairs:
        cure = "expected folders such as images and masks, or names such as a.jpg and a_mask.png"
        raise InputError(f"{source}: no image with a mask; {cure}; found {'; '.join(left_out) or 'nothing'}")
    if len({pair.group for pair in pairs}) == 1:  # a folder that all share tells nothing
        pairs = [pair._replace(group="") for pair in pairs]
    pairs = [pair._replace(name=f"{pair.group}_{pair.name}" if pair.group else pair.name) for pair in pairs]
    if len({pair.name for pair in pairs}) < len(pairs):  # train/0.png is not val/0.png
        pairs = [pair._replace(name=f"{pair.split}_{pair.name}") for pair in pairs]
    return sorted(pairs, key=lambda pair: (pair.split or "", pair.name)), left_out


def read_path(path: Path) -> tuple[str | None, str | None, str, str]:
    """Kind ("image", "mask" or None), split, group and stem that a path below the source stands for."""
    kind = split = None
    groups = []
    for part in path.parts[:-1]:
        words = [word.lower() for word in re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", part)]
        kinds = [name for name, known in FOLDERS.items() if not set(known).isdisjoint(words)]
        splits = [name for name, known in SPLITS.items() if not set(known).isdisjoint(words)]
        kind = kinds[0] if len(kinds) == 1 else kind
        split = splits[0] if len(splits) == 1 else split
        rest = "-".join(word for word in words if word not in KNOWN) if kinds or splits else part
        groups += [rest] * bool(rest)
    stem = path.stem
    for pattern in (r"(?P<rest>.+)[_\-. ](?P<word>[A-Za-z]+)", r"(?P<word>[A-Za-z]+)[_\-. ](?P<rest>.+)"):
        match = re.fullmatch(pattern, stem)
        word = match["word"].lower() if match else ""
        if word in IMAGE or word in MASK:
            # images/a_mask.png is a mask; of masks/a_image.png the folder knows better
            kind = "mask" if kind == "mask" or word in MASK else "image"
            stem = match["rest"]
            break
    return kind, split, "_".join(groups), stem
