"""What commands share: names of models, numbers as they are typed, tables as they are printed."""

from collections.abc import Callable, Sequence
from typing import Any

from ktda.errors import InputError

MODEL = "Run folder of ktda train, model folder, hub id OWNER/NAME[@REVISION], or checkpoint of the authors (.pth)."


def numbers(option: str, text: str | None, kind: Callable[[str], Any] = float) -> tuple:
    """Numbers between commas, as the value of an option; () for none."""
    try:
        return tuple(kind(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        expected = "expected numbers between commas, such as 4,3,2"
        raise InputError(f"{option} {text}: {expected}") from error


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
