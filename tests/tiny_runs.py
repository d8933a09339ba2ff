"""Runs of a second: a set of a few tiles, a student of half a million parameters, a handful of steps."""

import contextlib
import csv
import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from tiny_sets import put_tile

from ktda.config import Config, make_config

SPEC = "classes: [a, b, c]\nscene: '^(.+)_patch_'\n"
# 6 training tiles of 40 px, so 3 batches of 2 per epoch; the last epoch of 4 steps is a partial one.
SPLITS = {"train": 6, "val": 3, "test": 2}
TINY = {
    "student": "tu-test_convnext",
    "teacher": "random",
    "tiles": 0,
    "crop": 32,
    "neck_width": 16,
    "fmm_heads": 2,
    "decoder_channels": 16,
    "auxiliary_channels": 8,
}
FILES = {
    "manifest.json",
    "metrics.json",
    "confusions.npz",
    "history.csv",
    "model.safetensors",
    "config.json",
    "checkpoint.safetensors",
}


def make_set(root: Path, splits: dict[str, int] = SPLITS, size: int = 40, classes: int = 3, spec: str = SPEC) -> Path:
    """Write a set with two tiles per scene; the same arguments give the same bytes."""
    number = 0
    for split, tiles in splits.items():
        for tile in range(tiles):
            put_tile(root, split, f"{split}{tile // 2}_patch_{tile}", seed=number, size=(size, size), classes=classes)
            number += 1
    (root / "dataset.yaml").write_text(spec)
    return root


def tiny(**overrides: object) -> Config:
    """Preset smoke with the smallest parts."""
    return make_config("smoke", TINY | overrides)


def as_options(**overrides: object) -> list[str]:
    """The same settings as command-line options."""
    words = ["--preset", "smoke"]
    for key, value in (TINY | overrides).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        words += ["--set", f"{key}={text}"]
    return words


def manifest_of(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text())


def results_of(run: Path) -> dict:
    """All that two runs of one seed must share, to the bit: everything but times and memory."""
    metrics = json.loads((run / "metrics.json").read_text())
    with (run / "history.csv").open() as file:
        history = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    return {
        "model": (run / "model.safetensors").read_bytes(),
        "config": (run / "config.json").read_bytes(),
        "history": history,
        "metrics": {k: v for k, v in metrics.items() if k not in ("seconds", "peak_memory_bytes")},
        "confusions": (run / "confusions.npz").read_bytes(),
    }


def content_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.iterdir())}


class Stop(Exception):
    """Ends a run in the middle."""


def train_until(
    batch: int, data: Path, config: Config, out: Path, raising: BaseException | Callable | None = None, **more: object
) -> None:
    """Train up to a batch (0-based), of which nothing is kept; only another exception than `Stop` comes out."""
    from ktda.runs.progress import Progress
    from ktda.training import train

    add = Progress.add

    def stopping(self: Progress, terms: dict) -> None:
        if self.batch < batch:
            add(self, terms)
        elif callable(raising):
            raising()
        else:
            raise raising or Stop

    with mock.patch.object(Progress, "add", stopping), contextlib.suppress(Stop):
        train(str(data), config, out, **more)
        raise AssertionError("it was not stopped")
