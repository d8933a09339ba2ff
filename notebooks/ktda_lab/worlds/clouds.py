"""demo_cloud: land under clouds, labelled clear, cloud shadow, thin cloud, cloud (0 to 3).

Labels and image come from the same causes. A fractal field is the optical depth of the clouds: from THIN on
it is thin cloud, from THICK on cloud. A clear spot lies in shadow where the sun's ray to it has passed at
least SHADOW of optical depth. The image shows the ground through the cloud, with the cloud's two-stream albedo
on top (Bohren, 1987, doi 10.1119/1.15109).
"""

import numpy as np

from ktda_lab.worlds.conditions import Conditions, expose
from ktda_lab.worlds.fields import Array, blur, fractal, smoothstep, spectrum, streaks
from ktda_lab.worlds.land import KINDS, make_ground, reflectance

CLASSES = ("Clear", "Cloud Shadow", "Thin Cloud", "Cloud")
PALETTE = ((79, 253, 199), (221, 53, 223), (251, 255, 41), (77, 2, 115))
KIND_SHARES = (0.28, 0.18, 0.16, 0.14, 0.12, 0.12)  # of the grounds, in the order of KINDS
REGIMES = ("cumulus", "popcorn", "stratus", "cirrus", "fair")
REGIME_SHARES = (0.38, 0.13, 0.28, 0.14, 0.07)
THIN, THICK, SHADOW = 0.45, 3.0, 0.9  # optical depths
MARGIN = 44  # pixels around the scene from which shadows may fall in


def optical_depth(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Optical depth (H, W) of the low clouds, which cast shadows, and of the high, thin ones."""
    regime = rng.choice(REGIMES, p=REGIME_SHARES)
    # Regime: largest puff in pixels, share of the sky (least, most), steepness of the edge.
    puff, least, most, steep = {
        "cumulus": (32, 0.15, 0.65, 7.0),
        "popcorn": (16, 0.05, 0.45, 6.0),
        "stratus": (64, 0.7, 1.2, 4.0),
        "cirrus": (32, 0.0, 0.1, 5.0),
        "fair": (16, 0.0, 0.05, 5.0),
    }[regime]
    field = fractal(rng, shape, puff, 0.56, fine=2)
    field += rng.uniform(0.3, 1.2) * fractal(rng, shape, 128, 0.5, fine=8)
    cover = rng.uniform(least, most)
    edge = np.quantile(field[::4, ::4], 1 - min(cover, 1.0)) - 1.5 * max(0.0, cover - 1.0)
    low = steep * np.maximum(field - edge, 0.0) ** 1.4
    if regime != "cirrus" and rng.uniform() > 0.22:
        return low, np.zeros(shape)
    veil = streaks(rng, shape, 32, rng.uniform(3, 7), rng.uniform(0, np.pi), 0.58, bend=14)
    veil += 1.2 * fractal(rng, shape, 128, 0.5, fine=4)
    return low, rng.uniform(0.4, 1.1) * np.maximum(veil + rng.uniform(-0.5, 1.5), 0.0)


def render(
    terrain: np.random.Generator,
    weather: np.random.Generator,
    sensor: np.random.Generator,
    conditions: Conditions,
    size: int,
) -> tuple[Array, Array]:
    """Render one square scene.

    Args:
        terrain: draws the ground.
        weather: draws the clouds.
        sensor: draws the unevenness of the haze and the sensor noise.
        conditions: season, sun, haze and sensor.
        size: side in pixels.

    Returns:
        Image (size, size, 3) uint8 and mask (size, size) uint8.
    """
    ground = make_ground(terrain, terrain.choice(KINDS, p=KIND_SHARES), (size, size))
    low, high = optical_depth(weather, (size + 2 * MARGIN,) * 2)
    # A cloud's shadow lies away from the sun; so a spot looks for its shade toward the sun.
    reach = min(MARGIN - 2.0, weather.uniform(6, 22) / np.tan(np.deg2rad(conditions.sun_elevation)))
    y, x = (round(MARGIN + reach * part) for part in conditions.toward_sun)
    cast = low[y : y + size, x : x + size]
    inner = slice(MARGIN, MARGIN + size), slice(MARGIN, MARGIN + size)
    around = slice(MARGIN - 4, MARGIN + size + 4)  # 3 pixels for the blur, 1 for the slope
    relief = conditions.shade(5.0 * np.log1p(blur(low[around, around], 1.2)), diffuse=0.6)[4:-4, 4:-4]
    depth = low[inner] + high[inner]
    mask = np.zeros((size, size), np.uint8)
    mask[cast >= SHADOW] = 1
    mask[depth >= THIN] = 2
    mask[depth >= THICK] = 3

    sunlit = 0.3 + 0.7 * np.exp(-0.8 * blur(cast, 0.8))
    slopes = 1.0 + (conditions.shade(ground.height) - 1.0) * (1.0 - ground.water)
    light = reflectance(ground, conditions.season) * (slopes * sunlit).astype(np.float32)
    albedo = 0.13 * depth / (1.0 + 0.13 * depth)
    top = 0.95 * albedo * np.clip(relief, 0.5, 1.4)
    light = light * (1.0 - albedo) ** 2 + top * spectrum(0.97, 0.98, 1.0)
    haze = 0.7 + 0.6 * smoothstep(-2.0, 2.0, fractal(sensor, (size, size), 128, 0.4, fine=16))
    return expose(sensor, light, haze, conditions, white=0.9), mask
