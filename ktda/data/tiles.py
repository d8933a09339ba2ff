"""Tiles of a data set as tensors; augmentation hangs on (seed, epoch, index) and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ktda.data.folder import Pair, TileSet
from ktda.data.transforms import Augment
from ktda.data.unlabelled import Unlabelled
from ktda.seeding import generator


@dataclass(eq=False)
class Tiles(Dataset):
    """Pairs of a ``TileSet`` as images in [0, 1] and masks of class indices.

    An item is asked for by its index, which gives the tile as it is, or by (epoch, index), which
    augments it. The random draws come from a generator keyed by (seed, epoch, index): the order of
    the batches, the number of workers and a resumed run change nothing.

    Attributes:
        tile_set: Where the pairs come from.
        pairs: The tiles, usually ``tile_set.pairs(split)``; item i is ``pairs[i]``.
        augment: Applied to items asked for by (epoch, index).
        seed: First part of the key of the random draws.
        cache: Keep decoded tiles in memory: about 4 bytes per pixel, per process.
        labelled: Of how many pairs, from the first on, the labels are read (None: all); the masks
            of the others hold nothing but the ignored label.
        unlabelled: Images without masks, whose cuts follow the pairs.
    """

    tile_set: TileSet
    pairs: Sequence[Pair]
    augment: Augment | None = None
    seed: int = 0
    cache: bool = False
    labelled: int | None = None
    unlabelled: Unlabelled | None = None
    decoded: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __len__(self) -> int:
        return len(self.pairs) + (len(self.unlabelled) if self.unlabelled else 0)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """One tile.

        Returns:
            ``image`` (bands, H, W) float32 in [0, 1], ``mask`` (H, W) int64, ``index`` the position
            in ``pairs`` and behind.

        Raises:
            InputError: The tile cannot be read, or holds a label outside the classes.
        """
        epoch, index = key if isinstance(key, tuple) else (None, key)
        if self.unlabelled is None or index < len(self.pairs):
            image, mask = self._decode(index)
        else:
            image = self.unlabelled.read(epoch or 0, index - len(self.pairs))
            mask = torch.full(image.shape[1:], self.tile_set.ignore_index, dtype=torch.uint8)
        if self.augment is not None and epoch is not None:
            image, mask = self.augment(image, mask, generator(self.seed, "augment", epoch, index))
        return {
            # one pass: bytes in any memory order to contiguous float32
            "image": image.to(torch.float32, memory_format=torch.contiguous_format).div_(255),
            "mask": mask.to(torch.int64, memory_format=torch.contiguous_format),
            "index": index,
        }

    def name_of(self, index: int) -> str:
        """The name of the image that an item is of."""
        if index < len(self.pairs):
            return self.pairs[index].image.name
        return self.unlabelled.images_at[index - len(self.pairs)].name

    def _decode(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (bands, H, W) and mask (H, W), both uint8."""
        if index in self.decoded:
            return self.decoded[index]
        if self.labelled is None or index < self.labelled:
            image, mask = self.tile_set.read(self.pairs[index])
        else:
            image = self.tile_set.read_image(self.pairs[index].image)
            mask = np.full(image.shape[:2], self.tile_set.ignore_index, np.uint8)
        channels_first = torch.from_numpy(image).permute(2, 0, 1)  # (H, W, C) -> (C, H, W)
        tile = channels_first, torch.from_numpy(mask)
        if self.cache:
            self.decoded[index] = tile
        return tile
