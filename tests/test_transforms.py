"""Augmentation: image and mask move together, and the photometric distortion is the authors'."""

import colorsys
import math

import pytest
import torch

from ktda.data import transforms
from ktda.data.transforms import Augment, hsv_to_rgb, photometric_distortion, rgb_to_hsv, shift_colour
from ktda.errors import InputError
from ktda.seeding import generator


def numbered(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A tile whose image and mask hold the same number at each pixel."""
    mask = torch.arange(height * width, dtype=torch.uint8).reshape(height, width)
    return torch.stack([mask, 255 - mask, mask // 2]), mask


def agree(image: torch.Tensor, mask: torch.Tensor) -> bool:
    return torch.equal(image[0], mask) and torch.equal(image[1], 255 - mask)


def test_flips_are_sure_or_never_at_the_ends_of_the_probability():
    image, mask = numbered(3, 5)
    for seed in range(20):
        same = Augment(hflip=0)(image, mask, generator(seed))
        across = Augment(hflip=1)(image, mask, generator(seed))
        down = Augment(hflip=0, vflip=1)(image, mask, generator(seed))
        assert torch.equal(same[0], image)
        assert torch.equal(across[1], mask[:, [4, 3, 2, 1, 0]])
        assert torch.equal(down[1], mask[[2, 1, 0]])
        assert agree(*same)
        assert agree(*across)
        assert agree(*down)
    assert image.dtype == across[0].dtype == torch.uint8
    assert torch.equal(mask, numbered(3, 5)[1])  # the input is left alone


def test_probabilities_are_met():
    image, mask = numbered(1, 2)
    flipped = sum(int(Augment(hflip=0.3)(image, mask, generator(seed))[1][0, 0] == 1) for seed in range(1000))
    assert 250 < flipped < 350


def test_rotations_reach_all_four_and_keep_the_shape_of_oblong_tiles():
    augment = Augment(hflip=0, rot90=True)
    image, mask = numbered(4, 4)
    seen = set()
    for seed in range(40):
        turned = augment(image, mask, generator(seed))
        assert agree(*turned)
        seen.add(tuple(turned[1].flatten().tolist()))
    assert seen == {tuple(torch.rot90(mask, k).flatten().tolist()) for k in range(4)}
    image, mask = numbered(2, 6)
    oblong = {tuple(augment(image, mask, generator(seed))[1].flatten().tolist()) for seed in range(40)}
    assert oblong == {tuple(range(12)), tuple(range(11, -1, -1))}


def test_crop_takes_every_position():
    image, mask = numbered(5, 6)
    corners = set()
    for seed in range(200):
        cropped = Augment(hflip=0, crop=4)(image, mask, generator(seed))
        assert cropped[0].shape == (3, 4, 4)
        assert agree(*cropped)
        y, x = divmod(int(cropped[1][0, 0]), 6)
        assert torch.equal(cropped[1], mask[y : y + 4, x : x + 4])
        corners.add((y, x))
    assert corners == {(y, x) for y in range(2) for x in range(3)}
    whole = Augment(hflip=0, crop=5)(image[:, :, :5], mask[:, :5], generator(0))
    assert torch.equal(whole[1], mask[:, :5])


def test_mistakes():
    image, mask = numbered(4, 6)
    with pytest.raises(InputError, match="crop 5 does not fit into a tile of 6x4 pixels; lower it"):
        Augment(crop=5)(image, mask, generator(0))


def test_draws_come_from_the_generator_only_and_parts_do_not_disturb_each_other():
    image, mask = numbered(6, 6)
    everything = Augment(vflip=0.5, rot90=True, crop=4, photometric=True)
    first = everything(image, mask, generator(1))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    again = everything(image, mask, generator(1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(state, torch.get_rng_state())
    for seed in range(20):
        masks = [
            Augment(vflip=0.5, rot90=True, crop=4, photometric=photometric)(image, mask, generator(seed))[1]
            for photometric in (False, True)
        ]
        assert torch.equal(*masks)


# Pairs that OpenCV 4 gives for COLOR_RGB2HSV on bytes: hue in steps of 2 degrees.
KNOWN = [
    ((255, 0, 0), (0, 255, 255)),
    ((0, 255, 0), (60, 255, 255)),
    ((0, 0, 255), (120, 255, 255)),
    ((255, 255, 0), (30, 255, 255)),
    ((255, 0, 255), (150, 255, 255)),
    ((255, 128, 0), (15, 255, 255)),
    ((128, 128, 128), (0, 0, 128)),
    ((0, 0, 0), (0, 0, 0)),
    ((255, 255, 255), (0, 0, 255)),
    ((64, 128, 128), (90, 128, 128)),
]


def test_hsv_of_known_colours():
    image = torch.tensor([rgb for rgb, _ in KNOWN], dtype=torch.uint8).T[:, None]
    got = torch.stack(rgb_to_hsv(image))[:, 0].T.tolist()
    assert got == [list(hsv) for _, hsv in KNOWN]


def colour_cube(step: int = 5) -> torch.Tensor:
    levels = torch.arange(0, 256, step, dtype=torch.uint8)
    return torch.cartesian_prod(levels, levels, levels).T[:, None].contiguous()  # (3, 1, n)


def test_hsv_against_the_standard_library():
    image = colour_cube(15)
    h, s, v = (channel[0].tolist() for channel in rgb_to_hsv(image))
    for position, (red, green, blue) in enumerate(image[:, 0].T.tolist()):
        hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
        distance = abs(h[position] - 180 * hue)
        # half a step, and what 12 fractional bits leave: up to 1,275 / 8,192 for the hue, 255 / 8,192 here
        assert min(distance, 180 - distance) <= 0.66
        assert abs(s[position] - 255 * saturation) <= 0.54
        assert v[position] == round(255 * value)
    assert max(h) < 180


def test_rgb_of_hsv_against_the_standard_library():
    h, s, v = torch.cartesian_prod(torch.arange(0, 180, 7), torch.arange(0, 256, 15), torch.arange(0, 256, 15)).T
    got = hsv_to_rgb(h[None], s[None], v[None])[:, 0].T
    for one, colour in zip(zip(h.tolist(), s.tolist(), v.tolist(), strict=True), got.tolist(), strict=True):
        exact = colorsys.hsv_to_rgb(one[0] / 180, one[1] / 255, one[2] / 255)
        assert all(abs(a - 255 * b) <= 0.501 for a, b in zip(colour, exact, strict=True))


def test_colour_there_and_back_is_nearly_the_same():
    image = colour_cube()
    back = hsv_to_rgb(*rgb_to_hsv(image)).int()
    # half a step of the hue is a degree: d / 60 <= 4.3 levels, and half a level of the saturation
    assert (back - image.int()).abs().max() <= 5


def test_hue_turns_around_the_circle_and_saturation_clips():
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(3, 1, 1)
    assert rgb_to_hsv(shift_colour(red, None, -18))[0].item() == 162
    assert rgb_to_hsv(shift_colour(red, None, 17))[0].item() == 17
    assert torch.equal(shift_colour(red, 1.5, None), red)
    half = torch.tensor([200, 100, 100], dtype=torch.uint8).reshape(3, 1, 1)  # saturation 127.5, 127 in fixed point
    assert shift_colour(half, 0.5, None).flatten().tolist() == [200, 150, 150]
    assert shift_colour(half, 1.5, None).flatten().tolist() == [200, 51, 51]


PARTS = ("brightness", "contrast", "first", "saturation", "hue")


def seed_with(**wanted: bool) -> tuple[torch.Generator, list[float]]:
    """A generator whose coins fall as wanted, and the four amounts that follow them."""
    for seed in range(10_000):
        draws = torch.rand(9, generator=generator(seed)).tolist()
        if all((draw < 0.5) == wanted.get(part, False) for part, draw in zip(PARTS, draws, strict=False)):
            return generator(seed), draws[5:]
    raise AssertionError("no such seed")


def photo() -> torch.Tensor:
    return torch.randint(0, 256, (3, 9, 7), generator=generator("photo")).to(torch.uint8)


def rounded(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(0, 255).round().to(torch.uint8)


def test_brightness_adds_up_to_32():
    source, amounts = seed_with(brightness=True)
    delta = 64 * amounts[0] - 32
    assert abs(delta) > 1
    assert torch.equal(photometric_distortion(photo(), source), rounded(photo().double() + delta))


@pytest.mark.parametrize("first", [True, False])
def test_contrast_multiplies_without_a_mean(first):
    source, amounts = seed_with(contrast=True, first=first)
    expected = rounded(photo().double() * (0.5 + amounts[1]))
    assert torch.equal(photometric_distortion(photo(), source), expected)


def test_nothing_happens_when_no_coin_falls():
    source, _ = seed_with()
    assert torch.equal(photometric_distortion(photo(), source), photo())


def test_the_order_of_the_parts_and_bytes_between_them():
    for first in (True, False):
        source, (light, contrast, saturation, hue) = seed_with(
            brightness=True, contrast=True, first=first, saturation=True, hue=True
        )
        expected = rounded(photo().double() + 64 * light - 32)
        if first:
            expected = rounded(expected.double() * (0.5 + contrast))
        h, s, v = rgb_to_hsv(expected)
        expected = hsv_to_rgb(h, rounded(s.double() * (0.5 + saturation)), v)
        h, s, v = rgb_to_hsv(expected)
        expected = hsv_to_rgb((h.int() + math.floor(36 * hue) - 18) % 180, s, v)
        if not first:
            expected = rounded(expected.double() * (0.5 + contrast))
        got = photometric_distortion(photo(), source)
        assert got.dtype == torch.uint8
        assert torch.equal(got, expected)


def test_amounts_cover_the_published_ranges(monkeypatch):
    seen = []
    monkeypatch.setattr(transforms, "shift_colour", lambda image, s, h: (seen.append((s, h)), image)[1])
    source = generator("ranges")
    for _ in range(3000):
        photometric_distortion(photo(), source)
    hues = {hue for _, hue in seen if hue is not None}
    factors = [factor for factor, _ in seen if factor is not None]
    assert hues == set(range(-18, 18))
    assert 0.5 <= min(factors) < 0.51
    assert 1.49 < max(factors) <= 1.5
    assert abs(len(factors) / 3000 - 0.5) < 0.04


def test_the_mask_does_not_change_colour():
    image, mask = numbered(8, 8)
    for seed in range(10):
        assert torch.equal(Augment(hflip=0, photometric=True)(image, mask, generator(seed))[1], mask)
