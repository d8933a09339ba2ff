"""``ktda benchmark``: what a step and a prediction cost."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ktda.errors import InputError
from ktda.files import write_json


def benchmark(
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; a GPU where there is one.", show_default=False)
    ] = None,
    size: Annotated[int, typer.Option(min=32, help="Side of a tile in pixels, a multiple of 8.")] = 256,
    batch: Annotated[int, typer.Option(min=2, help="Labelled tiles of a batch.")] = 2,
    what: Annotated[str, typer.Option(help="step, predict, memory or all.")] = "all",
    preset: Annotated[str, typer.Option(help="Sizes of the parts: smoke, demo, grid or paper.")] = "paper",
    form: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this form; may be repeated. Also: all.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of all forms; may be repeated.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="Begin no further round after so many, once two are done.")
    ] = 60,
    repeats: Annotated[int, typer.Option(min=2, help="Rounds at most.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Also write all numbers to this json file.")] = None,
) -> None:
    """Time training steps and predictions of the method's forms in turn, beside peers, with random weights.

    What there is after each round is in the json file at once; SIGINT and SIGTERM end with it.
    """
    import torch

    from ktda.runs.record import ended_by
    from ktda_lab.benchmark.forms import FORMS, PLAIN, Wish
    from ktda_lab.benchmark.report import WHAT, measure, tables

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    for name, value, known in (("device", device, ("cpu", "cuda")), ("what", what, WHAT)):
        if value not in known:
            raise InputError(f"--{name} {value}; expected one of {', '.join(known)}")
    if size % 8:
        raise InputError(f"--size {size}; expected a multiple of 8")
    names = [*FORMS, *PLAIN] if form == ["all"] else form or []
    wish = Wish(preset, size, batch, device, tuple(set_ or ()))

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    latest: dict[str, Any] = {}

    def keep(found: dict[str, Any]) -> None:
        latest.update(found)
        if out:
            write_json(out, found | {"command": sys.argv[1:]})

    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ended_by(signal.SIGTERM):
            content = measure(what, wish, names, seconds, repeats, tell, keep)
    except (KeyboardInterrupt, SystemExit):
        if latest:
            typer.echo(tables(latest))
        raise
    keep(content)
    typer.echo(tables(content))
