"""Images and masks by their own tags: exact, or refused with what the file holds."""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from tiny_sets import needs_sample, put_eight_bands, put_image

from ktda.data.folder import open_data
from ktda.data.pixels import kind_of, read_image, read_mask
from ktda.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform", "ignore:Corrupt EXIF")


def refused(read, path: Path, *parts: str) -> None:
    with pytest.raises(InputError) as raised:
        read(path)
    message = str(raised.value)
    assert "\n" not in message
    assert all(part in message for part in (path.name, *parts)), message


def put_png(path: Path, depth: int, colours: int, rows: list[bytes], width: int) -> None:
    """A PNG with any bit depth: grey is colour type 0, RGB 2, palette 3."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colours, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    palette = chunk(b"PLTE", bytes(range(48))) if colours == 3 else b""
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(signature + chunk(b"IHDR", header) + palette + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def put_tiff(path: Path, pixels: np.ndarray, **tags: object) -> None:
    """Write (H, W) or (bands, H, W) of any type; ``tags`` are rasterio's."""
    rasterio = pytest.importorskip("rasterio")
    bands = pixels[None] if pixels.ndim == 2 else pixels
    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    with rasterio.open(path, "w", driver="GTiff", dtype=bands.dtype, **shape, **tags) as file:
        file.write(bands)


@pytest.mark.parametrize("colours", [0, 3])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_masks_of_few_bits_are_read_as_they_are(tmp_path, depth, colours):
    labels = np.arange(16).reshape(2, 8) % min(2**depth, 16)
    bits = np.unpackbits(labels.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
    put_png(tmp_path / "m.png", depth, colours, [np.packbits(row).tobytes() for row in bits], 8)
    assert kind_of(tmp_path / "m.png").numbers == f"uint{depth}"
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32])
@pytest.mark.parametrize("compress", ["none", "lzw", "deflate"])
def test_masks_as_tiff_of_any_whole_numbers(tmp_path, dtype, compress):
    labels = np.array([[0, 1, 2], [127, 3, 0]], dtype)
    put_tiff(tmp_path / "m.tif", labels, compress=compress)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), labels)


def test_a_mask_that_would_wrap_is_refused(tmp_path):
    put_tiff(tmp_path / "m.tif", np.array([[0, 65536], [1, 2]], np.int32))
    refused(read_mask, tmp_path / "m.tif", "holds values from 0 to 65536; labels are 0 to 65535")
    put_tiff(tmp_path / "n.tif", np.array([[0, -1], [1, 2]], np.int16))
    refused(read_mask, tmp_path / "n.tif", "holds values from -1 to 2")


def test_masks_that_cannot_be_exact_are_refused_with_what_they_hold(tmp_path):
    zeros = np.zeros((16, 16), np.uint8)
    put_image(tmp_path / "rgb.png")
    refused(read_mask, tmp_path / "rgb.png", "mask is RGB", "`ktda data import` decodes it by palette")
    Image.new("RGBA", (4, 4)).save(tmp_path / "rgba.png")
    refused(read_mask, tmp_path / "rgba.png", "mask holds 4 bands of uint8 (RGBA)")
    put_tiff(tmp_path / "float.tif", zeros.astype(np.float32))
    refused(read_mask, tmp_path / "float.tif", "mask holds 1 band of float32 (grey)")
    put_tiff(tmp_path / "two.tif", np.stack([zeros, zeros]))
    refused(read_mask, tmp_path / "two.tif", "mask holds 2 bands of uint8")
    put_tiff(tmp_path / "white.tif", zeros, photometric="miniswhite")
    refused(read_mask, tmp_path / "white.tif", "(grey, white is 0)")
    put_tiff(tmp_path / "lossy.tif", zeros, compress="jpeg")
    refused(read_mask, tmp_path / "lossy.tif", "compressed with loss")
    Image.fromarray(zeros).save(tmp_path / "photo.png", format="JPEG")
    refused(read_mask, tmp_path / "photo.png", "compressed with loss, which changes labels")
    pages = [Image.fromarray(zeros), Image.fromarray(zeros)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    refused(read_mask, tmp_path / "pages.tif", "several pages")


def test_overviews_are_no_further_pages(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    labels = np.random.default_rng(0).integers(0, 3, (64, 64)).astype(np.uint8)
    put_tiff(tmp_path / "m.tif", labels)
    with rasterio.open(tmp_path / "m.tif", "r+") as file:
        file.build_overviews([2, 4])
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), labels)


