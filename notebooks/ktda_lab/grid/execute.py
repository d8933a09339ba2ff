"""One run as a process of its own: ``python -m ktda_lab.grid.execute OUT ID``; and the loops without an engine.

The process reads everything else from ``OUT/plan.json``. It holds the run's lock while it works and ends with whoever
started it, and its kernel with it, so no crash leaves a run that nobody watches.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from ktda.config import make_config
from ktda.errors import InputError
from ktda.files import lock_file, now
from ktda.runs.record import Manifest, handling, source_hash
from ktda_lab.grid.plan import HEARTBEAT, LOCK, RUNS, Run, finished, read_plan, start_of


def execute(out: Path, run_id: str) -> None:
    """Run the notebook of one planned run, or train it without one, unless it is done.

    Raises:
        InputError: it could not start.
        SystemExit: its notebook failed.
    """
    plan, runs = read_plan(out)
    run = next(run for run in runs if run.id == run_id)
    os.chdir(plan["cwd"])
    folder = out / RUNS
    path = folder / f"{run.id}{LOCK}"
    held = [_lock_first([path])[1]]  # until the process ends
    parent = multiprocessing.parent_process()  # of the pool
    starter = parent.sentinel if parent else 0
    threading.Thread(target=_watch, args=(path, starter if plan["local"] else None), daemon=True).start()
    if finished(run, folder):  # a scheduler may start a job twice
        return
    if source_hash() != run.source_hash:  # its result would not be the planned run's
        raise InputError("the package's code has changed since the grid was started; start it again")
    start = start_of(run, runs)
    if start and not finished(start, folder):
        raise InputError(f"{start} ({start.id}), whose weights this run starts from, has not finished")
    if plan["gpus"]:  # of this machine; elsewhere the scheduler deals them out
        position, lock = _lock_first([out / f".gpu{number}{LOCK}" for number in range(plan["gpus"])])
        visible = [n for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n] or range(plan["gpus"])
        os.environ["CUDA_VISIBLE_DEVICES"] = str(visible[position])
        held.append(lock)
    sys.stderr.write(f"{now()} {run} ({run.id}) in process {os.getpid()} on {os.uname().nodename}\n")
    sys.stderr.flush()
    parameters = {
        "DATA": run.data,
        "PRESET": run.preset,
        "SEED": run.seed,
        "OUT": str(Path(plan["folder"], RUNS, run.id)),
        "OVERRIDES": list(run.overrides),
    }
    if start:
        parameters |= {"INIT": str(Path(plan["folder"], RUNS, start.id)), "INIT_PART": run.init_part}
    if plan["notebook"]:
        from ktda_lab.headless.notebook import NotebookFailed, run_notebook

        try:
            run_notebook(plan["notebook"], parameters, folder / f"{run.id}.ipynb", timeout=plan["timeout"])
        except NotebookFailed as error:
            sys.exit(str(error))
    else:
        _train(parameters, folder / f"{run.id}.manifest.json")
    if not finished(run, folder):
        raise InputError("the run ended, but it is not the planned one: code or data have changed")


def _train(parameters: dict[str, Any], path: Path) -> None:
    """Train with the parameters of the notebook, and leave the manifest at `path` that its execution would leave."""
    from ktda.training import train

    overrides = [*parameters["OVERRIDES"], f"seed={parameters['SEED']}"]
    config = make_config(parameters["PRESET"], overrides, parameters["DATA"])
    manifest = Manifest(path, parameters=parameters)
    try:
        train(
            parameters["DATA"],
            config,
            parameters["OUT"],
            resume=True,
            init=parameters.get("INIT"),
            init_part=parameters.get("INIT_PART", "all"),
        )
    except BaseException as error:
        manifest.end("failed", error=f"{type(error).__name__}: {error}")
        raise
    manifest.end("finished")


def _lock_first(paths: Sequence[Path], seconds: float = 60) -> tuple[int, IO]:
    """Lock the first free of several files and return its position; a process that is just ending is waited for.

    Raises:
        InputError: all are held for longer than that.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for position, path in enumerate(paths):
            if file := lock_file(path):
                return position, file
        time.sleep(0.1)
    raise InputError(f"{paths[0]} is held by {paths[0].read_text()}; wait for it, or end it")


