"""Evaluate a segmenter on tiles: whole images, one confusion matrix per image, scores of their sum."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from ktda.data.folder import Pair, TileSet, open_data
from ktda.data.tiles import Tiles
from ktda.errors import InputError
from ktda.images import normalise
from ktda.scores.metrics import confusion_matrices, scores

BATCH_PIXELS = 2**16  # of one pass: 16 tiles of 64 px, 4 of 128 px, and single images from 182 px on


@torch.inference_mode()
def confusions(
    model: nn.Module,
    tile_set: TileSet,
    pairs: Sequence[Pair],
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
) -> Tensor:
    """Confusion matrix of every image, in the order of the pairs.

    Args:
        model: called with normalised (N, 3, H, W); put into eval mode, and back into the mode that it had.
        tile_set: the data, with its ignore index.
        pairs: the images, of any sizes; small ones that follow each other and share a size go together.
        device: of the model.
        rank, world: this process and how many share the images; every process gets every matrix.

    Returns:
        (images, K, K) int64, rows = label.
    """
    training = model.training
    model.eval()
    tiles, mine = Tiles(tile_set, pairs), list(range(rank, len(pairs), world))
    found: list[tuple[int, Tensor]] = []
    for _, group in itertools.groupby((tiles[i] for i in mine), key=_batch_key()):
        items = list(group)
        images = torch.stack([item["image"] for item in items]).to(device)
        masks = torch.stack([item["mask"] for item in items]).to(device)
        predictions = model(normalise(images, model.mean, model.std)).argmax(1)  # (N, K, H, W) -> (N, H, W)
        matrices = confusion_matrices(predictions, masks, tile_set.num_classes, tile_set.ignore_index)
        found += [(item["index"], matrix) for item, matrix in zip(items, matrices, strict=True)]
    model.train(training)
    if world > 1:
        found = gather_object(found)
    return torch.stack([matrix for _, matrix in sorted(found, key=lambda pair: pair[0])])


def _batch_key() -> Callable[[dict], tuple]:
    """A key for `itertools.groupby`: it changes where an image's size does, or where a batch is full."""
    count = itertools.count()

    def key(item: dict) -> tuple:
        shape = item["mask"].shape
        return shape, next(count) // max(1, BATCH_PIXELS // shape.numel())

    return key


def evaluate_run(run: Path | str, data: str | None = None, split: str | None = None) -> dict:
    """Score a finished run on a split.

    Args:
        run: run folder.
        data: data set; None takes the run's own.
        split: None takes the split that the run reports.

    Returns:
        Scores as in ``metrics.json``, with ``run``, ``data``, ``split``, ``protocol``, ``images``.

    Raises:
        InputError: no finished run, no such split, or classes that differ from the model's.
    """
    from ktda.build import load_model

    run = Path(run)
    model, description = load_model(run)
    manifest = json.loads((run / "manifest.json").read_text()) if (run / "manifest.json").is_file() else {}
    if data is None and "data" not in manifest:
        raise InputError(f"{run} has no manifest that names its data; give --data")
    tile_set = open_data(data or manifest["data"]["source"])
    if tile_set.num_classes != len(description["classes"]):
        raise InputError(
            f"the model knows {len(description['classes'])} classes ({', '.join(description['classes'])}), "
            f"{tile_set.name} has {tile_set.num_classes}"
        )
    if split is None:
        split = manifest.get("data", {}).get("reported", "test")
    if split not in tile_set.splits():
        raise InputError(f"{tile_set.name} has no split {split!r}; it has {', '.join(tile_set.splits())}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs = tile_set.pairs(split)
    if not pairs:
        raise InputError(f"split {split} of {tile_set.root} holds no tiles")
    matrices = confusions(model.to(device), tile_set, pairs, device)
    names = {"run": str(run), "data": tile_set.name, "split": split}
    protocol = manifest.get("config", {}).get("protocol")
    return names | {"protocol": protocol, "images": len(pairs), **scores(matrices.sum(0))}


def save_confusions(path: Path, matrices: dict[str, Tensor], stems: dict[str, list[str]]) -> None:
    """Write per-image matrices: for each split NAME the arrays ``NAME`` (images, K, K) and ``NAME_stems``."""
    arrays = {name: m.numpy() for name, m in matrices.items()}
    arrays |= {f"{name}_stems": np.array(s) for name, s in stems.items()}
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:  # a file object, or numpy would append .npz to the name
        np.savez_compressed(file, **arrays)
    partial.replace(path)
