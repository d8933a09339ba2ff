"""What changes between two pictures of the same ground: season, sun, haze and sensor.

One set of conditions holds for a whole scene, so that colour varies much between scenes and little within.
The source world spreads every condition over its whole range. The target world keeps to one end of each: a
corner that holds less than a hundredth of the source's scenes.
"""

from dataclasses import dataclass

import numpy as np

from ktda_lab.worlds.fields import Array, blur, spectrum

# Condition: (source range, target range). The product of the relative widths is the share of the corner.
RANGES = {
    "season": ((0.0, 1.0), (0.5, 1.0)),  # 0 = fresh and green, 1 = dry and yellow
    "sun_elevation": ((22.0, 72.0), (22.0, 44.0)),  # degrees above the horizon
    "sun_azimuth": ((0.0, 360.0), (90.0, 230.0)),  # degrees clockwise from up
    "haze": ((0.0, 0.34), (0.08, 0.34)),  # share of the light that is scattered, about
    "exposure": ((0.65, 1.6), (0.75, 1.2)),  # gain of all bands
    "warmth": ((-1.0, 1.0), (-0.3, 1.0)),  # gain of red against blue
    "tint": ((-1.0, 1.0), (-1.0, 0.5)),  # gain of green against red and blue
    "gamma": ((0.62, 1.0), (0.62, 0.87)),  # tone curve
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

    def shade(self, height: Array, diffuse: float = 0.3) -> Array:
        """Light on a surface: 1 on level ground, more on slopes that face the sun, less on the others.

        Args:
            height: (H, W) in pixels.
            diffuse: share of the light that comes from the whole sky.

        Returns:
            (H, W), between `diffuse` and about 2.
        """
        dy, dx = np.gradient(height)
        elevation = np.deg2rad(self.sun_elevation)
        y, x = self.toward_sun
        facing = 1.0 - (dy * y + dx * x) / np.tan(elevation)
        facing /= np.sqrt(1.0 + dy * dy + dx * dx)
        return diffuse + (1.0 - diffuse) * np.clip(facing, 0.0, 2.5)


def draw_conditions(rng: np.random.Generator, world: str) -> Conditions:
    """Draw the conditions of one scene of `world` (``source`` or ``target``)."""
    ranges = {name: both[world == "target"] for name, both in RANGES.items()}
    drawn = {name: float(rng.uniform(*ends)) for name, ends in ranges.items()}
    return Conditions(**drawn, psf=float(rng.uniform(0.45, 0.9)), noise=float(rng.uniform(1.0, 3.0)))


def expose(rng: np.random.Generator, light: Array, thickness: Array, conditions: Conditions, white: float) -> Array:
    """Haze, optics and sensor: the light that leaves the ground becomes an image.

    Args:
        rng: source of the sensor noise.
        light: reflectance (3, H, W), about 0 to 1.
        thickness: local factor (H, W) on the haze, about 1.
        conditions: of the scene.
        white: reflectance that fills the sensor's range at an exposure of 1.

    Returns:
        (H, W, 3) uint8.
    """
    # Scattering is stronger in blue: the optical depth rises from red to blue.
    scattering = -conditions.haze * spectrum(0.7, 0.95, 1.3)
    airlight = spectrum(0.33, 0.36, 0.42)
    warmth, tint = 0.18 * conditions.warmth, 0.09 * conditions.tint
    gain = conditions.exposure / white * np.exp(spectrum(warmth - tint, tint, -warmth - tint))
    clear = np.exp(scattering * thickness.astype(np.float32))
    grey = (light.astype(np.float32) - airlight) * clear + airlight
    grey = 255.0 * np.clip(blur(grey, conditions.psf) * gain, 0.0, 1.0) ** conditions.gamma
    grey += conditions.noise * rng.standard_normal(grey.shape, np.float32)
    return np.clip(np.rint(grey), 0.0, 255.0).astype(np.uint8).transpose(1, 2, 0)
