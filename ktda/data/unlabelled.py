"""Images without masks, for the distillation alone: a folder, a list of files, or single files.

Images may be of any size, and much larger than a tile: each is cut at random to the size of a tile,
as often in one pass as tiles fit into it.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ktda.data.folder import TileSet
from ktda.data.layout import SUFFIXES, UNLABELLED, Pair, check_name, tile_files
from ktda.data.pixels import kind_of, read_raster
from ktda.errors import InputError
from ktda.files import file_sha256
from ktda.seeding import generator

CACHED_BYTES = 2**28  # of decoded images: sets up to this size stay in memory


def find_images(sources: Sequence[str]) -> list[Path]:
    """The images of folders (with all below), of lists (``.txt``, a path a line), and files.

    Args:
        sources: paths; those in a list are relative to the folder of the list.

    Returns:
        Sorted, each once.

    Raises:
        InputError: a path that is not there, a folder without images, or another kind of file.
    """
    found: set[Path] = set()
    suffixes = SUFFIXES["img_dir"]
    kinds = ", ".join(suffixes)
    for source in sources:
        path = Path(source).expanduser().absolute()
        if path.is_dir():
            inside = [p for p in path.rglob("*") if p.suffix.lower() in suffixes]
            images = [p for p in inside if not p.name.startswith(".")]
        elif path.suffix == ".txt" and path.is_file():
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError as error:
                raise InputError(f"{path}: expected a list in UTF-8 ({error})") from error
            images = [path.parent / line.strip() for line in lines if line.strip()]
        else:
            images = [path]
        if not images:
            raise InputError(f"{source} holds no images; expected {kinds}")
        for image in images:
            if image.suffix.lower() not in suffixes or not image.is_file():
                expected = f"an image ({kinds}), a folder or a .txt list"
                raise InputError(f"{image} is no image to learn from; expected {expected}")
            check_name(image)
        found.update(images)
    return sorted(found)


def folder_images(tile_set: TileSet) -> list[Path]:
    """Those in ``img_dir/unlabelled`` of a data set; [] without such a folder."""
    return tile_files(tile_set.root, "img_dir", UNLABELLED)[0]


def smallest_tile(tile_set: TileSet, pairs: Sequence[Pair]) -> tuple[int, int]:
    """The (rows, columns) that fit into every tile."""
    sizes = [image_size(pair.image, tile_set) for pair in pairs]
    rows, columns = zip(*sizes, strict=True)
    return min(rows), min(columns)


@dataclass(eq=False)
class Unlabelled:
    """Images as places that an endless order can draw from.

    Attributes:
        tile_set: says which bands an image must have.
        images: the files.
        size: (rows, columns) that are cut from each.
        seed: of the random cuts.
        images_at: per place its image: as many places as cuts fit side by side, at least one.
        total_bytes: of all images, decoded.
    """

    tile_set: TileSet
    images: list[Path]
    size: tuple[int, int]
    seed: int = 0

    def __post_init__(self) -> None:
        self.images_at: list[Path] = []
        self._sizes: dict[Path, tuple[int, int]] = {}  # (height, width)
        self.total_bytes = 0
        self._decoded: dict[Path, np.ndarray] = {}
        rows, columns = self.size
        for path in self.images:
            height, width = image_size(path, self.tile_set)
            places = (height // rows) * (width // columns)
            if not places:
                cure = f"it is smaller than a tile of {columns}x{rows}; set a smaller crop"
                raise InputError(f"{path}: {width}x{height} pixels; {cure}")
            self.images_at += [path] * places
            self._sizes[path] = height, width
            self.total_bytes += height * width * self.tile_set.num_bands

    def __len__(self) -> int:
        return len(self.images_at)

    def read(self, turn: int, place: int) -> torch.Tensor:
        """A cut (bands, rows, columns) uint8, at random by (seed, turn, place)."""
        path = self.images_at[place]
        rows, columns = self.size
        height, width = self._sizes[path]
        draw = generator(self.seed, "cut", turn, place)
        top, left = torch.rand(2, generator=draw).tolist()
        top = int(top * (height - rows + 1))
        left = int(left * (width - columns + 1))
        if self.total_bytes > CACHED_BYTES and _has_windows(path, self.tile_set):
            window = ((top, top + rows), (left, left + columns))
            return torch.from_numpy(read_raster(path, kind_of(path), window))
        image = self._decoded.get(path)
        if image is None:
            image = self.tile_set.read_image(path)  # (H, W, bands)
            if self.total_bytes <= CACHED_BYTES:
                self._decoded[path] = image
        cut = np.ascontiguousarray(image[top : top + rows, left : left + columns])
        return torch.from_numpy(cut).permute(2, 0, 1)  # (rows, columns, bands) -> (bands, ...)

    def describe(self, sources: Sequence[str]) -> dict:
        """What the manifest says of them: where from, how many, and a hash of names and bytes."""
        digest = hashlib.sha256()
        for path in self.images:
            digest.update(f"{path.name}\0{file_sha256(path)}\n".encode())
        found = {"sources": list(sources), "images": len(self.images), "tiles": len(self)}
        return found | {"hash": digest.hexdigest()}


def image_size(path: Path, tile_set: TileSet) -> tuple[int, int]:
    """(height, width) from the header of an image that fits the set."""
    kind = kind_of(path)
    if tile_set.bands:  # which Pillow may not know
        return tile_set.read_image(path).shape[:2]
    if kind[:3] != (3, "uint8", "RGB"):
        raise InputError(f"{path}: holds {kind}, expected 8-bit RGB; convert it, or take it out")
    with Image.open(path) as image:
        return image.height, image.width


def _has_windows(path: Path, tile_set: TileSet) -> bool:
    """Whether a part of the file can be read alone: 8-bit RGB TIFF, where rasterio is there."""
    is_tiff = path.suffix.lower() in (".tif", ".tiff")
    return is_tiff and not tile_set.bands and importlib.util.find_spec("rasterio") is not None
