"""``ktda convert`` and ``ktda export``: a trained model for others."""

from pathlib import Path
from typing import Annotated

import typer

from ktda.cli.text import MODEL
from ktda.errors import InputError


def convert(
    model: Annotated[str, typer.Argument(help=MODEL)],
    out: Annotated[Path, typer.Option(help="Folder to write: config.json, model.safetensors, README.md.")],
    data: Annotated[
        str | None, typer.Option(help="Name and colour the classes as this data set does.", show_default=False)
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes in their order: a,b,c.", show_default=False)
    ] = None,
) -> None:
    """Write MODEL as a folder to share, with a card; nothing that a file brings is run."""
    from ktda.data.builtin import NAMES, built_in_spec
    from ktda.data.folder import open_data
    from ktda.share.segmenter import Segmenter

    if data and classes:
        raise InputError("--data and --classes both name the classes; give one")
    named = {"classes": classes.split(","), "palette": None} if classes else {}
    if data:  # one that the package knows need not be here
        named = built_in_spec(data) if data in NAMES else vars(open_data(data))
    if out.exists():
        raise InputError(f"{out} is there already; choose another --out")
    segmenter = Segmenter.from_pretrained(model)
    if named:
        segmenter.name_classes(named["classes"], named["palette"])
    segmenter.save_pretrained(out)
    size = (out / "model.safetensors").stat().st_size / 1e6
    typer.echo(f"{out}: {size:.1f} MB, classes {', '.join(segmenter.content['classes'])}")


def export(
    model: Annotated[str, typer.Argument(help=MODEL)],
    out: Annotated[Path, typer.Option(help="File to write; its STAC item takes the same name and .json.")],
    format_: Annotated[
        str | None, typer.Option("--format", help="onnx or pt2 (torch.export); by default as OUT ends.")
    ] = None,
    tile: Annotated[
        int, typer.Option(help="Side of the images that the file takes, a multiple of 32; 0: any such sides.")
    ] = 0,
    data: Annotated[
        str | None, typer.Option(help="Compare on an image of this data set too.", show_default=False)
    ] = None,
    resolution: Annotated[float, typer.Option(help="Metres on the ground per pixel, to be recorded; 0: unknown.")] = 0,
) -> None:
    """Write MODEL as one file for other programs, and compare its answers with the model's."""
    if format_ and out.suffix != f".{format_}":
        raise InputError(f"--format {format_} --out {out}; such a file is called {out.stem}.{format_}")
    from ktda.share.export import export_model
    from ktda.share.segmenter import Segmenter

    done = export_model(Segmenter.from_pretrained(model), out, tile, data, resolution)
    shapes = ", ".join("x".join(map(str, shape)) for shape in done["shapes"])
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, raw values in, probabilities out")
    typer.echo(f"largest difference {done['difference']:.1e} of a probability, on {shapes}")
    typer.echo(f"described in {done['item']}")
