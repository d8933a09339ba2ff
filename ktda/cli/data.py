"""``ktda data``: list, fetch, check and make data sets."""

from pathlib import Path
from typing import Annotated

import typer

from ktda.cli.text import columns
from ktda.errors import InputError
from ktda_lab.commands.importing import import_

app = typer.Typer(help="List, fetch, check and make data sets.", no_args_is_help=True)

Out = Annotated[
    Path | None,
    typer.Option(help="Folder to make, the root with img_dir and ann_dir; by default the set's own under data/."),
]


@app.command("list")
def list_sets() -> None:
    """Show the built-in data sets: tiles per split, where they are or how to get them."""
    from ktda.data import builtin

    rows = [("name", "tiles", "where, or how to get it")]
    for name in builtin.NAMES:
        tiles, where, place = "", builtin.how_to_get(name), builtin.locate(name)
        if place is not None:
            try:
                tiles, where = _tiles(name), str(place)
            except InputError as error:  # one broken set must not hide the others
                where = f"broken: {error}"
        elif name not in builtin.DEMOS:
            tiles = builtin.built_in_spec(name)["source"].get("tiles", "")
        rows.append((name, tiles, where))
    typer.echo(f"{columns(rows)}\n\nLooked for in {builtin.data_root()}; set KTDA_DATA to change that.")
    typer.echo("Any folder in the same layout can be used instead of a name: see data/README.md.")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The data set: grass (about 180 MB) or cloud (2.8 GB).")],
    out: Out = None,
    zip: Annotated[Path | None, typer.Option(help="Unpack this archive of the set instead of downloading it.")] = None,
) -> None:
    """Download a data set of the paper from the Hugging Face hub (cc-by-nc-4.0), resuming where it broke off."""
    from ktda.data.fetch import fetch as fetch_set

    root = fetch_set(name, out, zip)
    typer.echo(f"{name}: {_tiles(root)} tiles in {root}; next: ktda data check {out or name}")


app.command("import")(import_)


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="A built-in name (ktda data list) or a folder with img_dir and ann_dir.")],
) -> None:
    """Read every file of a data set and report what is wrong with it; exit code 1 if there are errors."""
    from ktda.data.check import check as check_set

    result = check_set(data)
    tile_set = result.tile_set
    rows = [("split", "tiles", "scenes", "size", *tile_set.classes, "ignored")]
    for name, split in result.splits.items():
        sizes = [f"{width}x{height}" for width, height in split.sizes]
        size = sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes"
        shares = [f"{100 * share:.1f} %" for share in (*split.shares, split.ignored_share)]
        rows.append((name, str(split.sizes.total()), str(split.scenes or "-"), size, *shares))
    lines = [f"error: {error}" for error in result.errors] + [f"warning: {warning}" for warning in result.warnings]
    if result.unlabelled:
        lines.append(f"{result.unlabelled} images without masks in img_dir/unlabelled")
    lines.append(f"{len(result.errors)} errors, {len(result.warnings)} warnings in {tile_set.root}")
    typer.echo("\n".join([columns(rows), "", *lines]))
    raise typer.Exit(1 if result.errors else 0)


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="The simulated world: demo_grass or demo_cloud.")],
    world: Annotated[
        str, typer.Option(help="target, the set to learn, or source, the wider world that a teacher may have seen.")
    ] = "target",
    tiles: Annotated[int, typer.Option(help="Number of training tiles; val has half as many, test as many.")] = 96,
    size: Annotated[int, typer.Option(help="Side of a tile in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed: the same seed gives the same tiles.")] = 0,
    out: Out = None,
) -> None:
    """Simulate a data set that needs no download."""
    from ktda.data import builtin
    from ktda_lab.worlds import make_world

    if out is None and (world, tiles, size, seed) == ("target", 96, 128, 0):  # the one that the name stands for
        root = builtin.make_demo(name)
        typer.echo(f"{name}: {_tiles(root)} tiles in {root}")
        return
    if out is None:
        raise InputError(f"the name {name} is that of the world with default settings; say --out FOLDER for this one")
    root = make_world(name, out, world=world, tiles=tiles, size=size, seed=seed)
    typer.echo(f"{name} ({world}): {_tiles(root)} tiles of {size} px in {root}")


def _tiles(data: str | Path) -> str:
    """Tiles per split, such as ``3 train, 2 val``."""
    from ktda.data.folder import open_data

    tile_set = open_data(data)
    return ", ".join(f"{len(tile_set.pairs(split))} {split}" for split in tile_set.splits())
