"""``ktda data import``: images and masks of any layout into the one that training reads."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ktda.cli.text import columns


def import_(
    source: Annotated[Path, typer.Argument(help="A folder with images and masks, in whatever layout.")],
    out: Annotated[
        Path | None,
        typer.Option(help="New folder to write; without it nothing is written.", show_default=False),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(help="A yaml file: classes with their palette or value_map; SOURCE/dataset.yaml by default."),
    ] = None,
    bands: Annotated[str, typer.Option(help="Bands of the images, counted from 1, red first: 4,3,2.")] = "",
    stretch: Annotated[
        str, typer.Option(help="What becomes 0 and 255: percentile (2 and 98, of train), minmax or LOW,HIGH.")
    ] = "",
    tile: Annotated[int, typer.Option(min=0, help="Side of the tiles to cut, in pixels; 0: whole images.")] = 0,
    overlap: Annotated[float, typer.Option(min=0, max=0.9, help="Share of a tile that the next one has too.")] = 0.0,
    reduce: Annotated[
        int, typer.Option(min=1, max=64, help="Make so many pixels a side one: the mean of images, nearest of masks.")
    ] = 1,
    min_labelled: Annotated[float, typer.Option(min=0, max=1, help="Least share of a tile that has a class.")] = 0.0,
    scene: Annotated[
        str | None,
        typer.Option(help="Pattern whose group finds a name's scene: '^(.+)_part'.", show_default=False),
    ] = None,
    block: Annotated[
        int, typer.Option(min=0, help="Split within images, by blocks of so many tiles a side; 0: whole scenes.")
    ] = 0,
    split: Annotated[
        str, typer.Option(help="Draw shares of train, val and test by scene: 0.6,0.2,0.2; folders' splits are kept.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 0,
) -> None:
    """Bring images and masks from SOURCE into the layout that training reads; SOURCE stays as it is."""
    from ktda_lab.importing import wishes as read
    from ktda_lab.importing.labels import Unnamed
    from ktda_lab.importing.plan import make_plan
    from ktda_lab.importing.write import check_out, write

    if out is not None:
        check_out(source, out)
    wishes = read.Wishes(
        source=source,
        spec=read.spec_of(source, spec, scene),
        bands=read.bands(bands),
        stretch=read.stretch(stretch),
        tile=tile,
        overlap=overlap,
        reduce=reduce,
        min_labelled=min_labelled,
        block=block,
        shares=read.shares(split),
        seed=seed,
    )
    try:
        plan = make_plan(wishes)
    except Unnamed as error:
        typer.echo(error.listing)
        raise
    command = shlex.join(["ktda", *sys.argv[1:]])
    if out is not None:
        write(plan, out, command)
    typer.echo("\n".join([*plan.notes, "", columns(plan.shares()), ""]))
    if out is None:
        new = shlex.quote(source.resolve().name + "-tiles")
        typer.echo(f"Nothing is written yet. To write it:\n{command} --out {new}")
    else:
        typer.echo(f"Written to {out}; look at {out / 'import.html'}; next: ktda data check {out}")
