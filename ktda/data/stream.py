"""The order of training tiles: an endless stream of batches that can start at any step."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler, default_collate

from ktda.errors import InputError
from ktda.seeding import generator


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The tiles of one batch stacked.

    Raises:
        InputError: tiles of different sizes.
    """
    sizes = sorted({(item["mask"].shape[1], item["mask"].shape[0]) for item in items})
    if len(sizes) > 1:
        named = ", ".join(f"{width}x{height}" for width, height in sizes)
        raise InputError(f"tiles of one batch are {named} pixels; set crop, to at most {min(map(min, sizes))}")
    return default_collate(items)


class BatchStream(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index), each epoch in an order of its own keyed by (seed, epoch).

    The last partial batch of an epoch is dropped. A stream that starts at batch n gives what an uninterrupted one
    gives from there on, in mid-epoch too, for any number of workers.

    Args:
        size: tiles in the set.
        batch_size: tiles per batch and process.
        batches: total length of the stream, counted from its first batch.
        start: batches already seen.
        seed: of the order.
        rank, world: this process and how many share each global batch.
        unlabelled, extra: add so many of the `extra` tiles that follow the first `size` to each batch, in an endless
            order of their own.

    Raises:
        InputError: fewer tiles than one global batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        batches: int,
        start: int = 0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        unlabelled: int = 0,
        extra: int = 0,
    ) -> None:
        self.per_epoch = size // (batch_size * world)
        if self.per_epoch == 0:
            raise InputError(
                f"{size} training tiles do not fill one batch of {batch_size * world}; lower batch_size or add tiles"
            )
        self.size, self.batch_size, self.batches, self.start, self.seed = size, batch_size, batches, start, seed
        if unlabelled > extra:
            raise InputError(f"unlabelled={unlabelled}, but {extra} training tiles are left out; set tiles or scenes")
        self.rank, self.world, self.unlabelled, self.extra = rank, world, unlabelled, extra

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        drawn, order, self._turn = -1, [], -1
        for batch in range(self.start, self.batches):
            epoch, position = divmod(batch, self.per_epoch)
            if epoch != drawn:
                order = torch.randperm(self.size, generator=generator(self.seed, "order", epoch)).tolist()
                drawn = epoch
            first = (position * self.world + self.rank) * self.batch_size
            yield [(epoch, index) for index in order[first : first + self.batch_size]] + self._extra(batch)

    def _extra(self, batch: int) -> list[tuple[int, int]]:
        """(pass, index) of a batch's unlabelled tiles; each pass over them has an order of its own."""
        found, first = [], (batch * self.world + self.rank) * self.unlabelled
        for place in range(first, first + self.unlabelled):
            turn, position = divmod(place, self.extra)
            if turn != self._turn:
                draw = generator(self.seed, "unlabelled", turn)
                self._order, self._turn = torch.randperm(self.extra, generator=draw).tolist(), turn
            found.append((turn, self.size + self._order[position]))
        return found
