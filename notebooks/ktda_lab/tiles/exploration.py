"""What can be measured in a data set before any training: colours, class borders, likeness of tiles.

Images are (H, W, 3) uint8 and masks (H, W) uint8, as `ktda.data.folder.TileSet.read` gives them; colours are in bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from ktda.data.folder import TileSet
from ktda.scores.metrics import confusion_matrices, scores

BANDS = {"1": (0, 1), "1 to 2": (1, 2), "2 to 4": (2, 4), "4 to 8": (4, 8), "over 8": (8, np.inf)}  # pixels, over/up to
KINDS = ("halves of one tile", "tiles of one scene", "tiles of different scenes")


class SplitSample(NamedTuple):
    """Some tiles of a split, and the scene of each."""

    images: list[NDArray]
    masks: list[NDArray]
    scenes: list[str]


def read_split(tile_set: TileSet, split: str, limit: int | None = None) -> SplitSample:
    """Read every n-th tile of a split, so that there are at most `limit`."""
    pairs = tile_set.pairs(split)
    pairs = pairs[:: -(-len(pairs) // limit) or 1] if limit else pairs
    tiles = [tile_set.read(pair) for pair in pairs]
    return SplitSample([i for i, _ in tiles], [m for _, m in tiles], [tile_set.scene_of(pair.stem) for pair in pairs])


def score_masks(predictions: Sequence[NDArray], masks: Sequence[NDArray], tile_set: TileSet) -> dict:
    """`ktda.scores.metrics.scores` of masks as arrays; what is unlabelled in either counts nowhere."""
    ignored = tile_set.ignore_index
    known = [np.where(p == ignored, ignored, mask) for p, mask in zip(predictions, masks, strict=True)]
    pairs = [[torch.as_tensor(mask).long() for mask in group] for group in (predictions, known)]
    return scores(confusion_matrices(*pairs, tile_set.num_classes, ignored).sum(0))


def joint_min_max(values: NDArray) -> NDArray:
    """Stretch values (H, W, C) to bytes by one minimum and one maximum over all pixels and bands."""
    values = values.astype(float)
    low, high = values.min(), values.max()
    return np.round(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)


def flattest_quarter(images: Sequence[NDArray]) -> tuple[int, tuple[slice, slice]]:
    """Which image, and which rows and columns: a quarter with structure that spans little of its image's range."""
    found = []
    for index, image in enumerate(images):
        height, width = image.shape[0] // 2, image.shape[1] // 2
        for top, left in ((0, 0), (0, width), (height, 0), (height, width)):
            quarter = slice(top, top + height), slice(left, left + width)
            span, structure = np.ptp(image[quarter]), image[quarter].mean(2).std()
            found.append(((np.ptp(image) - span) * structure / max(16, span), index, quarter))
    return max(found, key=lambda entry: entry[0])[1:]


def border_distance(mask: NDArray, ignore_index: int = 255) -> NDArray:
    """Distance of each pixel to the nearest pixel of another class, in pixels (1 for pixels side by side).

    Unlabelled pixels and the rim of the tile are no border: nobody drew a line there.

    Returns:
        (H, W) float; infinite where the tile has no other class, NaN where the pixel is unlabelled.
    """
    distance = np.full(mask.shape, np.nan)
    for label in np.setdiff1d(mask, ignore_index):
        own, other = mask == label, (mask != label) & (mask != ignore_index)
        distance[own] = distance_transform_edt(~other)[own] if other.any() else np.inf
    return distance


def recall_by_distance(
    predictions: Sequence[NDArray], masks: Sequence[NDArray], distances: Sequence[NDArray], tile_set: TileSet
) -> dict[str, tuple[float, float]]:
    """By band of distance to a border: mean recall over classes, and share of the labelled pixels, in [0, 1]."""
    far = np.concatenate([distance.ravel() for distance in distances])
    found = {}
    for band, (low, high) in BANDS.items():
        share = np.mean((far > low) & (far <= high)) / max(np.mean(~np.isnan(far)), 1e-12)
        inside = [(distance > low) & (distance <= high) for distance in distances]
        kept = [np.where(i, mask, tile_set.ignore_index) for i, mask in zip(inside, masks, strict=True)]
        if share > 0:
            found[band] = score_masks(predictions, kept, tile_set)["mean_recall"], float(share)
    return found


