"""The manifest, files written in one step, and the run folder's refusals."""

import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from tiny_runs import tiny

import ktda
from ktda.errors import InputError
from ktda.files import content_hash, write_beside, write_json
from ktda.runs import record
from ktda.runs.folder import check_folder, earlier_manifest
from ktda.runs.record import Manifest, ended_by, source_hash, versions


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


def test_hashes_depend_on_content_alone() -> None:
    assert content_hash({"a": 1, "b": (2, 3)}) == content_hash({"b": [2, 3], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert re.fullmatch("[0-9a-f]{64}", source_hash())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}

    def full(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text.encode()[:3])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="disk full"):
        write_beside(path, "something longer")
    assert json.loads(path.read_text()) == {"a": 1}


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
    content = {"status": "failed", "config": config.as_dict(), "config_hash": config.config_hash}
    write_json(tmp_path / "manifest.json", content | {"init": None, "data": {"source": "set", "hash": "0"}})
    return tmp_path


def test_a_folder_that_is_free(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "manifest.json.partial").write_text("{")  # killed before anything was there
    for name in ("missing", "empty", "killed"):
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
    with pytest.raises(InputError, match="is a file; --out must be a folder"):
        check_folder(foreign / "thesis.tex", "set", tiny(), False)


def test_finished_needs_the_metrics(held: Path) -> None:
    write_json(held / "manifest.json", earlier_manifest(held) | {"status": "finished"})
    assert check_folder(held, "set", tiny(), True) is False
    (held / "metrics.json").write_text("{}")
    assert check_folder(held, "set", tiny(), True) is True
