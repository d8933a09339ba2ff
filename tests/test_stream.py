"""The order of batches: keyed, resumable anywhere, shared between processes; and how tiles become a batch."""

from itertools import chain

import pytest
import torch

from ktda.data.stream import BatchStream, collate
from ktda.errors import InputError


def test_each_epoch_shows_every_tile_once_in_an_order_of_its_own() -> None:
    batches = list(BatchStream(size=12, batch_size=3, batches=12))
    assert len(batches) == 12
    orders = []
    for epoch in range(3):
        items = list(chain.from_iterable(batches[4 * epoch : 4 * epoch + 4]))
        assert {e for e, _ in items} == {epoch}
        assert sorted(i for _, i in items) == list(range(12))
        orders.append([i for _, i in items])
    assert orders[0] != orders[1] != orders[2] != list(range(12))


def test_the_last_partial_batch_of_an_epoch_is_dropped() -> None:
    stream = BatchStream(size=11, batch_size=4, batches=6)
    batches = list(stream)
    assert stream.per_epoch == 2
    assert all(len(batch) == 4 for batch in batches)
    assert [batch[0][0] for batch in batches] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("start", range(8))
def test_a_stream_that_starts_later_gives_the_rest(start: int) -> None:
    whole = list(BatchStream(size=7, batch_size=2, batches=8, seed=5))
    rest = BatchStream(size=7, batch_size=2, batches=8, start=start, seed=5)
    assert list(rest) == whole[start:]
    assert len(rest) == 8 - start


def test_the_seed_is_the_order() -> None:
    assert list(BatchStream(20, 5, 4, seed=1)) == list(BatchStream(20, 5, 4, seed=1))
    assert list(BatchStream(20, 5, 4, seed=1)) != list(BatchStream(20, 5, 4, seed=2))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(BatchStream(20, 5, 4))
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone


def test_processes_share_each_global_batch() -> None:
    ranks = [list(BatchStream(13, 2, 6, seed=3, rank=rank, world=2)) for rank in range(2)]
    together = [a + b for a, b in zip(*ranks, strict=True)]
    assert together == list(BatchStream(13, 4, 6, seed=3))  # as one process with twice the batch


@pytest.mark.parametrize(("size", "batch", "world"), [(3, 4, 1), (7, 4, 2), (0, 2, 1)])
def test_too_few_tiles_is_one_clear_error(size: int, batch: int, world: int) -> None:
    message = f"{size} training tiles do not fill one batch of {batch * world}; lower batch_size or add tiles"
    with pytest.raises(InputError, match=message):
        BatchStream(size, batch, 1, world=world)


def item(height: int, width: int) -> dict:
    return {"image": torch.zeros(3, height, width), "mask": torch.zeros(height, width, dtype=torch.long), "index": 0}


def test_collate_stacks_tiles_of_one_size() -> None:
    batch = collate([item(4, 6), item(4, 6)])
    assert batch["image"].shape == (2, 3, 4, 6)
    assert batch["mask"].shape == (2, 4, 6)


def test_collate_names_sizes_that_differ() -> None:
    with pytest.raises(InputError, match="tiles of one batch are 6x4, 8x4 pixels; set crop, to at most 4"):
        collate([item(4, 6), item(4, 8)])


@pytest.mark.parametrize("start", range(9))
def test_unlabelled_tiles_follow_in_an_endless_order_of_their_own(start: int) -> None:
    settings = {"size": 6, "batch_size": 2, "batches": 9, "seed": 5, "unlabelled": 3, "extra": 7}
    whole = list(BatchStream(**settings))
    assert list(BatchStream(**settings, start=start)) == whole[start:]
    assert [batch[:2] for batch in whole] == list(BatchStream(size=6, batch_size=2, batches=9, seed=5))
    drawn = [item for batch in whole for item in batch[2:]]
    assert len(drawn) == 27
    for turn in range(3):  # whole passes over the seven
        assert sorted(drawn[7 * turn : 7 * turn + 7]) == [(turn, 6 + i) for i in range(7)]
    assert [i for _, i in drawn[:7]] != [i for _, i in drawn[7:14]]


def test_processes_share_the_unlabelled_tiles() -> None:
    settings = {"size": 8, "batch_size": 2, "batches": 4, "unlabelled": 2, "extra": 16}
    drawn = [item for rank in (0, 1) for b in BatchStream(**settings, rank=rank, world=2) for item in b[2:]]
    assert sorted(i for _, i in drawn) == list(range(8, 24))


def test_more_unlabelled_tiles_than_there_are_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="unlabelled=3, but 2 training tiles are left out"):
        BatchStream(size=6, batch_size=2, batches=1, unlabelled=3, extra=2)
