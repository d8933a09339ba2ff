"""What a data set says about itself: the file ``dataset.yaml`` beside ``img_dir``, read strictly.

A setting that is silently ignored costs somebody a training run, so an unknown key is an error.
"""

import colorsys
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from re import _constants, _parser
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ktda.errors import InputError
from ktda.schema import Strict, parse
from ktda.yaml_files import read_yaml

FILE = "dataset.yaml"

# Okabe and Ito (2008), "Color universal design": told apart with every common colour blindness.
OKABE_ITO_HEX = "E69F00 56B4E9 009E73 F0E442 0072B2 D55E00 CC79A7 999999"
OKABE_ITO = tuple(tuple(bytes.fromhex(colour)) for colour in OKABE_ITO_HEX.split())


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Colours for classes without any: Okabe and Ito's eight, then hues spread evenly."""
    colours = list(OKABE_ITO)
    for i in range(num_classes):
        # the golden ratio spreads hues evenly, however many there are
        colour = colorsys.hsv_to_rgb(0.618034 * i % 1, 0.55, 0.95 - 0.35 * (i % 2))
        colours.append(tuple(round(255 * channel) for channel in colour))
    return tuple(colours[:num_classes])


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError
    if not all(map(str.isprintable, names)):
        raise InputError("names without line breaks and control characters")
    return names


def _band_names(bands: int | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(str, range(1, bands + 1))) if isinstance(bands, int) else bands


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] >= ends[1]:
        raise ValueError
    return ends


def _quick_expression(text: str) -> str:
    """Refuse what no name can be matched with, and what could take for ever.

    Trying all the ways to share a name out among k repeats takes time of the order of its length to
    the k, and exponential time where repeats or alternatives are themselves repeated, as in
    ``(a+)+`` or ``(ab|a)*``. The parsed expression shows both, if not whether it would come to it.
    """
    try:
        groups = re.compile(text).groups
        repeats = _count_repeats(_parser.parse(text))
    except (re.error, OverflowError, RecursionError):
        raise ValueError from None
    if groups == 0:
        raise ValueError
    if repeats > 6:
        raise InputError(f"a regular expression with at most 6 of + * ? {{m,n}}, got {repeats}")
    return text


def _count_repeats(pattern: Iterable[tuple[Any, Any]], repeated: bool = False) -> int:
    """Repeats of variable length in an expression; none of them may stand in another repeat."""
    count = 0
    for operation, argument in pattern:
        within = repeated
        varies = operation is _constants.BRANCH
        if operation in _REPEATS:
            low, high = argument[:2]
            varies = low != high
            within = repeated or high > 1
            count += varies
        if varies and repeated:
            raise InputError("a regular expression without a repeat or | inside a repeat: no (a+)+")
        count += sum(_count_repeats(part, within) for part in _parts(argument))
    return count


_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)


def _parts(argument: Any) -> Iterator[_parser.SubPattern]:
    """The expressions directly within one operation of an expression."""
    if isinstance(argument, _parser.SubPattern):
        yield argument
    elif isinstance(argument, list | tuple):
        for part in argument:
            yield from _parts(part)


def _key(expected: str) -> Any:
    """A key that may be absent, and how a user is told what it must look like."""
    return Field(None, description=expected)


_Byte = Annotated[int, Field(ge=0, le=255)]
_Band = Annotated[int, Field(ge=1, le=1000)]
_Names = Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], AfterValidator(_different)]
_Ends = Annotated[tuple[float, float], AfterValidator(_rising)]


class Spec(Strict):
    """The keys of ``dataset.yaml``."""

    # Masks are bytes, one of which means "ignore".
    classes: Annotated[_Names, Field(min_length=1, max_length=255)] = _key(
        "a list of 1 to 255 different names, in index order (numbers, yes and no in quotes)"
    )
    palette: tuple[tuple[_Byte, _Byte, _Byte], ...] = _key(
        "a list of [red, green, blue], integers from 0 to 255"
    )
    ignore_index: _Byte = _key("an integer from 0 to 255")
    value_map: dict[Annotated[int, Field(ge=0, le=65535)], _Byte] = _key(
        "lines `mask value: class index` (0 to 65535: 0 to 255)"
    )
    scene: Annotated[str, Field(max_length=200), AfterValidator(_quick_expression)] = _key(
        "a regular expression (at most 200 characters) with a group, (...), that names the scene"
    )
    bands: Annotated[
        _Band | Annotated[_Names, Field(min_length=1, max_length=1000)], AfterValidator(_band_names)
    ] = _key("the number of bands of the images, or a list of different names (numbers in quotes)")
    rgb: tuple[_Band, _Band, _Band] = _key(
        "the three bands that a teacher sees as red, green and blue, from 1, such as [4, 3, 2]"
    )
    stretch: tuple[_Ends, ...] = _key(
        "one [low, high] per band: the values that become 0 and 255 (only bytes need none)"
    )
    mean: tuple[float, ...] = _key("one number per band, of values in [0, 1]")
    std: tuple[Annotated[float, Field(gt=0)], ...] = _key(
        "one number above 0 per band, of values in [0, 1]"
    )
    source: dict = _key("lines `key: value`")


def read_spec(path: Path) -> dict[str, Any]:
    """Read and check one ``dataset.yaml``.

    Returns:
        What is given of the keys of `Spec`, as `TileSet` has them, and of ``source``, which tells
        where the set comes from.

    Raises:
        InputError: The file cannot be read, or something in it is not as it must be.
    """
    content = read_yaml(path)
    spec = parse(Spec, {} if content is None else content, str(path))
    return spec.model_dump(exclude_unset=True)
