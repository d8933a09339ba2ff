"""The built-in data sets: their names, where they lie, and how to get those that are not there."""

import functools
import os
from pathlib import Path
from typing import Any

import filelock

from ktda.data.spec import read_spec
from ktda.files import data_root, project_root

DOWNLOADS = ("grass", "cloud")
# Simulated sets, made on first use: the arguments of `make_world`. The laboratory's sets hold many
# scenes, so that few labelled ones can be compared with many, and small tiles for short runs.
_LAB = {"tiles": 2000, "val": 144, "test": 288, "size": 64, "seed": 1}
DEMOS: dict[str, dict[str, Any]] = {
    "demo_grass": {"name": "demo_grass"},
    "demo_cloud": {"name": "demo_cloud"},
    "lab_grass": {"name": "demo_grass"} | _LAB,
    "lab_cloud": {"name": "demo_cloud"} | _LAB,
}
SAMPLE = "l8_biome_sample"
NAMES = (*DOWNLOADS, SAMPLE, *DEMOS)


def spec_file(name: str) -> Path:
    """The ``dataset.yaml`` that the package ships; demo sets have the classes of the real ones."""
    stem = name.removeprefix("demo_").removeprefix("lab_")
    return Path(__file__).parent / "sets" / f"{stem}.yaml"


@functools.cache
def built_in_spec(name: str) -> dict[str, Any]:
    """The content of `spec_file`."""
    return read_spec(spec_file(name))


def locate(name: str) -> Path | None:
    """The folder of a built-in set, or None where it is not on this machine."""
    places = [data_root() / name]
    if name == SAMPLE:
        shared = Path(os.environ.get("KTDA_SHARED") or project_root().parent / "shared")
        places.insert(0, shared.expanduser().absolute() / "data" / name)
    return next((place for place in places if place.is_dir()), None)


def how_to_get(name: str) -> str:
    """One line for the user: what brings a built-in set to this machine."""
    if name in DOWNLOADS:
        return f"`ktda data fetch {name}`"
    if name in DEMOS:
        by_hand = f", or `ktda data make {name}`" if name.startswith("demo_") else ""
        return f"made on first use{by_hand}"
    place = data_root() / name
    return f"put the folder at {place}, or name the folder that holds data/{name} in KTDA_SHARED"


def make_demo(name: str) -> Path:
    """Simulate a demo set where `locate` finds it; a second process that wants to waits."""
    from ktda_lab.worlds import make_world  # simulating needs more imports than reading

    root = data_root() / name
    root.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(root.with_name(f".{name}.lock")):
        if root.is_dir():
            return root
        return make_world(out=root, **DEMOS.get(name, {"name": name}))
