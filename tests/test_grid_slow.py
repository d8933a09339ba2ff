"""Grids as processes of their own: every way in which a run, or the grid itself, ends badly, and what is left then."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_grids import (
    CHATTY,
    DEAD,
    ENVIRONMENT,
    FINE,
    FLAKY,
    FULL,
    HANG,
    ORPHAN,
    start_grid,
    write_stand_in,
    write_table,
)

import ktda_lab.grid.engine as engine
from ktda.files import lock_file
from ktda_lab.grid.plan import LOCK, RUNS, read_plan, state
from ktda_lab.grid.results import read_results
from ktda_lab.grid.table import read_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def place(tmp_path: Path, tiny_set: Path):
    """A folder for a table, with the stand-in notebook; afterwards no kernel may be left that works in it."""
    (tmp_path / "data").symlink_to(tiny_set)
    write_stand_in(tmp_path / "stand_in.ipynb")
    yield tmp_path
    left = wait_for(lambda: not kernels(tmp_path), 300)
    for pid in kernels(tmp_path):
        os.kill(pid, signal.SIGKILL)
    assert left, "a kernel outlived its grid"


def kernels(place: Path) -> list[int]:
    """Processes of notebook kernels in a working directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                b"ktda_lab.headless.launch" in (process / "cmdline").read_bytes()
                and (process / "cwd").readlink() == place
            ):
                found.append(int(process.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def wait_for(condition, seconds: float = 900) -> bool:  # only against hanging, however busy the machine is
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def grid(place: Path, *words: str, **options: str) -> subprocess.Popen:
    return start_grid(place / "t.yaml", *words, notebook=place / "stand_in.ipynb", **options)


def end(process: subprocess.Popen, code: int, seconds: float = 900) -> tuple[str, str]:
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, out + err
    return out, err


def states(place: Path) -> dict[str, str]:
    folder = place / "runs" / "t"
    return {run.row: state(run, folder / RUNS) for run in read_plan(folder)[1]}


def started(place: Path) -> list[list[str]]:
    """Per started run: id, process of the kernel, GPU, threads."""
    path = place / "started"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_whatever_befalls_a_run_the_others_go_on_and_a_second_call_finishes_the_rest(place: Path) -> None:
    rows = {"dead": {"steps": DEAD}, "hang": {"steps": HANG}, "chatty": {"steps": CHATTY}}
    rows |= {"full_disk": {"steps": FULL}, "orphan": {"steps": ORPHAN}}
    write_table(place / "t.yaml", "data", rows, steps=FINE)
    folder = place / "runs" / "t"
    out, err = end(grid(place, "--jobs", "2", "--timeout", "60"), 1)
    assert states(place) == dict.fromkeys(("full", "chatty"), "done") | dict.fromkeys(
        rows.keys() - {"chatty"}, "failed"
    )
    assert list(read_results(folder)["row"]) == ["full", "chatty"]
    assert sum(line.startswith("[") for line in out.splitlines()) == 6, out
    assert "[6/6]" in out
    runs = {run.row: run for run in read_plan(folder)[1]}
    reasons = {
        "dead": "Kernel died",
        "hang": "timed out",
        "full_disk": "File too large",
        "orphan": "orphan data seed 0",
    }
    for row, reason in reasons.items():
        log = f"runs/t/runs/{runs[row].id}.log"
        assert f"ktda: failed: {row} data seed 0; see {log}\n" in err
        assert reason in (place / log).read_text()
        assert not (folder / RUNS / f"{runs[row].id}.ipynb").exists()
        assert (folder / RUNS / f"{runs[row].id}.partial.ipynb").is_file()
    assert err.count("\n") == 4

    (place / "mended").touch()
    before = {row: (folder / RUNS / f"{runs[row].id}{LOCK}").stat().st_mtime_ns for row in ("full", "chatty")}
    out, err = end(grid(place, "--jobs", "2"), 0)
    assert "[4/4]" in out
    assert set(states(place).values()) == {"done"}
    assert list(read_results(folder)["row"]) == ["full", *rows]
    assert before == {row: (folder / RUNS / f"{runs[row].id}{LOCK}").stat().st_mtime_ns for row in before}


def test_a_full_disk_under_everything(place: Path) -> None:
    write_table(place / "t.yaml", "data", {"chatty": {"steps": CHATTY}, "last": {"fmm": "none"}}, steps=FINE)
    # No file may grow past 100 KiB: enough for all but the notebook of the chatty run.
    out, _ = end(grid(place, "--serial", prefix="ulimit -f 100"), 1)
    assert states(place) == {"full": "done", "chatty": "failed", "last": "done"}
    assert "[3/3] last data seed 0: done" in out
    assert list(read_results(place / "runs" / "t")["row"]) == ["full", "last"]


@pytest.mark.parametrize(
    ("words", "name", "code"),
    [
        (("--jobs", "2"), "SIGINT", 130),
        (("--jobs", "2"), "SIGKILL", -9),
        (("--serial",), "SIGTERM", 143),
        (("--serial",), "SIGKILL", -9),
    ],
)
def test_a_grid_that_is_ended_ends_its_runs_and_can_go_on(place: Path, words, name: str, code: int) -> None:
    write_table(place / "t.yaml", "data", {"hang": {"steps": HANG}, "hang_too": {"steps": HANG, "fmm": "none"}})
    process = grid(place, *words, "--only", "hang", "--only", "hang_too")
    jobs = len(words)  # --serial: 1 at a time; --jobs 2: 2
    assert wait_for(lambda: len(started(place)) == jobs), process.communicate(timeout=10)
    second = grid(place, "--serial")
    _, err = end(second, 2)
    assert (
        err == f"ktda: runs/t is in use by process {process.pid} on {os.uname().nodename}; wait for it, or choose "
        "another --out\n"
    )
    process.send_signal(getattr(signal, name))
    end(process, code)
    folder = place / "runs" / "t"

    def free() -> bool:
        lock = lock_file(folder / LOCK)
        return bool(lock) and not lock.close()

    assert wait_for(free)
    assert wait_for(lambda: "running" not in states(place).values() and not kernels(place))
    found = states(place)
    assert found["hang"] == "failed"
    assert found["hang_too"] == ("failed" if jobs == 2 else "missing")
    assert len(started(place)) == jobs  # what was left was not begun
    assert (folder / "results.csv").exists() == (name != "SIGKILL")
    if name == "SIGINT":
        (place / "mended").touch()
        end(grid(place, *words, "--only", "hang", "--only", "hang_too"), 0)
        assert list(read_results(folder)["row"]) == ["hang", "hang_too"]


def test_each_local_run_sees_one_gpu(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "gpu_count", lambda: 2)
    monkeypatch.chdir(place)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    write_table(place / "t.yaml", "data", {"flaky": {"steps": FLAKY}, "big": {"fmm": "none", "gpu": True}}, steps=FINE)
    said: list[str] = []
    options = {"jobs": 3, "retries": 1, "notebook": "stand_in.ipynb"}
    assert engine.run_grid(read_table("t.yaml"), Path("out"), said.append, **options) == []
    seen = started(place)
    assert len(seen) == 4  # three runs, one of them twice
    assert {gpu for _, _, gpu, _ in seen} == {"5", "7"}
    assert {threads for *_, threads in seen} == {"3"}
    assert len(read_results(Path("out"))) == 3


def test_the_notebook_of_a_run_killed_in_the_middle_goes_on_from_its_checkpoint(place: Path) -> None:
    long = {"steps": 40, "checkpoint_steps": 2, "evaluate_epochs": 20}
    write_table(place / "t.yaml", "data", {"no_fmm": {"fmm": "none"}}, **long)
    process = start_grid(place / "t.yaml", "--serial", "--only", "full")
    folder = place / "runs" / "t"
    assert wait_for(lambda: list(folder.glob("runs/*/checkpoint.safetensors")))
    (lock,) = folder.glob("runs/*.lock")
    os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
    end(process, 1)
    assert states(place) == {"full": "failed", "no_fmm": "missing"}
    end(start_grid(place / "t.yaml", "--serial", "--only", "full"), 0)
    assert states(place) == {"full": "done", "no_fmm": "missing"}
    manifest = json.loads((folder / RUNS / lock.stem / "manifest.json").read_text())
    assert len(manifest["resumed"]) == 1
    (line,) = read_results(folder).itertuples()
    assert (line.id, line.config_hash) == (lock.stem, manifest["config_hash"])
    assert line.miou == json.loads((folder / RUNS / lock.stem / "metrics.json").read_text())["miou"]


# A cluster of one machine: the commands that the plugin calls, by name; jobs are processes, their state a file.
SLURM = f"""#!{sys.executable}
import os, signal, subprocess, sys
from pathlib import Path

def made(path):  # jobs are submitted by several threads at a time
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

home, name, words = Path(__file__).resolve().parent, Path(sys.argv[0]).name, sys.argv[1:]
with (home / "calls").open("a") as file:
    print(name, *words, file=file)
if name == "sbatch":
    number = next(str(n) for n in range(1000, 2000) if made(home / f"{{n}}.job"))
    command = next(w for w in words if w.startswith("--wrap=")).removeprefix("--wrap=")
    log = words[words.index("--output") + 1].replace("%j", number)
    state = home / number
    script = f"echo RUNNING > {{state}}.state; ( {{command}} ); "
    script += f"[ $? = 0 ] && echo COMPLETED > {{state}}.state || echo FAILED > {{state}}.state"
    child = subprocess.Popen(
        ["bash", "-c", script],
        env=os.environ | {{"SLURM_JOB_ID": number}},
        cwd=words[words.index("-D") + 1],
        stdin=subprocess.DEVNULL, stdout=open(log, "w"), stderr=subprocess.STDOUT, start_new_session=True,
    )
    Path(f"{{state}}.pid").write_text(str(child.pid))
    print(number)
elif name == "srun":
    command = words[next(i for i, word in enumerate(words) if not word.startswith("-")):]
    os.execvp(command[0], command)
elif name == "sacct":
    for path in home.glob("*.state"):
        print(f"{{path.stem}}|{{path.read_text().strip()}}")
elif name == "sacctmgr":
    print("us")
elif name == "scancel":
    for number in words:
        os.killpg(int((home / f"{{number}}.pid").read_text()), signal.SIGKILL)
        (home / f"{{number}}.state").write_text("CANCELLED")
"""
PROFILE = """executor: slurm
jobs: 2
default-resources: {slurm_partition: gpus, slurm_account: us}
set-resources: {run: {gpu: 1, mem_mb: 4000, runtime: 30}}
set-threads: {run: 2}
slurm-init-seconds-before-status-checks: 1
seconds-between-status-checks: 1
quiet: [rules, progress]
"""


@pytest.fixture
def cluster(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of stand-ins for SLURM's commands, first on the PATH."""
    home = place / "slurm"
    home.mkdir()
    (home / "slurm.py").write_text(SLURM)
    (home / "slurm.py").chmod(0o755)
    for name in ("sbatch", "srun", "squeue", "sacct", "sacctmgr", "scancel", "sinfo"):
        (home / name).symlink_to("slurm.py")
    (place / "profile").mkdir()
    (place / "profile" / "config.yaml").write_text(PROFILE)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    return home


def test_a_profile_submits_to_slurm(place: Path, cluster: Path) -> None:
    write_table(place / "t.yaml", "data", {"dead": {"steps": DEAD, "gpu": True}}, steps=FINE)
    environment = {"PATH": os.environ["PATH"]}
    out, err = end(grid(place, "--profile", "profile", **environment), 1)
    assert states(place) == {"full": "done", "dead": "failed"}, out + err
    assert "failed: dead data seed 0; see runs/t/runs/" in err
    calls = (cluster / "calls").read_text().splitlines()
    submitted = [line for line in calls if line.startswith("sbatch")]
    assert len(submitted) == 2
    for line in submitted:
        for option in ("--mem 4000", "-t 30", "-p gpus", "-A us", "--cpus-per-task=2", "--gpus=1"):
            assert option in line
    asked = str(min(2, os.cpu_count() or 1))  # of the scheduler; our own environment says 1
    assert {threads for *_, threads in started(place)} == {asked}

    write_table(place / "t.yaml", "data", {"hang": {"steps": HANG}}, steps=FINE)
    process = grid(place, "--profile", "profile", "--only", "hang", **environment)
    assert wait_for(lambda: len(started(place)) == 3)
    process.send_signal(signal.SIGINT)
    end(process, 130)
    assert any(line.startswith("scancel 1002") for line in (cluster / "calls").read_text().splitlines())
    assert states(place) == {"full": "done", "hang": "failed"}
