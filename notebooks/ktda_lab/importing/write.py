"""Carry out an import: tiles, palette masks, ``dataset.yaml`` and a page that shows them."""

import shutil
import tempfile
from itertools import groupby
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from tqdm import tqdm

from ktda.data.spec import FILE
from ktda.errors import InputError
from ktda.files import now
from ktda_lab.importing.labels import read_labels
from ktda_lab.importing.page import SHOWN, page
from ktda_lab.importing.plan import Plan, choose_bands
from ktda_lab.importing.raster import Raster, Window, open_raster

SAMPLES = 2_000_000  # pixels that percentiles are taken of


def check_out(source: Path, out: Path) -> None:
    """Refuse a folder that exists, or one within the source, which an import does not change."""
    if out.exists():
        raise InputError(f"{out} exists; name a new folder, or remove it")
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{out} lies in the source {source}; name a folder outside")


def write(plan: Plan, out: Path, command: str) -> None:
    """Write a data set beside its name, then put it there in one step.

    Args:
        plan: what to write; its tiles' counts become those of what is written.
        out: a new folder outside the source.
        command: that asked for it, for the record.

    Raises:
        InputError: `check_out` refuses the folder, or a band has a single value.
    """
    check_out(plan.wishes.source, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
        root = Path(beside) / "content"
        ends = _stretch(plan)
        factor = plan.wishes.reduce
        shown: dict[str, list] = {}
        for split, tiles in plan.tiles.items():
            for kind in ("img_dir", "ann_dir"):
                (root / kind / split).mkdir(parents=True)
            some = {tiles[i].name for i in np.linspace(0, len(tiles) - 1, SHOWN).astype(int)} if tiles else ()
            shown[split] = []
            # one pair after the other, open once: a JPEG is decoded from its first row on
            for pair, group in groupby(tqdm(tiles, desc=split, disable=None, leave=False), lambda tile: tile.pair):
                with open_raster(pair.image, factor, mean=True) as image, open_raster(pair.mask, factor) as mask:
                    for tile in group:
                        pixels, empty = _read(image, tile.window, plan)
                        indices = plan.labels.decode(read_labels(mask, tile.window), mask.colours)
                        indices[empty] = plan.labels.ignore_index
                        tile.counts[:] = np.bincount(indices.ravel(), minlength=256)
                        picture = _write_image(root / "img_dir" / split / tile.name, image, tile.window, pixels, ends)
                        painted = _write_mask(root / "ann_dir" / split / f"{tile.name}.png", indices, plan)
                        if tile.name in some:
                            shown[split].append((tile.name, picture, painted))
        text = yaml.safe_dump(_spec(plan, ends, command), sort_keys=False, default_flow_style=None, allow_unicode=True)
        (root / FILE).write_text(text, encoding="utf-8")
        (root / "import.html").write_text(page(plan, out.name, text, shown), encoding="utf-8")
        root.rename(out)


def _read(image: Raster, window: Window, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Bands (B, H, W) to write as they are in the file, and (H, W) where the image holds nothing."""
    if image.colours is not None:
        indices, opaque = image.read(window, [1])
        return image.colours[indices[0]].transpose(2, 0, 1), opaque == 0  # (H, W, 3) -> (3, H, W)
    pixels, opaque = image.read(window, choose_bands(image, plan.wishes.bands))
    return pixels, (opaque == 0) | ~np.isfinite(pixels).all(0)


def _stretch(plan: Plan) -> np.ndarray | None:
    """(B, 2) values that become 0 and 255, by the training tiles; None leaves bytes as they are."""
    how = plan.wishes.stretch
    if how is None and all(kind == "palette" or kind.endswith(" uint8") for kind in plan.images):
        return None
    if isinstance(how, tuple):
        return np.array([how] * plan.channels)
    tiles = plan.tiles.get("train") or [tile for tiles in plan.tiles.values() for tile in tiles]
    samples = []
    for pair, group in groupby(tqdm(tiles, desc="stretch", disable=None, leave=False), lambda tile: tile.pair):
        with open_raster(pair.image, plan.wishes.reduce, mean=True) as image:
            for tile in group:
                pixels, empty = _read(image, tile.window, plan)
                pixels = pixels[:, ~empty].astype(np.float32)  # (B, H, W) -> (B, pixels)
                if how == "minmax" and pixels.size:
                    pixels = np.stack([pixels.min(1), pixels.max(1)], 1)
                samples.append(pixels[:, :: 1 + pixels.shape[1] * len(tiles) // SAMPLES])
    values = np.concatenate(samples, 1)
    ends = (
        np.percentile(values, (0, 100) if how == "minmax" else (2, 98), axis=1).T if values.size else np.zeros((1, 2))
    )
    if not (ends[:, 0] < ends[:, 1]).all():
        raise InputError(f"a band has no two values in train ({ends.tolist()}); choose --bands, or --stretch LOW,HIGH")
    return ends


def _write_image(path: Path, image: Raster, window: Window, pixels: np.ndarray, ends: np.ndarray | None) -> Image.Image:
    """Write bands as 8 bits, and return the first three as a picture."""
    if ends is not None:
        low, high = ends.T[:, :, None, None]  # (B, 2) -> two of (B, 1, 1)
        shares = np.nan_to_num((pixels - low) / (high - low), posinf=0, neginf=0)
        pixels = (shares.clip(0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(pixels[:3].transpose(1, 2, 0)))  # (B, H, W) -> (H, W, 3)
    same = len(pixels) == image.file.count == 3 and ends is None and window == (0, 0, *image.file.shape)
    if same and image.file.driver == "JPEG":  # to decode and code it again would blur it again
        shutil.copyfile(image.path, f"{path}.jpg")
    elif len(pixels) == 3:
        picture.save(f"{path}.png")
    else:
        import rasterio  # an extra

        count, height, width = pixels.shape
        options = {"dtype": "uint8", "photometric": "minisblack", "compress": "deflate"}
        with rasterio.open(f"{path}.tif", "w", "GTiff", width, height, count, **options) as file:
            file.write(pixels)
    return picture


def _write_mask(path: Path, indices: np.ndarray, plan: Plan) -> Image.Image:
    """Write class indices in palette mode, and return them as a picture."""
    colours = np.zeros((256, 3), np.uint8)  # all 256: a shorter palette would cut index 255 to fewer bits
    colours[: len(plan.labels.palette)] = plan.labels.palette
    picture = Image.fromarray(indices)
    picture.putpalette(colours.tobytes())
    picture.save(path)
    return picture


def _spec(plan: Plan, ends: np.ndarray | None, command: str) -> dict:
    """What ``dataset.yaml`` says."""
    labels = plan.labels
    spec = {
        "classes": list(labels.classes),
        "palette": [list(colour) for colour in labels.palette],
        "ignore_index": labels.ignore_index,
    }
    if plan.pattern:
        spec["scene"] = plan.pattern
    if plan.channels > 3:
        spec |= {"bands": plan.channels, "rgb": [1, 2, 3]}
    spec["source"] = {"folder": str(plan.wishes.source), "command": command, "date": now(), "masks": labels.note}
    if plan.wishes.reduce > 1:
        spec["source"]["reduce"] = plan.wishes.reduce
    if plan.wishes.bands:
        spec["source"]["bands"] = list(plan.wishes.bands)
    if ends is not None:
        spec["source"]["stretch"] = ends.tolist()
    return spec
