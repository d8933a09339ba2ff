"""Files are written in one step, read with the fields that are needed, and held by one process."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ktda.errors import InputError
from ktda.files import (
    PACKAGE,
    check_fields,
    content_hash,
    here_or_checkout,
    lock_file,
    locked,
    read_json,
    replacing,
    write_beside,
    write_json,
)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}

    def full(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text.encode()[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json") as caught:
        write_beside(path, "something longer")
    assert caught.value.filename == str(path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_new_file_has_the_permissions_that_the_user_wants(tmp_path: Path) -> None:
    for mask, expected in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            with replacing(tmp_path / "x") as partial:
                partial.chmod(0o600)  # as the safetensors library leaves its files
        finally:
            os.umask(before)
        assert (tmp_path / "x").stat().st_mode & 0o777 == expected


def test_what_a_killed_process_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "x.partial").write_text("half of something much longer")
    (tmp_path / "x.partial").chmod(0o400)
    write_beside(tmp_path / "x", "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x": "new"}


def test_the_file_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch) -> None:
    seen = []

    def fsync(number: int) -> None:
        seen.append((str(Path(f"/proc/self/fd/{number}").readlink()), (tmp_path / "x").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_beside(tmp_path / "x", "text")
    assert seen == [(str(tmp_path / "x.partial"), False)]


def test_the_file_before_is_kept_where_asked(tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        with replacing(tmp_path / "x", tmp_path / "old") as partial:
            partial.write_text(text)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x": "three", "old": "two"}


NEEDS = {"status": str, "data.hash": str, "seconds": float, "end": (str, type(None)), "dirty": bool}
SOUND = {"status": "x", "data": {"hash": "0"}, "seconds": 2, "end": None, "dirty": False}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"it is not json"),
        ('{"a": 1', r"it is not json"),
        ("[" * 100_000, r"it is not json"),
        ("[1]", r"it holds a list, expected an object"),
        ("null", r"it holds null, expected an object"),
        ({k: v for k, v in SOUND.items() if k != "status"}, "it has no field status"),
        (SOUND | {"status": 1}, "status is a whole number, expected text"),
        (SOUND | {"data": {}}, r"it has no field data\.hash"),
        (SOUND | {"data": "x"}, r"it has no field data\.hash"),
        (SOUND | {"data": {"hash": []}}, r"data\.hash is a list, expected text"),
        (SOUND | {"seconds": True}, "seconds is true or false, expected a number"),
        (SOUND | {"end": {}}, "end is an object, expected text or null"),
        (SOUND | {"dirty": 1}, "dirty is a whole number, expected true or false"),
    ],
)
def test_a_damaged_file_is_named_with_its_field(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=rf"manifest\.json is damaged: {message}") as caught:
        read_json(path, NEEDS)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(InputError, match=r"m\.json is damaged: it is not json \('utf-8'"):
        read_json(tmp_path / "m.json")


def test_sound_fields_pass(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", SOUND)
    assert read_json(tmp_path / "m.json", NEEDS) == SOUND
    check_fields(SOUND | {"seconds": 2.5, "end": "now", "more": 1}, NEEDS, "it")


def test_the_same_content_has_the_same_hash() -> None:
    assert content_hash({"a": 1, "b": (2, 3)}) == content_hash({"b": [2, 3], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})


def test_the_working_directory_comes_before_the_checkout() -> None:
    assert here_or_checkout("reports") == [Path("reports"), PACKAGE.parent / "reports"]


def test_a_lock_is_for_one_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path, "runs/a"):
        assert lock_file(path) is None  # also from a second descriptor of the same process
        message = rf"runs/a is in use by process {os.getpid()} on {os.uname().nodename}"
        with pytest.raises(InputError, match=message):
            with locked(path, "runs/a"):
                raise AssertionError("two at once")
        assert path.exists()  # and the second one has left it alone
    assert not path.exists()


def test_a_killed_holder_leaves_no_stale_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    code = "import sys, time; from ktda.files import lock_file; from pathlib import Path\n"
    code += "held = lock_file(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        assert lock_file(path) is None
        assert path.read_text() == f"process {child.pid} on {os.uname().nodename}"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with locked(path, "x"):
        assert str(os.getpid()) in path.read_text()
    assert not path.exists()


def _count(path: Path, tally: Path, turns: int) -> None:
    """Read, add one, write: loses turns as soon as two do it at once."""
    while turns:
        held = lock_file(path)
        if held is None:
            continue
        with held:
            tally.write_text(str(int(tally.read_text()) + 1))
            path.unlink()
        turns -= 1


def test_no_two_hold_it_though_each_removes_the_file(tmp_path: Path) -> None:
    path, tally = tmp_path / ".lock", tmp_path / "tally"
    tally.write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(path, tally, 300)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert tally.read_text() == "900"


def test_while_the_earlier_file_is_kept_its_name_is_never_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, previous = tmp_path / "a", tmp_path / "b"
    path.write_text("one")
    replace, there = Path.replace, []

    def watched(self: Path, target: Path) -> Path:
        there.append((path.read_text(), previous.read_text()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    for text in ("two", "three"):
        with replacing(path, previous) as partial:
            partial.write_text(text)
    assert there == [("one", "one"), ("two", "two")]
    assert (path.read_text(), previous.read_text()) == ("three", "two")


def test_the_earlier_file_is_copied_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, previous = tmp_path / "a", tmp_path / "b"
    path.write_text("one")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "not permitted")))
    with replacing(path, previous) as partial:
        partial.write_text("two")
    assert (path.read_text(), previous.read_text()) == ("two", "one")
