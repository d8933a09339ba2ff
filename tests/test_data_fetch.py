"""Fetching: the hub's protocol against a local server, resuming, hashes, unsafe archives, and no network at all."""

import functools
import hashlib
import http.server
import io
import json
import os
import re
import socket
import stat
import threading
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tiny_sets import put_set
from typer.testing import CliRunner

from ktda.cli.data import app
from ktda.data import builtin, fetch
from ktda.data.folder import open_data
from ktda.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "XavierJiezou/ktda-datasets"


@dataclass
class Hub:
    """What the local server answers, and what it was asked."""

    content: bytes = b""
    info: dict | None = None  # answer to the question for the commit; None: the honest one
    lfs: bool = True  # tell the SHA-256 as the hub does for large files
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    refusals: list[int] = field(default_factory=list)  # status codes of the next answers
    silent: bool = False
    circle: bool = False  # send everybody from one address to another, for ever
    asked: list[tuple[str, str | None]] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args):
        pass

    def do_GET(self):
        hub = self.hub
        hub.asked.append((self.path, self.headers.get("Range")))
        if hub.silent:
            threading.Event().wait()  # for ever: only a time limit of the other side ends it
        if self.path.startswith(f"/api/datasets/{REPO}/revision/main"):
            known = {"sha256": hashlib.sha256(hub.content).hexdigest(), "size": len(hub.content)}
            files = [
                {"rfilename": "README.md", "size": 5},
                {"rfilename": "grass.zip", "size": known["size"], **({"lfs": known} if hub.lfs else {})},
            ]
            body = json.dumps(hub.info or {"id": REPO, "sha": COMMIT, "siblings": files}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif self.path == f"/datasets/{REPO}/resolve/{COMMIT}/grass.zip":
            self.send_response(302)  # the hub sends large files from another address
            self.send_header("Location", "/cdn/grass")
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
        elif self.path.startswith("/cdn/grass") and hub.circle:
            self.send_response(302)
            self.send_header("Location", f"/cdn/grass/{len(hub.asked)}")
            self.end_headers()
        elif self.path == "/cdn/grass":
            self.send_content(hub)
        else:
            self.send_error(404)

    def send_content(self, hub: Hub):
        if hub.refusals:
            self.send_error(hub.refusals.pop(0))
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1]) if hub.ranges else 0
        if start and start >= len(hub.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(hub.content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(hub.content) - 1}/{len(hub.content)}")
        self.send_header("Content-Length", str(len(hub.content) - start))
        self.end_headers()
        end = start + hub.cuts.pop(0) if hub.cuts else len(hub.content)
        self.wfile.write(hub.content[start:end])


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def set_as_files(folder: Path, prefix: str = "") -> dict[str, bytes]:
    root = put_set(folder, spec=None, splits={"train": 3, "val": 2})
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {prefix + path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def files(tmp_path):
    return set_as_files(tmp_path / "origin", "some_name/")


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    """A hub on this machine, that the environment points to; grass has no known hash, as in the package."""
    state = Hub(content=zipped(files))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": state}))
    server.daemon_threads = True
    threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("KTDA_DATA", str(tmp_path / "data_root"))
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.01)
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def data_root(tmp_path):
    return tmp_path / "data_root"


def downloads(hub: Hub) -> list[str | None]:
    """The ranges that were asked for, one entry per request for the content."""
    return [asked for path, asked in hub.asked if path == "/cdn/grass"]


def left(folder: Path) -> set[str]:
    """What lies in a folder, but for the lock."""
    return {path.name for path in folder.iterdir()} - {".grass.lock"} if folder.exists() else set()


def fails(match: str, **arguments) -> None:
    with pytest.raises(InputError, match=match) as raised:
        fetch.fetch("grass", **arguments)
    assert "\n" not in str(raised.value)


def test_fetch_pins_verifies_records_and_opens(hub, data_root, files):
    root = fetch.fetch("grass")
    assert root == data_root / "grass"
    record = json.loads((root / "fetched.json").read_text())
    date = record.pop("date")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", date)
    assert record == {
        "name": "grass",
        "licence": "cc-by-nc-4.0",
        "file": "grass.zip",
        "repo": REPO,
        "commit": COMMIT,
        "url": f"{os.environ['HF_ENDPOINT'].rstrip('/')}/datasets/{REPO}/resolve/{COMMIT}/grass.zip",
        "bytes": len(hub.content),
        "sha256": hashlib.sha256(hub.content).hexdigest(),
        "verified": True,
    }
    for name, content in files.items():
        assert (root / name.removeprefix("some_name/")).read_bytes() == content
    assert left(data_root) == {"grass"}
    assert open_data("grass").classes == open_data(root).classes == builtin.built_in_spec("grass")["classes"]
    asked = len(hub.asked)
    assert fetch.fetch("grass") == root  # nothing to do, no question asked
    assert len(hub.asked) == asked


def test_where_no_hash_is_known_it_is_recorded_and_not_called_checked(hub):
    hub.lfs = False
    record = json.loads((fetch.fetch("grass") / "fetched.json").read_text())
    assert record["verified"] is False
    assert record["sha256"] == hashlib.sha256(hub.content).hexdigest()


def test_a_broken_connection_is_resumed_in_the_same_call(hub, data_root, files):
    hub.cuts = [1000, 500]
    fetch.fetch("grass")
    assert downloads(hub) == [None, "bytes=1000-", "bytes=1500-"]
    assert len(open_data("grass").pairs("train")) == 3


def test_a_later_call_resumes_what_an_earlier_one_left(hub, data_root):
    hub.cuts = [700] + [0] * 10
    fails(rf"broke off at byte 700 of {len(hub.content)} .*the same command resumes there")
    assert len(downloads(hub)) == 1 + fetch.ATTEMPTS
    assert left(data_root) == {f".grass-{COMMIT[:12]}.zip.part"}
    hub.cuts.clear()
    fetch.fetch("grass")
    assert downloads(hub)[-1] == "bytes=700-"
    assert left(data_root) == {"grass"}


def test_a_complete_part_is_not_received_again(hub, data_root):
    data_root.mkdir()
    (data_root / f".grass-{COMMIT[:12]}.zip.part").write_bytes(hub.content)
    fetch.fetch("grass")
    assert downloads(hub) == []


def test_a_part_that_is_too_long_is_thrown_away(hub, data_root):
    data_root.mkdir()
    (data_root / f".grass-{COMMIT[:12]}.zip.part").write_bytes(hub.content + b"more")
    fetch.fetch("grass")
    assert downloads(hub) == [None]


def test_a_server_without_ranges_sends_the_whole_and_gets_no_mixture(hub):
    hub.ranges, hub.cuts = False, [900]
    record = json.loads((fetch.fetch("grass") / "fetched.json").read_text())
    assert downloads(hub) == [None, "bytes=900-"]
    assert record["sha256"] == hashlib.sha256(hub.content).hexdigest()


def test_a_busy_server_is_asked_again_and_a_refusal_is_final(hub, data_root):
    hub.refusals = [503, 429]
    fetch.fetch("grass")
    assert len(downloads(hub)) == 3
    hub.refusals = [403, 403]
    fails("the server answered .*403", out=data_root / "again")
    assert len(downloads(hub)) == 4


def test_damaged_content_is_refused_and_removed(hub, data_root):
    right = hub.content
    hub.info = {
        "sha": COMMIT,
        "siblings": [{"rfilename": "grass.zip", "size": len(right), "lfs": {"sha256": "0" * 64}}],
    }
    fails(rf"SHA-256 is {hashlib.sha256(right).hexdigest()}, expected 0{{64}}; fetch it again")
    assert left(data_root) == set()


def test_the_known_hash_counts_more_than_the_hubs(hub, data_root, monkeypatch):
    source = builtin.built_in_spec("grass")["source"]
    monkeypatch.setitem(source, "sha256", "f" * 64)
    fails(r"expected f{64}; fetch it again")
    assert left(data_root) == set()
    monkeypatch.setitem(source, "sha256", hashlib.sha256(hub.content).hexdigest())
    hub.lfs = False
    assert json.loads((fetch.fetch("grass") / "fetched.json").read_text())["verified"] is True


ILL_TYPED = {
    "size null": {"size": None},
    "size text": {"size": "12"},
    "size below 0": {"size": -1},
    "size true": {"size": True},
    "lfs list": {"size": 5, "lfs": []},
    "lfs text": {"size": 5, "lfs": "no"},
    "hash number": {"size": 5, "lfs": {"sha256": 7}},
    "no size": {},
}


@pytest.mark.parametrize("entry", ILL_TYPED.values(), ids=ILL_TYPED)
def test_an_ill_typed_answer_is_an_error(hub, data_root, entry):
    hub.info = {"sha": COMMIT, "siblings": [{"rfilename": "grass.zip"} | entry]}
    fails("does not tell of XavierJiezou/ktda-datasets .*without a network download")
    for siblings in (None, 5, "grass.zip", [None], [{"rfilename": ["grass.zip"]}]):
        hub.info = {"sha": COMMIT, "siblings": siblings}
        fails("does not tell of XavierJiezou/ktda-datasets .*without a network download")
    assert left(data_root) == set()


def test_an_answer_without_end_is_not_read_to_its_end(hub, data_root, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_ANSWER", 1000)
    hub.info = {"sha": COMMIT, "siblings": [{"rfilename": "grass.zip", "size": 5, "more": "x" * 10_000}]}
    fails("does not tell of XavierJiezou/ktda-datasets")


def test_a_server_that_sends_more_than_it_told_of_is_stopped(hub, data_root):
    told = len(hub.content) - 100
    hub.info = {"sha": COMMIT, "siblings": [{"rfilename": "grass.zip", "size": told}]}
    fails(f"sends more than the {told} bytes that it told of")
    assert all(path.stat().st_size <= told for path in data_root.iterdir())
    assert len(downloads(hub)) == 1


def test_redirects_without_end_are_one_line(hub, data_root):
    hub.circle = True
    fails("redirect")
    assert len(hub.asked) < 40


@pytest.mark.parametrize("kind", ["ratio", "count"])
def test_an_archive_that_would_become_too_much_is_refused_before_it_is_unpacked(
    hub, tmp_path, data_root, files, kind, monkeypatch
):
    monkeypatch.setattr(fetch, "MAX_ENTRIES", 1000)
    bomb = {f"some_name/{number}.txt": b"" for number in range(1001)} if kind == "count" else {"zeros": bytes(10**7)}
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, **bomb}.items():
            archive.writestr(name, content)
    fails("entries would become .* GB; that is no archive of images", archive=tmp_path / "bomb.zip")
    assert left(data_root) == set()


def test_an_archive_that_declares_less_than_it_holds_gives_no_more_than_that(hub, tmp_path, data_root, files):
    content = bytearray(zipped(files))
    entry = content.rindex(b"PK\x01\x02")  # the last of the directory: 20 bytes on, packed size, then the real one
    content[entry + 24 : entry + 28] = (1).to_bytes(4, "little")
    (tmp_path / "lying.zip").write_bytes(content)
    fails("damaged, or not a zip archive", archive=tmp_path / "lying.zip")
    assert left(data_root) == set()


@pytest.mark.parametrize(
    "answer", [{"sha": "main"}, {"error": "x"}, {"sha": None}, ["list"]], ids=["branch", "error", "null", "list"]
)
def test_a_strange_answer_is_an_error(hub, data_root, answer):
    hub.info = answer
    fails("does not tell of XavierJiezou/ktda-datasets .*without a network download")
    assert left(data_root) == set()


def test_without_a_network_the_error_comes_at_once_with_the_cure(hub, data_root, monkeypatch):
    def no_network(cause: str) -> None:
        fails(
            rf"{cause}.*without a network download https://huggingface.co/datasets/{REPO}/resolve/main/grass.zip "
            "elsewhere and run `ktda data fetch grass --zip FILE`"
        )
        assert left(data_root) == set()

    monkeypatch.setattr(fetch, "PROBE_SECONDS", 1)
    hub.silent = True
    no_network("cannot be reached")
    assert len(hub.asked) == 1  # once, without retries
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        no_network("Connection refused")
    monkeypatch.setenv("HF_ENDPOINT", "http://no-such-host.invalid")
    no_network("cannot be reached")


def test_an_archive_that_the_user_brings(hub, tmp_path, data_root):
    archive = tmp_path / "brought.zip"
    archive.write_bytes(hub.content)
    root = fetch.fetch("grass", archive=archive)
    record = json.loads((root / "fetched.json").read_text())
    assert (record["commit"], record["sha256"]) == (None, hashlib.sha256(hub.content).hexdigest())
    assert archive.exists()
    assert not hub.asked
    fails("cannot fetch to .*No such file.*none.zip", archive=tmp_path / "none.zip", out=data_root / "b")
    archive.write_bytes(hub.content[:-300])
    fails("damaged, or not a zip archive", archive=archive, out=data_root / "b")
    assert left(data_root) == {"grass"}
    with pytest.raises(InputError, match=r"cloud\.zip: SHA-256 is .*, expected e8ca"):
        fetch.fetch("cloud", archive=archive)


def test_a_flipped_bit_inside_the_archive_is_found(hub, tmp_path, data_root):
    content = bytearray(hub.content)
    content[200] ^= 1
    (tmp_path / "bad.zip").write_bytes(content)
    fails("damaged", archive=tmp_path / "bad.zip")
    assert left(data_root) == set()


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "C:\\evil.txt", "..\\evil.txt"])
def test_names_that_leave_the_folder_are_refused(hub, tmp_path, data_root, files, name):
    (tmp_path / "evil.zip").write_bytes(zipped({**files, name: b"x"}))
    fails("unsafe entry .* nothing was unpacked", archive=tmp_path / "evil.zip")
    assert left(data_root) == set()
    assert not list(tmp_path.rglob("evil.txt"))


