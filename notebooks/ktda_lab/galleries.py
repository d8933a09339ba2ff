"""Galleries: tiles, labels, predictions and feature maps side by side; every function returns a matplotlib `Figure`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from ktda.data.folder import TileSet
from ktda_lab.drawing import (
    RIGHT,
    UNLABELLED,
    WRONG,
    class_patches,
    colour_mask,
    gallery,
    pca_rgb,
    rgb,
    tile_notes,
    unit,
)


def tile_gallery(
    images: Sequence[Tensor], masks: Sequence[Tensor], tile_set: TileSet, names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Tiles above their labels.

    Args:
        images: (3, H, W) RGB in [0, 1], up to about eight.
        masks: (H, W) class indices.
        tile_set: Gives class names and colours.
        names: One per tile, written below it.
    """
    rows = {"image": [rgb(i) for i in images], "label": [colour_mask(m, tile_set) for m in masks]}
    return gallery(rows, tile_notes(images, names), class_patches(tile_set, masks), title)


def prediction_gallery(
    images: Sequence[Tensor],
    masks: Sequence[Tensor],
    predictions: Sequence[Tensor],
    tile_set: TileSet,
    names: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Tiles, labels, predictions, and where the two differ; below, the share of labelled pixels that are right.

    Args:
        images: (3, H, W) RGB in [0, 1], up to about eight.
        masks, predictions: (H, W) class indices.
        tile_set, names: As in `tile_gallery`.
    """
    rows = {"image": [rgb(i) for i in images]}
    rows |= {"label": [], "prediction": [], "errors": []}
    shares = []
    for mask, prediction in zip(masks, predictions, strict=True):
        valid, right = mask != tile_set.ignore_index, mask == prediction
        rows["label"].append(colour_mask(mask, tile_set))
        rows["prediction"].append(colour_mask(prediction, tile_set))
        errors = np.where(right.numpy()[..., None], RIGHT, WRONG)
        rows["errors"].append(np.where(valid.numpy()[..., None], errors, UNLABELLED).astype(np.uint8))
        shares.append(f"{100 * right[valid].double().mean():.0f} % right" if valid.any() else "unlabelled")
    patches = [*class_patches(tile_set, masks), Patch(facecolor=unit(WRONG), label="wrong")]
    return gallery(rows, tile_notes(images, names, shares), patches, title)


def model_gallery(
    images: Sequence[Tensor],
    masks: Sequence[Tensor],
    predictions: Mapping[str, Sequence[Tensor]],
    tile_set: TileSet,
    title: str = "",
) -> Figure:
    """Tiles, labels and the predictions of several models; below, the share of labelled pixels that each has right.

    Args:
        images: (3, H, W) RGB in [0, 1], up to about eight.
        masks: (H, W) class indices.
        predictions: by the model's name, as `masks`.
        tile_set: gives class names and colours.
    """
    rows = {"image": [rgb(i) for i in images], "label": [colour_mask(m, tile_set) for m in masks]}
    rows |= {name: [colour_mask(p, tile_set) for p in found] for name, found in predictions.items()}
    notes = []
    for place, mask in enumerate(masks):
        valid = mask != tile_set.ignore_index
        right = [(found[place] == mask)[valid].double().mean() for found in predictions.values()]
        notes.append("right: " + ", ".join(f"{100 * share:.0f} %" for share in right))
    return gallery(rows, notes, class_patches(tile_set, masks), title)


def feature_maps(
    images: Sequence[Tensor], maps: Sequence[Tensor], blocks: Sequence[str], names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Images above the first three principal components of their feature maps, as red, green and blue.

    Args:
        images: (3, H, W) RGB in [0, 1], up to about eight.
        maps: One (N, D, h, w) tensor per block or level.
        blocks: One name per map, such as "block 5".
        names: One per image, written below it.
    """
    rows = {"image": [rgb(i) for i in images]}
    rows |= {name: list(pca_rgb(m)) for name, m in zip(blocks, maps, strict=True)}
    grid = f"{maps[-1].shape[-1]} × {maps[-1].shape[-2]} patches"
    return gallery(rows, tile_notes(images, names, [grid] * len(images)), [], title)
