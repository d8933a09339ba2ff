"""Much of everything: tiles in a folder, runs in a table, jobs at a time, kills of a run. Times are told only."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_grids import FINE, start_grid, write_stand_in, write_table
from tiny_runs import as_options, make_set, manifest_of, results_of

from ktda.data.folder import open_data
from ktda.data.protocol import choose_splits
from ktda_lab.grid.plan import read_plan
from ktda_lab.grid.results import read_results
from ktda_lab.grid.table import read_table
from ktda_lab.grid.view import run_states

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "notebooks")])}
MANY = 100_000


def measured(what: str, call: Callable[[], Any], capsys: pytest.CaptureFixture) -> Any:
    """What a call returns; prints its processor time, and bounds the memory of its Python objects."""
    begun = time.process_time()
    call()
    seconds = time.process_time() - begun
    tracemalloc.start()
    found = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with capsys.disabled():
        print(f"\n{what}: {seconds:.1f} s of a processor, {peak / 1e6:.0f} MB")
    assert peak < 500e6
    return found


def test_a_folder_of_100_000_tiles(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = make_set(tmp_path / "set", {"train": 2, "val": 2, "test": 2})
    for kind in ("img_dir", "ann_dir"):
        folder = data / kind / "train"
        for number in range(MANY):  # a file system counts links, up to 65,000
            (folder / f"s{number // 100}_patch_{number}.png").hardlink_to(folder / f"train0_patch_{number % 2}.png")
    splits = measured(
        f"{MANY} tiles found and split", lambda: choose_splits(open_data(str(data)), tiles=32, scenes=4), capsys
    )
    assert len(splits.train) == 32
    assert len(splits.train) + len(splits.unlabelled) == MANY + 2


def test_a_grid_of_500_runs_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_set(tmp_path / "data")
    rows = {f"row{number}": {"learning_rate": 1e-4 * (number + 1)} for number in range(99)}
    table = read_table(write_table(tmp_path / "t.yaml", tmp_path / "data", rows, head="seeds: 5"))
    plan = partial(run_states, table, tmp_path / "out", gpus=False, make=True)
    states, left_out = measured("500 runs planned", plan, capsys)
    assert (len(states), left_out) == (500, [])
    assert len({run.id for run in states}) == 500
    assert set(states.values()) == {"missing"}


def test_eight_jobs_lose_and_double_no_line_in_a_folder_of_any_name_and_without_a_home(tmp_path: Path) -> None:
    place = tmp_path / "an 'odd' {place}"
    make_set(place / "data")
    write_stand_in(place / "stand_in.ipynb")
    rows = {f"row{number}": {"learning_rate": 1e-4 * (number + 1)} for number in range(11)}
    write_table(place / "t.yaml", "data", rows, head="seeds: 2", steps=FINE)
    home = {"HOME": "/proc/nothing", "XDG_CACHE_HOME": "/proc/nothing"}
    words = ("--jobs", "8", "--out", "g/a {b} c")
    process = start_grid(place / "t.yaml", *words, notebook=place / "stand_in.ipynb", **home)
    out, err = process.communicate(timeout=3000)
    assert process.returncode == 0, out + err
    ids = [run.id for run in read_plan(place / "g/a {b} c")[1]]
    assert len(ids) == 24
    assert sorted(read_results(place / "g/a {b} c")["id"]) == sorted(ids)


def test_25_kills_with_loader_processes_leave_a_run_that_ends_the_same(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set")
    options = as_options(steps=60, checkpoint_steps=1, evaluate_epochs=10, student_drop_path=0.2, workers=2)

    def command(out: str) -> list[str]:
        return [sys.executable, "-m", "ktda", "train", str(data), *options, "--out", str(tmp_path / out), "--resume"]

    subprocess.run(command("whole"), cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True)
    seen = tmp_path / "run" / "checkpoint.safetensors"
    kills = 0
    while kills < 25:
        before = seen.stat().st_mtime_ns if seen.exists() else None
        process = subprocess.Popen(command("run"), cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and (not seen.exists() or seen.stat().st_mtime_ns == before):
            time.sleep(0.001)  # until it has itself written one
        time.sleep(0.003 * (kills % 10))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert manifest_of(tmp_path / "run")["status"] == "running"
        kills += 1
    assert kills == 25, process.communicate()[1]
    subprocess.run(command("run"), cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True)
    assert results_of(tmp_path / "run") == results_of(tmp_path / "whole")
    assert len(manifest_of(tmp_path / "run")["resumed"]) == 25
