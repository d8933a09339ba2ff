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
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import ktda
from ktda.files import PACKAGE, now, write_json

_LIBRARIES = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "accelerate", "torchmetrics", "numpy")


def elapsed(manifest: Mapping[str, Any]) -> float:
    """Seconds from start to end of a manifest that was completed."""
    return (datetime.fromisoformat(manifest["end"]) - datetime.fromisoformat(manifest["start"])).total_seconds()


@cache
def source_hash() -> str:
    """SHA-256 over the package's own Python files and weights, names and contents."""
    digest = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.safetensors")]):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def commit() -> dict[str, Any]:
    """Commit of the checkout that the package runs from, and whether it has uncommitted changes."""
    try:
        git = ["git", "-C", str(PACKAGE.parent)]
        top = subprocess.run([*git, "ls-files", "--error-unmatch", str(PACKAGE / "__init__.py")], capture_output=True)
        if top.returncode:  # installed from a wheel, perhaps inside somebody else's repository
            return {"commit": None, "dirty": None}
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": head.stdout.strip(), "dirty": bool(status.stdout.strip())}


@cache
def versions() -> dict[str, str]:
    """Python, this package and the libraries that numbers depend on."""
    found = {"python": platform.python_version(), "ktda": ktda.__version__}
    return found | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def machine(device: Any) -> dict[str, Any]:
    """Device, its name, and the machine's cores and system."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": str(device), "name": name, "cores": os.cpu_count(), "system": platform.platform()}


@contextlib.contextmanager
def ended_by(*numbers: signal.Signals) -> Iterator[None]:
    """Let signals end the block by SystemExit, so that it is cleaned up after; ignored ones (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


class Manifest:
    """``manifest.json`` of a run folder.

    Args:
        path: where it is written.
        **content: what is known at the start.
    """

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
        self.write()

    def update(self, **content: Any) -> None:
        """Add or replace entries and write."""
        self.content.update(content)
        self.write()

    def end(self, status: str, **content: Any) -> None:
        """Complete with "finished" or "failed"."""
        self.update(status=status, end=now(), **content)

    def write(self) -> None:
        write_json(self.path, self.content)
