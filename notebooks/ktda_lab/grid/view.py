"""What a user sees of a grid: the state of every run, the time left, and a line whenever a run ends."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ktda_lab.grid.plan import LOCK, RUNS, Run, hash_data, plan_runs, state, wall_seconds
from ktda_lab.grid.table import Table


@dataclass(frozen=True)
class View:
    """A table against its folder.

    Attributes:
        runs: those that can run here; states: of each; left_out: runs that need a GPU where there is none.
    """

    runs: list[Run]
    states: list[str]
    left_out: list[Run]


def view(table: Table, out: Path, gpus: bool, make: bool = False) -> View:
    """Look up every run; writes nothing, unless `make` lets simulated data be made.

    Args:
        table: the table.
        out: folder of the grid.
        gpus: whether rows that need a GPU can run; what has been started elsewhere is shown all the same.
        make: see `ktda_lab.grid.plan.hash_data`.
    """
    planned = plan_runs(table, hash_data(table.data, make))
    states = [state(run, out / RUNS) for run in planned]
    fits = [gpus or found != "missing" or not run.needs_gpu for run, found in zip(planned, states, strict=True)]
    runs, left_out = ([r for r, fit in zip(planned, fits, strict=True) if fit is wanted] for wanted in (True, False))
    return View(runs, [found for found, fit in zip(states, fits, strict=True) if fit], left_out)


def gpu_count() -> int:
    """GPUs that are visible to this process; asks torch, which takes seconds to import, only where a driver is."""
    if not any(list(Path("/dev").glob(pattern)) for pattern in ("nvidia[0-9]*", "kfd", "dxg")):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def at_a_time(jobs: int | None, profile: str | None, gpus: int) -> int | None:
    """How many runs go on at once: as asked, one per GPU where there are any; None where only the profile knows."""
    if profile:
        return jobs
    return min(jobs or 1, gpus) if gpus else jobs or 1


def summary(seen: View, out: Path, jobs: int | None, rows: Sequence[str]) -> str:
    """A line per run with its state, those left out, and the sum with the time left.

    Args:
        seen: of `view`.
        out: folder of the grid.
        jobs: runs at a time, None if not known.
        rows: names of those to show.
    """
    shown = [(r, s) for r, s in zip(seen.runs, seen.states, strict=True) if r.row in rows]
    lines = [("run", "row", "data", "seed", "state")]
    lines += [(run.id or "-", run.row, run.data, str(run.seed), found) for run, found in shown]
    without = "not run: needs a GPU"
    lines += [(r.id or "-", r.row, r.data, str(r.seed), without) for r in seen.left_out if r.row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    counts = Counter(found for _, found in shown)
    parts = [f"{counts[name]} {name}" for name in ("done", "running", "failed", "missing") if counts[name]]
    left = duration(time_left(seen.runs, seen.states, len(shown) - counts["done"], out, jobs))
    return "\n".join([*text, "", f"{len(shown)} runs: {', '.join(parts) or 'none'}; time left: {left}"])


def time_left(runs: Sequence[Run], states: Sequence[str], left: int, out: Path, jobs: int | None) -> float | None:
    """Seconds that `left` runs need: as long as the mean done one, over the jobs; None before any is done."""
    if not left or not jobs:
        return None if left else 0.0
    took = [wall_seconds(run, out / RUNS) for run, found in zip(runs, states, strict=True) if found == "done"]
    return sum(took) / len(took) * left / jobs if took else None


def duration(seconds: float | None) -> str:
    """Such as "48 s", "12 min", "3 h 20 min"."""
    if seconds is None:
        return "unknown"
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 100 else f"{minutes} min"


def teller(
    runs: Sequence[Run], todo: Sequence[Run], out: Path, jobs: int | None, tell: Callable[[str], None]
) -> Callable[[], None]:
    """A function that says which of `todo` have ended since it was last called, and how much time is left."""

    def found(run: Run) -> tuple[str, int]:
        lock = out / RUNS / f"{run.id}{LOCK}"
        return state(run, out / RUNS), lock.stat().st_mtime_ns if lock.exists() else 0  # a new attempt, a new time

    known = {run: found(run) for run in todo}
    others = [run for run in runs if run not in known]
    ended: set[Run] = set()

    def look() -> None:
        for run in todo:
            what = found(run)
            if what == known[run]:
                continue
            known[run] = what
            if what[0] not in ("done", "failed"):
                ended.discard(run)  # another attempt
                continue
            ended.add(run)
            states = [known[r][0] for r in todo] + [state(r, out / RUNS) for r in others]
            left = time_left([*todo, *others], states, sum(known[r][0] != "done" for r in todo), out, jobs)
            done = what[0] == "done"
            how = f"done in {duration(wall_seconds(run, out / RUNS))}" if done else "failed"
            tell(f"[{len(ended)}/{len(todo)}] {run}: {how}; time left: {duration(left)}")

    return look
