"""The measurement as a whole: what ran where, its tables, and its json."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch

from ktda.cli.text import columns
from ktda.errors import InputError
from ktda.files import now
from ktda.runs.record import commit, machine, versions
from ktda_lab.benchmark.forms import FORMS, PLAIN, Wish, fast, settings
from ktda_lab.benchmark.scene_memory import measure_scene_memory
from ktda_lab.benchmark.scenes import PEERS_ON, time_scenes
from ktda_lab.benchmark.steps import PARTS, Found, measure_memory, time_steps

WHAT = ("step", "predict", "memory", "all")
USUAL = [name for name in FORMS if "compiled" not in name] + list(PLAIN)  # compiling takes minutes
BASE = "as released"
PEERS = ("monai",)  # measured where it is installed


def measure(
    what: str,
    wish: Wish,
    names: Sequence[str],
    seconds: float,
    repeats: int,
    tell: Callable[[str], None],
    keep: Callable[[dict[str, Any]], Any] = lambda found: None,
) -> dict[str, Any]:
    """What was asked for, with all that says where the numbers come from.

    `keep` takes what there is whenever it is more, marked as ``unfinished``; the rest is as in `time_steps`.

    Raises:
        InputError: an unknown form, or a device that is not there.
    """
    for name in names:
        if name not in FORMS and name not in PLAIN:
            raise InputError(f"unknown form {name!r}; expected some of: {'; '.join([*FORMS, *PLAIN])}")
    if wish.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda, but PyTorch finds no GPU; use --device cpu")
    names = list(names) or [name for name in USUAL if wish.device == "cuda" or "TF32" not in name]
    content: dict[str, Any] = {
        "start": now(),
        "machine": machine(torch.device(wish.device)) | {"threads": torch.get_num_threads()},
        "versions": versions() | {name: version(name) for name in PEERS if find_spec(name)},
        **commit(),
        "measured": wish._asdict(),
        "fast": fast(wish.device),
        "weights": "random",
        "forms": {name: FORMS.get(name, {}) for name in names},
        "config_hashes": {name: settings(PLAIN.get(name, name), wish).config_hash for name in names},
    }

    def keeping(part: str) -> Callable[[Found], None]:
        return lambda found: keep(content | {part: dict(found), "unfinished": True})

    if what in ("step", "all"):
        content["step"] = time_steps(names, wish, seconds, repeats, tell, keeping("step"))
        if wish.device == "cuda":
            peaks = {name: found.get("peak_bytes") for name, found in content["step"].items() if name not in PLAIN}
            content["memory"] = {name: {"bytes": peak} for name, peak in peaks.items() if peak}
    if what in ("memory", "all") and "memory" not in content:
        own = [name for name in names if name not in PLAIN]
        content["memory"] = measure_memory(own, wish, tell, keeping("memory"))
    if what in ("predict", "all"):
        content["predict"] = time_scenes(wish, seconds, repeats, tell, keeping("predict"))
        largest = list(content["predict"].values())[-1]
        pace = largest[PEERS_ON]["megapixels_a_second"]
        content["scene_memory"] = measure_scene_memory(wish, pace, seconds, tell, keeping("scene_memory"))
    return content | {"end": now()}


def tables(content: Mapping[str, Any]) -> str:
    """The measurement in words and columns."""
    about = content["measured"]
    first = f"{content['machine']['name']} ({about['device']}), torch {content['versions']['torch']}, "
    first += f"{content['machine']['threads']} threads; preset {about['preset']}, "
    first += f"{about['batch']} tiles of {about['size']} px; random weights; fast: "
    if "unfinished" in content:
        first = f"UNFINISHED. {first}"
    parts = [first + ", ".join(f"{key}={value}" for key, value in content["fast"].items())]
    if "step" in content:
        parts.append(_steps(content["step"]))
        if any("parts" in found for found in content["step"].values()):
            parts.append(_apart(content["step"]))
    if "memory" in content:
        parts.append(_memory(content["memory"]))
    if "predict" in content:
        parts.append(_scenes(content["predict"]))
    if content.get("scene_memory"):
        parts.append(_scene_memory(content["scene_memory"]))
    return "\n\n".join(parts)


def _steps(step: Mapping[str, Any]) -> str:
    rows = [("training step", "ms", "from", "to", "turns", "times as fast as released", "by processor time")]
    base = _median(step.get(BASE, {}))
    for name, found in step.items():
        if "failed" in found:
            rows.append((name, "failed: " + found["failed"], *[""] * 5))
            continue
        milliseconds = [f"{1e3 * found['seconds'][key]:.1f}" for key in ("median", "least", "most")]
        ratio = f"{base / _median(found):.2f}" if base else "-"
        worked = f"{step[BASE]['processor_seconds'] / found['processor_seconds']:.2f}" if base else "-"
        rows.append((name, *milliseconds, str(found["turns"]), ratio, worked))
    lines = [columns(rows)]
    ours, plain = (step.get(name, {}) for name in ("UPerNet", "UPerNet, plain PyTorch"))
    if "seconds" in ours and "seconds" in plain:
        wall = 100 * (_median(ours) / _median(plain) - 1)
        worked = 100 * (ours["processor_seconds"] / plain["processor_seconds"] - 1)
        line = f"{wall:+.1f} % of a plain step, {worked:+.1f} % of its processor time"
        lines.append(f"UPerNet, what loader, augmentation and bookkeeping add: {line}")
    return "\n".join(lines)


def _apart(step: Mapping[str, Any]) -> str:
    rows = [("parts of a step, ms", *PARTS, "waiting, %")]
    for name, found in step.items():
        if "parts" in found:
            spent = [f"{1e3 * found['parts'][part]:.1f}" for part in PARTS]
            rows.append((name, *spent, f"{100 * found['waiting_share']:.1f}"))
    return columns(rows)


def _memory(memory: Mapping[str, Any]) -> str:
    rows = [("peak memory", "GB", "of released")]
    base = memory.get(BASE, {}).get("bytes")
    for name, found in memory.items():
        if "failed" in found:
            rows.append((name, "failed: " + found["failed"], ""))
        else:
            ratio = f"{found['bytes'] / base:.2f}" if base else "-"
            rows.append((name, f"{found['bytes'] / 1e9:.2f}", ratio))
    return columns(rows)


def _scenes(predict: Mapping[str, Any]) -> str:
    names = list(next(iter(predict.values()), {}))
    rows = [("megapixels a second", *(f"{side} px" for side in predict))]
    for name in names:
        rows.append((name, *(f"{found[name]['megapixels_a_second']:.3f}" for found in predict.values())))
    published = "as published"
    for name in (name for name in names if name != published):
        ratios = (_median(found[published]) / _median(found[name]) for found in predict.values())
        rows.append((f"{name}, times as published", *(f"{ratio:.2f}" for ratio in ratios)))
    return columns(rows)


def _scene_memory(memory: Mapping[str, Any]) -> str:
    rows = [("peak memory of a scene, GB", *(f"{side} px" for side in memory))]
    for way in next(iter(memory.values())):
        peaks = [found[way].get("bytes") for found in memory.values()]
        rows.append((way, *(f"{peak / 1e9:.2f}" if peak else "failed" for peak in peaks)))
    return columns(rows)


def _median(found: Mapping[str, Any]) -> float | None:
    return found["seconds"]["median"] if "seconds" in found else None