def test_links_are_refused(hub, tmp_path, data_root, files):
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        link = zipfile.ZipInfo("some_name/img_dir/train/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    fails("unsafe entry .*link.png.* nothing was unpacked", archive=tmp_path / "link.zip")
    assert left(data_root) == set()


def test_the_root_is_found_wherever_it_lies(hub, tmp_path, data_root, files):
    deep = {f"x/y/{name}": content for name, content in files.items()}
    deep |= {f"__MACOSX/{name}": b"left by another system" for name in files}
    (tmp_path / "deep.zip").write_bytes(zipped(deep))
    root = fetch.fetch("grass", archive=tmp_path / "deep.zip")
    assert sorted(path.name for path in root.iterdir()) == ["ann_dir", "dataset.yaml", "fetched.json", "img_dir"]
    for content, found in (({**files, **deep}, "some_name, x/y"), ({"a.txt": b""}, "found none")):
        (tmp_path / "odd.zip").write_bytes(zipped(content))
        fails(
            f"expected one folder with img_dir and ann_dir.*{found}", archive=tmp_path / "odd.zip", out=data_root / "b"
        )


def test_a_specification_in_the_archive_is_kept(hub, tmp_path, data_root, files):
    own = {**files, "some_name/dataset.yaml": b"classes: [p, q, r]"}
    (tmp_path / "own.zip").write_bytes(zipped(own))
    assert open_data(fetch.fetch("grass", archive=tmp_path / "own.zip")).classes == ("p", "q", "r")


def test_an_occupied_place(hub, data_root):
    (data_root / "grass").mkdir(parents=True)
    fetch.fetch("grass")  # an empty folder may be taken
    (data_root / "notes").mkdir()
    (data_root / "notes/thesis.txt").touch()
    fails("notes exists and holds no img_dir; move it away", out=data_root / "notes")
    fails("cannot fetch to", out=data_root / "notes/thesis.txt/below")
    with pytest.raises(InputError, match=r"'moon' cannot be fetched; choose one of grass, cloud"):
        fetch.fetch("moon")


def test_two_at_once_are_told(hub, data_root):
    data_root.mkdir()
    with fetch.filelock.FileLock(data_root / ".grass.lock"):
        fails("another process is fetching grass")


def test_command_line(hub, data_root, tmp_path):
    def run(*arguments: object):
        return CliRunner().invoke(app, ["fetch", *map(str, arguments)])

    first = run("grass", "--out", tmp_path / "here")
    assert first.exit_code == 0, first.output
    assert f"grass: 3 train, 2 val tiles in {tmp_path / 'here'}" in first.output
    assert f"ktda data check {tmp_path / 'here'}" in first.output
    assert run("grass", "--out", tmp_path / "here").output == first.output  # there already
    (tmp_path / "brought.zip").write_bytes(hub.content)
    assert run("grass", "--zip", tmp_path / "brought.zip").exit_code == 0
    assert isinstance(run("cloud").exception, InputError)
