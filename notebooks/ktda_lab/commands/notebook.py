"""``ktda notebook`` and ``ktda report``: the notebooks without a browser."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from ktda.errors import InputError


class NotebookCommand(TyperCommand):
    """Takes ``-p NAME VALUE`` as papermill does: typer knows no repeated option of two values."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:  # ctx is of a class that typer keeps to itself
        folded, rest = [], list(args)
        while rest:
            folded.append(rest.pop(0))
            if folded[-1] == "-p" and len(rest) > 1 and "=" not in rest[0]:
                folded.append(f"{rest.pop(0)}={rest.pop(0)}")
        return super().parse_args(ctx, folded)


def notebook(
    file: Annotated[str, typer.Argument(help="A notebook file, or the name of one under notebooks/.")],
    parameter: Annotated[list[str] | None, typer.Option("-p", metavar="NAME VALUE", help="Set a parameter.")] = None,
    out: Annotated[Path | None, typer.Option(help="The executed copy; reports/NN_topic.ipynb by default.")] = None,
) -> None:
    """Run a notebook with checked parameters (a list: repeat -p); exit 1 if a cell fails, 2 for a wrong parameter."""
    from ktda_lab.headless.notebook import NotebookFailed, read_notebook, run_notebook
    from ktda_lab.headless.parameters import values_from_text

    read = read_notebook(file)
    pairs = [item.split("=", 1) for item in parameter or []]
    if any(len(pair) == 1 for pair in pairs):
        raise InputError(f"-p {pairs[-1][0]} has no value; give -p NAME VALUE, as in -p SEED 1")
    values = values_from_text(read.parameters, pairs, read.path.name)
    try:
        typer.echo(run_notebook(file, values, out or f"reports/{read.path.name}", progress=sys.stderr.isatty()))
    except NotebookFailed as error:
        typer.echo(f"ktda: {error}", err=True)
        raise typer.Exit(1) from None


def report(
    preset: Annotated[str, typer.Option(help="smoke (a minute a notebook) or demo (CPU minutes).")] = "smoke",
    out: Annotated[Path, typer.Option(help="Folder of the report: OUT/index.html and OUT/build/.")] = Path("reports"),
    publish: Annotated[bool, typer.Option(help="Copy a demo report to OUT/published/report, as Markdown.")] = False,
) -> None:
    """Run the notebooks in order, only what changed, and write OUT/index.html; exit 1 if one fails."""
    from ktda_lab.headless.report import build_report

    results = build_report(preset, out, publish=publish, echo=typer.echo)
    typer.echo(out / "index.html")
    raise typer.Exit(any(result.status == "failed" for result in results))
