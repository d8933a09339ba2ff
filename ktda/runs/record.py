"""The manifest of a run: what ran, on what, from what, and how it ended.

Written when a run starts, completed when it ends, also when it fails; always replaced in one step.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import ktda
from ktda.files import PACKAGE, now, write_json

_LIBRARIES = ("torch", "torchvision", "timm", "segmentation-models-pytorch")
_LIBRARIES += ("accelerate", "torchmetrics", "numpy")


def elapsed(manifest: Mapping[str, Any]) -> float:
    """Seconds from start to end of a manifest that was completed."""
    start, end = (datetime.fromisoformat(manifest[key]) for key in ("start", "end"))
    return (end - start).total_seconds()


@cache
def source_hash() -> str:
    """SHA-256 over the package's own Python files and weights, names and contents."""
    digest = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.safetensors")]):
        name = path.relative_to(PACKAGE).as_posix().encode()
        digest.update(name + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def commit() -> dict[str, Any]:
    """Commit of the checkout that the package runs from, and whether it has uncommitted changes."""
    try:
        # fails where it is installed from a wheel, perhaps inside somebody else's repository
        _git("ls-files", "--error-unmatch", str(PACKAGE / "__init__.py"))
        return {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@cache
def versions() -> dict[str, str]:
    """Python, this package and the libraries that numbers depend on."""
    found = {"python": platform.python_version(), "ktda": ktda.__version__}
    return found | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def machine(device: Any) -> dict[str, Any]:
    """Device, its name, and the machine's cores and system."""
    import torch

    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    about = {"device": str(device), "name": name}
    return about | {"cores": os.cpu_count(), "system": platform.platform()}


@contextlib.contextmanager
def handling(handler: Callable | signal.Handlers, *numbers: signal.Signals) -> Iterator[None]:
    """Let `handler` have signals while the block runs; those that are ignored (nohup) stay ignored.

    In another thread than the main one, which alone may set handlers, nothing changes.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before or signal.SIG_DFL)


def ended_by(*numbers: signal.Signals) -> contextlib.AbstractContextManager[None]:
    """Let signals end the block by SystemExit, so that it is cleaned up after."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    return handling(stop, *numbers)


class Manifest:
    """``manifest.json`` of a run folder, written at `path` with the content known at the start."""

    def __init__(self, path: Path, **content: Any) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "status": "running",
            "start": now(),
            "end": None,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            **commit(),
            "source_hash": source_hash(),
            "versions": versions(),
            **content,
        }
        write_json(self.path, self.content)

    def end(self, status: str, **content: Any) -> None:
        """Complete with "finished" or "failed"."""
        self.content |= {"status": status, "end": now(), **content}
        write_json(self.path, self.content)
