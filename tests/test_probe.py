"""Linear probe: what is linearly there is found, what is not is not."""

import pytest
import torch

from ktda_lab.features.probe import class_shares_per_patch, linear_probe, raw_patches


def make(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tiles of 32 px whose label is 1 where the red of an 8 px patch is above one half."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.rand(count, 3, 4, 4, generator=generator)
    masks = (cells[:, 0] > 0.5).long().repeat_interleave(8, 1).repeat_interleave(8, 2)
    return cells.repeat_interleave(8, 2).repeat_interleave(8, 3), masks


def test_what_is_linear_in_the_features_is_found() -> None:
    found = linear_probe(raw_patches, make(64, 0), make(64, 1), 2)
    blind = linear_probe(lambda images: raw_patches(images)[:, 64:], make(64, 0), make(64, 1), 2)  # green and blue
    assert found["miou"] > 0.75  # bilinear logits blur the borders of the patches
    assert blind["miou"] < 0.45


def test_ignored_pixels_count_for_nothing() -> None:
    images, masks = make(64, 0)
    wrong = 1 - masks
    wrong[:, :, :16] = masks[:, :, :16]
    hidden = wrong.clone()
    hidden[:, :, 16:] = 255
    truth = make(64, 1)
    assert linear_probe(raw_patches, (images, hidden), truth, 2)["miou"] > 0.7
    assert linear_probe(raw_patches, (images, wrong), truth, 2)["miou"] < 0.6


def test_class_shares_of_a_patch() -> None:
    masks = torch.tensor([[[0, 0, 1, 255], [0, 1, 1, 255], [255, 255, 2, 2], [255, 255, 2, 2]]])
    shares = class_shares_per_patch(masks, (2, 2), 3)
    assert shares.tolist() == [
        pytest.approx([0.75, 0.25, 0.0]),
        pytest.approx([0.0, 1.0, 0.0]),
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0],
    ]
