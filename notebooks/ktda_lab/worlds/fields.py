"""Random fields and filters of the simulated worlds: numpy only, never periodic, keyed by name.

A fractal field is built as in midpoint displacement, but on a cubic B-spline: a coarse grid of normal
numbers is subdivided again and again, and each finer grid gets smaller numbers added (Fournier, Fussell and
Carpenter, 1982, doi 10.1145/358523.358553). Unlike noise made with a Fourier transform it has no period, so
no border resembles the opposite one.
"""

import hashlib

import numpy as np

Array = np.ndarray


def rng_of(*key: int | str) -> np.random.Generator:
    """A generator keyed by its arguments: the same draws on every machine, whatever was drawn elsewhere."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in key).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def fractal(
    rng: np.random.Generator, shape: tuple[int, int], coarse: float, persistence: float = 0.6, fine: float = 1
) -> Array:
    """A fractal field with mean 0 and standard deviation 1.

    Args:
        rng: source of the normal numbers.
        shape: (H, W) in pixels.
        coarse: wavelength of the largest structures in pixels, rounded to a power of two.
        persistence: amplitude of an octave over that of the next coarser one: 0.5 is smooth, 0.8 rough.
        fine: octaves with a smaller wavelength (pixels) are left out.

    Returns:
        (H, W) float64.
    """
    levels = max(0, round(float(np.log2(coarse))))
    sizes = [shape]
    for _ in range(levels):
        sizes.append(tuple((n + 1) // 2 + 2 for n in sizes[-1]))
    field, scale = rng.standard_normal(sizes[-1]), 1.0
    for level in range(levels - 1, -1, -1):
        height, width = sizes[level]
        field = _double(field)[:height, :width]
        scale *= 64.0  # of `_double`; a power of two, so that no bit of the result depends on it
        if 2**level >= fine:
            octave = rng.standard_normal((height, width))
            octave *= scale * persistence ** (levels - level)
            field += octave
    field -= field.mean()
    field /= field.std() + scale * 1e-12
    return field


def _double(grid: Array) -> Array:
    """One subdivision step of a cubic B-spline, times 64: (n, m) to (2 n - 4, 2 m - 4)."""
    height, width = grid.shape[0] - 2, grid.shape[1] - 2
    rows = np.zeros((2 * height + 1, width + 2))
    even, odd = rows[0:-1:2], rows[1::2]
    np.add(grid[:-2], grid[2:], out=even)
    even += 6.0 * grid[1:-1]
    np.add(grid[1:-1], grid[2:], out=odd)
    odd *= 4.0
    # Along the rows as one flat array, which is faster; what reaches into the next row is cut off.
    left, centre, right = (rows.ravel()[k : k + 2 * height * (width + 2)] for k in range(3))
    fine = np.empty((2 * height, width, 2))
    part = left + right
    part += 6.0 * centre
    fine[..., 0] = part.reshape(2 * height, -1)[:, :width]
    np.add(centre, right, out=part)
    part *= 4.0
    fine[..., 1] = part.reshape(2 * height, -1)[:, :width]
    return fine.reshape(2 * height, 2 * width)


def streaks(
    rng: np.random.Generator,
    shape: tuple[int, int],
    coarse: float,
    stretch: float,
    angle: float,
    persistence: float = 0.6,
    bend: float = 0.0,
) -> Array:
    """A fractal field drawn out `stretch` times along `angle` (radians), its lines bent by `bend` pixels.

    Returns:
        (H, W) float64, mean about 0, standard deviation about 1.
    """
    along, across = rotated(shape, angle)
    if bend:
        across = across + bend * fractal(rng, shape, 4 * coarse, 0.4, fine=coarse / 2)
    along = (along - along.min()) / stretch
    across = across - across.min()
    source = fractal(rng, (int(across.max()) + 2, int(along.max()) + 2), coarse, persistence)
    return sample(source, across, along)


def rotated(shape: tuple[int, int], angle: float) -> tuple[Array, Array]:
    """Coordinates (H, W) in pixels along and across a direction; `angle` in radians from the x axis."""
    y, x = np.arange(shape[0], dtype=float)[:, None], np.arange(shape[1], dtype=float)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def sample(field: Array, y: Array, x: Array) -> Array:
    """Read a field (H, W) at fractional positions by bilinear interpolation, clamped at the border."""
    height, width = field.shape
    y = np.clip(y, 0, height - 1.001)
    x = np.clip(x, 0, width - 1.001)
    row, column = y.astype(np.intp), x.astype(np.intp)
    y -= row
    x -= column
    flat, index = field.ravel(), row * width + column
    top = flat[index] * (1 - x) + flat[index + 1] * x
    bottom = flat[index + width] * (1 - x) + flat[index + width + 1] * x
    return top * (1 - y) + bottom * y


def blur(field: Array, sigma: float) -> Array:
    """Gaussian blur over the last two axes of (H, W) or (C, H, W), borders repeated; `sigma` in pixels."""
    radius = max(1, int(np.ceil(2.5 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(radius + 1) / max(sigma, 1e-6)) ** 2).astype(field.dtype)
    kernel /= 2.0 * kernel.sum() - 1.0
    blurred = field.copy()
    for plane in blurred.reshape(-1, *field.shape[-2:]):  # a plane at a time stays in the cache
        for along in (plane, plane.T):
            padded = np.pad(along, ((radius, radius), (0, 0)), mode="edge")
            along *= kernel[0]
            for k in range(1, radius + 1):
                pair = padded[radius - k : -radius - k] + padded[radius + k : len(padded) - radius + k]
                pair *= kernel[k]
                along += pair
    return blurred


def smoothstep(low: float, high: float, value: Array) -> Array:
    """0 below `low`, 1 above `high`, a cubic ramp between."""
    ramp = np.clip((value - low) / (high - low), 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def lines(field: Array, width: float) -> Array:
    """Soft lines (0 to 1) about `width` pixels wide along the zero contours of a field (H, W)."""
    dy, dx = np.gradient(field)
    distance = np.abs(field) / np.sqrt(dy * dy + dx * dx + 1e-12)
    return np.clip(0.5 * width + 0.5 - distance, 0.0, 1.0)


def path(rng: np.random.Generator, shape: tuple[int, int], width: float, sway: float, bends: float) -> Array:
    """One line (0 to 1) that crosses the field: a road where it sways little, a river where it sways much.

    Args:
        rng: source of its place, direction and course.
        shape: (H, W) in pixels.
        width: in pixels.
        sway: typical distance from the straight course in pixels.
        bends: wavelength of the largest bends in pixels.
    """
    angle = rng.uniform(0, np.pi)
    _, across = rotated(shape, angle)
    across -= across.min() + np.ptp(across) * rng.uniform(0.2, 0.8)
    return lines(across + sway * fractal(rng, shape, bends, 0.45, fine=min(bends, 8)), width)


def spectrum(red: float, green: float, blue: float) -> Array:
    """Reflectances as (3, 1, 1) float32, to be mixed into images (3, H, W)."""
    return np.array([red, green, blue], np.float32)[:, None, None]


def mix(under: Array, over: Array, amount: Array) -> Array:
    """Blend `over` into `under` ((3, 1, 1) or (3, H, W) each) by `amount` (H, W) in [0, 1]: (3, H, W) float32."""
    return under + (over - under) * amount.astype(np.float32)
