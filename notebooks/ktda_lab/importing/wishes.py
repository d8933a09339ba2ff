"""What the user asks of an import, read from the options of ``ktda data import``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ktda.cli.text import numbers
from ktda.data.spec import FILE, Spec, read_spec
from ktda.errors import InputError
from ktda.schema import parse


@dataclass(frozen=True)
class Wishes:
    """What the user asks for.

    Attributes:
        source: folder with images and masks.
        spec: names, and colours or values, of the classes (`ktda.data.spec.read_spec`).
        bands: of the images, counted from 1, in the order to write; empty takes all.
        stretch: what becomes 0 and 255: "percentile" (2 and 98), "minmax", or two values; None leaves
            bytes as they are and takes percentiles of anything else.
        tile, overlap: side of square tiles in pixels (0: whole images), and the share of it that
            neighbours have in common.
        reduce: so many pixels a side become one.
        min_labelled: least share of a tile's pixels that has a class.
        block: split within images, by blocks of so many tiles a side; 0 splits by whole scenes.
        shares: of train, val and test, to draw by scene; empty keeps the splits of the folders.
        seed: of that draw.
    """

    source: Path
    spec: dict[str, Any] = field(default_factory=dict)
    bands: tuple[int, ...] = ()
    stretch: str | tuple[float, ...] | None = None
    tile: int = 0
    overlap: float = 0.0
    reduce: int = 1
    min_labelled: float = 0.0
    block: int = 0
    shares: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.block and not self.tile:
            raise InputError("--block counts tiles: give --tile too, such as --tile 256")


def spec_of(source: Path, file: Path | None, scene: str | None) -> dict[str, Any]:
    """What a file, or else the source's own ``dataset.yaml``, says; `scene` goes before it."""
    content = read_spec(file or source / FILE) if file or (source / FILE).is_file() else {}
    if scene:
        content["scene"] = parse(Spec, {"scene": scene}, "--scene").scene
    return content


def bands(text: str) -> tuple[int, ...]:
    """Bands such as ``4,3,2``; () takes all."""
    chosen = numbers("--bands", text, int)
    if min(chosen, default=1) < 1:
        raise InputError(f"--bands {text}: bands are counted from 1")
    return chosen


def stretch(text: str) -> str | tuple[float, ...] | None:
    """``percentile``, ``minmax``, or two rising values; None for none."""
    if text in ("", "percentile", "minmax"):
        return text or None
    ends = numbers("--stretch", text)
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise InputError(f"--stretch {text}: expected percentile, minmax, or LOW,HIGH")
    return ends


def shares(text: str) -> tuple[float, ...]:
    """Two or three shares that sum up to 1; () keeps the splits of the folders."""
    drawn = numbers("--split", text)
    whole = len(drawn) in (2, 3) and min(drawn) >= 0 and abs(sum(drawn) - 1) <= 1e-6
    if drawn and not whole:
        raise InputError(f"--split {text}: expected shares of train, val and test that sum up to 1")
    return drawn
