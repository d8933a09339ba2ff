"""A scene's map: from a model and a raster of any size to GeoTIFFs of classes and confidence."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.files import content_hash, file_sha256
from ktda.images import normalise
from ktda.scenes.blend import FILL, blend, count_passes
from ktda.scenes.polygons import check_polygons, write_polygons
from ktda.scenes.sink import Sink, check_out
from ktda.scenes.source import STRETCHES, open_source

RASTERS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".vrt", ".img")
TILE = 256  # where a model does not say on which size it was trained
PRECISIONS = ("fp32", "bf16")
MOST_THREADS = 8  # passes of the model at the same time, each with its own maps in memory


class Options(NamedTuple):
    """How a scene is read and tiled; see `Source` and `blend`. Without a tile, as in training."""

    tile: int | None = None
    overlap: float = 0.25
    bands: list[int] | None = None
    stretch: str | None = None  # as training recorded; see `open_source`
    nodata: float | str | None = None
    confidence: bool = False
    precision: str = "fp32"
    polygons: bool = False


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
    if options.tile is not None and (options.tile < 32 or options.tile % 32):
        raise InputError(f"--tile {options.tile}; expected a multiple of 32, at least 32")
    if not 0 <= options.overlap <= 0.9:
        raise InputError(f"--overlap {options.overlap}; expected 0 to 0.9")
    if options.stretch not in (None, *STRETCHES):
        raise InputError(f"--stretch {options.stretch}; expected one of {', '.join(STRETCHES)}")
    if options.precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise InputError(f"--precision {options.precision}; expected one of {known}")
    if options.polygons:
        check_polygons()


def tile_of(description: dict[str, Any]) -> int:
    """The tile that a model is best asked with: as in training, in steps of 32 pixels."""
    return max(32, (description.get("tile") or TILE) // 32 * 32)


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
    options = options._replace(tile=options.tile or tile_of(description))
    reading = (bands, count, options.nodata, options.stretch, limits)
    with open_source(scene, *reading) as source:
        for note in source.notes:
            tell(note)
        out.mkdir(parents=True, exist_ok=True)
        plain = options._replace(polygons=False, stretch=source.stretch)  # polygons come after it
        job = {
            "scene": file_sha256(scene),
            "weights": weights_hash(model),
            "options": content_hash(plain._asdict()),
        }
        sink = Sink(out / f"{scene.stem}.tif", source.size, job, options.confidence)
        if sink.finished:
            tell(f"{sink.out} was finished before")
        else:
            step = predictor(model, device, options.precision)
            tiling = (options.tile, options.overlap, sink.rows)
            passes = count_passes(source.size, options.tile, options.overlap)
            with threads(device, passes) as pool:
                strips = blend(source.read, step, source.size, len(classes), *tiling, pool)
                for strip in strips:
                    sink.write(strip)
            place = {"crs": source.file.crs, "transform": source.file.transform}
            sink.finish(place, classes, description["palette"])
        files = sink.files
        if options.polygons:
            files.append(sink.out.with_suffix(".gpkg"))
            write_polygons(sink.out, files[-1], classes)
        counts = count_classes(sink.out, len(classes))
    total = max(1, counts.sum())
    return {
        "files": files,
        "megapixels": source.size[0] * source.size[1] / 1e6,
        "seconds": time.perf_counter() - begun,
        "shares": dict(zip(classes, (counts / total).tolist(), strict=True)),
    }


def predictor(
    model: nn.Module, device: torch.device | str, precision: str = "fp32"
) -> Callable[[Tensor], Tensor]:
    """Windows (N, C, h, w) in [0, 1] -> logits (N, K, h, w), for any thread; bf16 by autocast."""
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    if on_cpu:
        model.to(memory_format=torch.channels_last)  # the values, and their order by name, stay

    @torch.inference_mode()
    def step(windows: Tensor) -> Tensor:
        images = normalise(windows.to(device), model.mean, model.std)
        if on_cpu:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return model(images)

    return step


@contextlib.contextmanager
def threads(device: torch.device | str, passes: int) -> Iterator[Executor]:
    """One thread for a GPU, which waits while the next rows are read; several on a CPU.

    There, passes side by side, each on cores of its own, are quicker than one pass on all cores:
    no layer waits for the slowest core, which costs most where other programs run. Where
    there are fewer passes than cores, each has its share of them.
    """
    cores = torch.get_num_threads()
    count = min(cores, MOST_THREADS, passes) if torch.device(device).type == "cpu" else 1
    try:
        torch.set_num_threads(1)  # of this thread, which only adds up
        with ThreadPoolExecutor(
            count, initializer=torch.set_num_threads, initargs=(cores // count,)
        ) as pool:
            yield pool
    finally:
        torch.set_num_threads(cores)


def weights_hash(model: nn.Module) -> str:
    """A hash over a model's tensors, in their order."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def count_classes(path: Path, num_classes: int) -> np.ndarray:
    """(K,) pixels of each class in a map, fill left out, counted block by block."""
    import rasterio

    counts = np.zeros(FILL + 1, np.int64)
    with rasterio.open(path) as file:
        for _, window in file.block_windows(1):
            counts += np.bincount(file.read(1, window=window).ravel(), minlength=FILL + 1)
    return counts[:num_classes]
