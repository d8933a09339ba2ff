"""``ktda show``: the pictures of a finished run."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from ktda.errors import InputError


def show(run: Annotated[Path, typer.Argument(help="Run folder of ktda train.")]) -> None:
    """Draw learning curves, scores per class, confusion and a gallery of RUN into RUN/figures."""
    if not can_draw():
        raise InputError("drawing needs matplotlib and pandas: pip install 'ktda[notebooks]'")
    from ktda_lab.run_pictures import draw_run

    for path in draw_run(run):
        typer.echo(path)


def can_draw() -> bool:
    """Whether the libraries that pictures need are installed."""
    return all(importlib.util.find_spec(name) for name in ("matplotlib", "pandas"))
