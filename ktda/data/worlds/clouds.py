"""demo_cloud: land under clouds, labelled clear, cloud shadow, thin cloud, cloud (0 to 3).

Labels and image come from the same causes. A fractal field is the optical depth of the clouds; it is opaque
enough to be called thin above THIN, and cloud above THICK. Where the sun's ray to a clear spot has passed at
least SHADOW of optical depth, the spot lies in shadow. The image shows the ground through the cloud, with
the cloud's two-stream albedo on top (Bohren, 1987, doi 10.1119/1.15109).
"""

import numpy as np

from ktda.data.worlds.conditions import Conditions, expose
from ktda.data.worlds.fields import Array, blur, fractal, rng_of, smoothstep, streaks
from ktda.data.worlds.land import KINDS, make_ground, reflectance

CLASSES = ("Clear", "Cloud Shadow", "Thin Cloud", "Cloud")
PALETTE = ((79, 253, 199), (221, 53, 223), (251, 255, 41), (77, 2, 115))
THIN, THICK, SHADOW = 0.45, 3.0, 1.2  # optical depths
MARGIN = 44  # pixels around the scene from which shadows may fall in


def optical_depth(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Optical depth (H, W) of the low clouds and of the high, thin ones."""
    regime = rng.choice(4, p=(0.45, 0.27, 0.18, 0.10))  # cumulus, stratus, cirrus, nearly clear
    zeros = np.zeros(shape)
    low = high = zeros
    if regime in (0, 1, 3):
        puffs = fractal(rng, shape, 32 if regime != 1 else 128, 0.68 if regime != 1 else 0.6)
        bank = fractal(rng, shape, 128, 0.5, fine=8)
        field = puffs + rng.uniform(0.3, 1.3) * bank
        cover = {0: rng.uniform(0.2, 0.7), 1: rng.uniform(0.75, 1.15), 3: rng.uniform(0.0, 0.1)}[regime]
        edge = np.quantile(field[::4, ::4], max(0.0, 1 - cover)) - 2.0 * max(0.0, cover - 1)
        low = (9.0 if regime != 1 else 7.0) * np.maximum(field - edge, 0.0) ** 1.3
    if regime == 2 or rng.uniform() < 0.35:
        veil = streaks(rng, shape, 32, rng.uniform(3, 7), rng.uniform(0, np.pi), 0.6, bend=14)
        veil = veil + fractal(rng, shape, 128, 0.5, fine=4)
        high = rng.uniform(0.6, 1.6) * np.maximum(veil + rng.uniform(-1.0, 1.0), 0.0)
    return low, high


def render(terrain: tuple, weather: tuple, conditions: Conditions, size: int) -> tuple[Array, Array]:
    """Render one square scene.

    Args:
        terrain: key of the ground.
        weather: key of the clouds and of the sensor noise.
        conditions: season, sun, haze and sensor.
        size: side in pixels.

    Returns:
        Image (size, size, 3) uint8 and mask (size, size) uint8.
    """
    rng = rng_of(*terrain)
    ground = make_ground(rng, KINDS[rng.choice(len(KINDS), p=(0.3, 0.18, 0.14, 0.14, 0.12, 0.12))], (size, size))
    rng = rng_of(*weather)
    whole = size + 2 * MARGIN
    low, high = optical_depth(rng, (whole, whole))
    inner = slice(MARGIN, MARGIN + size)
    # A cloud's shadow lies away from the sun; so a spot looks for its shade toward the sun.
    reach = min(MARGIN - 2.0, rng.uniform(6, 22) / np.tan(np.deg2rad(conditions.sun_elevation)))
    y, x = (round(MARGIN + reach * part) for part in conditions.toward_sun)
    cast = low[y : y + size, x : x + size]
    top = blur(low, 1.0)
    low, high = low[inner, inner], high[inner, inner]
    total = low + high
    mask = np.zeros((size, size), np.uint8)
    mask[cast >= SHADOW] = 1
    mask[total >= THIN] = 2
    mask[total >= THICK] = 3

    light = reflectance(ground, conditions.season) * conditions.shade(ground.height)[..., None]
    sunlit = 0.28 + 0.72 * np.exp(-0.8 * blur(cast, 0.8))
    light = light * sunlit[..., None] * np.array([0.98, 1.0, 1.02])
    albedo = 0.13 * total / (1.0 + 0.13 * total)
    relief = conditions.shade(9.0 * np.log1p(0.5 * top), diffuse=0.55)[inner, inner]
    white = (0.95 * albedo * np.clip(relief, 0.4, 1.5))[..., None] * np.array([0.97, 0.98, 1.0])
    light = light * ((1.0 - albedo) ** 2)[..., None] + white
    haze = 1.0 + 0.25 * fractal(rng, (size, size), 128, 0.4, fine=16)
    return expose(rng, light, conditions, smoothstep(-0.5, 2.5, haze) * 2), mask
