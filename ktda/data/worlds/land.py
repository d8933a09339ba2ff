"""Ground under the clouds: farmland, forest, desert, mountains with snow, towns and coasts.

A ground is made once and can be seen in every season: it keeps soil, plant cover, water and stone apart, and
`reflectance` mixes their spectra. Spectra are (red, green, blue) reflectances, rounded from the tables of
spectral libraries for Landsat-like bands.
"""

from dataclasses import dataclass

import numpy as np

from ktda.data.worlds.fields import Array, fractal, lines, mix, rotated, smoothstep, streaks

KINDS = ("crops", "forest", "desert", "mountain", "urban", "coast")
SOILS = np.array(
    [
        [0.30, 0.17, 0.09],  # red earth
        [0.26, 0.20, 0.14],  # loam
        [0.16, 0.14, 0.11],  # black earth
        [0.40, 0.34, 0.25],  # sand
        [0.22, 0.21, 0.19],  # gravel
        [0.33, 0.26, 0.16],  # loess
    ]
)
LUSH = np.array([0.055, 0.095, 0.045])
DRY = np.array([0.235, 0.195, 0.105])
NEEDLES = np.array([0.030, 0.048, 0.028])
SNOW = np.array([0.86, 0.88, 0.90])
WATER = np.array([0.022, 0.038, 0.055])
SILT = np.array([0.15, 0.14, 0.10])
CONCRETE = np.array([0.36, 0.35, 0.33])


@dataclass(frozen=True)
class Ground:
    """The parts of a ground; every array is (H, W) in [0, 1] unless said otherwise."""

    height: Array  # pixels
    soil: Array  # (H, W, 3) reflectance
    cover: Array  # plants
    evergreen: Array  # share of the plants that keeps its colour
    ripeness: Array  # added to the season: -0.5 to 0.5
    built: Array  # concrete and roofs
    snow: Array  # above 0: lies in winter; the season moves the line
    water: Array
    silt: Array  # what the water carries
    texture: Array  # factor on the brightness, about 1


