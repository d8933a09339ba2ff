"""Megapixels a second of a prediction: the forms, and on the same tiles a plain loop and MONAI, where there is one."""

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ktda.build import build, describe, make_teacher
from ktda.images import normalise
from ktda.scenes.blend import blend, count_passes, gaussian, starts
from ktda.scenes.predict import predictor, threads
from ktda_lab.benchmark.forms import CLASSES, Wish, fast, settings
from ktda_lab.benchmark.steps import Found, clock, forget, summary

TILE, OVERLAP = 256, 0.25
SIDES = (128, 256, 512, 1024, 2048)
FORMS = ("as published", "beside, no FMM", "beside, ViT", "UPerNet")
PEERS_ON = "beside, no FMM"  # whose model a plain loop and MONAI run
HALVES = f"{PEERS_ON}, bf16"

Way = Callable[[Tensor], Tensor]


def time_scenes(
    wish: Wish,
    seconds: float,
    repeats: int,
    tell: Callable[[str], None],
    keep: Callable[[Found], Any] = lambda found: None,
) -> Found:
    """Seconds of a square scene in memory, from image to classes, by side and way.

    A side is left out where a round would take longer than `seconds`, told from the side before; no further round of
    a side begins after its share of them, once there were two.

    Returns:
        By side: by way: `summary` and ``megapixels_a_second``.
    """
    models = {name: _model(name, wish) for name in FORMS}
    results: Found = {}
    expected = 0.0
    for side in SIDES:
        if expected > seconds:
            tell(f"{side} px: left out, about {expected:.0f} s")
            continue
        scene = torch.rand(3, side, side)
        ways: dict[str, Way] = {name: _ours(model, wish) for name, model in models.items()}
        if fast(wish.device).get("precision") == "bf16":
            ways[HALVES] = _ours(models[PEERS_ON], wish, "bf16")
        ways |= {f"{name}, {PEERS_ON}": way for name, way in peers(models[PEERS_ON], wish).items()}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        begun = time.perf_counter()
        for number in range(repeats + 1):
            if number >= 2 and time.perf_counter() - begun > seconds / len(SIDES):
                break
            for name, way in ways.items():
                took = clock(partial(way, scene), torch.device(wish.device))
                if number or expected:  # the first call of all warms up
                    found[name].append(took)
        rounds = max(1, len(found[FORMS[0]]))
        expected = 4 * sum(wall for turns in found.values() for wall, _ in turns) / rounds
        results[str(side)] = {
            name: summary(took) | {"megapixels_a_second": side**2 / 1e6 / summary(took)["seconds"]["median"]}
            for name, took in found.items()
        }
        tell(f"{side} px: done")
        keep(results)
    forget(models)
    return results


def _model(name: str, wish: Wish) -> nn.Module:
    """A form in eval mode, on its device, as `ktda predict` loads it."""
    return build(described(name, wish)).eval().to(wish.device)


def described(name: str, wish: Wish) -> dict[str, Any]:
    """The description of a form's model."""
    config = settings(name, wish)
    return describe(config, CLASSES, make_teacher(config))


def _ours(model: nn.Module, wish: Wish, precision: str = "fp32") -> Way:
    """As `ktda predict` does between reading and writing."""

    def predict(scene: Tensor) -> Tensor:
        size = scene.shape[1:]
        data = torch.ones(size, dtype=torch.bool)
        step = predictor(model, wish.device, precision)

        def read(begin: int, end: int) -> tuple[Tensor, Tensor]:
            return scene[:, begin:end], data[begin:end]

        with threads(wish.device, count_passes(size, TILE, OVERLAP)) as pool:
            strips = blend(read, step, size, CLASSES, TILE, OVERLAP, pool=pool)
            return torch.cat([strip.classes for strip in strips])

    return predict


def peers(model: nn.Module, wish: Wish) -> dict[str, Way]:
    """Other ways through the same tiles with the same weights of overlap."""
    step = predictor(model, wish.device)

    def plain(scene: Tensor) -> Tensor:
        """One tile after the other, all sums in memory."""
        height, width = scene.shape[1:]
        tall, wide = min(TILE, height), min(TILE, width)
        weights = gaussian(tall, wide)
        sums = torch.zeros(CLASSES, height, width)
        for top in starts(height, tall, OVERLAP):
            for left in starts(width, wide, OVERLAP):
                window = scene[:, top : top + tall, left : left + wide]
                probabilities = step(window[None])[0].float().softmax(0).cpu()  # (K, tall, wide)
                sums[:, top : top + tall, left : left + wide] += probabilities * weights
        return sums.argmax(0)

    ways = {"plain loop": plain}
    if importlib.util.find_spec("monai"):
        from monai.inferers import sliding_window_inference

        def monai(scene: Tensor) -> Tensor:
            window = tuple(min(TILE, side) for side in scene.shape[1:])
            how = {"overlap": OVERLAP, "mode": "gaussian", "sw_device": wish.device, "device": "cpu"}
            with torch.inference_mode():
                logits = sliding_window_inference(
                    normalise(scene[None], model.mean, model.std), window, 4, model, **how
                )  # (1, K, H, W)
            return logits[0].argmax(0)

        ways["MONAI"] = monai
    return ways
