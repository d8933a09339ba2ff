"""Small data sets on disk for tests, and the place of the real sample."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(os.environ.get("KTDA_SHARED", Path(__file__).resolve().parent.parent.parent / "shared"))
CLASSES = "classes: [a, b, c]\n"

needs_sample = pytest.mark.skipif(
    not (SHARED / "data/l8_biome_sample").is_dir(), reason=f"no l8_biome_sample in {SHARED / 'data'}"
)
needs_dubai = pytest.mark.skipif(
    not (SHARED / "data/dubai_aerial").is_dir(), reason=f"no dubai_aerial in {SHARED / 'data'}"
)


def put_image(path: Path, seed: int = 0, size: tuple[int, int] = (16, 12)) -> np.ndarray:
    """Write a random RGB image of (width, height) and return its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def put_mask(path: Path, mask: np.ndarray) -> None:
    """Write an index mask: bytes as grey levels, 16 bits otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8 if mask.max() < 256 else np.uint16)).save(path)


def put_tile(root: Path, split: str, stem: str, seed: int = 0, size: tuple[int, int] = (16, 12), classes: int = 3):
    """Write one pair with every class in its mask; returns image and mask."""
    image = put_image(root / "img_dir" / split / f"{stem}.png", seed, size)
    mask = np.random.default_rng(seed + 10_000).integers(0, classes, (size[1], size[0]))
    mask.flat[:classes] = np.arange(classes)
    put_mask(root / "ann_dir" / split / f"{stem}.png", mask)
    return image, mask


def put_set(root: Path, spec: str | None = CLASSES, splits: dict[str, int] | None = None) -> Path:
    """Write a whole data set: ``splits`` names how many tiles each split gets."""
    for position, (split, tiles) in enumerate((splits or {"train": 3, "val": 2}).items()):
        for tile in range(tiles):
            put_tile(root, split, f"s{position}{tile}_patch_{tile}", seed=100 * position + tile)
    if spec is not None:
        (root / "dataset.yaml").write_text(spec)
    return root


def put_eight_bands(root: Path) -> Path:
    """The sample's tiles with all their bands, two of each split, as links."""
    sample = SHARED / "data/l8_biome_sample"
    for split in ("train", "val", "test"):
        for mask in sorted((sample / "ann_dir" / split).iterdir())[:2]:
            image = sample / "bands8" / f"{mask.stem}.tif"
            for kind, source in (("img_dir", image), ("ann_dir", mask)):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                (root / kind / split / source.name).symlink_to(source)
    bands = "bands: [B2, B3, B4, B5, B6, B7, B9, thermal]\nrgb: [3, 2, 1]\n"
    stretch = f"stretch: [{'[0, 1], ' * 7}[200, 320]]\n"
    (root / "dataset.yaml").write_text(f"classes: [clear, shadow, thin, cloud]\n{bands}{stretch}")
    return root
