"""What a data set says about itself: the file ``dataset.yaml`` beside ``img_dir``, read strictly.

A wrong key, a palette of another length or a broken pattern is an error that names the file: a setting that is
silently ignored costs somebody a training run.
"""

import colorsys
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ktda.errors import InputError

FILE = "dataset.yaml"
KEYS = ("classes", "palette", "ignore_index", "value_map", "scene")
IGNORE_INDEX = 255
MAX_CLASSES = 255  # masks are bytes, and one value is needed for "ignore"

# Okabe and Ito (2008), "Color universal design": told apart with every common form of colour blindness.
OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (153, 153, 153),
)


@dataclass(frozen=True)
class Spec:
    """The content of a ``dataset.yaml``.

    Attributes:
        classes: Class names in index order, or None where they must be found by scanning the masks.
        palette: One colour (red, green, blue), 0 to 255, per class, or None for the default colours.
        ignore_index: Mask value (after ``value_map``) that counts in no loss and no score.
        value_map: Mask value on disk to class index (or ``ignore_index``); values that are not listed stay.
        scene: Regular expression searched in the file stem; its first group names the scene.
        source: Where a built-in set comes from; empty for a user's own.
    """

    classes: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    ignore_index: int = IGNORE_INDEX
    value_map: dict[int, int] | None = None
    scene: str | None = None
    source: dict[str, Any] | None = None


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Colours for classes without any: Okabe and Ito's eight, then evenly spread hues (no longer safe for all eyes)."""
    more = (
        tuple(round(255 * c) for c in colorsys.hsv_to_rgb((i * 0.618034) % 1, 0.55, 0.95 - 0.35 * (i % 2)))
        for i in range(num_classes - len(OKABE_ITO))
    )
    return (*OKABE_ITO, *more)[:num_classes]


def read_spec(path: Path, built_in: bool = False) -> Spec:
    """Read and check one ``dataset.yaml``.

    Args:
        path: The file.
        built_in: Allow the key ``source`` as well (the files in ``ktda/data/sets``).

    Raises:
        InputError: The file cannot be read, or something in it is not as it must be.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected `key: value` lines, got a {type(content).__name__}")
    unknown = [key for key in content if key not in KEYS and not (built_in and key == "source")]
    if unknown:
        raise InputError(f"{path}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(KEYS)}")

    given = {key: value for key, value in content.items() if value is not None}
    classes = _classes(path, given["classes"]) if "classes" in given else None
    palette = _palette(path, given["palette"]) if "palette" in given else None
    if classes is not None and palette is not None and len(palette) != len(classes):
        raise InputError(f"{path}: palette has {len(palette)} colours for {len(classes)} classes; give one per class")
    ignore_index = given.get("ignore_index", IGNORE_INDEX)
    if not _is_int(ignore_index) or not 0 <= ignore_index <= 255:
        raise InputError(f"{path}: ignore_index must be an integer from 0 to 255, got {ignore_index!r}")
    if classes is not None and ignore_index < len(classes):
        raise InputError(
            f"{path}: ignore_index {ignore_index} is also class {classes[ignore_index]!r}; use 255, and a value_map "
            "if that class is the one to ignore"
        )
    value_map = _value_map(path, given["value_map"], classes, ignore_index) if "value_map" in given else None
    scene = _scene(path, given["scene"]) if "scene" in given else None
    return Spec(classes, palette, ignore_index, value_map, scene, given.get("source"))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _classes(path: Path, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{path}: classes must be a list of names in index order, got {value!r}")
    for name in value:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path}: class name {name!r} is not text; put it in quotes")
        if value.count(name) > 1:
            raise InputError(f"{path}: class name {name!r} is given twice")
    if len(value) > MAX_CLASSES:
        raise InputError(f"{path}: {len(value)} classes; at most {MAX_CLASSES} fit into masks of bytes")
    return tuple(value)


def _palette(path: Path, value: Any) -> tuple[tuple[int, int, int], ...]:
    if not isinstance(value, list):
        raise InputError(f"{path}: palette must be a list of [red, green, blue], got {value!r}")
    for colour in value:
        fits = isinstance(colour, list) and len(colour) == 3 and all(_is_int(c) and 0 <= c <= 255 for c in colour)
        if not fits:
            raise InputError(f"{path}: palette colour {colour!r} is not [red, green, blue] with integers from 0 to 255")
    return tuple((red, green, blue) for red, green, blue in value)


def _value_map(path: Path, value: Any, classes: tuple[str, ...] | None, ignore_index: int) -> dict[int, int]:
    if not isinstance(value, dict) or not value:
        raise InputError(f"{path}: value_map must be lines `mask value: class index`, got {value!r}")
    for old, new in value.items():
        if not _is_int(old) or not 0 <= old <= 65535:
            raise InputError(f"{path}: value_map has the mask value {old!r}; expected an integer from 0 to 65535")
        limit = 255 if classes is None else len(classes)
        if not _is_int(new) or (new != ignore_index and not 0 <= new < limit):
            raise InputError(
                f"{path}: value_map sends {old} to {new!r}; expected a class index from 0 to {limit - 1} or "
                f"ignore_index {ignore_index}"
            )
    return dict(sorted(value.items()))


def _scene(path: Path, value: Any) -> str:
    try:
        groups = re.compile(value).groups
    except (re.error, TypeError) as error:
        raise InputError(f"{path}: scene {value!r} is not a regular expression: {error}") from error
    if groups < 1:
        raise InputError(f"{path}: scene {value!r} has no group; put the part that names the scene in parentheses")
    return value
