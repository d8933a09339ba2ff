"""``ktda data import``: foreign layouts come in exactly, split by scene, and what is not exact is said or refused."""

import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_sets import SHARED, needs_dubai, needs_sample, put_image
from typer.testing import CliRunner

from ktda.cli.data import app
from ktda.data.check import check
from ktda.data.folder import open_data
from ktda.errors import InputError

rasterio = pytest.importorskip("rasterio", reason="the extra scenes is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

PALETTE = np.array([[60, 16, 152], [132, 41, 246], [110, 193, 228], [155, 155, 155]], np.uint8)
COLOURS = f"classes: [a, b, c, ignore]\npalette: {PALETTE.tolist()}\n"


def run(*arguments: object):
    return CliRunner().invoke(app, ["import", *map(str, arguments)])


def bring(source: Path, *arguments: object):
    """Import into a folder beside the source and open what came out."""
    result = run(source, "--out", source.parent / "out", *arguments)
    assert result.exit_code == 0, result.exception
    return open_data(source.parent / "out")


def refused(source: Path, *arguments: object) -> str:
    """The one line of an import that is refused."""
    result = run(source, *arguments)
    assert isinstance(result.exception, InputError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def labels(seed: int, values: tuple = (0, 1, 2), size: tuple[int, int] = (16, 12)) -> np.ndarray:
    """(H, W) of random labels, each of them at least once, for a (width, height)."""
    mask = np.random.default_rng(seed).choice(np.array(values), (size[1], size[0]))
    mask.flat[: len(values)] = values
    return mask


def put_raster(path: Path, pixels: np.ndarray, **tags: object) -> None:
    """Write bands (B, H, W) as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    with rasterio.open(path, "w", "GTiff", width, height, bands, dtype=pixels.dtype, **tags) as file:
        file.write(pixels)


def put_mask(path: Path, pixels: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write grey levels (H, W) or RGB (H, W, 3) as they are, or indices with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels.astype(np.uint8))
    if palette is not None:
        picture.putpalette(palette.astype(np.uint8).tobytes())
    picture.save(path)


def put_pairs(root: Path, count: int = 4, **options: object) -> dict[str, np.ndarray]:
    """Write `images` and grey `masks`; returns the masks by name."""
    masks = {f"s{i}_{i}": labels(i, **options) for i in range(count)}
    for i, (name, mask) in enumerate(masks.items()):
        put_image(root / "images" / f"{name}.png", i, mask.shape[::-1])
        put_mask(root / "masks" / f"{name}.png", mask)
    return masks


def read_back(tile_set) -> dict[str, np.ndarray]:
    """Labels of all tiles by name."""
    pairs = [pair for split in tile_set.splits() for pair in tile_set.pairs(split)]
    return {pair.stem: tile_set.read(pair)[1] for pair in pairs}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


def png_of_bits(path: Path, mask: np.ndarray, bits: int) -> None:
    """A grey PNG of 2 or 4 bits, which Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = mask.shape
    digits = (mask[:, :, None] >> np.arange(bits)[::-1]) & 1  # (H, W, bits)
    rows = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def as_grey(path: Path, mask: np.ndarray) -> None:
    put_mask(path, mask)


def as_colours(path: Path, mask: np.ndarray) -> None:
    put_mask(path, PALETTE[np.where(mask == 255, 3, mask)])


def as_colours_with_transparency(path: Path, mask: np.ndarray) -> None:
    colours = PALETTE[np.where(mask == 255, 0, mask)]
    put_mask(path, np.dstack([colours, np.where(mask == 255, 0, 255)]))


def as_palettes_in_any_order(path: Path, mask: np.ndarray) -> None:
    order = np.random.default_rng(zlib.crc32(path.stem.encode())).permutation(4)
    put_mask(path, np.argsort(order)[np.where(mask == 255, 3, mask)], PALETTE[order])


def as_nodata(path: Path, mask: np.ndarray) -> None:
    put_raster(path.with_suffix(".TIF"), np.where(mask == 255, 7, mask)[None].astype(np.uint8), nodata=7)


def as_floats(path: Path, mask: np.ndarray) -> None:
    put_raster(path.with_suffix(".tif"), np.where(mask == 255, np.nan, mask)[None].astype(np.float32))


def as_signed(path: Path, mask: np.ndarray) -> None:
    put_raster(path.with_suffix(".tif"), np.where(mask == 255, -9999, mask)[None].astype(np.int16), nodata=-9999)


def as_two_bits(path: Path, mask: np.ndarray) -> None:
    png_of_bits(path, np.where(mask == 255, 3, mask), 2)


def as_four_bits(path: Path, mask: np.ndarray) -> None:
    png_of_bits(path, np.where(mask == 255, 3, mask), 4)


THREE = "classes: [a, b, c]\n"
THREE_AND_IGNORE = "classes: [a, b, c, ignore]\n"
WAYS = [
    (as_grey, THREE),
    (as_grey, "classes: [c, a, b]\nvalue_map: {0: 1, 1: 2, 2: 0}\n"),
    (as_colours, COLOURS),
    (as_colours_with_transparency, COLOURS),
    (as_palettes_in_any_order, COLOURS),
    (as_nodata, THREE),
    (as_floats, THREE),
    (as_signed, THREE),
    (as_two_bits, THREE_AND_IGNORE),
    (as_four_bits, "classes: [a, b, c]\nvalue_map: {3: 255}\n"),
]


@pytest.mark.parametrize(("put", "spec"), WAYS, ids=[f"{put.__name__}-{i}" for i, (put, _) in enumerate(WAYS)])
@pytest.mark.parametrize("seed", [0, 1])
def test_labels_read_back_as_they_were(tmp_path, put, spec, seed):
    source, meant = tmp_path / "source", {}
    for i in range(4):
        meant[f"t{i}"] = labels(10 * seed + i, (0, 1, 2, 255), size=(9 + i, 7))
        put_image(source / "images" / f"t{i}.png", i, (9 + i, 7))
        (source / "masks").mkdir(exist_ok=True)
        put(source / "masks" / f"t{i}.png", meant[f"t{i}"])
    (source / "dataset.yaml").write_text(spec)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    tile_set = bring(source)
    # labels by name: the order of classes may differ
    own = np.array([*tile_set.classes, "-"])
    found = {stem: own[np.minimum(mask, 3)] for stem, mask in read_back(tile_set).items()}
    named = np.array(["a", "b", "c", "-"])
    same(found, {stem: named[np.minimum(mask, 3)] for stem, mask in meant.items()})
    assert tile_set.ignore_index == 255
    assert sorted(tile_set.classes) == ["a", "b", "c"]
    assert check(tile_set.root).errors == []
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


LAYOUTS = {
    "folders": ("images/{}.png", "masks/{}.png"),
    "suffixes": ("{}.jpg", "{}_mask.png"),
    "prefixes": ("data/image_{}.jpg", "data/label_{}.png"),
    "one folder": ("tiles/{}.jpg", "tiles/{}.png"),
    "voc": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
    "loveda": ("images_png/{}.png", "masks_png/{}.png"),
    "ours": ("img_dir/{}.png", "ann_dir/{}.png"),
    "upper case": ("Images/{}.JPG", "GT/{}_gt.PNG"),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("split", [None, "outside", "inside", "in one name"])
def test_pairs_are_found_in_what_people_have(tmp_path, name, split):
    source, meant = tmp_path / "source", {}
    for i, part in enumerate(["training", "training", "training", "valid", "Test"]):
        files = [Path(file.format(f"t{i}")) for file in LAYOUTS[name]]
        if split == "inside":
            files = [file.parent / part / file.name for file in files]
        elif split == "in one name" and len(files[0].parts) > 1:
            files = [Path(f"{part}_{file}") for file in files]
        elif split:
            files = [part / file for file in files]
        meant[f"t{i}"] = labels(i)
        put_image(source / files[0], i)
        put_mask(source / files[1], meant[f"t{i}"])
    tile_set = bring(source)
    same(read_back(tile_set), meant)
    assert tile_set.splits() == ["train", "val", "test"]
    if split:
        assert [pair.stem for pair in tile_set.pairs("train")] == ["t0", "t1", "t2"]
        assert [pair.stem for pair in tile_set.pairs("test")] == ["t4"]


def test_folders_without_a_meaning_are_scenes(tmp_path):
    for tile in range(1, 7):
        for part in range(3):
            put_image(tmp_path / f"source/Tile {tile}/images/part_{part}.jpg", 10 * tile + part)
            put_mask(tmp_path / f"source/Tile {tile}/masks/part_{part}.png", labels(part))
    tile_set = bring(tmp_path / "source")
    stems = [pair.stem for split in tile_set.splits() for pair in tile_set.pairs(split)]
    assert sorted(stems) == [f"Tile {tile}_part_{part}" for tile in range(1, 7) for part in range(3)]
    assert {tile_set.scene_of(stem) for stem in stems} == {f"Tile {tile}" for tile in range(1, 7)}
    assert check(tile_set.root).errors == []


@pytest.mark.parametrize("seed", range(5))
def test_no_scene_is_in_two_splits_and_shares_are_kept(tmp_path, seed):
    source = tmp_path / "source"
    for scene in range(12):
        for part in range(1 + scene % 3):
            put_image(source / f"images/s{scene}_{part}.png", 10 * scene + part)
            put_mask(source / f"masks/s{scene}_{part}.png", labels(scene))
    tile_set = bring(source, "--scene", r"^(s\d+)_\d+$", "--tile", 8, "--split", "0.5,0.25,0.25", "--seed", seed)
    scenes = [{tile_set.scene_of(pair.stem) for pair in tile_set.pairs(split)} for split in ("train", "val", "test")]
    assert set.union(*scenes) == {f"s{i}" for i in range(12)}
    assert sum(map(len, scenes)) == 12
    tiles = [len(tile_set.pairs(split)) for split in ("train", "val", "test")]
    np.testing.assert_allclose(np.array(tiles) / sum(tiles), (0.5, 0.25, 0.25), atol=0.08)
    again = run(source, "--out", tmp_path / "again", "--scene", r"^(s\d+)_\d+$", "--tile", 8, "--seed", seed + 1)
    assert again.exit_code == 0
    assert {p.stem for p in open_data(tmp_path / "again").pairs("train")} != {p.stem for p in tile_set.pairs("train")}


def test_blocks_of_one_image_share_no_pixel(tmp_path):
    source, size = tmp_path / "source", (70, 53)
    mask = np.arange(53)[:, None] * np.ones((1, 70), int)  # the row, so that a tile says where it was
    put_image(source / "images/big.png", 0, size)
    put_mask(source / "masks/big.png", mask)
    tile_set = bring(source, "--tile", 8, "--overlap", 0.5, "--block", 2, "--split", "0.6,0.2,0.2")
    seen = np.zeros((3, 53, 70), bool)
    for number, split in enumerate(("train", "val", "test")):
        for pair in tile_set.pairs(split):
            top, left = map(int, re.search(r"_y(\d+)_x(\d+)$", pair.stem).groups())
            image, part = tile_set.read(pair)
            height, width = part.shape
            np.testing.assert_array_equal(part, mask[top : top + height, left : left + width])
            np.testing.assert_array_equal(image, np.array(Image.open(source / "images/big.png"))[
                top : top + height, left : left + width])  # fmt: skip
            seen[number, top : top + height, left : left + width] = True
    assert seen.any(0).all()
    assert seen.sum(0).max() == 1
    assert check(tile_set.root).errors == []


def test_tiles_cover_an_image_and_few_labels_leave_one_out(tmp_path):
    source = tmp_path / "source"
    mask = np.full((20, 30), 255)
    mask[:10, :10] = labels(0, size=(10, 10))
    mask[10:, 20] = 1
    for i in range(3):
        put_image(source / f"images/t{i}.png", i, (30, 20))
        put_mask(source / f"masks/t{i}.png", mask)
    (source / "dataset.yaml").write_text(THREE)
    tile_set = bring(source, "--tile", 10, "--min-labelled", 0.1)
    assert sorted({re.sub(r"^t\d", "", stem) for stem in read_back(tile_set)}) == ["_y0_x0", "_y10_x20"]
    assert {mask.shape for mask in read_back(tile_set).values()} == {(10, 10)}
    shown = run(source, "--tile", 10, "--min-labelled", 0.1)
    assert "12 tiles, of which less than 10 % has a class" in shown.output


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("stretch", ["percentile", "minmax", "100,900"])
def test_a_stretch_is_that_of_train_and_recorded(tmp_path, dtype, stretch):
    source, images = tmp_path / "source", {}
    for i in range(6):
        images[f"t{i}"] = np.random.default_rng(i).integers(0, 1000 + 200 * i, (5, 12, 16)).astype(dtype)
        if dtype == "float32":
            images[f"t{i}"][0, 0, 0] = np.nan
        put_raster(source / f"images/t{i}.tif", images[f"t{i}"])
        put_mask(source / f"masks/t{i}.png", labels(i))
    tile_set = bring(source, "--bands", "4,2,1,5", "--stretch", stretch)
    spec = yaml.safe_load((tile_set.root / "dataset.yaml").read_text())
    order = [3, 1, 0, 4]
    train = np.concatenate([images[pair.stem][order].reshape(4, -1) for pair in tile_set.pairs("train")], 1)
    train = train[:, np.isfinite(train).all(0)]
    places = {"percentile": (2, 98), "minmax": (0, 100)}
    ends = np.percentile(train, places[stretch], axis=1).T if stretch in places else np.array([[100, 900]] * 4)
    np.testing.assert_allclose(spec["source"]["stretch"], ends, rtol=1e-5)
    assert (len(tile_set.bands), tile_set.rgb) == (4, (1, 2, 3))
    for split in tile_set.splits():
        for pair in tile_set.pairs(split):
            pixels, mask = tile_set.read(pair)
            raw = images[pair.stem][order].transpose(1, 2, 0).astype(float)
            empty = ~np.isfinite(raw).all(2)
            meant = ((raw - ends[:, 0]) / (ends[:, 1] - ends[:, 0])).clip(0, 1) * 255
            assert np.abs(pixels - meant)[~empty].max() <= 0.51
            np.testing.assert_array_equal(mask[~empty], labels(int(pair.stem[1]))[~empty])
            assert (mask[empty] == 255).all()


def test_grey_and_palette_images_become_rgb_and_a_jpeg_stays_as_it_is(tmp_path):
    source = tmp_path / "source"
    put_pairs(source)
    grey = labels(0, tuple(range(100)))
    put_mask(source / "images/s0_0.png", grey)
    put_mask(source / "images/s1_1.png", labels(1), PALETTE)
    (source / "images/s2_2.png").unlink()
    put_image(source / "images/s2_2.JPG", 2)
    tile_set = bring(source)
    found = {pair.stem: pair for split in tile_set.splits() for pair in tile_set.pairs(split)}
    np.testing.assert_array_equal(tile_set.read(found["s0_0"])[0], np.dstack([grey] * 3))
    np.testing.assert_array_equal(tile_set.read(found["s1_1"])[0], PALETTE[labels(1)])
    assert found["s2_2"].image.read_bytes() == (source / "images/s2_2.JPG").read_bytes()


@pytest.mark.parametrize("rgb", [False, True])
def test_0_and_255_are_two_classes(tmp_path, rgb):
    source, meant = tmp_path / "source", {}
    for i in range(3):
        meant[f"t{i}"] = labels(i, (0, 1))
        put_image(source / f"t{i}.jpg", i)
        mask = 255 * meant[f"t{i}"]
        put_mask(source / f"t{i}_mask.png", np.dstack([mask] * 3) if rgb else mask)
    tile_set = bring(source)
    same(read_back(tile_set), meant)
    assert tile_set.classes == ("background", "foreground")


def test_what_has_no_name_is_listed_ready_to_fill_in(tmp_path):
    source = tmp_path / "source"
    for i in range(3):
        put_image(source / f"images/t{i}.png", i)
        put_mask(source / f"masks/t{i}.png", PALETTE[labels(i)])
    result = run(source)
    assert "3 colours without a name" in str(result.exception)
    share = np.mean([labels(i) == 1 for i in range(3)])
    assert f"# [132, 41, 246]: {100 * share:.2f} %" in result.output
    (tmp_path / "names.yaml").write_text(result.output.replace("name_", "level "))
    tile_set = bring(source, "--spec", tmp_path / "names.yaml")
    order = [tile_set.palette.index(tuple(colour)) for colour in PALETTE[:3].tolist()]
    same(read_back(tile_set), {f"t{i}": np.array(order)[labels(i)] for i in range(3)})

    put_pairs(tmp_path / "grey", values=(0, 76, 150))
    result = run(tmp_path / "grey")
    assert "values without a name (" in str(result.exception)
    assert sorted(yaml.safe_load(result.output)["value_map"]) == [0, 76, 150]


def test_palettes_that_differ_are_read_by_colour(tmp_path):
    source = tmp_path / "source"
    for i in range(3):
        put_image(source / f"images/t{i}.png", i)
        (source / "masks").mkdir(exist_ok=True)
        as_palettes_in_any_order(source / f"masks/t{i}.png", labels(i))
    assert "3 colours without a name" in refused(source)
    for i in range(3):
        put_mask(source / f"masks/t{i}.png", labels(i), PALETTE)
    tile_set = bring(source)  # one palette: the index is the label
    same(read_back(tile_set), {f"t{i}": labels(i) for i in range(3)})
    assert tile_set.palette == tuple(map(tuple, PALETTE[:3].tolist()))


def test_without_out_nothing_is_written_and_the_page_shows_all_when_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source"
    put_pairs(source, values=(0, 1))
    (source / "dataset.yaml").write_text("classes: ['<b>&', two]\n")
    (source / "notes.txt").write_text("none of ours")
    put_image(source / "images/alone.png")
    result = run(source)
    assert re.search(r"train +2 +2 +2 +\d+\.\d %", result.output)
    assert "left out: 1, such as notes.txt" in result.output
    assert "left out: 1, such as images/alone.png: no mask of that name" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    tile_set = bring(source)
    text = (tile_set.root / "import.html").read_text()
    assert text.count("<img ") == 2 * 4
    assert "&lt;b&gt;&amp;" in text
    assert not re.search(r"<b>|https?://|src=\"(?!data:)", text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_each_mistake_is_one_line_with_its_cure(tmp_path):
    source = tmp_path / "source"
    put_pairs(source)
    assert "is no folder" in refused(tmp_path / "nowhere")
    assert "exists" in refused(source, "--out", tmp_path)
    assert "lies in the source" in refused(source, "--out", source / "new")
    assert "name one, three or more" in refused(source, "--bands", "1,2")
    assert "numbers between commas" in refused(source, "--bands", "red")
    assert "counted from 1" in refused(source, "--bands", "0,1,2")
    assert "has 3 bands" in refused(source, "--bands", "4,3,2")
    assert "LOW,HIGH" in refused(source, "--stretch", "9,1")
    assert "sum up to 1" in refused(source, "--split", "0.6,0.6")
    assert "--tile" in refused(source, "--block", 2)
    assert "(...)" in refused(source, "--scene", "s")
    assert "does not fit the name 's0_0'" in refused(source, "--scene", "(x)")
    assert "--split 0.8,0.2" in refused(source, "--scene", "^(s)")
    (source / "dataset.yaml").write_text("classes: [a, b]\n")
    assert "1 values without a name" in refused(source)
    put_mask(source / "masks/s0_0.png", PALETTE[labels(0)])
    assert "RGB and some are grey" in refused(source)


def test_a_scene_in_two_folders_splits_is_refused_or_drawn_anew(tmp_path):
    source = tmp_path / "source"
    for i, split in enumerate(["train", "train", "val", "val", "val"]):
        put_image(source / split / f"images/s{i // 2}_{i}.png", i)
        put_mask(source / split / f"masks/s{i // 2}_{i}.png", labels(i))
    (source / "val/images/s1_2.png").rename(source / "val/images/s0_2.png")
    (source / "val/masks/s1_2.png").rename(source / "val/masks/s0_2.png")
    assert "scene s0 is in train and val" in refused(source, "--scene", r"^(s\d)_")
    tile_set = bring(source, "--scene", r"^(s\d)_", "--split", "0.5,0.5")
    assert check(tile_set.root).errors == []


def test_what_cannot_be_read_exactly_is_left_out_and_said(tmp_path):
    source = tmp_path / "source"
    masks = put_pairs(source, count=9)
    for kind, name in (("masks", "s3_3.png"), ("images", "s8_8.png")):
        (source / kind / name).write_bytes((source / kind / name).read_bytes()[:-40])
    (source / "masks/s4_4.png").unlink()
    put_image(source / "masks/s4_4.jpg")
    put_mask(source / "masks/s5_5.png", labels(5, size=(16, 13)))
    put_raster(source / "masks/s6_6.tif", labels(6)[None] + np.float32(0.5))
    (source / "masks/s6_6.png").unlink()
    put_raster(source / "masks/s7_7.tif", np.stack([labels(7)] * 5).astype(np.uint8))
    (source / "masks/s7_7.png").unlink()
    tile_set = bring(source)
    same(read_back(tile_set), {name: mask for name, mask in masks.items() if name[1] in "012"})
    said = (tile_set.root / "import.html").read_text()
    for name in ("s3_3.png", "s8_8.png"):
        assert f"{name} cannot be read" in said
    assert "s4_4.jpg is a JPEG" in said
    assert "16x12 px and its mask 16x13" in said
    assert "s6_6.tif holds fractions" in said
    assert "has 5 bands of uint8" in said


def test_a_killed_or_failed_import_leaves_no_folder(tmp_path, monkeypatch):
    source = tmp_path / "source"
    put_pairs(source)
    monkeypatch.setattr("ktda_lab.importing.write.page", lambda *_: 1 / 0)
    result = run(source, "--out", tmp_path / "out")
    assert isinstance(result.exception, ZeroDivisionError)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_image_that_breaks_off_in_the_middle_of_a_raster_stops_the_import(tmp_path):
    source = tmp_path / "source"
    put_pairs(source)
    put_raster(source / "images/s1_1.tif", np.ones((3, 12, 16), np.uint8))
    (source / "images/s1_1.png").unlink()
    (source / "images/s1_1.tif").write_bytes((source / "images/s1_1.tif").read_bytes()[:-40])
    assert "s1_1.tif cannot be read" in refused(source, "--out", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_missing_rasterio_is_one_line(tmp_path, monkeypatch):
    put_pairs(tmp_path / "source")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert "pip install 'ktda[scenes]'" in refused(tmp_path / "source")


def test_image_and_mask_must_lie_at_one_place(tmp_path):
    source = tmp_path / "source"
    place = {"crs": "EPSG:32621", "transform": rasterio.Affine(30, 0, 0, 0, -30, 0)}
    moved = place | {"transform": rasterio.Affine(30, 0, 60, 0, -30, 0)}
    for i in range(4):
        put_raster(source / f"images/{i}.tif", np.zeros((3, 12, 16), np.uint8), **place)
        put_raster(source / f"masks/{i}.tif", labels(i)[None].astype(np.uint8), **(moved if i == 3 else place))
    result = run(source)
    assert "images/3.tif and its mask lie at different places" in result.output
    assert "3 pairs" in result.output


@needs_sample
def test_the_eight_bands_of_the_sample(tmp_path):
    source = tmp_path / "source"
    for path in sorted((SHARED / "data/l8_biome_sample/bands8").glob("*.tif"))[:6]:
        (mask,) = (SHARED / "data/l8_biome_sample/ann_dir").glob(f"*/{path.stem}.png")
        for kind, file in (("images", path), ("masks", mask)):
            (source / kind).mkdir(parents=True, exist_ok=True)
            (source / kind / file.name).symlink_to(file)
    (source / "dataset.yaml").write_text("classes: [clear, shadow, thin, cloud]\n")
    tile_set = bring(source, "--bands", "3,2,1,4,5,6,7,8")
    assert len(tile_set.bands) == 8
    masks = (SHARED / "data/l8_biome_sample/ann_dir").glob("*/*.png")
    meant = {path.stem: np.array(Image.open(path)) for path in masks}
    same(read_back(tile_set), {stem: meant[stem] for stem in read_back(tile_set)})
    shares = np.concatenate([tile_set.read(pair)[0].reshape(-1, 8) for pair in tile_set.pairs("train")]) / 255
    assert (shares.std(0) > 0.05).all()


@needs_dubai
def test_dubai_comes_in_by_its_own_tiles(tmp_path):
    source = tmp_path / "source"
    shared = SHARED / "data/dubai_aerial"
    for number in (1, 5, 7):
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            (source / kind).mkdir(parents=True, exist_ok=True)
            file = shared / kind / f"tile{number}_image_part_001.{suffix}"
            (source / kind / file.name).symlink_to(file)
    (source / "dataset.yaml").write_bytes((shared / "dataset.yaml").read_bytes())
    tile_set = bring(source, "--tile", 256)
    for stem, mask in read_back(tile_set).items():
        name, top, left = re.fullmatch(r"(.+)_y(\d+)_x(\d+)", stem).groups()
        whole = np.array(Image.open(shared / f"masks/{name}.png"))
        np.testing.assert_array_equal(mask, whole[int(top) : int(top) + 256, int(left) : int(left) + 256])
    assert [len({tile_set.scene_of(p.stem) for p in tile_set.pairs(s)}) for s in tile_set.splits()] == [1, 1, 1]
    assert tile_set.classes[:2] == ("building", "land")


def test_reduced_images_are_means_and_masks_nearest(tmp_path):
    source = tmp_path / "source"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 28)).astype(np.uint8)
    mask = np.kron(labels(0, size=(14, 10)), np.ones((2, 2))).astype(np.uint8)
    for i in range(3):
        put_raster(source / f"images/t{i}.tif", pixels)
        put_mask(source / f"masks/t{i}.png", mask)
    (source / "dataset.yaml").write_text(THREE)
    tile_set = bring(source, "--reduce", 2)
    image, found = tile_set.read(tile_set.pairs("train")[0])
    means = pixels.reshape(3, 10, 2, 14, 2).mean((2, 4))
    assert np.abs(np.asarray(image).astype(float).transpose(2, 0, 1) - means).max() <= 0.5
    assert np.array_equal(np.asarray(found), mask[::2, ::2])
    assert yaml.safe_load((tile_set.root / "dataset.yaml").read_text())["source"]["reduce"] == 2
