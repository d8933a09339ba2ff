"""``ktda notebook`` and ``ktda report``: the notebooks without a browser.

Register with ``app.command(cls=NotebookCommand)(notebook)`` and ``app.command()(report)``.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

_FLAGS = ("-p", "--parameter")


class NotebookCommand(TyperCommand):
    """Takes ``-p NAME VALUE`` as papermill does: typer knows no repeated option of two values."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:  # ctx is of a class that typer keeps to itself
        folded, rest = [], list(args)
        while rest:
            word = rest.pop(0)
            folded.append(word)
            if word == "--":
                break
            # A value may begin with a dash; a name may not, and holds no "=".
            if word in _FLAGS and len(rest) >= 2 and "=" not in rest[0] and not rest[0].startswith("-"):
                folded.append(f"{rest.pop(0)}={rest.pop(0)}")
        return super().parse_args(ctx, folded + rest)


class ReportPreset(StrEnum):
    """How much a report computes."""

    smoke = "smoke"
    demo = "demo"


def notebook(
    file: Annotated[str, typer.Argument(help="A notebook file, or the name of one under notebooks/.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option(*_FLAGS, metavar="NAME VALUE", help="Set a parameter; may be repeated. A list: '[a, b]'."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The executed copy; reports/<name of the notebook> by default.")
    ] = None,
    timeout: Annotated[int | None, typer.Option(min=1, help="Seconds that one cell may take.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a bar over the cells.")] = True,
) -> None:
    """Run a notebook with checked parameters; exit 1 if a cell fails, 2 for a wrong parameter."""
    from ktda.errors import InputError
    from ktda.runs.notebook import NotebookFailed, read_notebook, run_notebook
    from ktda.runs.parameters import values_from_text

    pairs = [item.partition("=")[::2] for item in parameter or []]
    for item in parameter or []:
        if "=" not in item:
            raise InputError(f"-p {item} has no value; give -p NAME VALUE, as in -p SEED 1")
    read = read_notebook(file)
    values = values_from_text(read.parameters, pairs, read.path.name)
    output = out or Path("reports") / read.path.name
    try:
        written = run_notebook(read.path, values, output, timeout=timeout, progress=progress)
    except NotebookFailed as error:
        typer.echo(f"ktda: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(str(out or written.relative_to(Path.cwd())))


def report(
    preset: Annotated[
        ReportPreset, typer.Option(help="smoke (a minute a notebook) or demo (CPU minutes, real numbers).")
    ] = ReportPreset.smoke,
    out: Annotated[Path, typer.Option(help="Folder of the report: OUT/index.html and OUT/build/.")] = Path("reports"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Run every notebook, also those that did not change.")] = False,
) -> None:
    """Run the notebooks in order, only what changed, and write OUT/index.html; exit 1 if one fails."""
    from ktda.runs.report import build_report

    built = build_report(preset.value, out, fresh=fresh, echo=typer.echo)
    typer.echo(str(built.index))
    if built.failed:
        typer.echo(f"ktda: failed: {', '.join(built.failed)}", err=True)
        raise typer.Exit(1)
