"""Ground under the clouds: farmland, forest, desert, mountains with snow, towns and coasts.

A ground is made once and can be seen in every season: it keeps soil, plant cover, water and stone apart, and
`reflectance` mixes their spectra: (red, green, blue) reflectances in round numbers, after the tables of
spectral libraries.
"""

from dataclasses import dataclass

import numpy as np

from ktda_lab.worlds.fields import Array, fractal, mix, path, rotated, smoothstep, spectrum, streaks

KINDS = ("crops", "forest", "desert", "mountain", "urban", "coast")
SOILS = (
    spectrum(0.30, 0.17, 0.09),  # red earth
    spectrum(0.26, 0.20, 0.14),  # loam
    spectrum(0.16, 0.14, 0.11),  # black earth
    spectrum(0.40, 0.33, 0.24),  # sand
    spectrum(0.22, 0.21, 0.19),  # gravel
    spectrum(0.33, 0.26, 0.16),  # loess
)
LUSH = spectrum(0.055, 0.095, 0.045)
DRY = spectrum(0.235, 0.195, 0.105)
NEEDLES = spectrum(0.030, 0.048, 0.028)
SNOW = spectrum(0.80, 0.82, 0.85)
WATER = spectrum(0.022, 0.038, 0.055)
SILT = spectrum(0.15, 0.14, 0.10)
CONCRETE = spectrum(0.36, 0.35, 0.33)


@dataclass(frozen=True)
class Ground:
    """The parts of a ground; every array is (H, W) in [0, 1] unless said otherwise."""

    height: Array  # pixels
    soil: Array  # (3, H, W) reflectance
    cover: Array  # plants
    evergreen: Array  # share of the plants that keeps its colour
    ripeness: Array  # added to the season: -0.5 to 0.5
    built: Array  # concrete and roofs
    snow: Array | None  # snow lies where this is above 0, and the season moves that line
    water: Array
    silt: float  # what the water carries


def draw_soil(rng: np.random.Generator, shape: tuple[int, int], patches: Array, variety: float = 0.4) -> Array:
    """Soil reflectance (3, H, W): two soils of a region, mixed by `patches` (H, W), standard normal.

    `variety` is the share of the second soil where it is most.
    """
    first, second = (SOILS[i] for i in rng.choice(len(SOILS), 2, replace=False))
    first = first * rng.uniform(0.75, 1.25)
    second = first + variety * (second - first)
    return mix(first, second, smoothstep(-0.8, 0.8, patches)) * (1.0 + 0.15 * variety * fractal(rng, shape, 16, 0.8))


def parcels(rng: np.random.Generator, shape: tuple[int, int], length: float, angle: float) -> tuple[Array, Array]:
    """Fields of a farmed plain: strips along `angle`, cut across at uneven places.

    Returns:
        A random number in [0, 1) per parcel, as (H, W), and the lines between parcels (H, W), 0 to 1.
    """
    along, across = rotated(shape, angle)
    depth = length * rng.uniform(0.45, 0.9)
    across += 0.08 * length * fractal(rng, shape, 256, 0.3, fine=64)
    across = (across - across.min()) / depth
    strip = across.astype(np.intp)
    count = int(strip.max()) + 1
    stretch = (rng.uniform(0.5, 1.6, count) / length)[strip]
    place = along * stretch + rng.uniform(0, 50, count)[strip]
    place -= np.floor(place.min())
    cell = place.astype(np.intp)
    value = rng.uniform(0, 1, (count, int(cell.max()) + 1))
    # Some neighbours are farmed as one.
    joined = rng.uniform(0, 1, value.shape) < 0.25
    value[:, 1:] = np.where(joined[:, 1:], value[:, :-1], value[:, 1:])
    to_strip = (0.5 - np.abs(across - strip - 0.5)) * depth
    to_cut = (0.5 - np.abs(place - cell - 0.5)) / stretch
    return value.ravel().take(strip * value.shape[1] + cell), np.clip(1.1 - np.minimum(to_strip, to_cut), 0.0, 1.0)


def pivots(rng: np.random.Generator, shape: tuple[int, int], spacing: float, angle: float) -> Array:
    """Round fields of centre-pivot irrigation on a grid: plant cover (H, W), 0 between them."""
    along, across = (axis - axis.min() for axis in rotated(shape, angle))
    row, column = (axis / spacing for axis in (across, along))
    i, j = row.astype(np.intp), column.astype(np.intp)
    sown = rng.uniform(-0.9, 1.0, (int(i.max()) + 1, int(j.max()) + 1)).clip(0.0)
    radius = np.hypot(row - i - 0.5, column - j - 0.5)
    return sown[i, j] * np.clip((0.46 - radius) * spacing + 0.5, 0.0, 1.0)


