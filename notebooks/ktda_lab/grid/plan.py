"""The runs of a table: what identifies each, what state it is in, and the plan that a grid leaves on disk.

A run's id is a hash of its resolved settings and the files they name, its data, the package's source and the versions
of its libraries: what changed is another run, what did not is not run again. The state is read from the run's files
alone, so it is right after any crash.
"""

import fcntl
import json
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ktda.errors import InputError
from ktda.files import content_hash, file_sha256, write_beside, write_json
from ktda.runs.record import elapsed, source_hash, versions
from ktda_lab.grid.table import Table

PLAN, TABLE, LOCK, RUNS = "plan.json", "table.yaml", ".lock", "runs"
HEARTBEAT = 60  # seconds between two touches of a held lock
STALE_AFTER = 600  # seconds without one, after which its holder is gone


@dataclass(frozen=True)
class Run:
    """One training: a row on a data set with a seed; `id` and `data_hash` are empty while its data are not here."""

    id: str
    table: str
    row: str
    group: str
    data: str
    seed: int
    preset: str
    overrides: tuple[str, ...]
    needs_gpu: bool
    config_hash: str
    data_hash: str
    source_hash: str
    init: str = ""  # the row whose run of the same data and seed gives the weights to start from
    init_part: str = "all"

    def __str__(self) -> str:
        return f"{self.row} {Path(self.data).name} seed {self.seed}"


def plan_runs(table: Table, data_hashes: dict[str, str]) -> list[Run]:
    """Every row on every data set with every seed; `data_hashes` holds "" for data that are not here.

    Raises:
        InputError: one data set under two names.
    """
    here = [name for name in table.data if data_hashes[name]]
    for number, name in enumerate(here):
        for other in here[:number]:
            if data_hashes[name] == data_hashes[other]:
                raise InputError(f"data {other} and {name} are the same tiles; name one of them")
    runs: list[Run] = []
    ids: dict[tuple[str, str, int], str] = {}
    for data in table.data:
        for row in table.rows:
            for seed in table.seeds:
                config = table.config(row, data, seed)
                parts = {"config": config.identity(), "data_hash": data_hashes[data], "source_hash": source_hash()}
                parts |= {"files": _file_hashes(config.as_dict()), "versions": versions()}
                if row.init:  # which stands above, and so has its id
                    parts |= {"init": ids[row.init, data, seed], "init_part": row.init_part}
                ids[row.name, data, seed] = content_hash(parts)[:12] if data_hashes[data] else ""
                runs.append(
                    Run(
                        id=ids[row.name, data, seed],
                        table=table.name,
                        row=row.name,
                        group=row.group,
                        data=data,
                        seed=seed,
                        preset=table.preset,
                        overrides=tuple(table.overrides(row)),
                        needs_gpu=row.needs_gpu,
                        config_hash=config.config_hash,
                        data_hash=data_hashes[data],
                        source_hash=parts["source_hash"],
                        init=row.init,
                        init_part=row.init_part,
                    )
                )
    return runs


def start_of(run: Run, runs: Iterable[Run]) -> Run | None:
    """The run whose weights another starts from, if it does from any."""
    sought = (run.init, run.data, run.seed)
    return next((other for other in runs if (other.row, other.data, other.seed) == sought), None) if run.init else None


def _file_hashes(config: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of every file that a setting names, such as weights."""
    named = {key: Path(value) for key, value in config.items() if isinstance(value, str) and "." in value}
    return {key: _file_hash(path, path.stat().st_mtime_ns) for key, path in named.items() if path.is_file()}


@cache  # every run of a row asks
def _file_hash(path: Path, changed: int) -> str:
    return file_sha256(path)


def hash_data(names: Iterable[str], make: bool) -> dict[str, str]:
    """Content hash per data set.

    Args:
        names: names or folders.
        make: make a simulated set that is not here; otherwise data that are not here have the hash "".

    Raises:
        InputError: with `make`, data that are not here.
    """
    from ktda.data import builtin
    from ktda.data.folder import data_hash, open_data

    hashes = {}
    for name in names:
        here = builtin.locate(name) is not None if name in builtin.NAMES else Path(name).expanduser().is_dir()
        hashes[name] = data_hash(open_data(name)) if here or make else ""
    return hashes


def state(run: Run, folder: Path) -> str:
    """``done``, ``running``, ``failed`` (or interrupted) or ``missing``, from the files in `folder`."""
    if not run.id:
        return "missing"
    if finished(run, folder):
        return "done"
    lock = folder / f"{run.id}{LOCK}"
    try:
        with lock.open() as file:
            where = file.read().split()
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "running"
    except OSError:
        return "missing"
    if not where:  # between making the file and locking it
        return "missing"
    # Locks may not reach from one machine of a cluster to another, but there the holder touches its file.
    elsewhere = where[-1] != socket.gethostname() and time.time() - lock.stat().st_mtime < STALE_AFTER
    ended = _read(folder / f"{run.id}.manifest.json").get("status") != "running"
    return "running" if elsewhere and not ended else "failed"


def finished(run: Run, folder: Path) -> bool:
    """Whether the executed notebook and its run folder are complete, and of these settings, data and source."""
    if _read(folder / f"{run.id}.manifest.json").get("status") != "finished":
        return False
    manifest, metrics = _read(folder / run.id / "manifest.json"), folder / run.id / "metrics.json"
    made_from = (manifest.get("config_hash"), manifest.get("data", {}).get("hash"), manifest.get("source_hash"))
    complete = manifest.get("status") == "finished" and metrics.is_file()
    return complete and made_from == (run.config_hash, run.data_hash, run.source_hash)


def wall_seconds(run: Run, folder: Path) -> float:
    """Seconds that the last attempt at a done run took, its notebook included."""
    return elapsed(_read(folder / f"{run.id}.manifest.json"))


def write_plan(out: Path, table: Table, runs: Sequence[Run], **options: Any) -> None:
    """Write ``plan.json`` and the copy of the table; the options are what `execute` and the Snakefile read."""
    (out / RUNS).mkdir(parents=True, exist_ok=True)
    write_beside(out / TABLE, table.text)
    write_json(out / PLAN, {"table": table.name, **options, "runs": [asdict(run) for run in runs]})


def read_plan(out: Path) -> tuple[dict[str, Any], list[Run]]:
    """What `write_plan` wrote: options and runs."""
    plan = json.loads((out / PLAN).read_text(encoding="utf-8"))
    return plan, [Run(**run | {"overrides": tuple(run["overrides"])}) for run in plan.pop("runs")]


def _read(path: Path) -> dict[str, Any]:
    """A json file, {} where there is none or a broken one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
