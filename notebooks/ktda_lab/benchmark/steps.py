"""Seconds and memory of a training step: the forms in turn in one process, memory of each in a process of its own."""

import gc
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ktda_lab.benchmark.forms import Form, Wish, make_form, tiles, wait

TURN = 0.5  # seconds of steps that one form takes in a row: a few on a GPU, one on a CPU
PARTS = ("waiting for tiles", "teacher", "forward and loss", "backward", "optimiser", "rest")
WARM = 3


def summary(turns: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of repeated (wall seconds, processor seconds): median, least and most, the other's median, and how many."""
    wall, processor = zip(*turns, strict=True)
    found = {"median": statistics.median(wall), "least": min(wall), "most": max(wall)}
    return {"seconds": found, "processor_seconds": statistics.median(processor), "turns": len(turns)}


def clock(call: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Wall seconds of a call and what it started on a GPU, and the process's seconds on processors."""
    wait(device)
    begun, worked = time.perf_counter(), time.process_time()
    call()
    wait(device)
    return time.perf_counter() - begun, time.process_time() - worked


Found = dict[str, dict[str, Any]]  # by form or way, what was measured of it


def time_steps(
    names: Sequence[str],
    wish: Wish,
    seconds: float,
    repeats: int,
    tell: Callable[[str], None],
    keep: Callable[[Found], Any] = lambda found: None,
) -> Found:
    """Seconds of a step of each form, and of its parts.

    Forms take turns, in turning order, so that a machine that slows down does so for all.

    Args:
        names: of forms.
        wish: what is measured.
        seconds: after which no further round begins, once there were two.
        repeats: rounds at most.
        tell: takes a line for the user.
        keep: takes what there is after a round.

    Returns:
        By form: `summary` of a step, ``parts`` in seconds, ``waiting_share``, on a GPU ``peak_bytes`` of what PyTorch
        allocates; or ``failed`` with the reason.
    """
    results: Found = {}
    ready, counts, peaks = {}, {}, {}
    shared = None if wish.device == "cuda" else {}  # there memory is told apart, here it is short
    with tiles(wish) as folder:
        for name in names:
            try:
                held = _on_gpu("memory_allocated", wish)
                form = make_form(name, wish, folder, shared)
                _on_gpu("reset_peak_memory_stats", wish)
                begun = time.perf_counter()
                took = [_turn(form, 1) for _ in range(WARM if wish.device == "cuda" else 1)]
                ready[name] = form
                if wish.device == "cuda":  # what the others hold there does not change meanwhile
                    peaks[name] = _on_gpu("max_memory_allocated", wish) - held
                counts[name] = max(1, round(TURN / took[-1][0]))
                tell(f"{name}: first steps {time.perf_counter() - begun:.1f} s")
            except (RuntimeError, MemoryError) as error:  # out of memory, or a compiler that is not there
                results[name] = {"failed": " ".join(str(error).split())[:200]}
                tell(f"{name}: failed: {results[name]['failed']}")
            form = None  # nothing of one that failed stays
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ready}
        begun = time.perf_counter()
        for number in range(repeats):
            if number >= 2 and time.perf_counter() - begun > seconds:
                break
            order = list(ready)[number % len(ready) :] + list(ready)[: number % len(ready)]
            for name in order:
                found[name].append(_turn(ready[name], counts[name]))
            keep(results | {name: summary(turns) for name, turns in found.items()})
        for name, form in ready.items():
            results[name] = summary(found[name]) | ({"peak_bytes": peaks[name]} if name in peaks else {})
            if isinstance(form, Form):
                results[name] |= _parts(form, counts[name])
        forget(ready)
    return {name: results[name] for name in names}


def _on_gpu(what: str, wish: Wish) -> Any:
    """A function of `torch.cuda`'s on its memory; None on a CPU."""
    return getattr(torch.cuda, what)() if wish.device == "cuda" else None


def _turn(form: Any, count: int) -> tuple[float, float]:
    """`clock` of a step, the mean of so many in a row."""

    def steps() -> None:
        for _ in range(count):
            form.step()

    wall, processor = clock(steps, form.device)
    return wall / count, processor / count


def _parts(form: Form, count: int) -> dict[str, Any]:
    """Seconds of each part of a step; the teacher is no part of "forward and loss" here."""
    for _ in range(count):
        form.step_apart()
    spent = {part: form.spent[part] / count for part in ("step", *PARTS)}
    spent["forward and loss"] -= spent["teacher"]
    spent["rest"] = spent["step"] - sum(spent[part] for part in PARTS if part != "rest")
    return {"parts": {part: spent[part] for part in PARTS}, "waiting_share": spent["waiting for tiles"] / spent["step"]}


def measure_memory(
    names: Sequence[str], wish: Wish, tell: Callable[[str], None], keep: Callable[[Found], Any] = lambda found: None
) -> Found:
    """Bytes at the peak of three steps of each form.

    On a GPU they are what PyTorch has allocated there; on a CPU those of a process of its own, libraries included.
    """
    results = {}
    measure = peak_memory if wish.device == "cuda" else partial(in_new_process, peak_memory)
    for name in names:
        results[name] = peak_of(name, tell, measure, name, wish)
        keep(results)
        forget({})
    return results


def peak_of(what: str, tell: Callable[[str], None], measure: Callable[..., int], *arguments: Any) -> dict[str, Any]:
    """``bytes`` as `measure` gives them, or ``failed`` with the reason; `tell` hears of it."""
    try:
        found = measure(*arguments)
    except (RuntimeError, MemoryError) as error:  # a process that was killed for memory too
        reason = " ".join(str(error).split())[:200] or "out of memory"
        tell(f"{what}: failed: {reason}")
        return {"failed": reason}
    tell(f"{what}: peak memory {found / 1e9:.2f} GB")
    return {"bytes": found}


def peak_memory(name: str, wish: Wish) -> int:
    """Bytes at the peak of a form, of a process in which nothing ran before, or on a GPU that holds no other form."""
    _on_gpu("reset_peak_memory_stats", wish)
    with tiles(wish) as folder:
        form = make_form(name, wish, folder)
        for _ in range(3):
            form.step()
        if wish.device == "cuda":
            return torch.cuda.max_memory_allocated()
    return process_peak()


def process_peak() -> int:
    """Bytes at the peak of this process, libraries included."""
    status = Path("/proc/self/status")  # Linux: there a new process inherits the peak that getrusage tells
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_new_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns in a process in which nothing ran before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def forget(held: dict[str, Any]) -> None:
    """Let go of models, and of what PyTorch keeps of their memory."""
    held.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