def _watch(lock: Path, starter: int | None) -> None:
    """Show with the lock that this process lives, and end it as SIGTERM would when its starter has ended.

    Args:
        lock: touched now and then, for those on other machines, whom it may not reach.
        starter: file whose other side the starter holds, such as 0 for standard input; None to outlive it.
    """
    while True:
        ready, _, _ = select.select([] if starter is None else [starter], [], [], HEARTBEAT)
        if ready and not os.read(starter, 1024):
            return signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        with contextlib.suppress(OSError):
            os.utime(lock)


def run_serially(out: Path, runs: Sequence[Run], retries: int, update: Callable[[], None]) -> None:
    """Run after run, each in its own process; a failure does not stop the rest.

    Args:
        out: folder of the grid, with its plan.
        runs: those to run.
        retries: further attempts at a failed run.
        update: called every second.
    """
    for run in runs:
        for _ in range(1 + retries):
            command = [sys.executable, "-m", "ktda_lab.grid.execute", str(out), run.id]
            log = out / RUNS / f"{run.id}.log"
            with contextlib.suppress(OSError), log.open("a") as file:  # without a log the run is missing: a full disk
                attend(command, file, update)
            if finished(run, out / RUNS):
                break


def run_pool(out: Path, runs: Sequence[Run], jobs: int, gpus: int, threads: int, update: Callable[[], None]) -> None:
    """Run after run, some at a time, each in a process forked from one that has torch imported already.

    Args:
        out, runs, update: as in `run_serially`.
        jobs: runs at a time.
        gpus: of this machine; several runs share one.
        threads: of each run.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ktda.training"])
    waiting, going = list(runs), {}
    free = list(range(jobs))
    try:
        while waiting or going:
            for run, (child, slot) in list(going.items()):
                if child.exitcode is not None:
                    free.append(slot)
                    del going[run]
            unfinished = [*waiting, *going]
            ready = [run for run in waiting if start_of(run, unfinished) is None]
            for run in ready[: len(free)]:
                slot = free.pop(0)
                child = context.Process(target=_run_forked, args=(out, run.id, slot % gpus if gpus else None, threads))
                child.start()
                going[run] = (child, slot)
                waiting.remove(run)
            multiprocessing.connection.wait([child.sentinel for child, _ in going.values()], timeout=1)
            update()
    finally:
        for child, _ in going.values():
            child.terminate()
        for child, _ in going.values():
            child.join()
        update()


def _run_forked(out: Path, run_id: str, gpu: int | None, threads: int) -> None:
    """What the process of a pool does."""
    import torch

    with contextlib.suppress(OSError), (out / RUNS / f"{run_id}.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(threads)
    if gpu is not None:
        visible = [n for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[gpu] if visible else str(gpu)
    sys.exit(main([str(out), run_id]))


def cached_in(folder: Path) -> dict[str, str]:
    """This environment for Snakemake, whose cache then needs no home to write to; `cache_as_before` is for its jobs."""
    return os.environ | {"XDG_CACHE_HOME": str(folder.absolute())}


def cache_as_before() -> list[str]:
    """The words before a job's command that undo `cached_in`: weights from a hub are kept where they were."""
    before = os.environ.get("XDG_CACHE_HOME")
    return ["env", f"XDG_CACHE_HOME={before}"] if before else ["env", "-u", "XDG_CACHE_HOME"]


def attend(command: Sequence[str], log, update: Callable[[], None], *, seconds: float = 60, **options) -> int:
    """Exit code of a child; when this process ends earlier, by whatever signal, so do the child and all it started.

    Args:
        command: the child, in a session of its own: no signal of the terminal reaches it. Its standard input ends with
            this process.
        log: file for its output.
        update: called every second, and once when it has ended.
        seconds: that it may take to end, before it is killed.
        **options: of `subprocess.Popen`.
    """
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, **options)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1)
            update()
            if child.returncode is not None:
                return child.returncode
    except BaseException:
        with handling(signal.SIG_IGN, signal.SIGINT):  # a second ctrl-C changes nothing
            child.send_signal(signal.SIGINT)  # Snakemake cancels the jobs of a cluster
            child.stdin.close()
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        raise
    finally:
        child.stdin.close()


def main(arguments: Sequence[str]) -> int:
    """Exit code of ``python -m ktda_lab.grid.execute OUT ID``; what went wrong is written to standard error."""
    # jsonschema, behind papermill, checks IRIs with it; it takes seconds to import, and no notebook holds an IRI.
    sys.modules.setdefault("rfc3987_syntax", None)
    try:
        execute(Path(arguments[0]), arguments[1])
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
