"""Tiles of a data set as tensors, with augmentation that depends on (seed, epoch, index) and nothing else."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from ktda.data.folder import Pair, TileSet
from ktda.data.transforms import Augment
from ktda.seeding import generator


class Tiles(Dataset):
    """Pairs of a ``TileSet`` as images in [0, 1] and masks of class indices.

    An item is asked for by its index, which gives the tile as it is, or by (epoch, index), which augments it. The
    random draws come from a generator keyed by (seed, epoch, index): the order of the batches, the number of workers
    and a resumed run change nothing.

    Args:
        tile_set: Where the pairs come from.
        pairs: The tiles, usually ``tile_set.pairs(split)``; item i is ``pairs[i]``.
        augment: Applied to items asked for by (epoch, index).
        seed: First part of the key of the random draws.
        cache: Keep decoded tiles in memory: about 4 bytes per pixel, per process.
    """

    def __init__(
        self,
        tile_set: TileSet,
        pairs: Sequence[Pair],
        augment: Augment | None = None,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        self.tile_set = tile_set
        self.pairs = list(pairs)
        self.augment = augment
        self.seed = seed
        self.cache: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """One tile.

        Returns:
            ``image`` (3, H, W) float32 RGB in [0, 1], ``mask`` (H, W) int64, ``index`` the position in ``pairs``.
        """
        epoch, index = key if isinstance(key, tuple) else (None, key)
        image, mask = self._decoded(int(index))
        if self.augment is not None and epoch is not None:
            image, mask = self.augment(image, mask, generator(self.seed, "augment", int(epoch), int(index)))
        return {
            # one pass: bytes in any memory order to contiguous float32
            "image": image.to(torch.float32, memory_format=torch.contiguous_format).div_(255),
            "mask": mask.to(torch.int64, memory_format=torch.contiguous_format, copy=True),
            "index": int(index),
        }

    def _decoded(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (3, H, W) uint8 and mask (H, W), as read from disk; never changed in place."""
        if self.cache is not None and index in self.cache:
            return self.cache[index]
        image, mask = self.tile_set.read(self.pairs[index])
        tile = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask)  # (H, W, 3) -> (3, H, W)
        if self.cache is not None:
            self.cache[index] = tile
        return tile

    def __getstate__(self) -> dict[str, Any]:
        """Workers fill a cache of their own: sending ours would cost more than decoding."""
        return {**self.__dict__, "cache": None if self.cache is None else {}}
