"""One run as a process of its own: ``python -m ktda_lab.grid.execute OUT ID``; and the loop without an engine.

The process reads everything else from ``OUT/plan.json``. It holds the run's lock while it works and ends with whoever
started it, and its kernel with it, so no crash leaves a run that nobody watches.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ktda.errors import InputError
from ktda.files import now
from ktda.runs.record import handling, source_hash
from ktda_lab.grid.plan import LOCK, PULSE, RUNS, Run, finished, read_plan, take_first


def execute(out: Path, run_id: str) -> None:
    """Run the notebook of one planned run, unless it is done.

    Raises:
        InputError, NotebookFailed: it could not start, or failed.
    """
    from ktda_lab.headless.notebook import NotebookFailed, run_notebook

    plan, runs = read_plan(out)
    run = next(run for run in runs if run.id == run_id)
    os.chdir(plan["cwd"])
    folder, held = out / RUNS, []
    if plan["local"]:
        threading.Thread(target=_end_with_starter, daemon=True).start()
    path = folder / f"{run.id}{LOCK}"
    held.append(take_first([path])[1])
    threading.Thread(target=_keep_fresh, args=(path,), daemon=True).start()
    if finished(run, folder):  # a scheduler may start a job twice
        return
    if source_hash() != run.source_hash:  # its result would not be the planned run's
        raise InputError("the package's code has changed since the grid was started; start it again")
    if plan["gpus"]:  # of this machine; elsewhere the scheduler deals them out
        position, lock = take_first([out / f".gpu{number}{LOCK}" for number in range(plan["gpus"])])
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
    run_notebook(plan["notebook"], parameters, folder / f"{run.id}.ipynb", timeout=plan["timeout"])
    if not finished(run, folder):
        raise NotebookFailed("the notebook ended, but its run is not the planned one: code or data have changed")


def _keep_fresh(lock: Path) -> None:
    """Show those whom the lock does not reach, on other machines, that its holder lives."""
    with contextlib.suppress(OSError):
        while True:
            time.sleep(PULSE)
            os.utime(lock)


def _end_with_starter() -> None:
    """Wait for the end of standard input, whose other side the grid holds; then end this process as SIGTERM would."""
    while os.read(0, 1024):
        pass
    signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)


def run_serially(out: Path, runs: Sequence[Run], retries: int, look: Callable[[], None]) -> None:
    """Run after run, each in its own process; a failure does not stop the rest.

    Args:
        out: folder of the grid, with its plan.
        runs: those to run.
        retries: further attempts at a failed run.
        look: called after every attempt.
    """
    for run in runs:
        for _ in range(1 + retries):
            command, log = (
                [sys.executable, "-m", "ktda_lab.grid.execute", str(out), run.id],
                out / RUNS / f"{run.id}.log",
            )
            with contextlib.suppress(OSError), log.open("a") as file:  # without a log the run is missing: a full disk
                child = start(command, file)
                with stopped_with(child):
                    child.wait()
            look()
            if finished(run, out / RUNS):
                break


def start(command: Sequence[str], log, **options) -> subprocess.Popen:
    """A child that sees the end of its standard input when this process ends, and no signal of the terminal."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, **options)


@contextlib.contextmanager
def stopped_with(child: subprocess.Popen, number: int | None = None, seconds: float = 60):
    """On leaving the block early, end the child and all that it started.

    Args:
        child: of `start`.
        number: signal to send besides.
        seconds: that it may take to end, before it is killed.
    """
    try:
        yield
    except BaseException:
        with handling(signal.SIG_IGN, signal.SIGINT):  # a second ctrl-C changes nothing
            if number:
                child.send_signal(number)
            child.stdin.close()
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        raise
    finally:
        child.stdin.close()


def main(arguments: Sequence[str]) -> int:
    """Exit code of ``python -m ktda_lab.grid.execute OUT ID``; what went wrong is written to standard error."""
    from ktda_lab.headless.notebook import NotebookFailed

    # jsonschema, behind papermill, checks IRIs with it; it takes seconds to import, and no notebook holds an IRI.
    sys.modules.setdefault("rfc3987_syntax", None)
    try:
        execute(Path(arguments[0]), arguments[1])
    except (InputError, NotebookFailed) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
