"""What the student is asked to match: the teacher's maps of a batch.

They may be standardised, kept in memory, or swapped between images as a control.
"""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ktda.teacher import Teacher

KEPT_BYTES = 2**29  # of maps in memory; what comes after that is computed each time
_FLAT = 1e-6  # smallest standard deviation of a channel


class Targets:
    """The frozen teacher, asked for a batch.

    Args:
        standardised: by fixed per-channel statistics of the training tiles, see `statistics`.
        images: "own", or "other": each image gets the maps of its neighbour in the batch, as a
            control that has the statistics of the teacher and no knowledge of the image.
        bands: places, from 0, of red, green and blue in an image; () where it is RGB.
        keep: of how many images of a batch, from the first on, the maps are remembered. Worth it
            where the same pixels come again: flips and rotations of few tiles. Such images are
            asked for one by one, so that a map never depends on the rest of its batch and a
            resumed run stays the same to the bit; the others go together.

    Attributes:
        statistics: one (2, D) tensor per map (mean, standard deviation); empty until `measure`.
    """

    def __init__(
        self,
        teacher: Teacher,
        standardised: bool = False,
        images: str = "own",
        keep: int = 0,
        bands: Sequence[int] = (),
    ) -> None:
        self.teacher = teacher
        self.standardised = standardised
        self.images = images
        self.keep = keep
        self.bands = list(bands)
        self.statistics: list[Tensor] = []
        self._kept: dict[bytes, list[Tensor]] = {}
        self._bytes = 0

    def measure(self, images: Iterable[Tensor], device: torch.device) -> None:
        """Take the statistics over training images (bands, H, W) in [0, 1], each once."""
        if self.standardised and not self.statistics:
            batches = (self._rgb(image[None]).to(device) for image in images)  # (1, 3, H, W)
            self.statistics = channel_statistics(self.teacher, batches)
            flat = sum(int((deviation <= _FLAT).sum()) for _, deviation in self.statistics)
            if flat:
                found = f"{flat} channels of the teacher are alike on all training tiles"
                warnings.warn(f"{found}: standardise=true makes noise of them", stacklevel=2)

    def __call__(self, images: Tensor, device: torch.device) -> list[Tensor]:
        """Images (N, bands, H, W) in [0, 1] -> one (N, D, h, w) map per block, on `device`.

        Where maps are kept, the images are on the CPU.
        """
        images = self._rgb(images)
        parts = [self._maps_of(image, device) for image in images[: self.keep]]  # (1, D, h, w) each
        if len(images) > self.keep:
            parts.append(self.teacher(images[self.keep :].to(device, non_blocking=True)))
        maps = parts[0]
        if len(parts) > 1:
            maps = [torch.cat(level) for level in zip(*parts, strict=True)]  # (N, D, h, w)
        if self.standardised:
            maps = standardise(maps, self.statistics)
        if self.images == "other":
            maps = [m.roll(1, 0) for m in maps]
        return maps

    def _rgb(self, images: Tensor) -> Tensor:
        """What the teacher sees of images: (N, bands, H, W) -> (N, 3, H, W)."""
        return images[:, self.bands] if self.bands else images

    def _maps_of(self, image: Tensor, device: torch.device) -> Sequence[Tensor]:
        """The (1, D, h, w) maps of one image (3, H, W), recognised by its pixels."""
        key = hashlib.blake2b(image.numpy().data, digest_size=16).digest()
        maps = self._kept.get(key)
        if maps is None:
            maps = self.teacher(image[None].to(device))
            size = sum(m.numel() * m.element_size() for m in maps)
            if self._bytes + size <= KEPT_BYTES:
                self._kept[key] = maps
                self._bytes += size
        return maps


def channel_statistics(teacher: Teacher, batches: Iterable[Tensor]) -> list[Tensor]:
    """Statistics of every channel of every map over batches of images (N, 3, H, W) in [0, 1].

    Returns:
        One (2, D) tensor per map: the means, and the standard deviations (at least 1e-6), in fp32.
    """
    sums: dict[int, Tensor] = {}  # of each map's values, and of their squares: (2, D)
    counts: dict[int, float] = defaultdict(float)  # of each map's places, over all images
    for images in batches:
        for level, m in enumerate(teacher(images)):
            m = m.cpu().double()  # not every device knows float64
            added = torch.stack((m.sum((0, 2, 3)), m.square().sum((0, 2, 3))))
            sums[level] = sums.get(level, 0) + added
            counts[level] += m.numel() / m.shape[1]
    if not sums:
        raise ValueError("no images to take the teacher's statistics from")
    statistics = []
    for level, total in sums.items():
        mean, mean_square = total / counts[level]
        variance = (mean_square - mean**2).clamp(min=_FLAT**2)
        statistics.append(torch.stack((mean, variance.sqrt())).float())
    return statistics


def standardise(maps: Sequence[Tensor], statistics: Sequence[Tensor]) -> list[Tensor]:
    """Each channel minus its mean over its standard deviation, by fixed `channel_statistics`."""
    out = []
    for m, statistic in zip(maps, statistics, strict=True):
        mean, std = statistic.to(m).view(2, -1, 1, 1)  # (2, D) -> two of (D, 1, 1)
        out.append((m - mean) / std)
    return out
