"""Many scenes by Snakemake: one job a scene, on a cluster or wherever a profile says."""

import importlib.util
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ktda.errors import InputError
from ktda.files import lock_file, write_json
from ktda.runs.record import ended_by
from ktda.scenes.predict import Options
from ktda_lab.grid.execute import attend, cache_as_before, cached_in

PLAN = ".predict"  # in the folder of the maps: what is asked for, logs, what has ended


def predict_by_profile(
    profile: str, jobs: int | None, model: str, scenes: Sequence[Path], out: Path, options: Options
) -> dict[Path, Path]:
    """Map each scene in a job of its own; finished maps stay, interrupted ones go on.

    Args:
        profile: Snakemake's.
        jobs: at a time; as the profile says if None.
        model: as `ktda predict` takes it, seen from here.
        scenes: as `ktda.scenes.predict.find_scenes` gives them.
        out: folder of the maps.
        options: of every scene.

    Returns:
        Scene -> log of what failed.

    Raises:
        InputError: Snakemake is missing, did not begin, or the folder is in use.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise InputError("--profile needs snakemake: pip install 'ktda[grid]'; or use --jobs")
    place = out / PLAN
    place.mkdir(parents=True, exist_ok=True)
    lock = lock_file(place / "lock")
    if lock is None:
        raise InputError(f"{out} is in use by {(place / 'lock').read_text()}; wait for it, or choose another --out")
    with lock, ended_by(signal.SIGTERM, signal.SIGHUP):
        shutil.rmtree(place / "ended", ignore_errors=True)
        for old in place.glob("[0-9]*.log"):
            old.unlink()
        plan = {"model": model, "scenes": [str(scene) for scene in scenes], "cwd": str(Path.cwd())}
        plan["env"] = cache_as_before()
        write_json(place / "plan.json", plan | {"options": [*_words(options), "--out", str(out)]})
        command = [sys.executable, "-m", "snakemake", "maps", "--snakefile", str(Path(__file__).with_name("Snakefile"))]
        command += ["--directory", str(out.absolute()), "--nolock", "--keep-going", "--workflow-profile", "none"]
        command += ["--profile", profile, "--nocolor", *(["--jobs", str(jobs)] if jobs else [])]
        log = place / "snakemake.log"
        with log.open("w") as file:
            code = attend(command, file, lambda: None, pass_fds=(lock.fileno(),), env=cached_in(place / "cache"))
        ended = {int(path.name) for path in (place / "ended").glob("*")}
        if code and not ended and not list(place.glob("[0-9]*.log")):
            last = log.read_text(errors="replace").strip().rpartition("\n")[2].strip()
            raise InputError(f"Snakemake ended with code {code} before any scene ({last}); see {log}")
    return {scene: place / f"{number}.log" for number, scene in enumerate(scenes) if number not in ended}


def _words(options: Options) -> list[str]:
    """Options as `ktda predict` takes them."""
    words: list[str] = []
    for name, value in options._asdict().items():
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, list):
            words += [f"--{name}", ",".join(map(str, value))]
        elif value is not None and value is not False:
            words += [f"--{name}", str(value)]
    return words
