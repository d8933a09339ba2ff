"""What the values or colours of masks mean: decided for all masks of a set together."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ktda.data.spec import default_palette
from ktda.errors import InputError
from ktda_lab.importing.raster import Raster, Unfit, Window

NODATA = -(1 << 31)  # a pixel that the file itself calls empty
IGNORE = "ignore"  # a class of this name is none: its pixels count nowhere
MOST = 255  # classes that a mask of bytes can tell apart, besides the ignored index


class Unnamed(InputError):
    """Values or colours need names; `listing` is a file for ``--spec`` to fill in."""

    def __init__(self, message: str, listing: str) -> None:
        super().__init__(message)
        self.listing = listing


@dataclass(frozen=True)
class MaskValues:
    """What one mask holds: is it RGB, its palette or None, and pixels per raw value."""

    rgb: bool
    colours: np.ndarray | None
    counts: Counter


@dataclass(frozen=True)
class Labels:
    """The classes, and how a mask's values become their indices.

    Attributes:
        table: value, or packed colour where `by_colour`, to class index or `ignore_index`.
        note: how the masks were understood.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    by_colour: bool
    table: dict[int, int]
    note: str

    def decode(self, raw: np.ndarray, colours: np.ndarray | None) -> np.ndarray:
        """Values of `read_labels` (H, W) as class indices and ``ignore_index``, uint8."""
        values, inverse = np.unique(raw, return_inverse=True)
        indices = [self.table[key] for key in _keys(values, colours, self.by_colour)]
        return np.array(indices, np.uint8)[inverse].reshape(raw.shape)

    def count(self, counts: Counter, colours: np.ndarray | None) -> np.ndarray:
        """(256,) pixels per class index and ``ignore_index``, from pixels per raw value."""
        indices = [self.table[key] for key in _keys(counts, colours, self.by_colour)]
        return np.bincount(indices, list(counts.values()), minlength=256).astype(np.int64)


def read_labels(mask: Raster, window: Window) -> np.ndarray:
    """A mask's values (H, W) int64: an index, or red, green and blue packed; NODATA where empty.

    Raises:
        Unfit: compressed with loss, not one or three bands, half transparent, not whole numbers.
    """
    if mask.lossy:
        raise Unfit(f"{mask.path} is a JPEG, which changes labels; export masks without loss")
    if mask.bands not in (1, 3) or (mask.bands == 3 and mask.dtype != "uint8"):
        raise Unfit(f"{mask.path} has {mask.bands} bands of {mask.dtype}, expected indices or 8-bit RGB")
    values, opaque = mask.read(window, list(range(1, mask.bands + 1)))
    if not np.isin(opaque, (0, 255, 65535)).all():
        raise Unfit(f"{mask.path} is half transparent at places; save it without transparency")
    empty = (opaque == 0) | ~np.isfinite(values).all(0)
    values = np.where(empty, 0, values)
    whole = values.astype(np.int64)
    if (whole != values).any():
        raise Unfit(f"{mask.path} holds fractions, which are no labels")
    raw = whole[0] << 16 | whole[1] << 8 | whole[2] if mask.bands == 3 else whole[0]
    return np.where(empty, NODATA, raw)


def _keys(values: Iterable[int], colours: np.ndarray | None, by_colour: bool) -> list[int]:
    """Raw values as keys of the table: where colours decide, through the file's own palette."""
    values = [int(value) for value in values]
    if not by_colour or colours is None:
        return values
    return [value if value == NODATA else _pack(colours[value]) for value in values]


def _pack(colour: Iterable[int]) -> int:
    return int.from_bytes(bytes(map(int, colour)))


