"""``ktda grid`` and ``ktda status``: the runs of a table."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ktda.cli.text import columns
from ktda.errors import InputError

TableFile = Annotated[Path, typer.Argument(help="The table, a YAML file such as notebooks/ablations.yaml.")]
Data = Annotated[
    list[str] | None, typer.Option(help="Data set, name or folder, instead of the table's; may be repeated.")
]
Seeds = Annotated[int | None, typer.Option(help="Number of seeds instead of the table's.", show_default=False)]
Only = Annotated[list[str] | None, typer.Option(metavar="ROW", help="Run only this row; may be repeated.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Runs at a time: 1, or what the profile says.", show_default=False)
]
Out = Annotated[Path | None, typer.Option(help="Folder of the grid; runs/TABLE if not given.", show_default=False)]
Profile = Annotated[str | None, typer.Option(help="Snakemake profile, such as one for SLURM.", show_default=False)]


def grid(
    table: TableFile,
    data: Data = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    only: Only = None,
    serial: Annotated[bool, typer.Option("--serial", help="One run after the other, without Snakemake.")] = False,
    bare: Annotated[
        bool, typer.Option("--bare", help="Train without notebook and figures, some runs at a time on one GPU.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show each run's state, as `ktda status`.")] = False,
    out: Out = None,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds that one cell of the notebook may take.")] = 3600,
    retries: Annotated[int, typer.Option(min=0, help="Further attempts at a failed run, from its checkpoint.")] = 0,
    profile: Profile = None,
    publish: Annotated[
        Path | None, typer.Option(help="Also copy what notebook 06 needs to this folder.", show_default=False)
    ] = None,
) -> None:
    """Train every row of TABLE on every data set with every seed; what is done stays. Exit 1 if a run fails."""
    if dry_run:
        status(table, data, seeds, jobs, only, out, profile)
        return
    from ktda_lab.grid.engine import run_grid
    from ktda_lab.grid.table import read_table

    read = read_table(table, tuple(data or ()), seeds)
    out = out or Path("runs") / read.name
    if publish and publish.exists() and not publish.is_dir():
        raise InputError(f"--publish {publish} is a file; name a folder")
    if bare and retries:
        raise InputError("--retries is not for --bare; call again, and what failed goes on from its checkpoint")
    options = {"only": tuple(only or ()), "jobs": jobs, "serial": serial, "retries": retries}
    options |= {"notebook": None} if bare else {}
    try:
        failed = run_grid(read, out, typer.echo, timeout=timeout, profile=profile, **options)
    except KeyboardInterrupt:
        typer.echo(f"ktda: interrupted; the same command goes on. Results so far: {out / 'results.csv'}", err=True)
        raise typer.Exit(130) from None
    for run in failed:
        log = out / "runs" / f"{run.id}.log"
        typer.echo(f"ktda: failed: {run}; see {log if log.exists() else out / 'snakemake.log'}", err=True)
    typer.echo(f"results: {out / 'results.csv'}")
    if publish:
        from ktda_lab.grid.results import publish as copy

        left = copy(out, publish)
        typer.echo(f"published: {publish}")
        if left:
            typer.echo(f"ktda: not published, for want of some of their seeds: {', '.join(left)}", err=True)
    raise typer.Exit(bool(failed))


def status(
    table: TableFile,
    data: Data = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    only: Only = None,
    out: Out = None,
    profile: Profile = None,
) -> None:
    """Show the state of each run of TABLE and the time left; needs no data on disk and changes nothing."""
    from tqdm import tqdm

    from ktda_lab.grid.plan import RUNS, wall_seconds
    from ktda_lab.grid.table import read_table, select
    from ktda_lab.grid.view import gpu_count, run_states

    read = read_table(table, tuple(data or ()), seeds)
    out, rows = out or Path("runs") / read.name, select(read, tuple(only or ()))
    states, left_out = run_states(read, out, gpus=bool(profile or gpu_count()))
    shown = {run: found for run, found in states.items() if run.row in rows}
    counts = Counter(shown.values())
    lines = shown | {run: "not run: needs a GPU" for run in left_out if run.row in rows}
    table_lines = [(run.id or "-", run.row, run.data, str(run.seed), found) for run, found in lines.items()]
    typer.echo(columns([("run", "row", "data", "seed", "state"), *table_lines]))
    parts = [f"{counts[name]} {name}" for name in ("done", "running", "failed", "missing") if counts[name]]
    took = [wall_seconds(run, out / RUNS) for run, found in states.items() if found == "done"]
    left, at_once = len(shown) - counts["done"], jobs or counts["running"] or 1
    time_left = ""
    if left:
        seconds = tqdm.format_interval(left * sum(took) / len(took) / at_once) if took else "unknown"
        time_left = f"; time left, {at_once} at a time: {seconds}"
    typer.echo(f"\n{len(shown)} runs: {', '.join(parts) or 'none'}{time_left}")
