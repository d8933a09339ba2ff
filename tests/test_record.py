"""The manifest, files written in one step, and the run folder's refusals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tiny_runs import as_options, results_of, tiny

import ktda
from ktda.build import load_model
from ktda.errors import InputError
from ktda.files import now, write_json
from ktda.runs import record
from ktda.runs.checkpoint import PREVIOUS
from ktda.runs.folder import check_folder, check_place, earlier_manifest, read_metrics
from ktda.runs.progress import Progress
from ktda.runs.record import Manifest, ended_by, source_hash, versions
from ktda.training import train


def test_a_manifest_says_how_a_run_began_and_ended(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.json", seed=3, data={"name": "x"})
    begun = json.loads((tmp_path / "manifest.json").read_text())
    assert begun["status"] == "running"
    assert begun["end"] is None
    assert (begun["seed"], begun["data"]) == (3, {"name": "x"})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", begun["start"])
    assert set(begun["versions"]) >= {"python", "ktda", "torch", "timm", "segmentation-models-pytorch", "accelerate"}
    assert begun["versions"]["ktda"] == ktda.__version__ == versions()["ktda"]
    manifest.end("failed", error="it broke")
    ended = json.loads((tmp_path / "manifest.json").read_text())
    assert (ended["status"], ended["error"]) == ("failed", "it broke")
    assert ended["end"] >= begun["start"] == ended["start"]
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_the_commit_is_that_of_the_checkout() -> None:
    found = record.commit()
    root = Path(ktda.__file__).parent.parent
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        assert found == {"commit": None, "dirty": None}
    else:
        assert found["commit"] == head.stdout.strip()
        assert isinstance(found["dirty"], bool)


def test_a_package_inside_somebody_elses_repository_has_no_commit(tmp_path: Path, monkeypatch) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "site" / "ktda").mkdir(parents=True)
    monkeypatch.setattr(record, "PACKAGE", tmp_path / "site" / "ktda")
    assert record.commit.__wrapped__() == {"commit": None, "dirty": None}


def test_the_source_has_a_hash() -> None:
    assert re.fullmatch("[0-9a-f]{64}", source_hash())


def test_sigterm_ends_the_block_and_the_handler_goes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def be_killed() -> None:
        with ended_by(signal.SIGTERM):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()

    with pytest.raises(SystemExit) as caught:
        be_killed()
    assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with ended_by(signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigterm_is_left_alone_outside_the_main_thread() -> None:
    errors = []

    def work() -> None:
        try:
            with ended_by(signal.SIGTERM):
                pass
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A folder that holds a failed run."""
    config = tiny()
    content = {"status": "failed", "start": now(), "config": config.as_dict()}
    content |= {"config_hash": config.config_hash, "init": None}
    write_json(tmp_path / "manifest.json", content | {"data": {"source": "set", "hash": "0"}})
    return tmp_path


