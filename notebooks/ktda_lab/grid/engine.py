"""A grid from its table to its results: what is missing or failed is run, by Snakemake or one after the other.

Snakemake deals out cores, GPUs, retries and cluster jobs. What is to be run is decided here from the run folders, so
none of its own bookkeeping is trusted: every call hands it fresh targets.
"""

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ktda.errors import InputError
from ktda.files import lock_file
from ktda.runs.record import ended_by
from ktda_lab.grid.execute import attend, cache_as_before, cached_in, run_pool, run_serially
from ktda_lab.grid.plan import LOCK, RUNS, Run, finished, start_of, write_plan
from ktda_lab.grid.table import Table, select
from ktda_lab.grid.view import gpu_count, progress, run_states

NOTEBOOK = "05_training"


def run_grid(
    table: Table,
    out: Path,
    echo: Callable[[str], None],
    *,
    only: tuple[str, ...] = (),
    jobs: int | None = None,
    serial: bool = False,
    retries: int = 0,
    timeout: int = 3600,
    profile: str | None = None,
    notebook: str | None = NOTEBOOK,
) -> list[Run]:
    """Run what is missing or failed, and rebuild ``results.csv``, also when interrupted.

    Args:
        table: the table.
        out: folder of the grid.
        echo: takes a line for the user.
        only: names of the rows to run; all if empty.
        jobs: runs at a time, 1 by default; with a profile as the profile says.
        serial: one after the other, without Snakemake.
        retries: further attempts at a failed run; each goes on from the last checkpoint.
        timeout: seconds that one cell may take.
        profile: Snakemake's, for a cluster; then cores and GPUs are the scheduler's.
        notebook: what is executed per run, with the parameters of 05_training; None trains without one, on this machine
            by a pool of processes.

    Returns:
        The runs that failed.

    Raises:
        InputError: nothing was started.
        KeyboardInterrupt, SystemExit: after ctrl-C, SIGTERM or SIGHUP, with every process of the grid ended.
    """
    rows, local = select(table, only), profile is None
    _check(notebook, jobs, serial, profile)
    out.mkdir(parents=True, exist_ok=True)
    lock = lock_file(out / LOCK)
    if lock is None:
        raise InputError(f"{out} is in use by {(out / LOCK).read_text()}; wait for it, or choose another --out")
    with lock, ended_by(signal.SIGTERM, signal.SIGHUP):
        gpus = gpu_count() if local else 0
        states, left_out = run_states(table, out, gpus=not local or gpus > 0, make=True)
        todo = [run for run, found in states.items() if found != "done" and run.row in rows]
        if absent := [run for run in left_out if run.row in rows]:
            echo(f"left out: {len(absent)} runs that need a GPU")
        if profile and (alive := [run for run, found in states.items() if found == "running"]):
            echo(f"left alone: {len(alive)} runs of an earlier call that are still going on; call again after them")
            todo = [run for run in todo if run not in alive]
        asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
        cores = int(asked) if asked.isdigit() else max(1, (os.cpu_count() or 1) // (jobs or 1))
        threads = cores if local else 1  # Snakemake sets the variable for each job; a profile may say otherwise
        write_plan(
            out,
            table,
            list(states),
            cwd=str(Path.cwd()),
            folder=str(out),
            notebook=notebook,
            timeout=timeout,
            local=local,
            threads=threads,
            gpus=gpus if notebook else 0,  # without one, several runs share a GPU
            todo=[run.id for run in todo],
            env=cache_as_before(),
            inits={run.id: start.id for run in todo if (start := start_of(run, todo))},
        )
        try:
            with progress(todo, out, echo) as update:
                if todo and not notebook and local:
                    todo.sort(key=lambda run: run.seed)  # what is stopped then holds whole seeds
                    run_pool(out.absolute(), todo, jobs or 1, gpus, threads, update)
                elif todo and serial:
                    run_serially(out.absolute(), todo, retries, update)
                elif todo:
                    _run_snakemake(out.absolute(), jobs, threads, retries, profile, gpus, lock.fileno(), update)
        finally:
            from ktda_lab.grid.results import write_results

            write_results(out)
        return [run for run in todo if not finished(run, out / RUNS)]


def _check(notebook: str | None, jobs: int | None, serial: bool, profile: str | None) -> None:
    """Refuse what could only fail later."""
    needed = {}
    if notebook:
        from ktda_lab.headless.notebook import find_notebook

        find_notebook(notebook)
        needed["papermill"] = ("notebooks", ", or use --bare")
    if profile or not (serial or notebook is None):
        needed["snakemake"] = ("grid", ", or use --serial")
    for module, (extra, cure) in needed.items():
        if importlib.util.find_spec(module) is None:
            raise InputError(f"running a grid needs {module}: pip install 'ktda[{extra}]'{cure}")
    if serial and (profile or (jobs or 1) > 1):
        raise InputError("--serial is one run after the other on this machine; leave out --jobs and --profile, or it")


def _run_snakemake(
    out: Path,
    jobs: int | None,
    threads: int,
    retries: int,
    profile: str | None,
    gpus: int,
    lock: int,
    update: Callable[[], None],
) -> None:
    """Hand the targets of ``plan.json`` to Snakemake, and update the user until it ends.

    Raises:
        InputError: it ended without having started a run.
    """
    shutil.rmtree(out / ".snakemake" / "ended", ignore_errors=True)
    command = [sys.executable, "-m", "snakemake", "grid", "--snakefile", str(Path(__file__).with_name("Snakefile"))]
    command += ["--directory", str(out), "--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "--keep-going"]
    command += ["--workflow-profile", "none", "--profile", profile or "none", "--nocolor"]
    command += ["--quiet", "host"]  # or a profile could hide that a rule has started, which is searched for below
    command += ["--retries", str(retries)] if retries or not profile else []  # without a word, as the profile says
    if profile is None:
        command += ["--cores", str((jobs or 1) * threads)]
        command += ["--resources", f"gpu={gpus}"] if gpus else []
    elif jobs:
        command += ["--jobs", str(jobs)]
    log = out / "snakemake.log"
    with log.open("w") as file:
        # It inherits the lock: should this process be killed, the folder stays taken until Snakemake has ended, too.
        code = attend(command, file, update, pass_fds=(lock,), env=cached_in(out / ".snakemake" / "cache"))
    output = log.read_text(errors="replace")
    if code and "rule run:" not in output:
        last = output.strip().rpartition("\n")[2]
        raise InputError(f"Snakemake ended with code {code} before any run ({last.strip()}); see {log}")
