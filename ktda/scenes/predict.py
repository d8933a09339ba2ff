"""A scene's map: from a model and a raster of any size to GeoTIFFs of classes and confidence."""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.files import content_hash, file_sha256
from ktda.images import normalise
from ktda.scenes.blend import FILL, blend
from ktda.scenes.sink import Sink, check_out
from ktda.scenes.source import STRETCHES, open_source

RASTERS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".vrt", ".img")


class Options(NamedTuple):
    """How a scene is read and tiled; see `Source` and `blend`."""

    tile: int = 256
    overlap: float = 0.25
    bands: list[int] | None = None
    stretch: str = "fixed"  # as training recorded; bytes as they are
    nodata: float | str | None = None
    confidence: bool = False


def find_scenes(inputs: Sequence[Path]) -> list[Path]:
    """The rasters named, and those in the folders named.

    Raises:
        InputError: nothing there, or two scenes whose maps would have one name.
    """
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in RASTERS)
            if not inside:
                raise InputError(f"{path} holds no raster ({', '.join(RASTERS)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"there is no scene at {path}")
    stems = [path.stem for path in found]
    double = next((stem for stem in stems if stems.count(stem) > 1), None)
    if double:
        raise InputError(f"two scenes are called {double}; predict them into two folders")
    return found


def check_options(options: Options) -> None:
    """Raise `InputError` for a value out of range."""
    if options.tile < 32 or options.tile % 32:
        raise InputError(f"--tile {options.tile}; expected a multiple of 32, at least 32")
    if not 0 <= options.overlap <= 0.9:
        raise InputError(f"--overlap {options.overlap}; expected 0 to 0.9")
    if options.stretch not in STRETCHES:
        raise InputError(f"--stretch {options.stretch}; expected one of {', '.join(STRETCHES)}")


def predict_scene(
    model: nn.Module,
    description: dict[str, Any],
    scene: Path,
    out: Path,
    options: Options,
    device: torch.device | str = "cpu",
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the map of one scene; a finished one is left as it is, an interrupted one goes on.

    Args:
        model: in eval mode, on `device`.
        description: its ``config.json``.
        scene: the raster.
        out: folder of the maps, which take the scene's name.
        options: see `check_options`.
        device: of the model.
        tell: takes a line for the user.

    Returns:
        ``files``, ``megapixels``, ``seconds``, and the share of each class in the data, ``shares``.

    Raises:
        InputError: the scene cannot be read, or does not fit the model; nothing was written.
    """
    check_out(out)
    begun = time.perf_counter()
    classes = description["classes"]
    normalisation = description["normalisation"]
    limits = normalisation.get("stretch")
    if limits is not None:
        limits = np.array(limits, dtype=np.float64)
    bands = options.bands or normalisation.get("bands")  # as in training
    count = len(normalisation["mean"])
    reading = (bands, count, options.nodata, options.stretch, limits)
    with open_source(scene, *reading) as source:
        if source.note:
            tell(source.note)
        out.mkdir(parents=True, exist_ok=True)
        job = {
            "scene": file_sha256(scene),
            "weights": weights_hash(model),
            "options": content_hash(options._asdict()),
        }
        sink = Sink(out / f"{scene.stem}.tif", source.size, job, options.confidence)
        if sink.rows < source.size[0]:
            step = predictor(model, device)
            tiling = (options.tile, options.overlap, sink.rows)
            for strip in blend(source.read, step, source.size, len(classes), *tiling):
                sink.write(strip)
        counts = count_classes(sink, len(classes))
        place = {"crs": source.file.crs, "transform": source.file.transform}
        files = sink.finish(place, classes, description["palette"])
    total = max(1, counts.sum())
    return {
        "files": files,
        "megapixels": source.size[0] * source.size[1] / 1e6,
        "seconds": time.perf_counter() - begun,
        "shares": dict(zip(classes, (counts / total).tolist(), strict=True)),
    }


def predictor(model: nn.Module, device: torch.device | str) -> Callable[[Tensor], Tensor]:
    """Windows (N, C, h, w) in [0, 1] -> logits (N, K, h, w)."""

    @torch.inference_mode()
    def step(windows: Tensor) -> Tensor:
        return model(normalise(windows.to(device), model.mean, model.std))

    return step


def weights_hash(model: nn.Module) -> str:
    """A hash over a model's tensors, in their order."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def count_classes(sink: Sink, num_classes: int) -> np.ndarray:
    """(K,) pixels of each class in a map, fill left out, counted in pieces."""
    counts = np.zeros(FILL + 1, np.int64)
    values = sink.layer("classes")
    for top in range(0, len(values), 512):
        counts += np.bincount(values[top : top + 512].ravel(), minlength=FILL + 1)
    return counts[:num_classes]
