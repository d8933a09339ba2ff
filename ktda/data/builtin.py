"""The built-in data sets: their names, where they lie, and how to get those that are not there."""

import functools
import os
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import ktda
from ktda.data.spec import Spec, read_spec
from ktda.errors import InputError

DOWNLOADS = ("grass", "cloud")
DEMOS = ("demo_grass", "demo_cloud")
SAMPLE = "l8_biome_sample"
NAMES = (*DOWNLOADS, SAMPLE, *DEMOS)


def project_root() -> Path:
    """The checkout that the package runs from, or the working directory where it was installed without one."""
    checkout = Path(ktda.__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def data_root() -> Path:
    """The folder for data sets: ``$KTDA_DATA``, or ``data`` in the checkout or working directory."""
    given = os.environ.get("KTDA_DATA")
    return Path(given).expanduser().absolute() if given else project_root() / "data"


@functools.cache
def built_in_spec(name: str) -> Spec:
    """The specification that the package ships for a data set (demo sets have the classes of the real ones)."""
    file = resources.files("ktda.data") / "sets" / f"{name.removeprefix('demo_')}.yaml"
    with resources.as_file(file) as path:
        return read_spec(path, built_in=True)


def locate(name: str) -> Path | None:
    """The folder of a built-in set, or None where it is not on this machine."""
    places = [data_root() / name]
    if name == SAMPLE:
        shared = os.environ.get("KTDA_SHARED")
        first = Path(shared).expanduser() if shared else project_root().parent / "shared"
        places.insert(0, first.absolute() / "data" / name)
    return next((place for place in places if place.is_dir()), None)


def how_to_get(name: str) -> str:
    """One line for the user: what brings a built-in set to this machine."""
    if name in DOWNLOADS:
        return f"`ktda data fetch {name}`"
    if name in DEMOS:
        return f"made on first use, or `ktda data make {name}`"
    return f"put the folder at {data_root() / name}, or name the folder that holds data/{name} in KTDA_SHARED"


def make_demo(name: str, out: Path, **settings: Any) -> Path:
    """Simulate a demo set beside ``out`` and rename it when it is whole.

    Two processes may do so at once: the first to finish wins, and the other uses what is there.

    Args:
        name: ``demo_grass`` or ``demo_cloud``.
        out: The root to be; it must not exist, or be empty.
        **settings: ``world``, ``tiles``, ``size`` and ``seed`` of ``ktda.data.worlds.make_world``.

    Returns:
        ``out``.
    """
    from ktda.data.worlds import make_world  # simulating needs more imports than reading

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out.parent}: cannot write there ({error.strerror}); choose another folder") from error
    try:
        make_world(name, beside / out.name, **settings)
        try:
            (beside / out.name).rename(out)
        except OSError:
            if not (out / "img_dir").is_dir():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out