def sample_pixels(
    sample: SplitSample, count: int, seed: int, ignore_index: int = 255
) -> tuple[NDArray, NDArray, NDArray]:
    """Draw `count` labelled pixels of each tile, or all where it has fewer.

    Returns:
        Colours (P, 3), labels (P,), and the position (P,) of the tile that each came from.
    """
    rng, parts = np.random.default_rng(seed), []
    for position, (image, mask) in enumerate(zip(sample.images, sample.masks, strict=True)):
        labelled = np.flatnonzero(mask != ignore_index)
        chosen = rng.choice(labelled, min(count, len(labelled)), replace=False)
        parts.append((image.reshape(-1, 3)[chosen], mask.ravel()[chosen], np.full(len(chosen), position)))
    colours, labels, places = (np.concatenate(part) for part in zip(*parts, strict=True))
    return colours.astype(float), labels, places


@dataclass(frozen=True)
class ColourModel:
    """A normal distribution of colours per class: shares (K,), means (K, 3), covariances (K, 3, 3).

    A class with fewer than two pixels has share 0 and is never predicted.
    """

    shares: NDArray
    means: NDArray
    covariances: NDArray

    @classmethod
    def fit(cls, colours: NDArray, labels: NDArray, num_classes: int) -> "ColourModel":
        """From colours (P, 3) and labels (P,); a variance of 1 is added, so that a flat class has one."""
        counts = np.bincount(labels, minlength=num_classes)
        counts[counts < 2] = 0
        means, covariances = np.zeros((num_classes, 3)), np.tile(np.eye(3), (num_classes, 1, 1))
        for label in np.flatnonzero(counts):
            means[label] = colours[labels == label].mean(0)
            covariances[label] += np.cov(colours[labels == label].T)
        return cls(counts / counts.sum(), means, covariances)

    def predict(self, image: NDArray) -> NDArray:
        """The most probable class of each colour: (..., 3) -> (...) uint8."""
        values = np.full((len(self.shares), *image.shape[:-1]), -np.inf)
        for label in np.flatnonzero(self.shares):
            away, covariance = image - self.means[label], self.covariances[label]
            spread = np.einsum("...i,ij,...j->...", away, np.linalg.inv(covariance), away)
            values[label] = np.log(self.shares[label]) - (np.linalg.slogdet(covariance)[1] + spread) / 2
        return values.argmax(0).astype(np.uint8)


def nearest_labels(colours: NDArray, labels: NDArray, folds: NDArray) -> NDArray:
    """For each pixel (P,) the label of the one nearest in colour among those of other folds; two folds at least."""
    predicted = np.empty_like(labels)
    for fold in np.unique(folds):
        inside = folds == fold
        _, nearest = cKDTree(colours[~inside]).query(colours[inside])
        predicted[inside] = labels[~inside][nearest]
    return predicted


def likeness(images: Sequence[NDArray], scenes: Sequence[str]) -> dict[str, NDArray]:
    """How far the colours of half tiles are from each other: within a tile, within a scene, between scenes.

    Returns:
        By the kind of pair, for each pair the root mean square difference of the mean and the standard deviation of
        each band; a kind without any pair is left out.
    """
    halves = [half.reshape(-1, 3) for i in images for half in np.array_split(i, 2, axis=1)]
    statistics = np.stack([np.concatenate([half.mean(0), half.std(0)]) for half in halves])  # (2N, 6)
    tile = np.repeat(np.arange(len(images)), 2)
    scene = np.unique(np.asarray(scenes), return_inverse=True)[1][tile]
    first, second = np.triu_indices(len(halves), 1)
    distance = np.sqrt(np.square(statistics[first] - statistics[second]).mean(1))
    same_tile, same_scene = tile[first] == tile[second], scene[first] == scene[second]
    chosen = zip(KINDS, (same_tile, same_scene & ~same_tile, ~same_scene), strict=True)
    return {kind: distance[pairs] for kind, pairs in chosen if pairs.any()}


def nearest_tiles(images: Sequence[NDArray], others: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
    """For each image the most similar of the others, as 16 × 16 thumbnails.

    Returns:
        Its position (N,), and the root mean square difference (N,), 0 for copies.
    """
    small = [
        np.stack([np.array(Image.fromarray(i).resize((16, 16), Image.Resampling.BOX), float).ravel() for i in group])
        for group in (images, others)
    ]
    distance, nearest = cKDTree(small[1]).query(small[0])
    return nearest, distance / np.sqrt(small[0].shape[1])
