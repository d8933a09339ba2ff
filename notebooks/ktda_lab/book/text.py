"""Text of data sets, figures and errors as part of a Markdown page, where none of it becomes markup."""

import re
from collections.abc import Iterable, Sequence
from typing import Any


def plain(text: Any) -> str:
    """Text as one line of Markdown that shows it letter by letter.

    In CommonMark a backslash makes any ASCII punctuation literal: no HTML, link, formula, role or table cell begins.
    """
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of Markdown cells; a name that ends in ``:`` is that of a column of numbers."""
    rule = ["---:" if name.endswith(":") else "---" for name in names]
    lines = [[name.removesuffix(":") for name in names], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
