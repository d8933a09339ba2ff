"""``ktda predict``: maps of scenes."""

from pathlib import Path
from typing import Annotated

import typer

from ktda.cli.text import MODEL, numbers
from ktda.errors import InputError


def predict(
    model: Annotated[str, typer.Argument(help=MODEL)],
    inputs: Annotated[list[Path], typer.Argument(help="Rasters or images of any size, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder of the maps; each takes its scene's name.")],
    tile: Annotated[
        int | None,
        typer.Option(help="Side of a tile in pixels, a multiple of 32; by default as in training.", show_default=False),
    ] = None,
    overlap: Annotated[float, typer.Option(help="Share of a tile that the next one covers too.")] = 0.25,
    bands: Annotated[
        str | None, typer.Option(help="Bands to read, counted from 1, such as 4,3,2.", show_default=False)
    ] = None,
    stretch: Annotated[
        str | None,
        typer.Option(
            help="fixed (as training recorded), percentile (2 to 98 of the scene) or per-tile; by default fixed, "
            "and percentile where nothing was recorded and the scene is not of bytes.",
            show_default=False,
        ),
    ] = None,
    nodata: Annotated[
        str | None, typer.Option(help="Value of fill, or none; by default the file says.", show_default=False)
    ] = None,
    confidence: Annotated[bool, typer.Option("--confidence", help="Also write the confidence, in percent.")] = False,
    precision: Annotated[str, typer.Option(help="fp32 or bf16, which is quicker on processors made for it.")] = "fp32",
    polygons: Annotated[
        bool, typer.Option("--polygons", help="Also write a GeoPackage of the classes' areas.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Scenes side by side, 1 by default; GPUs are taken by turns.", show_default=False)
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Snakemake profile, such as one for SLURM: a job a scene.", show_default=False)
    ] = None,
) -> None:
    """Write a georeferenced map of each scene; what was interrupted goes on, what cannot fit is said first."""
    chosen = list(numbers("--bands", bands, int)) or None
    fill = _fill(nodata)
    import torch

    from ktda.scenes.jobs import predict_scenes
    from ktda.scenes.predict import Options, check_options, find_scenes
    from ktda.trained import open_model

    options = Options(tile, overlap, chosen, stretch, fill, confidence, precision, polygons)
    check_options(options)
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs}; expected at least 1")
    scenes = find_scenes(inputs)
    if profile:
        from ktda_lab.maps.batch import predict_by_profile

        failed = predict_by_profile(profile, jobs, model, scenes, out, options)
        for scene, log in failed.items():
            typer.echo(f"ktda: failed: {scene}; see {log}", err=True)
        typer.echo(f"{len(scenes) - len(failed)} of {len(scenes)} scenes are mapped in {out}")
        raise typer.Exit(bool(failed))
    loaded, description = open_model(model)
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    jobs = min(jobs or 1, len(scenes))
    for done in predict_scenes(loaded, description, scenes, out, options, devices, jobs, typer.echo):
        speed = done["megapixels"] / done["seconds"]
        typer.echo(f"{done['files'][0]}: {done['megapixels']:.1f} megapixels, {speed:.2f} a second")
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in done["shares"].items())
        typer.echo(f"  {shares}")


def _fill(text: str | None) -> float | str | None:
    try:
        return text if text in (None, "none") else float(text)
    except ValueError:
        raise InputError(f"--nodata {text}; expected a number or none") from None
