"""Where things lie, and how they are read, written and held.

A file is written beside its name and put there in one step, so that its name never holds half of
one. A json file is read with the fields that its reader needs: a damaged one is named in one line.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import ktda
from ktda.errors import InputError

PACKAGE = Path(ktda.__file__).resolve().parent
Needs = Mapping[str, type | tuple[type, ...]]
# json's own names for the types that `read_json` is asked for
_NAMES = {dict: "an object", list: "a list", str: "text", type(None): "null"}
_NAMES |= {int: "a whole number", float: "a number", bool: "true or false"}


def project_root() -> Path:
    """The checkout that the package runs from, or the working directory where there is none."""
    checkout = PACKAGE.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def here_or_checkout(path: Path | str) -> list[Path]:
    """Where a relative path may lie: in the working directory, then in the checkout."""
    return [Path(path), PACKAGE.parent / path]


def data_root() -> Path:
    """The folder of data sets: ``$KTDA_DATA``, or ``data`` in the checkout or working directory."""
    root = os.environ.get("KTDA_DATA") or project_root() / "data"
    return Path(root).expanduser().absolute()


@contextlib.contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Give the block a partial file beside `path`; what it has written takes the name in one step.

    It is on the disk before it takes the name, and has the permissions that any new file has. If
    the block fails, the partial file goes and `path` stays as it was.

    Args:
        path: final name.
        previous: the name that the file there before is kept under; None does not keep it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # what a killed process left
        partial.touch()
        mode = partial.stat().st_mode & 0o777
        yield partial
        partial.chmod(mode)  # some libraries write for the owner alone
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        if previous and path.exists():  # a second name: a kill in between leaves `path` where it is
            previous.unlink(missing_ok=True)
            try:
                os.link(path, previous)
            except OSError:  # a file system without links
                shutil.copyfile(path, previous)
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a full disk does not say where
        raise


def write_beside(path: Path, text: str) -> None:
    """Write a text file beside its name, then put it there in one step."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write json beside its name, then put it there in one step; NaN is an error."""
    write_beside(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, needs: Needs | None = None) -> dict[str, Any]:
    """A json file as a dictionary; `needs` and errors as in `parse_json`."""
    return parse_json(path.read_bytes(), needs or {}, f"{path} is damaged")


def parse_json(text: str | bytes, needs: Needs, message: str) -> dict[str, Any]:
    """Json as a dictionary.

    Args:
        text: the json, in UTF-8.
        needs: the type of every field that the reader relies on; ``data.hash`` is a field of a
            field. A whole number is taken for `float`, true and false are taken for `bool` alone.
        message: begin of the error's line; names the source.

    Raises:
        InputError: not json, or a field that is missing or of another type; one line names it.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # also for bytes that are not UTF-8
        raise InputError(f"{message}: it is not json ({error})") from error
    check_fields(content, needs, message)
    return content


def check_fields(content: Any, needs: Needs, message: str) -> None:
    """Raise `InputError`, which begins with `message`, unless all that is needed is there."""
    if not isinstance(content, dict):
        raise InputError(f"{message}: it holds {_NAMES[type(content)]}, expected an object")
    for name, kinds in needs.items():
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        value: Any = content
        for key in name.split("."):
            if not isinstance(value, dict) or key not in value:
                raise InputError(f"{message}: it has no field {name}")
            value = value[key]
        accepted = {*kinds, int} if float in kinds else {*kinds}
        if type(value) not in accepted:
            expected = " or ".join(_NAMES[kind] for kind in kinds)
            raise InputError(f"{message}: {name} is {_NAMES[type(value)]}, expected {expected}")


def lock_file(path: Path) -> IO | None:
    """Lock a file for this process, or None if another holds it.

    The lock ends with the process, however it ends; `path` then still says whose it was.
    """
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:  # a file system without locks, as some clusters have
            pass
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # its holder removed it in between: that one locks nothing
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock while the block runs, and leave no file.

    Raises:
        InputError: another process holds it; the line says which.
    """
    file = lock_file(path)
    if file is None:
        holder = path.read_text(encoding="utf-8") or "another process"
        raise InputError(f"{what} is in use by {holder}; wait for it, or end it")
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file, streamed."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(content: Any) -> str:
    """SHA-256 of plain values: the same settings give the same hash."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
