"""A table against its folder: the state of every run, and what a user sees while they go on."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from ktda_lab.grid.plan import LOCK, RUNS, Run, hash_data, plan_runs, state, wall_seconds
from ktda_lab.grid.table import Table


def run_states(table: Table, out: Path, gpus: bool, make: bool = False) -> tuple[dict[Run, str], list[Run]]:
    """State of every run that can run here, and the runs that need a GPU where there is none; writes nothing.

    Args:
        table: the table.
        out: folder of the grid.
        gpus: whether rows that need a GPU can run; what has been started elsewhere is shown all the same.
        make: let simulated data be made, see `ktda_lab.grid.plan.hash_data`.
    """
    states = {run: state(run, out / RUNS) for run in plan_runs(table, hash_data(table.data, make))}
    left_out = [run for run, found in states.items() if run.needs_gpu and not gpus and found == "missing"]
    for run in left_out:
        del states[run]
    return states, left_out


def gpu_count() -> int:
    """GPUs that are visible to this process; asks torch, which takes seconds to import, only where a driver is."""
    if not any(list(Path("/dev").glob(pattern)) for pattern in ("nvidia[0-9]*", "kfd", "dxg")):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@contextlib.contextmanager
def progress(todo: Sequence[Run], out: Path, echo: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """A function that, whenever it is called, echoes a line per run of `todo` that has ended since the last call.

    On a terminal a bar shows besides how many have ended, and the time left at their pace.
    """

    def attempt(run: Run) -> tuple[str, int]:
        lock = out / RUNS / f"{run.id}{LOCK}"
        return state(run, out / RUNS), lock.stat().st_mtime_ns if lock.exists() else 0  # a new attempt, a new time

    known = {run: attempt(run) for run in todo}
    ended: set[Run] = set()
    with tqdm(total=len(todo), unit="run", disable=None, leave=False) as bar:

        def update() -> None:
            for run in todo:
                before, known[run] = known[run], attempt(run)
                found = known[run][0]
                if found not in ("done", "failed"):
                    ended.discard(run)  # it runs, perhaps once more
                elif known[run] != before:
                    ended.add(run)
                    seconds = wall_seconds(run, out / RUNS) if found == "done" else 0
                    how = f"done in {bar.format_interval(seconds)}" if found == "done" else "failed"
                    with bar.external_write_mode():
                        echo(f"[{len(ended)}/{len(todo)}] {run}: {how}")
            bar.n = len(ended)
            bar.refresh()

        yield update
