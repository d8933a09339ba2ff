"""Pictures of a finished run, drawn from its folder alone: curves, scores, confusion, and its best and worst tiles."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ktda.build import load_model
from ktda.config import Config
from ktda.data.bands import teacher_bands
from ktda.data.folder import TileSet, open_data
from ktda.data.tiles import Tiles
from ktda.errors import InputError
from ktda.files import read_json
from ktda.scores.large import predict_classes
from ktda_lab import figures, galleries
from ktda_lab.figures import save_figure

FOLDER = "figures"


def open_run(run: Path) -> tuple[str, Config]:
    """The data and the settings, the seed among them, that a finished run was made with.

    Raises:
        InputError: the folder holds no finished run, or settings that this version does not know.
    """
    _check_finished(run)
    manifest = read_json(run / "manifest.json", {"config": dict, "data.source": str})
    return manifest["data"]["source"], Config(**manifest["config"])


def _check_finished(run: Path) -> None:
    for name in ("manifest.json", "metrics.json", "config.json", "history.csv"):
        if not (run / name).is_file():
            cure = "finish it with `ktda train ... --resume`"
            raise InputError(f"{run} holds no finished run: {name} is missing; {cure}")
    if read_json(run / "metrics.json", {"miou": (float, type(None))})["miou"] is None:
        raise InputError(f"{run} was not scored (distilled alone, or no labels): there is nothing to draw")


def _read(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged ({reason:.100}); copy it anew, or train again") from error


def draw_run(run: Path | str, tiles: int = 4) -> list[Path]:
    """Draw a finished run into ``RUN/figures``, and say in ``figures.json`` what each picture shows.

    Args:
        run: a run folder of ``ktda train``.
        tiles: so many in the gallery, spread evenly from the worst to the best.

    Returns:
        Paths of the pictures: learning curves, scores per class, confusion, gallery. Without the gallery where the
        run's data are not on this machine any more.

    Raises:
        InputError: the folder holds no finished run.
    """
    run = Path(run)
    _check_finished(run)
    manifest = read_json(run / "manifest.json")
    metrics = read_json(run / "metrics.json")
    classes = read_json(run / "config.json")["classes"]
    name = manifest["data"]["name"]
    about = f"{name}, {metrics['split']}"
    pictures = [
        (
            "learning_curves",
            figures.learning_curves(_read(pd.read_csv, run / "history.csv"), f"{name}: learning curves"),
            "Mean losses per epoch as they enter the sum, mIoU on the selection tiles with a ring around the weights "
            "that were kept, and the learning rate.",
        ),
        (
            "confusion_figure",
            figures.confusion_figure(metrics["confusion_matrix"], classes, f"{about}: confusion"),
            f"Confusion on {metrics['split']}, in percent of each label and of each prediction.",
        ),
    ]
    try:
        tile_set = open_data(manifest["data"]["source"])
    except InputError:  # moved or deleted since; what the run itself holds can still be drawn
        tile_set = None
    if tile_set is not None:
        pictures.append(
            (
                "per_class_bars",
                figures.per_class_bars(metrics, tile_set, f"{about}: scores"),
                f"Scores per class on {metrics['split']}, and their means under both conventions.",
            )
        )
        pictures.append(
            (
                "prediction_gallery",
                prediction_gallery(run, tile_set, metrics, tiles, f"{about}: from the worst to the best tile"),
                f"Tiles of {metrics['split']} from the worst to the best by the share of right pixels; black is wrong.",
            )
        )
    paths = []
    for stem, figure, caption in pictures:
        paths.append(save_figure(figure, run / FOLDER, stem, caption))
        plt.close(figure)
    return paths


def prediction_gallery(run: Path, tile_set: TileSet, metrics: dict[str, Any], tiles: int, title: str = "") -> Figure:
    """Tiles of the reported split, labels and predictions, from the worst tile to the best.

    Args:
        run: a finished run folder.
        tile_set: its data.
        metrics: content of its ``metrics.json``.
        tiles: how many.
        title: of the figure.
    """
    arrays = _read(lambda path: dict(np.load(path)), run / "confusions.npz")
    matrices = arrays[metrics["split"]]  # (images, K, K), rows = label
    stems = arrays[f"{metrics['split']}_stems"]
    chosen = worst_to_best(matrices, tiles)
    pairs = {pair.stem: pair for pair in tile_set.pairs(metrics["split"])}
    shown = Tiles(tile_set, [pairs[stem] for stem in stems[chosen]])
    views = [item["image"] for item in shown]
    masks = [item["mask"] for item in shown]
    predicted = predict(run, views)
    places = list(teacher_bands(tile_set))  # of red, green and blue; none where images are RGB
    colours = [view[places] if places else view for view in views]
    return galleries.prediction_gallery(colours, masks, predicted, tile_set, list(stems[chosen]), title)


def worst_to_best(matrices: NDArray, count: int) -> NDArray:
    """Positions of `count` images, evenly spread from the smallest to the largest share of right pixels.

    Args:
        matrices: (images, K, K) pixels, rows = label.
        count: how many, at most as many as there are images.
    """
    right = matrices.trace(axis1=1, axis2=2)
    accuracy = right / np.maximum(matrices.sum((1, 2)), 1)
    order = np.argsort(accuracy, kind="stable")
    places = np.linspace(0, len(order) - 1, min(count, len(order)))
    return order[places.round().astype(int)]


@torch.inference_mode()
def predict(run: Path, views: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Class maps (H, W) of images (bands, H, W) in [0, 1], by the model of a run, as the run scored them."""
    model, description = load_model(run)
    protocol = open_run(run)[1].protocol
    tile = 0 if protocol == "paper" else description.get("tile", 0)
    classes = len(description["classes"])
    return [predict_classes(model, view[None], classes, tile, "cpu")[0] for view in views]
