"""What the student is asked to match: the teacher's maps of a batch, standardised, kept, or swapped as a control."""

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ktda.teacher import Teacher, channel_statistics, standardise

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
