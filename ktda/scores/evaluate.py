"""Evaluate a segmenter on images: one confusion matrix each, scores of their sum."""

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from ktda.data.folder import Pair, TileSet, open_data
from ktda.data.tiles import Tiles
from ktda.errors import InputError
from ktda.files import read_json, replacing
from ktda.scores.large import describe_evaluation, predict_classes
from ktda.scores.metrics import confusion_matrices, scores
from ktda.trained import open_model

# Pixels of one pass: 16 tiles of 64 px, 4 of 128 px, and single images from 182 px on.
BATCH_PIXELS = 2**16


@torch.inference_mode()
def confusions(
    model: nn.Module,
    tile_set: TileSet,
    pairs: Sequence[Pair],
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
    tile: int = 0,
) -> Tensor:
    """Confusion matrix of every image, in the order of the pairs.

    Args:
        model: called with normalised (N, C, H, W); put into eval mode, and back into its own.
        tile_set: the data, with its ignore index.
        pairs: the images, of any sizes; small ones that follow each other and share a size go
            together.
        device: of the model.
        rank, world: this process and how many share the images; every process gets every matrix.
        tile: side of what the model saw in training; much larger images are scored by such tiles
            (`ktda.scores.large`), 0: none.

    Returns:
        (images, K, K) int64, rows = label.
    """
    training = model.training
    model.eval()
    tiles = Tiles(tile_set, pairs)
    # None: shown where there is a terminal
    mine = tqdm(
        range(rank, len(pairs), world), "scoring", leave=False, disable=None if rank == 0 else True
    )
    found: list[tuple[int, Tensor]] = []
    for _, batch in itertools.groupby((tiles[index] for index in mine), key=_batch_key()):
        items = list(batch)
        images = torch.stack([item["image"] for item in items])
        masks = torch.stack([item["mask"] for item in items])
        classes, ignore = tile_set.num_classes, tile_set.ignore_index
        predictions = predict_classes(model, images, classes, tile, device)  # (N, H, W)
        matrices = confusion_matrices(predictions, masks.to(device), classes, ignore)
        found += zip([item["index"] for item in items], matrices, strict=True)
    model.train(training)
    if world > 1:
        found = gather_object(found)
    in_order = sorted(found, key=lambda entry: entry[0])
    return torch.stack([matrix for _, matrix in in_order])


def _batch_key() -> Callable[[dict], tuple]:
    """A key for `itertools.groupby`: it changes where the size does, or where a batch is full."""
    count = itertools.count()

    def key(item: dict) -> tuple:
        shape = item["mask"].shape
        return shape, next(count) // max(1, BATCH_PIXELS // shape.numel())

    return key


def evaluate_run(run: Path | str, data: str | None = None, split: str | None = None) -> dict:
    """Score a trained model on a split.

    Args:
        run: run folder, or another name that `open_model` takes.
        data: data set; None takes the run's own. Classes go together by their names.
        split: None takes the split that the run reports.

    Returns:
        Scores as in ``metrics.json``, in the model's order of ``classes``, with ``run``, ``data``,
        ``split``, ``protocol``, ``evaluation``, ``images``.

    Raises:
        InputError: no trained model, no such split, or classes that differ from the model's.
    """
    model, description = open_model(run)
    path = Path(run) / "manifest.json"
    needs = {"config.protocol": str, "data.source": str, "data.reported": str}
    manifest = read_json(path, needs) if path.is_file() else {}
    own = manifest.get("data", {})
    if data is None and not own:
        raise InputError(f"{run} has no manifest that names its data; give --data")
    tile_set = open_data(data or own["source"])
    classes = description["classes"]
    order = match_classes(classes, tile_set)
    bands = description["normalisation"].get("of", 3)
    if tile_set.num_bands != bands:
        found = f"{tile_set.name} has {tile_set.num_bands}"
        raise InputError(f"the model was trained on images of {bands} bands, {found}")
    split = split or own.get("reported", "test")
    pairs = tile_set.pairs(split)
    if not pairs:
        raise InputError(f"split {split} of {tile_set.root} holds no tiles")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    protocol = manifest.get("config", {}).get("protocol")
    tile = 0 if protocol == "paper" else description.get("tile", 0)
    matrices = confusions(model.to(device), tile_set, pairs, device, tile=tile)
    return {
        "run": str(run),
        "data": tile_set.name,
        "split": split,
        "protocol": protocol,
        "evaluation": describe_evaluation(tile_set, pairs, tile),
        "images": len(pairs),
        "classes": list(tile_set.classes) if is_unnamed(classes) else classes,
        **scores(matrices.sum(0)[order]),  # rows are labels in the set's order
    }


def match_classes(classes: Sequence[str], tile_set: TileSet) -> list[int]:
    """For each class of a model its place in a data set: by name, whatever the case.

    Where one of the two has numbers for names, by place.

    Raises:
        InputError: another number of classes, or names that only one of the two has.
    """
    known, there = (
        [" ".join(re.split(r"[\s_-]+", name.casefold())) for name in names]
        for names in (classes, tile_set.classes)
    )
    if len(known) == len(there) and (is_unnamed(known) or is_unnamed(there) or known == there):
        return list(range(len(known)))
    if sorted(known) != sorted(set(there)):
        trained = f"the model knows {len(classes)} classes ({', '.join(classes)})"
        has = f"{tile_set.name} has {tile_set.num_classes} ({', '.join(tile_set.classes)})"
        raise InputError(f"{trained}, {has}; they go together by name")
    return [there.index(name) for name in known]


def is_unnamed(classes: Sequence[str]) -> bool:
    """Whether classes are called 0, 1, ..., as where nobody named them."""
    return list(classes) == [str(index) for index in range(len(classes))]


def save_confusions(path: Path, matrices: dict[str, Tensor], stems: dict[str, list[str]]) -> None:
    """Write matrices per image: for each split NAME ``NAME`` (images, K, K) and ``NAME_stems``."""
    arrays = {name: matrix.numpy() for name, matrix in matrices.items()}
    arrays |= {f"{name}_stems": np.array(names) for name, names in stems.items()}
    # a file object, or numpy would append .npz to the name
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
