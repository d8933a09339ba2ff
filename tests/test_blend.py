"""The blender: an identity model gives back its input; fill costs nothing; going on changes no bit."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ktda.scenes.blend import FILL, LEAST_WEIGHT, blend, count_passes, gaussian, starts
from ktda.seeding import generator

CLASSES = 4
SIZES = [(1, 1), (5, 40), (32, 32), (33, 31), (64, 100), (97, 50)]
TILES = [8, 32, 50]
OVERLAPS = [0.0, 0.25, 0.6]


def labels_of(size: tuple[int, int]) -> Tensor:
    return torch.randint(CLASSES, size, generator=generator(0, *size))


def reader(labels: Tensor, data: Tensor | None = None, asked: list | None = None):
    """Rows of an image whose only band is the label."""
    data = torch.ones_like(labels, dtype=torch.bool) if data is None else data

    def read(begin: int, end: int) -> tuple[Tensor, Tensor]:
        if asked is not None:
            asked.append((begin, end))
        return labels[None, begin:end].float(), data[begin:end]

    return read


def identity(images: Tensor) -> Tensor:
    """Logits (N, K, h, w) that are sure of the label in band 0."""
    return 20 * F.one_hot(images[:, 0].long(), CLASSES).permute(0, 3, 1, 2).float()


def whole(strips, height: int) -> Tensor:
    """The classes of all strips, which must follow each other."""
    parts = list(strips)
    rows = [0, *itertools.accumulate(len(part.classes) for part in parts)]
    assert [part.row for part in parts] == rows[:-1]
    assert rows[-1] == height
    return torch.cat([part.classes for part in parts])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_an_identity_model_gives_its_input_back(size: tuple[int, int], tile: int, overlap: float):
    labels = labels_of(size)
    found = whole(blend(reader(labels), identity, size, CLASSES, tile, overlap), size[0])
    assert torch.equal(found.long(), labels)


@pytest.mark.parametrize(("length", "tile"), [(1, 1), (10, 10), (100, 32), (101, 32), (64, 50)])
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_tiles_cover_a_side_and_overlap_at_least_as_asked(length: int, tile: int, overlap: float):
    found = starts(length, tile, overlap)
    assert found[0] == 0
    assert found[-1] == length - tile
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert all(0 < step <= max(1, int(tile * (1 - overlap))) for step in steps)


def test_weights_are_highest_at_the_centre_and_never_vanish():
    weights = gaussian(9, 17)
    assert weights.argmax() == 4 * 17 + 8
    assert weights.max() == 1
    assert weights.min() == pytest.approx(LEAST_WEIGHT)
    assert torch.equal(weights, weights.flip(0, 1))


def test_the_strips_hold_the_weighted_mean_of_all_tiles_over_a_pixel():
    """Two tiles side by side, one sure of class 0 and the other of class 1, against the formula by hand."""
    width, tile = 12, 8
    images = torch.zeros(1, tile, width)
    answers = iter([torch.tensor([0.9, 0.1]), torch.tensor([0.3, 0.7])])

    def predict(windows: Tensor) -> Tensor:
        probabilities = [next(answers) for _ in windows]
        return torch.stack(probabilities).log()[:, :, None, None].expand(-1, -1, tile, tile)

    read = lambda begin, end: (images[:, begin:end], torch.ones(tile, width, dtype=torch.bool))  # noqa: E731
    (strip,) = blend(read, predict, (tile, width), 2, tile, 0.5)
    row = gaussian(tile, tile)[3]
    left, right = torch.zeros(width), torch.zeros(width)
    left[:tile], right[4:] = row, row
    zero = (left * 0.9 + right * 0.3) / (left + right)
    assert strip.classes[3].tolist() == (zero < 0.5).int().tolist()
    torch.testing.assert_close(strip.confidence[3], torch.maximum(zero, 1 - zero))


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_going_on_from_a_strip_changes_no_bit(overlap: float):
    size, tile = (90, 40), 24
    images = torch.rand(CLASSES, *size, generator=generator(1))
    read = lambda begin, end: (images[:, begin:end], torch.ones(end - begin, size[1], dtype=torch.bool))  # noqa: E731
    predict = lambda windows: 3 * F.avg_pool2d(windows, 5, 1, 2)  # noqa: E731
    full = list(blend(read, predict, size, CLASSES, tile, overlap))
    for done in range(1, len(full)):
        again = list(blend(read, predict, size, CLASSES, tile, overlap, first=full[done].row))
        assert len(again) == len(full) - done
        for a, b in zip(full[done:], again, strict=True):
            assert a.row == b.row
            assert torch.equal(a.classes, b.classes)
            assert torch.equal(a.confidence, b.confidence)


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ktda.scenes.blend.BATCH_PIXELS", 2 * 24**2)
    size = (90, 200)
    images = torch.rand(CLASSES, *size, generator=generator(1))
    read = lambda begin, end: (images[:, begin:end], torch.ones(end - begin, size[1], dtype=torch.bool))  # noqa: E731
    predict = lambda windows: 3 * F.avg_pool2d(windows, 5, 1, 2)  # noqa: E731
    alone = list(blend(read, predict, size, CLASSES, 24, 0.4))
    with ThreadPoolExecutor(3) as pool:
        together = list(blend(read, predict, size, CLASSES, 24, 0.4, pool=pool))
    assert len(together) == len(alone) > 3
    for a, b in zip(alone, together, strict=True):
        assert a.row == b.row
        assert torch.equal(a.classes, b.classes)
        assert torch.equal(a.confidence, b.confidence)


@pytest.mark.parametrize("batch_pixels", [1, 3 * 32**2, 2**17])
@pytest.mark.parametrize("size", SIZES)
def test_passes_are_counted_before_they_are_made(monkeypatch: pytest.MonkeyPatch, size, batch_pixels: int):
    monkeypatch.setattr("ktda.scenes.blend.BATCH_PIXELS", batch_pixels)
    for tile, overlap in itertools.product(TILES, OVERLAPS):
        calls = []
        predict = lambda windows: calls.append(len(windows)) or identity(windows)  # noqa: B023, E731
        list(blend(reader(labels_of(size)), predict, size, CLASSES, tile, overlap))
        assert count_passes(size, tile, overlap) == len(calls)


def test_fill_stays_fill_and_windows_without_data_are_not_computed():
    size, tile = (64, 64), 16
    labels, data = labels_of(size), torch.zeros(size, dtype=torch.bool)
    data[20:30, 5:12] = True
    computed = 0

    def predict(windows: Tensor) -> Tensor:
        nonlocal computed
        computed += len(windows)
        return identity(windows)

    found = whole(blend(reader(labels, data), predict, size, CLASSES, tile, 0.0), 64)
    assert torch.equal(found[data].long(), labels[data])
    assert (found[~data] == FILL).all()
    assert computed == 1


def test_rows_are_read_once_a_row_of_tiles():
    asked: list = []
    labels = labels_of((100, 30))
    list(blend(reader(labels, asked=asked), identity, (100, 30), CLASSES, 40, 0.25))
    assert asked == [(0, 40), (30, 70), (60, 100)]


def test_blending_beats_plain_tiling_at_the_seams():
    """A model that errs towards a tile's border: its blended map is nearer to the truth than its tiles side by side."""
    size, tile = (128, 128), 32
    labels = (torch.arange(128)[:, None] // 7 + torch.arange(128)[None] // 5) % CLASSES
    border = 1 - gaussian(tile, tile)

    def predict(windows: Tensor) -> Tensor:
        noise = torch.rand(len(windows), CLASSES, tile, tile, generator=generator(2, int(windows.sum())))
        return 2 * identity(windows) / 20 + 4 * border * noise

    right = {}
    for overlap in (0.0, 0.5):
        found = whole(blend(reader(labels), predict, size, CLASSES, tile, overlap), 128)
        right[overlap] = (found == labels).double().mean().item()
    assert right[0.5] > right[0.0] + 0.1
