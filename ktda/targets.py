"""What the student is asked to match: the teacher's maps of a batch, standardised, kept, or swapped as a control."""

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ktda.teacher import Teacher

KEPT_BYTES = 2**29  # of maps in memory; what comes after that is computed each time


class Targets:
    """The frozen teacher, asked for a batch.

    Args:
        teacher: any teacher.
        standardised: by fixed per-channel statistics of the training tiles, see `statistics`.
        images: "own", or "other": each image gets the maps of its neighbour in the batch, as a control that has the
            statistics of the teacher and no knowledge of the image.
        keep: remember the maps of every image. Worth it where the same pixels come again: flips and rotations of
            few tiles. Such images are asked for one by one, so that a map never depends on the rest of its batch
            and a resumed run stays the same to the bit.

    Attributes:
        statistics: one (2, D) tensor per map (mean, standard deviation); empty until `measure`.
    """

    def __init__(self, teacher: Teacher, standardised: bool = False, images: str = "own", keep: bool = False) -> None:
        self.teacher, self.standardised, self.images, self.keep = teacher, standardised, images, keep
        self.statistics: list[Tensor] = []
        self._kept: dict[bytes, list[Tensor]] = {}
        self._bytes = 0

    def measure(self, images: Iterable[Tensor], device: torch.device) -> None:
        """Take the statistics over training images (3, H, W) in [0, 1], each once."""
        if self.standardised and not self.statistics:
            self.statistics = channel_statistics(self.teacher, (image[None].to(device) for image in images))

    def __call__(self, images: Tensor, device: torch.device) -> list[Tensor]:
        """Images (N, 3, H, W) in [0, 1], on the CPU where maps are kept -> one (N, D, h, w) map per block."""
        if self.keep:
            each = [self._of(image, device) for image in images]
            maps = [torch.cat(level) for level in zip(*each, strict=True)]
        else:
            maps = self.teacher(images.to(device, non_blocking=True))
        if self.standardised:
            maps = standardise(maps, self.statistics)
        return [m.roll(1, 0) for m in maps] if self.images == "other" else maps

    def _of(self, image: Tensor, device: torch.device) -> Sequence[Tensor]:
        key = hashlib.blake2b(image.numpy().data, digest_size=16).digest()
        maps = self._kept.get(key)
        if maps is None:
            maps = self.teacher(image[None].to(device))
            size = sum(m.numel() * m.element_size() for m in maps)
            if self._bytes + size <= KEPT_BYTES:
                self._kept[key], self._bytes = maps, self._bytes + size
        return maps


def channel_statistics(teacher: Teacher, batches: Iterable[Tensor]) -> list[Tensor]:
    """Mean and standard deviation of every channel of every map over a set of images.

    Args:
        teacher: any teacher.
        batches: images (N, 3, H, W) in [0, 1], all of the training set once.

    Returns:
        One (2, D) tensor per map: row 0 the means, row 1 the standard deviations (at least 1e-6), in fp32.
    """
    sums: list[Tensor] = []
    for images in batches:
        maps = [m.cpu().double() for m in teacher(images)]  # not every device knows float64
        moments = [torch.stack((m.sum((0, 2, 3)), m.square().sum((0, 2, 3)))) for m in maps]  # (2, D)
        counts = [m.numel() / m.shape[1] for m in maps]
        if not sums:
            sums, total = moments, counts
        else:
            sums = [a + b for a, b in zip(sums, moments, strict=True)]
            total = [a + b for a, b in zip(total, counts, strict=True)]
    if not sums:
        raise ValueError("no images to take the teacher's statistics from")
    means = [s / n for s, n in zip(sums, total, strict=True)]
    return [torch.stack((m[0], (m[1] - m[0] ** 2).clamp(min=1e-12).sqrt())).float() for m in means]


def standardise(maps: Sequence[Tensor], statistics: Sequence[Tensor]) -> list[Tensor]:
    """Each channel minus its mean over its standard deviation, by fixed `channel_statistics`."""
    return [(m - s[0].to(m).view(-1, 1, 1)) / s[1].to(m).view(-1, 1, 1) for m, s in zip(maps, statistics, strict=True)]