def make_ground(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> Ground:
    """Make the ground of one scene.

    Args:
        rng: of this ground.
        kind: one of KINDS.
        shape: (H, W) in pixels.
    """
    farmland, wooded = kind in ("crops", "urban", "coast"), kind in ("forest", "mountain")
    relief = {"crops": 1.5, "forest": 7.0, "desert": 7.0, "mountain": 20.0, "urban": 0.8, "coast": 2.5}[kind]
    base = fractal(rng, shape, 128, 0.5, fine=4)
    ridge = np.abs(fractal(rng, shape, 64, 0.48, fine=4))  # its creases are valleys that branch
    height = relief * (0.8 * base + 1.3 * ridge)
    valley = -0.8 * base - 1.3 * ridge
    patches = fractal(rng, shape, 64, 0.65, fine=2)
    grain = fractal(rng, shape, 4, 0.9)
    soil = draw_soil(rng, shape, patches)
    angle = rng.uniform(0, np.pi)
    rng.uniform()  # unused: without it, all later draws and so the published worlds would change
    evergreen, ripeness, built, snow = np.full(shape, 0.2), 0.12 * patches, np.zeros(shape), None
    if farmland:
        length = rng.uniform(14, 44)
        value, border = parcels(rng, shape, length, angle)
        other, edge = parcels(rng, shape, length * rng.uniform(0.6, 1.4), angle + rng.uniform(0.3, 1.2))
        side = base + 0.5 * patches > 0.4
        value, border = np.where(side, other, value), np.where(side, edge, border)
        farmed = smoothstep(0.35, 0.15, valley + 0.35 * patches)
        cover = farmed * np.clip(1.3 * value - 0.1, 0.04, 0.95) + (1 - farmed) * 0.85
        ripeness = farmed * (value * 17.0 % 1.0 - 0.5)
        evergreen = 0.5 * (1 - farmed)
        cover = np.maximum(cover, 0.7 * border * farmed) if rng.uniform() < 0.5 else cover * (1 - 0.5 * border)
        soil *= 1.0 + farmed * (0.4 * (value * 7.0 % 1.0) - 0.2)
    if wooded:
        cleared = smoothstep(0.9, 1.15, patches + rng.uniform(-0.8, 0.5))
        if kind == "forest":
            cut, _ = parcels(rng, shape, rng.uniform(16, 30), angle)
            cleared = np.maximum(cleared, (cut > 0.88) * 0.9)
        cover = 0.96 - 0.7 * cleared
        evergreen = smoothstep(-0.7, 0.9, 0.8 * base + 0.6 * patches) * (1 - cleared)
        height += 0.55 * (1 - cleared) * grain  # crowns
    if kind == "desert":
        cover = 0.35 * smoothstep(-0.2, 0.3, valley) * np.clip(0.5 + 0.5 * grain, 0.0, 1.0)
        height += 0.25 * grain
        if rng.uniform() < 0.5:
            height = 0.3 * height + rng.uniform(1, 2) * streaks(rng, shape, 16, 4.0, angle, 0.4, bend=10)
        soil *= rng.uniform(1.0, 1.6) * (1.0 + 0.35 * smoothstep(0.0, 0.35, valley))  # sand in the wadis
        if rng.uniform() < 0.35:
            cover = np.maximum(cover, pivots(rng, shape, rng.uniform(18, 30), angle) * (patches > -0.2))
    if kind == "mountain":
        snow = 0.6 * base + 0.8 * ridge - rng.uniform(-0.4, 1.6) + 0.15 * patches
        cover = cover * smoothstep(1.0, 0.2, 0.8 * base + 0.8 * ridge)
    if kind == "urban":
        town = smoothstep(-0.1, 0.3, fractal(rng, shape, 128, 0.6) + rng.uniform(-0.4, 0.6))
        block, street = parcels(rng, shape, rng.uniform(8, 13), angle)
        roofs = np.clip(0.55 + 0.8 * (block - 0.5) + 0.15 * grain, 0.0, 1.0)
        built = town * roofs * (1 - 0.7 * street)
        cover = cover * (1 - town) + town * 0.7 * (1 - roofs) * (1 - street)
    for _ in range(0 if kind == "mountain" else rng.integers(0, 3)):
        road = path(rng, shape, rng.uniform(0.8, 1.8), rng.uniform(0, 12), 256)
        built = np.maximum(built, (0.35 if kind == "desert" else 0.6) * road)
    level = rng.uniform(-0.9, -0.2) if kind == "coast" else rng.uniform(0.25, 0.7)
    lake = base * -0.8 - 0.35 * ridge if kind == "coast" else valley + 0.1
    water = smoothstep(level, level + 0.08, lake) if kind != "desert" else np.zeros(shape)
    if kind in ("crops", "forest", "urban") and rng.uniform() < 0.7:
        water = np.maximum(water, path(rng, shape, rng.uniform(1.5, 7.0), rng.uniform(15, 40), 128))
    soil *= 1.0 + 0.03 * grain
    silt = float(np.clip(rng.uniform(-0.4, 0.9), 0.0, 0.8))
    return Ground(height, soil, cover, evergreen, ripeness, built, snow, water, silt)


def reflectance(ground: Ground, season: float) -> Array:
    """The ground's reflectance (3, H, W) in a season (0 = fresh and green, 1 = dry and yellow)."""
    dry = np.clip(season + ground.ripeness, 0.0, 1.0) * (1.0 - ground.evergreen)
    plants = mix(mix(LUSH, NEEDLES, ground.evergreen), DRY, dry)
    light = mix(mix(ground.soil, plants, ground.cover), CONCRETE, ground.built)
    if ground.snow is not None:
        light = mix(light, SNOW, smoothstep(0.0, 0.3, ground.snow + 0.5 * (season - 0.5)))
    return mix(light, WATER + (SILT - WATER) * ground.silt, ground.water)
