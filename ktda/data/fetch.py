"""Download the paper's data sets from the Hugging Face hub, or unpack an archive that the user brought.

The branch ``main`` is resolved to its commit first and that commit is downloaded and recorded, so that two machines
can be compared. The download is our own because it must resume: a cloud archive has 2.8 GB, and ``huggingface_hub``
throws away what a killed process had received. Protocol: ``/api/datasets/REPO/revision/main`` names the commit,
``/datasets/REPO/resolve/COMMIT/FILE`` (with ``Range``) is the file.
"""

import datetime
import hashlib
import http.client
import json
import os
import queue
import re
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import filelock
import yaml
from tqdm.auto import tqdm

import ktda
from ktda.data import builtin
from ktda.data.spec import FILE, KEYS
from ktda.data.unpack import unpack
from ktda.errors import InputError

RECORD = "fetched.json"
HUB = "https://huggingface.co"
REVISION = "main"
PROBE_SECONDS = 2.0  # without a network the answer must come at once
STALL_SECONDS = 30.0  # silence on an open connection that counts as broken
ATTEMPTS = 5  # in a row without a single new byte
PAUSE_SECONDS = 1.0  # before the second attempt, doubled each time
CHUNK = 1 << 20
BROKEN_CONNECTION = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
)


def fetch(
    name: str,
    out: Path | None = None,
    archive: Path | None = None,
    endpoint: str | None = None,
    probe_seconds: float = PROBE_SECONDS,
    any_hash: bool = False,
) -> Path:
    """Bring a data set to this machine.

    Args:
        name: ``grass`` or ``cloud``.
        out: The root to be, by default where ``open_data(name)`` looks.
        archive: A zip file that is already here, instead of a download.
        endpoint: Address of the hub; by default ``$HF_ENDPOINT``, then huggingface.co.
        probe_seconds: How long the hub may take to name its commit.
        any_hash: Accept an archive other than the known one. Its hash is recorded either way.

    Returns:
        The root, which holds the record ``fetched.json``: commit, SHA-256, size, date and licence. A root that is
        there already is returned as it is.

    Raises:
        InputError: Unknown name, no network, an occupied ``out``, a full disk, a wrong hash or a bad archive.
    """
    if name not in builtin.DOWNLOADS:
        raise InputError(f"{name!r} cannot be fetched; choose one of {', '.join(builtin.DOWNLOADS)}")
    out = (out or builtin.data_root() / name).expanduser().absolute()
    if (out / "img_dir").is_dir():
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and holds no img_dir; move it away, or choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(out.parent / f".{out.name}.lock", timeout=0):
            _fetch(name, out, archive, (endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/"), probe_seconds,
                   any_hash)  # fmt: skip
    except filelock.Timeout as error:
        raise InputError(f"another process is fetching {name} to {out}; wait for it") from error
    except OSError as error:
        raise InputError(f"cannot fetch to {out}: {error}") from error
    return out


def _fetch(name: str, out: Path, archive: Path | None, endpoint: str, probe_seconds: float, any_hash: bool) -> None:
    source = builtin.built_in_spec(name).source
    record: dict[str, Any] = {"name": name, "licence": source["licence"], "file": source["file"]}
    downloaded = None
    if archive is not None:
        archive = archive.expanduser().absolute()
        if not archive.is_file():
            raise InputError(f"{archive}: no such file; expected the archive {source['file']}")
        record |= {"repo": source["repo"], "commit": None, "archive": archive.name}
        hub_sha256 = None
    else:
        cure = (
            f"without a network download {HUB}/datasets/{source['repo']}/resolve/{REVISION}/{source['file']} elsewhere "
            f"and run `ktda data fetch {name} --zip FILE`, or unpack it so that {out}/img_dir exists"
        )
        commit, size, hub_sha256 = resolve(endpoint, source["repo"], source["file"], probe_seconds, cure)
        url = f"{endpoint}/datasets/{source['repo']}/resolve/{commit}/{source['file']}"
        record |= {"repo": source["repo"], "revision": REVISION, "commit": commit, "url": url}
        archive = downloaded = out.parent / f".{name}-{commit[:12]}.zip.part"  # what one commit holds never changes
        have = archive.stat().st_size if archive.exists() else 0
        free = shutil.disk_usage(out.parent).free
        if size is not None and 2 * size - have > free:
            raise InputError(f"{out.parent}: {source['file']} needs {(2 * size - have) / 1e9:.1f} GB with its content, "
                             f"and {free / 1e9:.1f} GB are free")  # fmt: skip
        download(url, archive, size)

    with archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    known, checked = source.get("sha256"), None
    for origin, expected in (("hub", hub_sha256), ("known", known)):
        if expected is None or (origin == "known" and any_hash):
            continue
        if sha256 != expected:
            if downloaded is not None and checked is None:
                downloaded.unlink()  # damaged on the way; what the hub vouches for is kept
            cure = "fetch it again" if origin == "hub" else "fetch it again, or accept it with --any-hash"
            raise InputError(f"{source['file']}: SHA-256 is {sha256}, expected {expected} ({origin}); {cure}")
        checked = origin
    record |= {
        "bytes": archive.stat().st_size,
        "sha256": sha256,
        "sha256_checked_against": checked,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }

    def finish(root: Path) -> None:
        (root / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if not (root / FILE).exists():
            spec = vars(builtin.built_in_spec(name))
            given = {key: spec[key] for key in KEYS if spec[key] is not None}
            text = yaml.safe_dump(json.loads(json.dumps(given)), sort_keys=False, default_flow_style=None)
            (root / FILE).write_text(text, encoding="utf-8")

    unpack(archive, out, finish)
    if downloaded is not None:
        downloaded.unlink()


def resolve(endpoint: str, repo: str, file: str, seconds: float, cure: str = "") -> tuple[str, int | None, str | None]:
    """Ask the hub for the commit of ``main`` and for what it knows of a file.

    Args:
        endpoint: Address of the hub.
        repo: Data set repository, ``owner/name``.
        file: File in the repository.
        seconds: Deadline for the whole answer, name look-up included.
        cure: What to do without a network, for the error message.

    Returns:
        The 40-digit commit, and the file's size in bytes and SHA-256 where the hub tells them.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError(f"HF_HUB_OFFLINE is set; unset it, or {cure}")
    url = f"{endpoint}/api/datasets/{repo}/revision/{REVISION}?blobs=true"
    answer: queue.Queue = queue.Queue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(_request(url), timeout=seconds) as response:
                answer.put(json.load(response))
        except Exception as error:
            answer.put(error)

    # A thread, because a name look-up obeys no time-out.
    threading.Thread(target=ask, daemon=True).start()
    try:
        got = answer.get(timeout=seconds)
    except queue.Empty:
        got = TimeoutError(f"no answer within {seconds:g} s")
    if isinstance(got, urllib.error.HTTPError):
        raise InputError(f"{url}: the hub answered {got.code} {got.reason}; {cure}")
    if isinstance(got, Exception):
        reason = getattr(got, "reason", None) or got
        raise InputError(f"{endpoint} cannot be reached ({reason}); {cure}")
    commit = got.get("sha") if isinstance(got, dict) else None
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise InputError(f"{url}: expected a 40-digit commit in `sha`, got {commit!r}; is this the hub's address?")
    entry = next((item for item in got.get("siblings") or [] if item.get("rfilename") == file), {})
    lfs = entry.get("lfs") or {}
    return commit, lfs.get("size") or entry.get("size"), lfs.get("sha256")


def download(url: str, part: Path, size: int | None) -> None:
    """Receive ``url`` into ``part``, after the bytes that are there already; repeats when the connection breaks.

    Args:
        url: Address of content that does not change.
        part: File to complete; it is kept when the download fails.
        size: Bytes in all, where known.

    Raises:
        InputError: The server refuses, or ``ATTEMPTS`` in a row brought no byte.
    """
    failures, pause = 0, PAUSE_SECONDS
    with tqdm(total=size, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[-1], disable=None, leave=False) as bar:
        while True:
            have = part.stat().st_size if part.exists() else 0
            if size is not None and have > size:
                part.unlink()
                have = 0
            if size is not None and have == size:
                return
            bar.n = have
            try:
                size = _receive(url, part, have, bar)
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise InputError(f"{url}: the server answered {error.code} {error.reason}") from error
                reason = f"{error.code} {error.reason}"
            except BROKEN_CONNECTION as error:
                reason = str(getattr(error, "reason", None) or error)
            got = part.stat().st_size if part.exists() else 0
            if size is not None and got == size:
                return
            failures, pause = (0, PAUSE_SECONDS) if got > have else (failures + 1, pause * 2)
            if failures >= ATTEMPTS:
                of = f" of {size}" if size else ""
                raise InputError(f"{url}: broke off at byte {got}{of} ({reason}); the same command resumes there")
            time.sleep(pause)


def _receive(url: str, part: Path, have: int, bar: tqdm) -> int:
    """One request; returns the size that the server states, or what arrived where it states none."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        response = urllib.request.urlopen(_request(url, headers), timeout=STALL_SECONDS)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:
            # Nothing after our last byte: complete, unless the server's file has another size.
            total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if total is not None and int(total[1]) == have:
                return have
            part.unlink()
            raise http.client.HTTPException("the server's file has another size") from error
        raise
    with response:
        if response.status == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if span is None or int(span[1]) != have:
                part.unlink()
                raise http.client.HTTPException(f"asked for bytes from {have}, got {span and span[0]}")
            size = None if span[2] == "*" else int(span[2])
        else:  # the whole file, from a server that knows no ranges
            have = 0
            length = response.headers.get("Content-Length")
            size = None if length is None else int(length)
        bar.n, bar.total = have, size
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return part.stat().st_size if size is None else size


def _request(url: str, headers: dict[str, str] | None = None) -> urllib.request.Request:
    return urllib.request.Request(url, headers={"User-Agent": f"ktda/{ktda.__version__}", **(headers or {})})