def draw_soil(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Soil reflectance (H, W, 3): two soils of the region, mixed in large patches."""
    first, second = SOILS[rng.choice(len(SOILS), 2, replace=False)]
    first = first * rng.uniform(0.75, 1.25)
    second = 0.5 * (first + second)
    patches = fractal(rng, shape, 64, 0.65)
    soil = mix(np.broadcast_to(first, (*shape, 3)), second, smoothstep(-0.8, 0.8, patches))
    return soil * (1.0 + 0.05 * patches)[..., None]


def parcels(rng: np.random.Generator, shape: tuple[int, int], length: float, angle: float) -> tuple[Array, Array]:
    """Fields of a farmed plain: strips along `angle` that are cut across at uneven places.

    Returns:
        A random number in [0, 1) per parcel, as (H, W), and the lines between parcels (0 to 1).
    """
    along, across = rotated(shape, angle)
    bend = 0.1 * length * fractal(rng, shape, 256, 0.3, fine=64)
    across = (across + bend) / (0.6 * length)
    along = along / length
    strip = np.floor(across - across.min()).astype(np.intp)
    count = int(strip.max()) + 1
    stretch = rng.uniform(0.5, 1.6, count)[strip]
    place = along * stretch + rng.uniform(0, 50, count)[strip]
    place -= np.floor(place.min())
    cell = place.astype(np.intp)
    value = rng.uniform(0, 1, (count, int(cell.max()) + 1))
    # Some neighbours are farmed as one.
    joined = rng.uniform(0, 1, value.shape) < 0.25
    value[:, 1:] = np.where(joined[:, 1:], value[:, :-1], value[:, 1:])
    to_strip = np.abs((across - across.min()) % 1.0 - 0.5) * 0.6 * length
    to_cut = np.abs(place % 1.0 - 0.5) * length / stretch
    border = np.minimum(0.3 * length - to_strip, 0.5 * length / stretch - to_cut)
    return value[strip, cell], np.clip(1.1 - border, 0.0, 1.0)


def make_ground(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> Ground:
    """Make the ground of one scene.

    Args:
        rng: of this ground.
        kind: one of KINDS.
        shape: (H, W) in pixels.
    """
    zeros = np.zeros(shape)
    relief = {"crops": 3.0, "forest": 10.0, "desert": 8.0, "mountain": 34.0, "urban": 2.0, "coast": 5.0}[kind]
    base = fractal(rng, shape, 128, 0.52)
    ridge = np.abs(fractal(rng, shape, 64, 0.5))
    height = relief * (base + 0.9 * ridge)
    valley = -base - 1.2 * ridge
    patches = fractal(rng, shape, 32, 0.7)
    texture = 1.0 + 0.06 * fractal(rng, shape, 4, 0.8)
    soil = draw_soil(rng, shape)
    cover, evergreen, ripeness, built, snow = zeros, zeros + 0.2, 0.15 * patches, zeros, zeros - 1.0
    angle = rng.uniform(0, np.pi)
    if kind in ("crops", "urban", "coast"):
        value, border = parcels(rng, shape, rng.uniform(14, 40), angle)
        farmed = smoothstep(-0.3, 0.3, 1.2 - valley + 0.3 * patches)
        cover = farmed * np.clip(1.3 * value, 0.05, 0.95) + (1 - farmed) * 0.8
        ripeness = farmed * (((value * 17.0) % 1.0) - 0.5) + (1 - farmed) * ripeness
        hedge = border * (0.7 if rng.uniform() < 0.5 else 0.0)
        cover = np.maximum(cover, hedge)
        soil = soil * (1.0 + 0.25 * (((value * 7.0) % 1.0) - 0.5) - 0.2 * border)[..., None]
    if kind in ("forest", "mountain"):
        cleared = smoothstep(0.9, 1.1, patches + rng.uniform(-0.6, 0.6))
        cover = 0.95 - 0.6 * cleared
        evergreen = smoothstep(-0.6, 0.8, base + 0.4 * patches) * (1 - cleared)
        texture = texture + 0.1 * fractal(rng, shape, 4, 0.9)
    if kind == "desert":
        cover = 0.25 * smoothstep(0.8, 1.6, valley + 0.2 * patches)
        dunes = streaks(rng, shape, 16, 5.0, angle, 0.45, bend=10)
        height = height + rng.uniform(0, 2.2) * dunes
        soil = soil * rng.uniform(1.1, 1.7)
    if kind == "mountain":
        snow = height / relief - rng.uniform(-0.2, 1.6) + 0.3 * patches
        cover = cover * smoothstep(0.9, 0.0, base)
    if kind == "urban":
        town = smoothstep(0.0, 0.35, fractal(rng, shape, 128, 0.55) + rng.uniform(-0.5, 0.5))
        block, street = parcels(rng, shape, rng.uniform(7, 11), angle)
        roofs = np.clip(0.5 + 0.8 * (block - 0.5) + 0.25 * patches, 0.0, 1.0)
        built = town * np.maximum(roofs, 0.8 * street)
        cover = cover * (1 - town) + town * 0.5 * (1 - roofs)
    if kind in ("crops", "urban", "desert", "forest"):
        road = lines(fractal(rng, shape, 256, 0.25, fine=32) + rng.uniform(-0.5, 0.5), 1.2)
        built = np.maximum(built, (0.3 if kind == "desert" else 0.6) * road)
    river = lines(fractal(rng, shape, 128, 0.42, fine=4) + rng.uniform(-1.2, 1.2), rng.uniform(1.0, 6.0))
    water = river if kind in ("crops", "forest", "urban") else zeros
    level = {"coast": rng.uniform(-0.6, 0.5), "desert": 3.5}.get(kind, rng.uniform(1.6, 2.6))
    water = np.maximum(water, smoothstep(level, level + 0.12, valley + 0.7))
    silt = np.clip(rng.uniform(-0.2, 0.6) + 0.25 * patches, 0.0, 1.0)
    return Ground(height, soil, cover, evergreen, ripeness, built, snow, water, silt, texture)


def reflectance(ground: Ground, season: float) -> Array:
    """The ground's reflectance (H, W, 3) in a season (0 = fresh and green, 1 = dry and yellow)."""
    dry = np.clip(season + ground.ripeness, 0.0, 1.0) * (1 - ground.evergreen)
    plants = mix(mix(np.broadcast_to(LUSH, (*dry.shape, 3)), NEEDLES, ground.evergreen), DRY, dry)
    light = mix(ground.soil, plants, ground.cover)
    light = mix(light, CONCRETE, ground.built) * ground.texture[..., None]
    light = mix(light, SNOW, smoothstep(0.0, 0.5, ground.snow + 0.6 * (season - 0.5)))
    lake = mix(np.broadcast_to(WATER, (*dry.shape, 3)), SILT, ground.silt)
    return mix(light, lake, ground.water)
