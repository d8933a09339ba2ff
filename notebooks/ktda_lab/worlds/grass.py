"""demo_grass: pasture, labelled by green cover in five levels (0 low to 4 high).

Labels and image come from the same cause, the green cover: valleys are moist and green, ridges and gullies
bare, paddocks are grazed more or less, and the herd tramples trails toward the water. The label is the level
of the cover as an annotator would outline it; the image mixes the spectra of soil and grass by the cover,
with finer detail than the label.
"""

import numpy as np

from ktda_lab.worlds.conditions import Conditions, expose
from ktda_lab.worlds.fields import Array, blur, fractal, lines, mix, path, smoothstep, spectrum
from ktda_lab.worlds.land import WATER, draw_soil, parcels

CLASSES = ("low", "middle-low", "middle", "middle-high", "high")
PALETTE = ((185, 101, 71), (248, 202, 155), (211, 232, 158), (138, 191, 104), (92, 144, 77))
GREEN, STRAW = spectrum(0.045, 0.085, 0.038), spectrum(0.170, 0.155, 0.082)
LEVELS = (0.2, 0.4, 0.6, 0.8)  # green cover between two classes
# Growth, a sum of causes, at which the cover is 0, LEVELS and 1: chosen for the class shares of the real set.
GROWTH = (-2.6, -1.13, -0.52, -0.18, -0.08, 0.9)


def growth(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Where grass grows: growth (any sign), height in pixels, bare ground and water (0 to 1), all (H, W)."""
    base = fractal(rng, shape, 128, 0.5, fine=4)
    ridge = np.abs(fractal(rng, shape, 64, 0.48, fine=4))
    height = rng.uniform(0.3, 1.8) * (0.8 * base + 1.2 * ridge)
    moisture = -0.7 * base - 0.9 * (ridge - 0.8) + 0.8 * fractal(rng, shape, 64, 0.5, fine=4)
    graze, fence = parcels(rng, shape, rng.uniform(60, 130), rng.uniform(0, np.pi))
    total = 0.6 * moisture + rng.uniform(0.3, 1.1) * (graze - 0.5) * 2.0 + rng.uniform(-0.9, 0.9)
    gullies = smoothstep(0.16, 0.02, ridge) * smoothstep(-0.2, 0.6, fractal(rng, shape, 64, 0.5, fine=8))
    bare = np.maximum(rng.uniform(0.2, 0.9) * gullies, rng.uniform(0.0, 0.7) * fence)
    water = smoothstep(0.0, 0.06, -0.7 * base - 0.6 * ridge - rng.uniform(0.5, 1.3))
    y, x = np.arange(shape[0], dtype=float)[:, None], np.arange(shape[1], dtype=float)
    for _ in range(rng.integers(0, 3)):
        # A watering place: trampled around, with trails that lead to it.
        dy, dx = y - rng.uniform(0.1, 0.9) * shape[0], x - rng.uniform(0.1, 0.9) * shape[1]
        distance = np.hypot(dy, dx)
        turn = np.arctan2(dy, dx) + 0.12 * fractal(rng, shape, 64, 0.5, fine=8)
        trails = lines(np.sin(turn * rng.integers(3, 7)), rng.uniform(0.8, 1.6))
        bare = np.maximum(bare, 0.85 * trails * np.exp(-distance / rng.uniform(80, 220)))
        total -= rng.uniform(0.8, 2.0) * np.exp(-distance / rng.uniform(12, 35))
        water = np.maximum(water, np.clip(rng.uniform(1.5, 4) - distance, 0.0, 1.0))
    for _ in range(rng.integers(0, 3)):
        bare = np.maximum(bare, path(rng, shape, rng.uniform(1.0, 2.2), rng.uniform(2, 25), 128))
    return total, height, bare, water


def render(
    terrain: np.random.Generator,
    weather: np.random.Generator,
    sensor: np.random.Generator,
    conditions: Conditions,
    size: int,
) -> tuple[Array, Array]:
    """Render one square scene; arguments and result as in `ktda_lab.worlds.clouds.render`.

    The grass belongs to the ground: `weather` draws nothing.
    """
    shape = (size, size)
    total, height, bare, water = growth(terrain, shape)
    patches, grain = fractal(terrain, shape, 64, 0.65), fractal(terrain, shape, 8, 0.85)
    soil = draw_soil(terrain, shape, patches, variety=0.25) * (1.2 + 0.04 * grain)
    cover = np.interp(total, GROWTH, (0.0, *LEVELS, 1.0)) * (1.0 - bare)
    outlined = blur(cover, 1.5)
    mask = sum((outlined >= level).astype(np.uint8) for level in LEVELS)
    mask[water > 0.5] = 0

    seen = np.clip(cover + 0.06 * fractal(terrain, shape, 16, 0.8) * (1.0 - bare), 0.0, 1.0)
    dry = np.clip(0.55 * conditions.season + 0.05 * fractal(terrain, shape, 64, 0.6, fine=2), 0.0, 1.0)
    light = mix(soil, mix(GREEN, STRAW, dry), 0.95 * seen) * conditions.shade(height + 0.1 * grain).astype(np.float32)
    light = mix(light, WATER, water)
    haze = 0.4 + 0.3 * smoothstep(-2.0, 2.0, fractal(sensor, shape, 128, 0.4, fine=16))
    return expose(sensor, light, haze, conditions, white=0.5), mask
