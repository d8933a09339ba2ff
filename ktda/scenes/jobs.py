"""Several scenes side by side: processes that share one copy of the model, a scene each."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch import nn

from ktda.scenes.predict import Options, predict_scene

_process: dict[str, Any] = {}  # what a process keeps between its scenes


def predict_scenes(
    model: nn.Module,
    description: dict[str, Any],
    scenes: Sequence[Path],
    out: Path,
    options: Options,
    devices: Sequence[str],
    jobs: int = 1,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[dict[str, Any]]:
    """`predict_scene` of each scene; in the order that they end where `jobs` > 1.

    Processes take the devices by turns, and share out the cores of a CPU. The first scene that
    fails ends all: those that are being mapped end first, the others do not begin.
    """
    if jobs == 1:
        model.to(devices[0])
        for scene in scenes:
            yield predict_scene(model, description, scene, out, options, devices[0], tell)
        return
    context = torch.multiprocessing.get_context("spawn")
    places = context.Queue()
    for job in range(jobs):
        places.put(devices[job % len(devices)])
    cores = max(1, torch.get_num_threads() // jobs)
    about = (model.cpu(), places, cores)
    with ProcessPoolExecutor(jobs, context, _start, about) as pool:
        ask = partial(_map, description=description, out=out, options=options)
        try:
            for future in as_completed([pool.submit(ask, scene) for scene in scenes]):
                done, lines = future.result()
                for line in lines:
                    tell(line)
                yield done
        finally:
            pool.shutdown(cancel_futures=True)


def _start(model: nn.Module, places: Any, cores: int) -> None:
    torch.set_num_threads(cores)
    _process["device"] = places.get()
    _process["model"] = model.to(_process["device"])


def _map(scene: Path, description: dict, out: Path, options: Options) -> tuple[dict, list[str]]:
    lines: list[str] = []
    arguments = (_process["model"], description, scene, out, options, _process["device"])
    return predict_scene(*arguments, lines.append), lines