def decide(masks: list[MaskValues], spec: dict[str, Any]) -> Labels:
    """Find out what the values of all masks mean.

    Args:
        masks: what they hold.
        spec: as `ktda.data.spec.read_spec` gives it: names, and colours or values.

    Raises:
        Unnamed: neither the values nor `spec` name the classes.
        InputError: RGB and grey masks are mixed, or `spec` is at odds with itself.
    """
    rgb = any(mask.rgb for mask in masks)
    if rgb and any(not mask.rgb and mask.colours is None for mask in masks):
        raise InputError("some masks are RGB and some are grey; import one kind at a time")
    named = {_pack(colour): index for index, colour in enumerate(spec.get("palette", ()))}
    own: dict[int, set[int]] = {}  # index -> its colours in the palettes of files
    for mask in masks:
        if mask.colours is not None:
            for value in set(mask.counts) - {NODATA}:
                own.setdefault(value, set()).add(_pack(mask.colours[value]))
    # Where palettes differ the index is an accident of compression, and the colour is the label.
    differ = any(len(colours) > 1 for colours in own.values())
    by_colour = rgb or differ or (bool(own) and set().union(*own.values()) <= set(named))
    counts: Counter = Counter()
    for mask in masks:
        keys = _keys(mask.counts, mask.colours, by_colour)
        for key, pixels in zip(keys, mask.counts.values(), strict=True):
            counts[key] += pixels
    seen = sorted(set(counts) - {NODATA}, key=lambda key: (-counts[key], key))
    grey = by_colour and not set(seen) & set(named) and all(key == (key & 255) * 0x010101 for key in seen)
    value = {key: key & 255 if grey else key for key in seen}
    names, index, note = _names(sorted(value.values()), named if by_colour and not grey else None, spec)

    ignore = spec.get("ignore_index", 255)
    missing = [key for key in seen if value[key] not in index]
    if missing:
        what = "colours" if named is index or (by_colour and not grey) else "values"
        if len(seen) > MOST:
            raise InputError(f"the masks hold {len(seen)} {what}: no labels, or resized or compressed; export anew")
        found = [list(key.to_bytes(3)) if what == "colours" else value[key] for key in seen]
        first = ", ".join(str(found[seen.index(key)]) for key in missing[:6])
        given = [names[index[value[key]]] if key not in missing else f"name_{i}" for i, key in enumerate(seen)]
        shares = [counts[key] / counts.total() for key in seen]
        raise Unnamed(
            f"the masks hold {len(missing)} {what} without a name ({first}); name them in a file for --spec",
            _listing(found, given, shares, what),
        )
    palette = spec.get("palette") or default_palette(len(names))
    if not spec.get("palette") and not by_colour and set(range(len(names))) <= set(own):
        palette = [tuple(next(iter(own[i])).to_bytes(3)) for i in range(len(names))]
    kept = [i for i, name in enumerate(names) if name != IGNORE]
    if len(palette) != len(names) or ignore < len(kept):
        raise InputError(f"{len(names)} classes need as many colours, and an ignore_index above, such as 255")
    place = {old: new for new, old in enumerate(kept)}
    table = {key: place.get(index[value[key]], ignore) for key in seen} | {NODATA: ignore}
    classes = tuple(names[i] for i in kept)
    return Labels(classes, tuple(tuple(palette[i]) for i in kept), ignore, by_colour, table, note)


def _names(values: list[int], named: dict[int, int] | None, spec: dict[str, Any]) -> tuple[list[str], dict, str]:
    """Names, value -> position among them (-1: ignored), and how that was understood."""
    names = list(spec.get("classes", ()))
    if named is not None:
        return names, named, "colours"
    ignore = spec.get("ignore_index", 255)
    labels = [value for value in values if value != ignore]
    told = "value_map" in spec or "ignore_index" in spec
    if 255 in values and set(values) <= {0, 255} and len(names) in (0, 2) and not told:
        return names or ["background", "foreground"], {0: 0, 255: 1}, "0 and 255, for two classes"
    if not names and len(labels) > 1 and labels == list(range(len(labels))):
        names = [str(label) for label in labels]
    mapped = {value: value for value in values} | (spec.get("value_map") or {})
    index = {value: -1 if to == ignore else to for value, to in mapped.items()}
    return names, {value: to for value, to in index.items() if -1 <= to < len(names)}, "indices"


def _listing(found: list, names: list[str], shares: list[float], what: str) -> str:
    """A file for ``--spec``: what was found, most frequent first."""
    lines = [f"# Name the classes ({IGNORE}: counts nowhere), keep this in a file, and pass --spec FILE.", "classes:"]
    for name, value, share in zip(names, found, shares, strict=True):
        lines.append(f"  - {name}  # {value}: {100 * share:.2f} %")
    lines.append("palette:" if what == "colours" else "value_map:")
    lines += [f"  - {value}" if what == "colours" else f"  {value}: {i}" for i, value in enumerate(found)]
    return "\n".join(lines)
