"""Where things lie, and how they are written: beside their name, then put there in one step."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ktda

PACKAGE = Path(ktda.__file__).resolve().parent


def project_root() -> Path:
    """The checkout that the package runs from, or the working directory where it was installed without one."""
    checkout = PACKAGE.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def data_root() -> Path:
    """The folder for data sets: ``$KTDA_DATA``, or ``data`` in the checkout or working directory."""
    return Path(os.environ.get("KTDA_DATA") or project_root() / "data").expanduser().absolute()


def write_beside(path: Path, text: str) -> None:
    """Write a text file beside its name, then put it there in one step."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write json beside its name, then put it there in one step; NaN is an error."""
    write_beside(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A json file as a dictionary."""
    return json.loads(path.read_text(encoding="utf-8"))


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
