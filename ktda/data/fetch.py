"""Download the paper's data sets from the Hugging Face hub, or unpack an archive of the user's.

The branch ``main`` is resolved to its commit first and that commit is downloaded and recorded, so
that two machines can be compared. The download is our own because it must resume: a cloud archive
has 2.8 GB, and ``huggingface_hub`` throws away what a killed process had received.
"""

import http.client
import json
import os
import re
import shutil
import stat
import tempfile
import time
import urllib.request
import zipfile
import zlib
from pathlib import Path

import filelock
from tqdm.auto import tqdm

from ktda.data import builtin
from ktda.data.spec import FILE
from ktda.errors import InputError
from ktda.files import file_sha256, now, write_json

RECORD = "fetched.json"
HUB = "https://huggingface.co"
PROBE_SECONDS = 5.0  # without a network the answer must come soon
STALL_SECONDS = 30.0  # silence on an open connection that counts as broken
ATTEMPTS = 5  # in a row without a single new byte
MAX_ANSWER = 10**7  # bytes of what the hub tells of a repository
MAX_ENTRIES = 10**6
MAX_RATIO = 50  # of bytes unpacked; images are compressed already
_ILL_TYPED = (TypeError, LookupError, AttributeError)
PAUSE_SECONDS = 2.0  # after an attempt without a new byte, times the number of those


def fetch(name: str, out: Path | None = None, archive: Path | None = None) -> Path:
    """Bring a data set to this machine, from the hub at ``$HF_ENDPOINT`` or huggingface.co.

    Args:
        name: ``grass`` or ``cloud``.
        out: The root to be, by default where ``open_data(name)`` looks.
        archive: A zip file that is already here, instead of a download.

    Returns:
        The root, which holds the record ``fetched.json``: commit, SHA-256, size, date and licence.
        A root that is there already is returned as it is.

    Raises:
        InputError: Unknown name, no network, an occupied ``out``, a full disk, a wrong hash or a
            bad archive.
    """
    if archive and archive.exists() and not archive.is_file():
        raise InputError(f"{archive}: expected a regular file")
    if name not in builtin.DOWNLOADS:
        known = ", ".join(builtin.DOWNLOADS)
        raise InputError(f"{name!r} cannot be fetched; choose one of {known}")
    out = (out or builtin.data_root() / name).expanduser().absolute()
    if (out / "img_dir").is_dir():
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        cure = "move it away, or choose another --out"
        raise InputError(f"{out} exists and holds no img_dir; {cure}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(out.with_name(f".{name}.lock"), timeout=0):
            _fetch(name, out, archive)
    except filelock.Timeout as error:
        found = f"another process is fetching {name} to {out.parent}"
        raise InputError(f"{found}; wait for it") from error
    except OSError as error:
        raise InputError(f"cannot fetch to {out}: {error}") from error
    return out


def _fetch(name: str, out: Path, archive: Path | None) -> None:
    source = builtin.built_in_spec(name)["source"]
    repo = source["repo"]
    file = source["file"]
    expected = source.get("sha256")
    record = {"name": name, "licence": source["licence"], "repo": repo, "file": file}
    record["commit"] = None
    part = None
    if archive is None:
        endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        commit, size, hub_sha256 = resolve(endpoint, repo, file)
        expected = expected or hub_sha256
        record["commit"] = commit
        record["url"] = f"{endpoint}/datasets/{repo}/resolve/{commit}/{file}"
        # named by the commit: what one commit holds never changes
        part = out.with_name(f".{name}-{commit[:12]}.zip.part")
        download(record["url"], part, size)
        archive = part
    sha256 = file_sha256(archive)
    if expected not in (None, sha256):
        if part is not None:
            part.unlink()
        raise InputError(f"{file}: SHA-256 is {sha256}, expected {expected}; fetch it again")
    record["bytes"] = archive.stat().st_size
    record["sha256"] = sha256
    record["verified"] = expected is not None
    record["date"] = now()

    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
        root = unpack(archive, Path(beside) / "content")
        write_json(root / RECORD, record)
        if not (root / FILE).exists():
            shutil.copyfile(builtin.spec_file(name), root / FILE)
        root.rename(out)
    if part is not None:
        part.unlink()


def resolve(endpoint: str, repo: str, file: str) -> tuple[str, int, str | None]:
    """The 40-digit commit of ``main``, and a file's size in bytes and, where told, SHA-256."""
    try:
        url = f"{endpoint}/api/datasets/{repo}/revision/main?blobs=true"
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS) as response:
            answer = json.loads(response.read(MAX_ANSWER))
        commit = re.fullmatch("[0-9a-f]{40}", answer["sha"])[0]
        entry = {entry["rfilename"]: entry for entry in answer["siblings"]}[file]
        size, known = entry["size"], entry.get("lfs", {}).get("sha256")
        if type(size) is not int or size < 0 or not isinstance(known, str | None):
            raise ValueError(f"size {size!r:.40}, SHA-256 {known!r:.40}")
        return commit, size, known
    except (OSError, http.client.HTTPException, ValueError, *_ILL_TYPED) as error:
        found = f"{endpoint} cannot be reached, or does not tell of {repo} ({_line(error)})"
        address = f"{HUB}/datasets/{repo}/resolve/main/{file}"
        command = f"`ktda data fetch {Path(file).stem} --zip FILE`"
        cure = f"without a network download {address} elsewhere and run {command}"
        raise InputError(f"{found}; {cure}") from error


