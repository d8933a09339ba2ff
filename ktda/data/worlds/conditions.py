"""What changes between two pictures of the same ground: season, sun, haze and sensor.

One set of conditions holds for a whole scene, so that colour varies much between scenes and little within.
The source world spreads every condition over its whole range. The target world keeps to one end of each: the
corner in which all of them meet holds less than a hundredth of the source.
"""

from dataclasses import dataclass, replace

import numpy as np

from ktda.data.worlds.fields import Array, blur

# Condition: (source range, target range). Their product of relative widths is the share of the corner.
RANGES = {
    "season": ((0.0, 1.0), (0.35, 1.0)),  # 0 = fresh and green, 1 = dry and yellow
    "sun_elevation": ((22.0, 72.0), (22.0, 46.0)),  # degrees above the horizon
    "sun_azimuth": ((0.0, 360.0), (90.0, 230.0)),  # degrees clockwise from up
    "haze": ((0.0, 0.36), (0.10, 0.36)),  # share of the light that is scattered
    "exposure": ((0.62, 1.5), (0.62, 1.15)),  # gain of all bands
    "warmth": ((-1.0, 1.0), (-0.3, 1.0)),  # gain of red against blue
    "tint": ((-1.0, 1.0), (-1.0, 0.5)),  # gain of green against red and blue
    "gamma": ((0.62, 1.0), (0.62, 1.0)),  # tone curve
}


@dataclass(frozen=True)
class Conditions:
    """The conditions under which a scene is seen (ranges: see RANGES).

    `psf` is the standard deviation in pixels of the optics' blur, `noise` that of the sensor in grey levels.
    Both are the same over the whole scene, whatever lies there.
    """

    season: float
    sun_elevation: float
    sun_azimuth: float
    haze: float
    exposure: float
    warmth: float
    tint: float
    gamma: float
    psf: float
    noise: float

    @property
    def toward_sun(self) -> tuple[float, float]:
        """Unit vector (dy, dx) in the image that points to the sun."""
        azimuth = np.deg2rad(self.sun_azimuth)
        return -float(np.cos(azimuth)), float(np.sin(azimuth))

    def shade(self, height: Array, relief: float = 1.0, diffuse: float = 0.3) -> Array:
        """Light on a surface (H, W): 1 on level ground, more on slopes that face the sun.

        Args:
            height: (H, W) in pixels.
            relief: factor on the slopes.
            diffuse: share of the light that comes from the whole sky.
        """
        dy, dx = np.gradient(height)
        elevation = np.deg2rad(self.sun_elevation)
        y, x = self.toward_sun
        facing = np.sin(elevation) - relief * np.cos(elevation) * (dy * y + dx * x)
        facing /= np.sqrt(1.0 + relief * relief * (dy * dy + dx * dx)) * np.sin(elevation)
        return diffuse + (1.0 - diffuse) * np.clip(facing, 0.0, 2.5)


def draw_conditions(rng: np.random.Generator, world: str) -> Conditions:
    """Draw the conditions of one scene of `world` (``source`` or ``target``)."""
    ranges = {name: both[world == "target"] for name, both in RANGES.items()}
    drawn = {name: float(rng.uniform(*ends)) for name, ends in ranges.items()}
    return Conditions(**drawn, psf=float(rng.uniform(0.45, 0.9)), noise=float(rng.uniform(1.0, 3.0)))


def with_sun(conditions: Conditions, other: Conditions) -> Conditions:
    """`conditions` with the sun of `other`."""
    return replace(conditions, sun_elevation=other.sun_elevation, sun_azimuth=other.sun_azimuth)


def expose(rng: np.random.Generator, light: Array, conditions: Conditions, thickness: Array | float = 1.0) -> Array:
    """Haze, optics and sensor: what comes up from the ground becomes an image.

    Args:
        rng: source of the sensor noise.
        light: reflectance (H, W, 3) at the ground, about 0 to 1.
        conditions: of the scene.
        thickness: local factor on the haze, (H, W) or a number.

    Returns:
        (H, W, 3) uint8.
    """
    # Scattering is stronger in blue: the optical depth falls from blue to red.
    depth = conditions.haze * np.asarray(thickness)[..., None] * np.array([0.7, 0.95, 1.3])
    clear = np.exp(-depth)
    light = light * clear + np.array([0.33, 0.36, 0.42]) * (1.0 - clear)
    light = blur(light, conditions.psf)
    red = 0.14 * conditions.warmth
    green = 0.07 * conditions.tint
    gain = conditions.exposure * np.exp(np.array([red - green, green, -red - green]))
    grey = 255.0 * np.clip(1.15 * gain * light, 0.0, 1.0) ** conditions.gamma
    grey += conditions.noise * rng.standard_normal(grey.shape)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
