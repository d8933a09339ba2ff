"""What a data set says about itself: the file ``dataset.yaml`` beside ``img_dir``, read strictly.

A setting that is silently ignored costs somebody a training run, so an unknown key is an error.
"""

import colorsys
import math
import re
from pathlib import Path
from typing import Any

import yaml

from ktda.errors import InputError

FILE = "dataset.yaml"

# Okabe and Ito (2008), "Color universal design": told apart with every common form of colour blindness.
OKABE_ITO_HEX = "E69F00 56B4E9 009E73 F0E442 0072B2 D55E00 CC79A7 999999"
OKABE_ITO = tuple(tuple(bytes.fromhex(colour)) for colour in OKABE_ITO_HEX.split())


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Colours for classes without any: Okabe and Ito's eight, then evenly spread hues (no longer safe for all eyes)."""
    more = [colorsys.hsv_to_rgb(0.618034 * i % 1, 0.55, 0.95 - 0.35 * (i % 2)) for i in range(num_classes)]
    return (*OKABE_ITO, *(tuple(round(255 * c) for c in colour) for colour in more))[:num_classes]


def read_spec(path: Path) -> dict[str, Any]:
    """Read and check one ``dataset.yaml``.

    Returns:
        What is given of ``classes``, ``palette``, ``ignore_index``, ``value_map``, ``scene`` and the bands (``bands``,
        ``rgb``, ``stretch``, ``mean``, ``std``), as `TileSet` has them, and of ``source``, which tells where the set
        comes from.

    Raises:
        InputError: The file cannot be read, or something in it is not as it must be.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected `key: value` lines, got a {type(content).__name__}")
    for key, value in content.items():
        if key not in FORMS:
            raise InputError(f"{path}: unknown key {key!r}; known are {', '.join(FORMS)}")
        fits, expected = FORMS[key]
        if not fits(value):
            raise InputError(f"{path}: {key} must be {expected}, got {value!r}")
    if "classes" in content:
        content["classes"] = tuple(content["classes"])
    if "palette" in content:
        content["palette"] = tuple(map(tuple, content["palette"]))
    if type(content.get("bands")) is int:
        content["bands"] = [str(number) for number in range(1, content["bands"] + 1)]
    if "stretch" in content:
        content["stretch"] = tuple(map(tuple, content["stretch"]))
    return content | {key: tuple(content[key]) for key in ("bands", "rgb", "mean", "std") if key in content}


def _is_classes(value: Any) -> bool:
    named = isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
    return named and 1 <= len(set(value)) == len(value) <= 255  # masks are bytes, one of which means "ignore"


def _is_palette(value: Any) -> bool:
    colours = isinstance(value, list) and all(isinstance(colour, list) and len(colour) == 3 for colour in value)
    return colours and all(_is_index(channel) for colour in value for channel in colour)


def _is_index(value: Any, limit: int = 256) -> bool:
    return type(value) is int and 0 <= value < limit  # true and false are of type bool


def _is_value_map(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_index(old, 65536) and _is_index(new) for old, new in value.items())


def _is_scene(value: Any) -> bool:
    try:
        return re.compile(value).groups > 0
    except (re.error, TypeError):
        return False


def _is_bands(value: Any) -> bool:
    named = isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
    count = len(set(value)) if named and len(set(value)) == len(value) else value
    return type(count) is int and 1 <= count <= 1000


def _is_rgb(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_index(band, 1001) and band for band in value)


def _is_numbers(value: Any, positive: bool = False) -> bool:
    numbers = isinstance(value, list) and all(type(number) in (int, float) for number in value)
    return numbers and all(math.isfinite(number) and (number > 0 or not positive) for number in value)


def _is_stretch(value: Any) -> bool:
    return isinstance(value, list) and all(_is_numbers(ends) and len(ends) == 2 and ends[0] < ends[1] for ends in value)


# What each key must look like, and how a user is told.
FORMS = {
    "classes": (_is_classes, "a list of 1 to 255 different names, in index order (numbers, yes and no in quotes)"),
    "palette": (_is_palette, "a list of [red, green, blue], integers from 0 to 255"),
    "ignore_index": (_is_index, "an integer from 0 to 255"),
    "value_map": (_is_value_map, "lines `mask value: class index` (0 to 65535: 0 to 255)"),
    "scene": (_is_scene, "a regular expression with a group, in parentheses, that names the scene"),
    "bands": (_is_bands, "the number of bands of the images, or a list of different names (numbers in quotes)"),
    "rgb": (_is_rgb, "the three bands that a teacher sees as red, green and blue, counted from 1, such as [4, 3, 2]"),
    "stretch": (_is_stretch, "one [low, high] per band: the values that become 0 and 255 (only bytes need none)"),
    "mean": (_is_numbers, "one number per band, of values in [0, 1]"),
    "std": (lambda value: _is_numbers(value, positive=True), "one number above 0 per band, of values in [0, 1]"),
    "source": (lambda value: isinstance(value, dict), "lines `key: value`"),
}
