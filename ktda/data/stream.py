"""The order of training tiles: an endless stream of batches that can start at any step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
        smallest = min(map(min, sizes))
        raise InputError(f"tiles of one batch are {named} pixels; set crop, to at most {smallest}")
    return default_collate(items)


@dataclass(eq=False)
class BatchStream(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index), each epoch in an order of its own keyed by (seed, epoch).

    The last partial batch of an epoch is dropped. A stream that starts at batch n gives what an
    uninterrupted one gives from there on, in mid-epoch too, for any number of workers.

    Args:
        size: tiles in the set.
        batch_size: tiles per batch and process.
        batches: total length of the stream, counted from its first batch.
        start: batches already seen.
        seed: of the order.
        rank, world: this process and how many share each global batch.
        unlabelled, extra: add so many of the `extra` tiles that follow the first `size` to each
            batch, in an endless order of their own.

    Raises:
        InputError: fewer tiles than one global batch.
    """

    size: int
    batch_size: int
    batches: int
    start: int = 0
    seed: int = 0
    rank: int = 0
    world: int = 1
    unlabelled: int = 0
    extra: int = 0

    def __post_init__(self) -> None:
        batch = self.batch_size * self.world
        self.per_epoch = self.size // batch
        if self.per_epoch == 0:
            found = f"{self.size} training tiles do not fill one batch of {batch}"
            raise InputError(f"{found}; lower batch_size or add tiles")
        if self.unlabelled > self.extra:
            found = f"unlabelled={self.unlabelled}, but {self.extra} training tiles are left out"
            raise InputError(f"{found}; set tiles or scenes, or give images by --unlabelled")

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        labelled = self._passes("order", self.size, self.batch_size, self.per_epoch)
        if not self.unlabelled:
            yield from labelled
            return
        # they do not end with an epoch: one endless row of passes, cut into batches
        unlabelled = self._passes("unlabelled", self.extra, self.unlabelled)
        for batch, more in zip(labelled, unlabelled, strict=True):
            # the unlabelled tiles stand behind the labelled ones in the set
            yield batch + [(turn, self.size + index) for turn, index in more]

    def at(self, batch: int) -> list[int]:
        """The tiles of one batch of this process."""
        return [index for _, index in next(iter(replace(self, start=batch)))]

    def _passes(
        self, name: str, size: int, count: int, per_pass: int = 0
    ) -> Iterator[list[tuple[int, int]]]:
        """For each batch left, `count` items (pass, index) of this process.

        Args:
            name: of the order; each pass has an order of its own, keyed by (seed, name, pass).
            size: of one pass.
            count: items per batch and process.
            per_pass: batches after which a pass ends, its rest dropped; 0 drops nothing.
        """
        drawn = -1  # the pass whose order is at hand
        length = per_pass * count * self.world or size
        for batch in range(self.start, self.batches):
            first = (batch * self.world + self.rank) * count
            items = []
            for place in range(first, first + count):
                turn, position = divmod(place, length)
                if turn != drawn:
                    draw = generator(self.seed, name, turn)
                    order = torch.randperm(size, generator=draw).tolist()
                    drawn = turn
                items.append((turn, order[position]))
            yield items
