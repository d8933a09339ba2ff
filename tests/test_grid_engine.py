"""The runs of a grid: what identifies them, what state they are in, and what the commands say of them."""

import errno
import io
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_grids import ENVIRONMENT, FINE, FLAKY, write_stand_in, write_table

import ktda_lab.grid.engine as engine
import ktda_lab.grid.execute as execute_module
import ktda_lab.grid.plan as plan
import ktda_lab.grid.view as view_module
from ktda.cli.main import main
from ktda.config import make_config
from ktda.data.folder import data_hash, open_data
from ktda.errors import InputError
from ktda.files import lock_file
from ktda_lab.grid.execute import _lock_first, run_serially
from ktda_lab.grid.plan import LOCK, RUNS, hash_data, plan_runs, read_plan, state, write_plan
from ktda_lab.grid.results import read_results
from ktda_lab.grid.table import read_table
from ktda_lab.grid.view import progress, run_states


@pytest.fixture
def ktda_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path):
    """Runs ``ktda WORDS...`` in this process, in an empty working directory: code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KTDA_DATA", str(tmp_path / "data"))

    def run(*words: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["ktda", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return SimpleNamespace(code=caught.value.code, out=out, err=err)

    return run


def runs_of(path: Path, data: Path, **rows: dict) -> list[plan.Run]:
    table = read_table(write_table(path / "t.yaml", data, rows or {"no_fmm": {"fmm": "none"}}, "seeds: 2"))
    return plan_runs(table, hash_data(table.data, make=False))


def finish(run: plan.Run, folder: Path, seconds: int = 60) -> None:
    """Write what a run that ended well leaves."""
    (folder / run.id).mkdir(parents=True)
    times = {"start": "2026-01-01T00:00:00+00:00", "end": f"2026-01-01T00:{seconds // 60:02}:{seconds % 60:02}+00:00"}
    (folder / f"{run.id}.manifest.json").write_text(json.dumps({"status": "finished", **times}))
    made_from = {"config_hash": run.config_hash, "source_hash": run.source_hash, "data": {"hash": run.data_hash}}
    (folder / run.id / "manifest.json").write_text(json.dumps({"status": "finished", **made_from}))
    (folder / run.id / "metrics.json").write_text("{}")


# Identity


def test_a_file_that_a_setting_names_is_part_of_the_identity(tmp_path: Path, tiny_set: Path) -> None:
    weights = tmp_path / "teacher.safetensors"
    ids = []
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        os.utime(weights, (len(ids), len(ids)))  # the file's time shows a change, however coarse the clock
        ids.append([run.id for run in runs_of(tmp_path, tiny_set, other={"teacher": str(weights)})])
    assert ids[0] == ids[2]
    changed = [a != b for a, b in zip(ids[0], ids[1], strict=True)]
    assert any(changed)
    assert not all(changed)  # the baseline names no file


def test_a_run_is_its_settings_its_data_and_the_source(tmp_path: Path, tiny_set: Path, monkeypatch) -> None:
    first = runs_of(tmp_path, tiny_set)
    assert [(r.row, r.seed) for r in first] == [("full", 0), ("full", 1), ("no_fmm", 0), ("no_fmm", 1)]
    assert len({r.id for r in first}) == 4
    assert all(len(r.id) == 12 for r in first)
    assert runs_of(tmp_path, tiny_set) == first
    run = first[2]
    config = make_config(run.preset, [*run.overrides, "seed=0"], run.data)  # as the notebook resolves it
    assert config.fmm == "none"
    assert run.config_hash == config.config_hash
    assert run.data_hash == data_hash(open_data(str(tiny_set)))

    renamed = runs_of(tmp_path, tiny_set, other={"fmm": "none"})
    assert [r.id for r in renamed] == [r.id for r in first]  # a name is no setting
    changed = runs_of(tmp_path, tiny_set, no_fmm={"fmm": "mlp"})
    assert [a.id == b.id for a, b in zip(first, changed, strict=True)] == [True, True, False, False]
    with monkeypatch.context() as patch:
        patch.setattr(plan, "source_hash", lambda: "other code")
        assert not {r.id for r in runs_of(tmp_path, tiny_set)} & {r.id for r in first}
    other_data = plan_runs(read_table(tmp_path / "t.yaml"), {str(tiny_set): "other data"})
    assert not {r.id for r in other_data} & {r.id for r in first}


def test_the_plan_is_read_as_it_was_written(tmp_path: Path, tiny_set: Path) -> None:
    runs = runs_of(tmp_path, tiny_set)
    table = read_table(tmp_path / "t.yaml")
    write_plan(tmp_path / "out", table, runs, timeout=7)
    assert read_plan(tmp_path / "out") == ({"table": "t", "timeout": 7}, runs)
    assert (tmp_path / "out" / "table.yaml").read_text() == table.text


# States


def test_states(tmp_path: Path, tiny_set: Path) -> None:
    run, folder = runs_of(tmp_path, tiny_set)[0], tmp_path / "runs"
    folder.mkdir()
    assert state(run, folder) == "missing"
    (folder / f"{run.id}{LOCK}").touch()
    assert state(run, folder) == "missing"  # about to be locked
    lock = lock_file(folder / f"{run.id}{LOCK}")
    assert state(run, folder) == "running"
    lock.close()
    assert state(run, folder) == "failed"  # whatever its files say: nobody works on it
    finish(run, folder)
    assert state(run, folder) == "done"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("{id}.manifest.json", {"status": "failed"}),
        ("{id}.manifest.json", {"status": "running"}),
        ("{id}/manifest.json", {"status": "running"}),
        ("{id}/manifest.json", {"config_hash": "of other settings"}),
        ("{id}/manifest.json", {"source_hash": "of other code"}),
        ("{id}/manifest.json", {"data": {"hash": "of other data"}}),
        ("{id}/metrics.json", None),
        ("{id}/manifest.json", None),
        ("{id}/manifest.json", "{half"),
    ],
)
def test_nothing_half_written_or_foreign_is_done(tmp_path: Path, tiny_set: Path, file: str, content) -> None:
    run = runs_of(tmp_path, tiny_set)[0]
    finish(run, tmp_path)
    assert state(run, tmp_path) == "done"
    path = tmp_path / file.format(id=run.id)
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        path.write_text(content)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    assert state(run, tmp_path) == "missing"
    lock_file(tmp_path / f"{run.id}{LOCK}").close()
    assert state(run, tmp_path) == "failed"


def test_a_run_on_another_machine_is_running_until_its_manifest_has_ended(tmp_path: Path, tiny_set: Path) -> None:
    run = runs_of(tmp_path, tiny_set)[0]
    lock, manifest = tmp_path / f"{run.id}{LOCK}", tmp_path / f"{run.id}.manifest.json"
    lock.write_text("process 123 on another-node")
    for status, silent, expected in (("running", 0, "running"), ("failed", 0, "failed"), ("running", 3600, "failed")):
        manifest.write_text(json.dumps({"status": status}))
        os.utime(lock, (time.time() - silent,) * 2)
        assert state(run, tmp_path) == expected


def test_a_run_touches_its_lock_until_its_starter_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute_module, "HEARTBEAT", 0.01)
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(execute_module.signal, "pthread_kill", lambda *of: killed.append(of))
    lock = tmp_path / "lock"
    lock.touch()
    reads, writes = os.pipe()
    thread = threading.Thread(target=execute_module._watch, args=(lock, reads), daemon=True)
    thread.start()
    for moment in (0, 1):  # again and again
        os.utime(lock, (moment, moment))
        while lock.stat().st_mtime == moment:
            time.sleep(0.01)
    lock.unlink()  # that it cannot be touched is no reason to stop watching
    assert (thread.is_alive(), killed) == (True, [])
    os.close(writes)
    thread.join()
    os.close(reads)
    assert killed == [(threading.main_thread().ident, signal.SIGTERM)]


def test_a_lock_is_held_once_and_names_its_holder(tmp_path: Path) -> None:
    first = lock_file(tmp_path / "a")
    assert lock_file(tmp_path / "a") is None
    assert (tmp_path / "a").read_text() == f"process {os.getpid()} on {os.uname().nodename}"
    position, second = _lock_first([tmp_path / "a", tmp_path / "b"])
    assert position == 1
    with pytest.raises(InputError, match=f"a is held by process {os.getpid()}"):
        _lock_first([tmp_path / "a", tmp_path / "b"], seconds=0.3)
    first.close()
    assert _lock_first([tmp_path / "a", tmp_path / "b"])[0] == 0
    second.close()


# What the user sees


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_per_run_that_ends(tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, lines = runs_of(tmp_path, tiny_set), []
    folder = tmp_path / RUNS
    folder.mkdir()
    lock_file(folder / f"{runs[1].id}{LOCK}").close()  # failed in an earlier call
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress(runs, tmp_path, lines.append) as update:
        update()
        assert lines == []
        finish(runs[0], folder)
        lock = lock_file(folder / f"{runs[1].id}{LOCK}")
        update()
        update()
        assert lines == ["[1/4] full tiny seed 0: done in 01:00"]
        assert "| 1/4 [" in sys.stderr.getvalue()
        lock.close()
        update()
        assert lines[1:] == ["[2/4] full tiny seed 1: failed"]
        lock = lock_file(folder / f"{runs[1].id}{LOCK}")  # another attempt
        update()
        assert sys.stderr.getvalue().rpartition("| ")[2].startswith("1/4 [")
        lock.close()
        finish(runs[1], folder)
        update()
        assert lines[2:] == ["[2/4] full tiny seed 1: done in 01:00"]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress(runs, tmp_path, lines.append) as update:
        update()
    assert sys.stderr.getvalue() == ""  # no bar in a log


def test_dry_run_and_status_need_no_data_and_write_nothing(ktda_, tmp_path: Path, tiny_set: Path) -> None:
    write_table(tmp_path / "t.yaml", tiny_set, {"no_fmm": {"fmm": "none"}})
    for absent in ("grass", "demo_cloud", "not/there"):
        for words in (("grid", "t.yaml", "--dry-run"), ("status", "t.yaml")):
            done = ktda_(*words, "--data", absent, "--seeds", 2)
            assert done.code == 0
            assert [line.split() for line in done.out.splitlines()[1:5]] == [
                ["-", row, absent, seed, "missing"] for row in ("full", "no_fmm") for seed in "01"
            ]
            assert "4 runs: 4 missing; time left, 1 at a time: unknown" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["t.yaml"]

    runs = runs_of(tmp_path, tiny_set)
    finish(runs[0], tmp_path / "runs" / "t" / RUNS)
    lock_file(tmp_path / "runs" / "t" / RUNS / f"{runs[1].id}{LOCK}").close()
    done = ktda_("grid", "t.yaml", "--dry-run", "--jobs", 2)
    assert "4 runs: 1 done, 1 failed, 2 missing; time left, 2 at a time: 01:30" in done.out
    assert f"{runs[0].id}  full    {tiny_set}  0     done" in done.out
    assert "2 runs: 2 missing; time left, 1 at a time: 02:00" in ktda_("status", "t.yaml", "--only", "no_fmm").out
    locks = [lock_file(tmp_path / "runs" / "t" / RUNS / f"{run.id}{LOCK}") for run in runs[1:]]
    assert "1 done, 3 running; time left, 3 at a time: 01:00" in ktda_("status", "t.yaml").out
    for lock in locks:
        lock.close()
    for run in runs[1:]:
        finish(run, tmp_path / "runs" / "t" / RUNS)
    assert ktda_("status", "t.yaml").out.endswith("\n4 runs: 4 done\n")


def test_rows_that_need_a_gpu(tmp_path: Path, tiny_set: Path, ktda_, monkeypatch) -> None:
    table = read_table(write_table(tmp_path / "t.yaml", tiny_set, {"big": {"fmm": "none", "gpu": True}}))
    monkeypatch.setattr(view_module, "gpu_count", lambda: 0)
    monkeypatch.setattr(engine, "gpu_count", lambda: 0)
    states, left_out = run_states(table, tmp_path, gpus=False)
    assert ([r.row for r in states], [r.row for r in left_out]) == (["full"], ["big"])
    done = ktda_("status", "t.yaml").out
    assert "not run: needs a GPU" in done
    assert "1 runs: 1 missing" in done
    assert ktda_("grid", "t.yaml", "--serial", "--only", "big").out.startswith("left out: 1 runs that need a GPU\n")
    finish(left_out[0], tmp_path / RUNS)  # brought from a machine with a GPU: its result counts
    assert list(run_states(table, tmp_path, gpus=False)[0].values()) == ["missing", "done"]
    assert run_states(table, tmp_path / "other", gpus=True)[1] == []
    assert "2 runs: 2 missing" in ktda_("status", "t.yaml", "--profile", "slurm").out


def test_mistakes_end_in_one_line_and_start_nothing(ktda_, tmp_path: Path, tiny_set: Path, monkeypatch) -> None:
    write_table(tmp_path / "t.yaml", tiny_set, {"no_fmm": {"fmm": "none"}})
    out = tmp_path / "runs" / "t"
    out.mkdir(parents=True)
    for words, expected in (
        (("--only", "nofmm"), "--only nofmm is no row of t; did you mean no_fmm?"),
        (("--only", "nofmm", "--dry-run"), "--only nofmm is no row of t"),
        (("--serial", "--jobs", "2"), "--serial is one run after the other"),
        (("--serial", "--profile", "slurm"), "--serial is one run after the other"),
        (("--data", "not/there"), "neither a folder nor a built-in data set"),
        (("--seeds", "0"), "seeds=0; expected at least 1"),
        (("--jobs", "0"), "--jobs"),
        (("--publish", "t.yaml"), "--publish t.yaml is a file; name a folder"),
        (("--data", str(tiny_set), "--data", f"{tiny_set}/"), "are the same tiles; name one of them"),
    ):
        done = ktda_("grid", "t.yaml", *words)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert expected in done.err
    lock = lock_file(out / LOCK)
    done = ktda_("grid", "t.yaml")
    assert (done.code, done.err) == (
        2,
        f"ktda: runs/t is in use by process {os.getpid()} on {os.uname().nodename}; "
        "wait for it, or choose another --out\n",
    )
    lock.close()
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None if name == "snakemake" else name)
    done = ktda_("grid", "t.yaml")
    assert "needs snakemake: pip install 'ktda[grid]', or use --serial" in done.err
    assert not (out / RUNS).exists()


def test_a_full_disk_is_one_line(ktda_, tmp_path: Path, tiny_set: Path, monkeypatch) -> None:
    write_table(tmp_path / "t.yaml", tiny_set, {})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write says it, without a file's name

    monkeypatch.setattr(engine, "write_plan", full)
    done = ktda_("grid", "t.yaml", "--serial")
    assert (done.code, done.err) == (2, "ktda: while writing: No space left on device\n")


# Runs


def test_serially_with_a_failure_a_retry_and_a_second_call(ktda_, tmp_path: Path, tiny_set: Path, monkeypatch) -> None:
    notebook = write_stand_in(tmp_path / "stand_in.ipynb")
    monkeypatch.setitem(engine.run_grid.__kwdefaults__, "notebook", str(notebook))
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    write_table(tmp_path / "t.yaml", tiny_set, {"flaky": {"steps": FLAKY}}, steps=FINE)
    out = tmp_path / "runs" / "t"
    done = ktda_("grid", "t.yaml", "--serial", "--only", "flaky")
    full, flaky = read_plan(out)[1]
    assert done.code == 1
    assert done.out.startswith("[1/1] flaky tiny seed 0: failed\n")
    assert done.err == f"ktda: failed: flaky tiny seed 0; see runs/t/runs/{flaky.id}.log\n"
    assert "RuntimeError: only the first time" in (out / RUNS / f"{flaky.id}.log").read_text()
    assert (out / RUNS / f"{flaky.id}.partial.ipynb").is_file()
    assert [state(run, out / RUNS) for run in (full, flaky)] == ["missing", "failed"]
    assert read_results(out).empty

    done = ktda_("grid", "t.yaml", "--serial", "--only", "flaky")
    assert (done.code, len(done.out.splitlines())) == (0, 2), done.err
    results = read_results(out)
    assert [(line.id, line.row, line.seed, line.miou) for line in results.itertuples()] == [(flaky.id, "flaky", 0, 0.5)]
    assert ktda_("grid", "t.yaml", "--serial", "--only", "flaky").out == "results: runs/t/results.csv\n"
    assert (tmp_path / "started").read_text().count("\n") == 2


def test_a_run_of_changed_code_is_refused_before_it_costs_anything(tmp_path: Path, tiny_set: Path, monkeypatch) -> None:
    notebook = write_stand_in(tmp_path / "stand_in.ipynb")
    monkeypatch.setattr(plan, "source_hash", lambda: "older code")
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    runs = runs_of(tmp_path, tiny_set)[:1]
    options = {"cwd": str(tmp_path), "folder": "out", "notebook": str(notebook), "timeout": 60}
    out = tmp_path / "out"
    write_plan(out, read_table(tmp_path / "t.yaml"), runs, **options, local=True, threads=1, gpus=0)
    run_serially(out, runs, 0, lambda: None)
    assert "the package's code has changed since the grid was started" in (out / RUNS / f"{runs[0].id}.log").read_text()
    assert state(runs[0], out / RUNS) == "failed"
    assert not (tmp_path / "started").exists()  # no kernel was


def test_a_row_goes_on_from_the_run_of_another_of_its_data_and_seed(ktda_, tmp_path: Path, tiny_set: Path) -> None:
    """Trained without notebooks, in a pool: the start comes first, its encoder is taken over, results say so."""
    path = write_table(tmp_path / "t.yaml", tiny_set, {"start": {"segmentation_weight": 0.0}}, "seeds: [1, 0]", steps=2)
    path.write_text(path.read_text() + "  - {name: more, group: tests, init: start, init_part: encoder}\n")
    runs = plan_runs(read_table(path), hash_data([str(tiny_set)], make=False))
    more, start = runs[-1], plan.start_of(runs[-1], runs)
    assert (start.row, start.seed, more.seed, plan.start_of(start, runs)) == ("start", 0, 0, None)
    assert len({run.id for run in runs}) == 6  # more has full's settings, but another start

    done = ktda_("grid", "t.yaml", "--bare", "--only", "more", "--only", "start", "--jobs", 2)
    assert done.code == 0, (done.err, [log.read_text() for log in tmp_path.glob("runs/t/runs/*.log")])
    out = tmp_path / "runs" / "t"
    results = read_results(out)
    lines = results[results["row"] == "more"]
    assert lines["seed"].tolist() == [1, 0]
    assert all(text.startswith("init=start init_part=encoder ") for text in lines["overrides"])
    manifest = json.loads((out / RUNS / more.id / "manifest.json").read_text())
    assert Path(manifest["init"]).name == start.id
    assert manifest["init_tensors"]["student.encoder"]["anew"] == 0
    assert not list((out / RUNS).glob("*.ipynb"))


def test_a_run_whose_start_failed_is_not_made(ktda_, tmp_path: Path, tiny_set: Path) -> None:
    path = write_table(tmp_path / "t.yaml", tiny_set, {"start": {"student_weights": "missing.safetensors"}}, steps=2)
    path.write_text(path.read_text() + "  - {name: more, group: tests, init: start}\n")
    done = ktda_("grid", "t.yaml", "--bare", "--only", "more", "--only", "start")
    assert done.code == 1
    more = read_plan(tmp_path / "runs" / "t")[1][-1]
    log = (tmp_path / "runs" / "t" / RUNS / f"{more.id}.log").read_text()
    assert "whose weights this run starts from, has not finished" in log
    assert "Traceback" not in log


def test_retries_and_bare_do_not_go_together(ktda_, tmp_path: Path, tiny_set: Path) -> None:
    write_table(tmp_path / "t.yaml", tiny_set, {"no_fmm": {"fmm": "none"}})
    done = ktda_("grid", "t.yaml", "--bare", "--retries", 1)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
