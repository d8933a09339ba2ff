"""``ktda data``: list, fetch, check and make data sets."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List, fetch, check and make data sets.", no_args_is_help=True)


class World(StrEnum):
    """The worlds of ``ktda.data.worlds``."""

    target = "target"
    source = "source"


Out = Annotated[
    Path | None,
    typer.Option(help="Folder to make, the root with img_dir and ann_dir; by default the set's own under data/."),
]


@app.command("list")
def list_sets() -> None:
    """Show the built-in data sets: classes, tiles per split, where they are or how to get them."""
    from ktda.data import builtin
    from ktda.data.folder import open_data, pair_up
    from ktda.errors import InputError

    rows = [("name", "classes", "tiles", "where, or how to get it")]
    for name in builtin.NAMES:
        spec = builtin.built_in_spec(name)
        classes, tiles, where = str(len(spec.classes)), "", builtin.how_to_get(name)
        if name not in builtin.DEMOS:
            tiles = ", ".join(f"{count} {split}" for split, count in (spec.source.get("tiles") or {}).items())
        place = builtin.locate(name)
        if place is not None:
            where = str(place)
            try:
                tile_set = open_data(name)
                counts = {split: len(pair_up(tile_set.root, split)[0]) for split in tile_set.splits()}
                classes, tiles = str(tile_set.num_classes), ", ".join(f"{n} {split}" for split, n in counts.items())
            except InputError as error:  # one broken set must not hide the others
                where = f"broken: {error}"
        rows.append((name, classes, tiles, where))
    typer.echo(_table(rows, right=(1,)))
    typer.echo(f"\nData sets are looked for in {builtin.data_root()} (set KTDA_DATA to change that). "
               "Any folder in the same layout can be used instead of a name: see data/README.md.")  # fmt: skip


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The data set: grass (about 180 MB) or cloud (2.8 GB).")],
    out: Out = None,
    zip: Annotated[
        Path | None, typer.Option(help="Unpack this archive, downloaded by other means, instead of downloading.")
    ] = None,
    any_hash: Annotated[
        bool, typer.Option("--any-hash", help="Accept an archive whose SHA-256 is not the known one.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that the hub may take for its first answer; raise on slow lines.")
    ] = 2.0,
) -> None:
    """Download a data set of the paper from the Hugging Face hub (cc-by-nc-4.0), resuming where it broke off."""
    from ktda.data import builtin
    from ktda.data.fetch import RECORD
    from ktda.data.fetch import fetch as fetch_set
    from ktda.data.folder import open_data

    target = (out or builtin.data_root() / name).expanduser().absolute()
    there = (target / "img_dir").is_dir()
    root = fetch_set(name, out, archive=zip, probe_seconds=timeout, any_hash=any_hash)
    tile_set = open_data(root)
    counts = {split: len(tile_set.pairs(split)) for split in tile_set.splits()}
    tiles = ", ".join(f"{count} {split}" for split, count in counts.items())
    typer.echo(f"{name} {'is there already' if there else 'is complete'}: {tiles} tiles in {root}")
    expected = builtin.built_in_spec(name).source.get("tiles")
    if expected and expected != counts:
        named = ", ".join(f"{count} {split}" for split, count in expected.items())
        typer.echo(f"Take care: {named} tiles were expected.", err=True)
    if (root / RECORD).is_file() and not there:
        typer.echo(f"Commit, SHA-256 and licence are recorded in {root / RECORD}; next: ktda data check {out or name}")


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="A built-in name (ktda data list) or a folder with img_dir and ann_dir.")],
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many errors, and as many warnings.")] = 20,
) -> None:
    """Read every file of a data set and report what is wrong with it; exit code 1 if there are errors."""
    from ktda.data.check import check as check_set

    result = check_set(data)
    tile_set = result.tile_set
    typer.echo(f"{tile_set.name}: {tile_set.num_classes} classes in {tile_set.root}\n")
    rows = [("split", "tiles", "scenes", "size", *tile_set.classes, "ignored")]
    for name, split in result.splits.items():
        sizes = next(iter(split.sizes), "-") if len(split.sizes) < 2 else f"{len(split.sizes)} sizes"
        everything = max(1, int(split.pixels.sum()) + split.ignored + split.outside)
        shares = [f"{100 * share:.1f} %" for share in (*split.shares, split.ignored / everything)]
        scenes = "-" if tile_set.scene is None else str(split.scenes)
        rows.append((name, str(split.tiles), scenes, sizes, *shares))
    typer.echo(_table(rows, right=tuple(range(1, len(rows[0])))))
    for title, lines in (("error", result.errors), ("warning", result.warnings)):
        if lines:
            typer.echo("")
        for line in lines[:limit]:
            typer.echo(f"{title}: {line}")
        if len(lines) > limit:
            typer.echo(f"... and {len(lines) - limit} more; --limit {len(lines)} shows all")
    typer.echo(f"\n{len(result.errors)} errors, {len(result.warnings)} warnings")
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="The simulated world: demo_grass or demo_cloud.")],
    world: Annotated[
        World,
        typer.Option(help="target: the data set to learn; source: the wider world that a teacher may have seen."),
    ] = World.target,
    tiles: Annotated[
        int | None,
        typer.Option(min=1, help="Number of training tiles, which val and test follow; by default the world's own."),
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Side of a tile in pixels.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Seed: the same seed gives the same tiles.")] = 0,
    out: Out = None,
) -> None:
    """Simulate a data set that needs no download."""
    from ktda.data import builtin
    from ktda.data.folder import open_data
    from ktda.errors import InputError

    if name not in builtin.DEMOS:
        raise InputError(f"{name!r} cannot be made; choose one of {', '.join(builtin.DEMOS)}")
    settings = {"world": world.value, "size": size, "seed": seed}
    if tiles is not None:
        settings["tiles"] = tiles
    if out is None:
        # The plain name is what DATA = demo_... opens, so only the default world may lie there.
        changed = [world.value] if world != World.target else []
        changed += [f"{tiles}tiles"] if tiles is not None else []
        changed += [f"{size}px"] if size != 128 else []
        changed += [f"seed{seed}"] if seed != 0 else []
        out = builtin.data_root() / "-".join([name, *changed])
    out = out.expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already; remove it, or choose another --out")
    tile_set = open_data(builtin.make_demo(name, out, **settings))
    made = ", ".join(f"{len(tile_set.pairs(split))} {split}" for split in tile_set.splits())
    typer.echo(f"{name} ({world.value}): {made} tiles of {size} px in {out}")


def _table(rows: list[tuple[str, ...]], right: tuple[int, ...]) -> str:
    """Rows as aligned columns, the first row as header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
