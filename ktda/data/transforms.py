"""Augmentation of an image and its mask together, every draw from one given generator.

Flips and crops come from ``torchvision.transforms.v2.functional``. The photometric distortion is
the one that the authors train with, which is not torchvision's ``RandomPhotometricDistort``:
additive brightness, contrast without a mean, saturation and hue on HSV bytes with a hue of 0 to
179, bytes after every step.
"""

from dataclasses import dataclass

import torch
from torchvision.transforms.v2 import functional as v2

from ktda.errors import InputError


@dataclass(frozen=True)
class Augment:
    """Random changes of one tile; the authors' by default, without their photometric distortion.

    The geometry is drawn before the colours, and always in full: switching one part on or off
    leaves the draws of the others as they were.

    Attributes:
        hflip: Probability of a flip from left to right.
        vflip: Probability of a flip from top to bottom.
        rot90: Rotate by 0, 90, 180 or 270 degrees; tiles that are not square by 0 or 180.
        crop: Side in pixels of a square at a random position, or None for the whole tile.
        photometric: Apply the authors' photometric distortion.
    """

    hflip: float = 0.5
    vflip: float = 0.0
    rot90: bool = False
    crop: int | None = None
    photometric: bool = False

    def __call__(
        self, image: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (3, H, W) uint8 RGB and mask (H, W), changed; the inputs are left as they are.

        Raises:
            InputError: The crop is larger than the tile.
        """
        top, left, flip_x, flip_y, turn = torch.rand(5, generator=generator).tolist()
        height, width = mask.shape
        if self.crop is not None:
            if self.crop > min(height, width):
                tile = f"a tile of {width}x{height} pixels"
                raise InputError(f"crop {self.crop} does not fit into {tile}; lower it")
            y = int(top * (height - self.crop + 1))
            x = int(left * (width - self.crop + 1))
            image = v2.crop(image, y, x, self.crop, self.crop)
            mask = v2.crop(mask, y, x, self.crop, self.crop)
        if flip_x < self.hflip:
            image = v2.horizontal_flip(image)
            mask = v2.horizontal_flip(mask)
        if flip_y < self.vflip:
            image = v2.vertical_flip(image)
            mask = v2.vertical_flip(mask)
        if self.rot90:
            square = mask.shape[0] == mask.shape[1]
            quarters = int(turn * 4) if square else 2 * int(turn * 2)
            # exact, where v2.rotate goes through an affine grid
            image = torch.rot90(image, quarters, (-2, -1))
            mask = torch.rot90(mask, quarters, (-2, -1))
        if self.photometric:
            image = photometric_distortion(image, generator)
        return image, mask


def photometric_distortion(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The authors' photometric distortion of an image (3, H, W) uint8 RGB; always nine draws.

    Four parts, each with probability 1/2: add U(-32, 32); multiply by U(0.5, 1.5), with
    probability 1/2 before the colour parts and otherwise after them; multiply the saturation by
    U(0.5, 1.5); add an integer from -18 to 17 to the hue of 0 to 179. Every part clips to [0, 255]
    and rounds to bytes. No permutation of the channels.
    """
    draws = torch.rand(9, generator=generator).tolist()
    coins = [draw < 0.5 for draw in draws[:5]]
    on_brightness, on_contrast, contrast_first, on_saturation, on_hue = coins
    brightness = 64 * draws[5] - 32
    contrast = 0.5 + draws[6]
    saturation = 0.5 + draws[7]
    hue = int(36 * draws[8]) - 18
    if on_brightness:
        image = to_bytes(image.float() + brightness)
    if on_contrast and contrast_first:
        image = to_bytes(image.float() * contrast)
    image = shift_colour(image, saturation if on_saturation else None, hue if on_hue else None)
    if on_contrast and not contrast_first:
        image = to_bytes(image.float() * contrast)
    return image


def shift_colour(image: torch.Tensor, saturation: float | None, hue: int | None) -> torch.Tensor:
    """Multiply the saturation, then add to the hue (steps of 2 degrees), each through HSV bytes.

    Image (3, H, W) uint8 RGB; None leaves a part out.
    """
    if saturation is not None:
        h, s, v = rgb_to_hsv(image)
        image = hsv_to_rgb(h, to_bytes(s.float() * saturation), v)
    if hue is not None:
        h, s, v = rgb_to_hsv(image)
        image = hsv_to_rgb((h.int() + hue).remainder_(180), s, v)
    return image


def to_bytes(values: torch.Tensor) -> torch.Tensor:
    """Clip to [0, 255] and round to uint8."""
    return values.clamp_(0, 255).round_().to(torch.uint8)


def rgb_to_hsv(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """RGB bytes to hue, saturation and value, each (H, W) uint8.

    The 8-bit conversion of OpenCV, in fixed point with 12 fractional bits: with m = max and
    d = max - min of the channels, the value is m, the saturation 255 d / m, and the hue
    30 (G-B)/d, 60 + 30 (B-R)/d or 120 + 30 (R-G)/d where m is R, G or B: 0 to 179, in steps of
    2 degrees.
    """
    r, g, b = image.to(torch.int32)
    v = torch.maximum(torch.maximum(r, g), b)
    d = v - torch.minimum(torch.minimum(r, g), b)
    # tables instead of a division per pixel; where v or d is 0, so is its factor
    inverse = 4096 / torch.arange(256, dtype=torch.float64).clamp_(min=1)
    s = d * (255 * inverse).round_().int()[v]
    sector = torch.where(v == g, b - r + 2 * d, r - g + 4 * d)
    h = torch.where(v == r, g - b, sector) * (30 * inverse).round_().int()[d]
    s = (s + 2048) >> 12
    h = (h + 2048) >> 12
    return torch.where(h < 0, h + 180, h).to(torch.uint8), s.to(torch.uint8), v.to(torch.uint8)


def hsv_to_rgb(h: torch.Tensor, s: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Hue (0 to 179), saturation and value (0 to 255), each (H, W), to RGB bytes (3, H, W).

    Each channel is V (1 - S w), where w in [0, 1] grows with the hue's distance from the channel's
    own colour.
    """
    offset = torch.tensor([5.0, 3.0, 1.0])[:, None, None]  # R, G, B
    k = (h.float() / 30 + offset).remainder_(6)  # (3, H, W)
    weight = torch.minimum(k, 4 - k).clamp_(0, 1)
    return to_bytes(v.float() * (1 - s.float() / 255 * weight))
