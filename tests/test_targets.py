"""What the student is asked to match: asked once, standardised, kept, and swapped as a control."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ktda.targets import Targets, standardise
from ktda.teacher import Teacher

CPU = torch.device("cpu")


class Counting:
    """A teacher of one map that counts its calls and the images it is asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.calls = 0

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        self.asked += len(images)
        self.calls += 1
        return [torch.nn.functional.avg_pool2d(images, 8)]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_targets_are_the_teachers_maps(images: Tensor, random_teacher: Teacher) -> None:
    for found, expected in zip(Targets(random_teacher)(images, CPU), random_teacher(images), strict=True):
        assert torch.equal(found, expected)


def test_kept_maps_are_asked_for_once_and_do_not_depend_on_the_batch(images: Tensor) -> None:
    teacher = Counting()
    targets = Targets(teacher, keep=3)
    first = targets(images, CPU)[0]
    again = targets(images.flip(0), CPU)[0]
    assert teacher.asked == 3
    assert torch.equal(again, first.flip(0))
    assert torch.equal(first, teacher(images)[0])
    targets(images.flip(3), CPU)
    assert teacher.asked == 9  # flipped images are other images


def test_images_behind_those_that_are_kept_go_together(images: Tensor) -> None:
    teacher = Counting()
    targets = Targets(teacher, keep=1)
    for calls in (2, 3):  # the first image is remembered, the other two are one call each time
        assert torch.equal(targets(images, CPU)[0], torch.nn.functional.avg_pool2d(images, 8))
        assert teacher.calls == calls


def test_beyond_the_memory_kept_maps_are_computed_anew(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktda.targets.KEPT_BYTES", 2 * 3 * 4 * 4 * 4)  # two maps (3, 4, 4) of four bytes
    teacher = Counting()
    targets = Targets(teacher, keep=3)
    for _ in range(2):
        assert torch.equal(targets(images, CPU)[0], torch.nn.functional.avg_pool2d(images, 8))
    assert teacher.asked == 4


def test_the_control_gives_every_image_the_maps_of_another(images: Tensor, random_teacher: Teacher) -> None:
    own, other = (Targets(random_teacher, images=which)(images, CPU) for which in ("own", "other"))
    for a, b in zip(own, other, strict=True):
        assert torch.equal(b, a[[2, 0, 1]])


def test_statistics_are_measured_once(images: Tensor, random_teacher: Teacher) -> None:
    targets = Targets(random_teacher, standardised=True)
    targets.measure(iter(images), CPU)
    maps = targets(images, CPU)
    for m in maps:
        assert m.mean((0, 2, 3)).abs().max() < 1e-4
        assert (m.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-3
    before = targets.statistics
    targets.measure(iter(images * 0), CPU)
    assert targets.statistics is before
    assert all(torch.equal(a, b) for a, b in zip(maps, standardise(random_teacher(images), before), strict=True))