def download(url: str, part: Path, size: int) -> None:
    """Receive ``size`` bytes of ``url`` into ``part``, after those there; again when it breaks.

    Raises:
        InputError: The server refuses, or ``ATTEMPTS`` in a row brought no byte; ``part`` is kept.
    """
    failures = 0
    _check_room(size, part, url)
    while (have := _size(part)) != size:
        time.sleep(PAUSE_SECONDS * failures)
        try:
            _receive(url, part, size, have if have < size else 0)
            reason = "the connection ended early"
        except (OSError, http.client.HTTPException) as error:
            code = getattr(error, "code", 500)
            if code < 500 and code not in (408, 429):
                raise InputError(f"{url}: the server answered {_line(error)}") from error
            reason = _line(error)
        got = _size(part)
        failures = 0 if got > have else failures + 1
        if failures >= ATTEMPTS:
            found = f"broke off at byte {got} of {size} ({reason})"
            raise InputError(f"{url}: {found}; the same command resumes there")


def _receive(url: str, part: Path, size: int, start: int) -> None:
    """One request for what comes from byte ``start`` on, with a bar on a terminal."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=STALL_SECONDS) as response:
        mode = "ab" if response.status == 206 else "wb"  # 200: the whole, from the beginning
        with part.open(mode) as file:
            bar = {"total": size, "initial": file.tell(), "desc": url}
            left = size - file.tell()
            with tqdm.wrapattr(file, "write", **bar, disable=None, leave=False) as target:
                while block := response.read(min(1 << 20, left + 1)):
                    left -= len(block)
                    if left < 0:
                        found = f"the server sends more than the {size} bytes that it told of"
                        raise InputError(f"{url}: {found}")
                    target.write(block)


def _check_room(size: int, path: Path, what: Path | str) -> None:
    """Refuse what the disk of a path to be has no room for."""
    free = shutil.disk_usage(path.parent).free
    if size > free:
        found = f"{size / 1e9:.1f} GB, and {path.parent} has room for {free / 1e9:.1f} GB"
        raise InputError(f"{what}: needs {found}; choose another --out")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())  # of a redirect without end urllib tells in several lines


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def unpack(archive: Path, out: Path) -> Path:
    """Unpack a zip archive into ``out``; returns the folder with ``img_dir`` and ``ann_dir``.

    Raises:
        InputError: The archive is damaged, unsafe (a name that leaves ``out``, a link), or holds
            not just one data set.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            members = [m for m in entries if not m.filename.startswith("__MACOSX/")]
            # zipfile gives no more bytes of an entry than these
            total = sum(member.file_size for member in members)
            if len(members) > MAX_ENTRIES or total > MAX_RATIO * archive.stat().st_size:
                found = f"{len(members)} entries would become {total / 1e9:.1f} GB"
                raise InputError(f"{archive}: {found}; that is no archive of images")
            _check_room(total, out.parent, archive)
            for member in members:
                name = member.filename.replace("\\", "/")
                outside = ":" in name or name.startswith("/") or ".." in name.split("/")
                if outside or stat.S_ISLNK(member.external_attr >> 16):
                    found = f"unsafe entry {name!r} (a link, or outside)"
                    raise InputError(f"{archive}: {found}; nothing was unpacked")
            bar = {"desc": f"unpacking {archive.name}", "disable": None, "leave": False}
            for member in tqdm(members, **bar):
                opened.extract(member, out)  # checks the CRC
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        found = f"damaged, or not a zip archive that can be read ({error})"
        raise InputError(f"{archive}: {found}") from error
    parents = (path.parent for path in out.rglob("img_dir"))
    roots = sorted(parent for parent in parents if (parent / "ann_dir").is_dir())
    if len(roots) != 1:
        found = ", ".join(root.relative_to(out).as_posix() for root in roots) or "none"
        expected = "one folder with img_dir and ann_dir in the archive"
        raise InputError(f"{archive}: expected {expected}, found {found}")
    return roots[0]