def test_a_folder_that_is_free(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    for name in ("manifest.json.partial", ".lock"):  # killed before anything was there
        (tmp_path / "killed" / name).write_text("{")
    for name in ("missing", "empty", "killed"):
        check_place(tmp_path / name, "set")
        for resume in (False, True):
            assert check_folder(tmp_path / name, "set", tiny(), resume) is False
    assert earlier_manifest(tmp_path / "missing") == {}


def test_a_folder_that_is_not(held: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds a run \(failed\); go on with --resume, or choose another --out"):
        check_folder(held, "set", tiny(), False)
    assert check_folder(held, "set", tiny(), True) is False
    with pytest.raises(InputError, match=r"other settings \(steps=4, seed=0\)"):
        check_folder(held, "set", tiny(steps=5, seed=1), True)
    with pytest.raises(InputError, match="was started without --init"):
        check_folder(held, "set", tiny(), True, init="some/run")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    for resume in (False, True):
        with pytest.raises(InputError, match="is not empty and holds no run"):
            check_folder(foreign, "set", tiny(), resume)


def test_finished_needs_the_metrics(held: Path) -> None:
    write_json(held / "manifest.json", earlier_manifest(held) | {"status": "finished"})
    assert check_folder(held, "set", tiny(), True) is False
    (held / "metrics.json").write_text("{}")
    assert check_folder(held, "set", tiny(), True) is True
    with pytest.raises(InputError, match=r"metrics\.json is damaged: it has no field split"):
        read_metrics(held)


@pytest.mark.parametrize("field", ["status", "start", "config", "config_hash", "data.source", "data.hash"])
def test_a_damaged_manifest_is_named_with_its_field(held: Path, field: str) -> None:
    content = earlier_manifest(held)
    *above, name = field.split(".")
    (content["data"] if above else content)[name] = 7
    write_json(held / "manifest.json", content)
    with pytest.raises(InputError, match=rf"manifest\.json is damaged: {field} is a whole number, expected"):
        check_folder(held, "set", tiny(), True)


@pytest.mark.parametrize("out", ["/dev/null", "/dev/null/run", "{0}/file", "{0}/file/run", "{0}/link"])
def test_a_file_or_a_device_can_be_no_run_folder(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is no folder; choose another --out"):
        check_place(Path(out.format(tmp_path)), "set")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_inside_the_data_is_refused(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tiny_set)
    before = sorted(tiny_set.rglob("*"))
    for data, out in (
        (tiny_set, tiny_set),
        (tiny_set, tiny_set / "runs" / "a"),
        (tiny_set, tmp_path / "link" / "a"),
        (tmp_path / "link", tiny_set / "a"),
    ):
        with pytest.raises(InputError, match=r"is inside the data set .*; choose another --out"):
            train(str(data), tiny(), out)
    assert sorted(tiny_set.rglob("*")) == before
    monkeypatch.setenv("KTDA_DATA", str(tmp_path))
    with pytest.raises(InputError, match="is inside the data set"):
        check_place(tmp_path / "demo_grass" / "run", "demo_grass")
    check_place(tmp_path / "demo_grass_run", "demo_grass")


def test_a_start_that_fails_leaves_no_folder(tiny_set: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 class_weights for 3 classes"):
        train(str(tiny_set), tiny(class_weights=(1.0, 2.0)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_run_one_process(tiny_set: Path, tmp_path: Path) -> None:
    """The second start ends at once, the first one does not notice."""
    out = tmp_path / "run"
    options = [str(tiny_set), *as_options(steps=100_000), "--out", str(out)]
    command = [sys.executable, "-m", "ktda", "train", *options]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (out / "manifest.json").is_file():
            assert first.poll() is None, "ended before it began"
            time.sleep(0.05)
        before = (out / "manifest.json").read_bytes()
        held = rf"run is in use by process {first.pid} on {os.uname().nodename}; wait for it, or end it"
        for resume in (False, True):
            with pytest.raises(InputError, match=held):
                train(str(tiny_set), tiny(steps=100_000), out, resume)
        second = subprocess.run([*command, "--resume"], capture_output=True, text=True)
        assert (second.returncode, second.stderr.count("\n")) == (2, 1)
        assert re.match(f"ktda: .*{held}", second.stderr)
        assert (out / "manifest.json").read_bytes() == before
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    # killed, it leaves a file but no lock
    assert (out / ".lock").is_file()
    with pytest.raises(InputError, match=r"holds a run \(running\); go on with --resume"):
        train(str(tiny_set), tiny(steps=100_000), out)
    assert not (out / ".lock").exists()


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_training_goes_on_from_the_checkpoint_before(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same bits as without the damage; a finished run needs only one."""
    config, out = tiny(steps=6, checkpoint_steps=1), tmp_path / "damaged"
    train(str(tiny_set), config, tmp_path / "whole")
    assert not (tmp_path / "whole" / PREVIOUS).exists()
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "report", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(str(tiny_set), config, out)
    content = bytearray((out / "checkpoint.safetensors").read_bytes())
    content[-1] ^= 1
    (out / "checkpoint.safetensors").write_bytes(content)
    with pytest.warns(UserWarning, match=r"going on from checkpoint\.previous\.safetensors"):
        train(str(tiny_set), config, out, resume=True)
    assert results_of(out) == results_of(tmp_path / "whole")


def test_damaged_weights_are_named(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors is damaged: .*SHA-256"):
        load_model(tmp_path / "run")