@pytest.mark.parametrize(
    ("mode", "held"),
    [
        ("L", "1 band of uint8 (grey)"),
        ("RGBA", "4 bands of uint8 (RGBA)"),
        ("P", "1 band of uint1 (palette)"),
        ("I;16", "1 band of uint16 (grey)"),
        ("LA", "2 bands of uint8 (grey and alpha)"),
    ],
)
def test_images_that_are_not_8_bit_rgb_are_refused_with_what_they_hold(tmp_path, mode, held):
    Image.new(mode, (4, 4)).save(tmp_path / "odd.png")
    refused(read_image, tmp_path / "odd.png", f"holds {held}, expected 8-bit RGB; convert it by `ktda")


def test_deep_colours_are_refused(tmp_path):
    put_png(tmp_path / "deep.png", 16, 2, [bytes(24)] * 4, 4)
    refused(read_image, tmp_path / "deep.png", "holds 3 bands of uint16 (RGB)")


@pytest.mark.parametrize("bands", [4, 5, 6])
def test_bands_beyond_rgb_are_never_dropped(tmp_path, bands):
    pixels = np.random.default_rng(bands).integers(0, 256, (bands, 5, 4)).astype(np.uint8)
    put_tiff(tmp_path / "more.tif", pixels, photometric="rgb")
    refused(read_image, tmp_path / "more.tif", f"holds {bands} bands of uint8 (RGB), expected 8-bit RGB")
    np.testing.assert_array_equal(read_image(tmp_path / "more.tif", bands), np.moveaxis(pixels, 0, -1))
    refused(lambda path: read_image(path, 8), tmp_path / "more.tif", "expected 8 bands as in dataset.yaml")


def test_other_numbers_than_bytes_are_stretched_as_recorded(tmp_path):
    pixels = np.array([[[-1, 0, 0.5, 1, 9]], [[0, 10, 20, 30, 40]]], np.float32)
    put_tiff(tmp_path / "f.tif", pixels)
    found = read_image(tmp_path / "f.tif", 2, ((0, 1), (10, 30)))
    assert found[0].T.tolist() == [[0, 0, 128, 255, 255], [0, 0, 128, 255, 255]]
    refused(lambda path: read_image(path, 2), tmp_path / "f.tif", "2 bands of float32", "one [low, high]")
    pixels[0, 0, 2] = np.nan
    put_tiff(tmp_path / "n.tif", pixels)
    refused(lambda path: read_image(path, 2, ((0, 1), (0, 1))), tmp_path / "n.tif", "no numbers")


def test_without_rasterio_the_cure_is_named(tmp_path, monkeypatch):
    put_tiff(tmp_path / "f.tif", np.zeros((8, 4, 4), np.float32))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    refused(lambda path: read_image(path, 8), tmp_path / "f.tif", "8 bands of float32", "ktda[scenes]")
    put_image(tmp_path / "plain.tif")
    assert read_image(tmp_path / "plain.tif").shape == (12, 16, 3)


def test_orientation_in_exif_turns_nothing(tmp_path):
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.asarray(image))


@pytest.mark.parametrize("content", [b"", b"hello", b"GIF89a not at all", "cut", "header"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_damaged_files_are_named(tmp_path, content, suffix):
    path = tmp_path / f"x.{suffix}"
    put_image(path, size=(64, 64))
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "header": whole[:20]}.get(content, content))
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=r"x\.(png|jpg|tif): "):
            read(path)


def test_a_chain_of_pages_that_leads_back_ends(tmp_path):
    put_tiff(tmp_path / "m.tif", np.zeros((4, 4), np.uint8))
    content = bytearray((tmp_path / "m.tif").read_bytes())
    first = ImageFileDirectory_v2(bytes(content[:8])).next
    entries = struct.unpack("<H", content[first : first + 2])[0]
    content[first + 2 + 12 * entries : first + 6 + 12 * entries] = struct.pack("<I", first)
    (tmp_path / "m.tif").write_bytes(content)
    refused(read_mask, tmp_path / "m.tif", "several pages")


@needs_sample
def test_the_eight_bands_of_the_sample(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    data = open_data(put_eight_bands(tmp_path))
    assert (data.num_bands, data.rgb) == (8, (3, 2, 1))
    pair = data.pairs("train")[0]
    image, mask = data.read(pair)
    assert (image.shape, image.dtype, mask.shape) == ((256, 256, 8), np.uint8, (256, 256))
    with rasterio.open(pair.image) as file:
        reflectance, kelvin = file.read(1), file.read(8)
    np.testing.assert_array_equal(image[..., 0], np.rint(255 * reflectance.clip(0, 1)))
    np.testing.assert_array_equal(image[..., 7], np.rint(255 * ((kelvin - 200) / 120).clip(0, 1)))
