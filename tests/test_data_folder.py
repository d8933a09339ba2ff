"""Reading data sets: layout, specification, pixels, hash, built-in names, and tiles as tensors."""

import re
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sets import CLASSES, SHARED, needs_dubai, needs_sample, put_image, put_mask, put_set, put_tile

from ktda.data import builtin
from ktda.data.folder import data_hash, open_data, read_mask
from ktda.data.spec import default_palette
from ktda.data.tiles import Tiles
from ktda.data.transforms import Augment
from ktda.errors import InputError
from ktda_lab import worlds


@pytest.fixture(autouse=True)
def own_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("KTDA_DATA", str(tmp_path / "data_root"))
    return tmp_path / "data_root"


def test_layout_and_pixels(tmp_path):
    root = put_set(tmp_path / "set", splits={"val": 2, "extra": 1, "train": 3, "test": 1})
    data = open_data(root)
    assert (data.name, data.root, data.classes, data.num_classes) == ("set", root, ("a", "b", "c"), 3)
    assert data.splits() == ["train", "val", "test", "extra"]
    assert [pair.stem for pair in data.pairs("train")] == ["s20_patch_0", "s21_patch_1", "s22_patch_2"]
    image, mask = put_tile(root, "train", "s21_patch_1", seed=7)
    got_image, got_mask = data.read(data.pairs("train")[1])
    assert got_image.dtype == got_mask.dtype == np.uint8
    np.testing.assert_array_equal(got_image, image)
    np.testing.assert_array_equal(got_mask, mask)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "tif", "tiff", "PNG"])
def test_every_image_format(tmp_path, suffix):
    root = put_set(tmp_path)
    (root / "img_dir/train/s00_patch_0.png").unlink()
    image = np.full((12, 16, 3), (200, 100, 30), dtype=np.uint8)
    Image.fromarray(image).save(root / f"img_dir/train/s00_patch_0.{suffix}")
    data = open_data(root)
    got, _ = data.read(data.pairs("train")[0])
    assert np.abs(got.astype(int) - image).max() <= (3 if suffix in ("jpg", "jpeg") else 0)


def test_without_specification_classes_are_found_and_said(tmp_path):
    root = put_set(tmp_path / "bare", spec=None)
    put_mask(root / "ann_dir/val/s11_patch_1.png", np.where(np.eye(12, 16) > 0, 255, 4))
    data = open_data(root)
    assert data.classes == ("0", "1", "2", "3", "4")
    assert len(data.notes) == 1
    assert "0 to 4" in data.notes[0]
    assert data.palette == default_palette(5)
    (root / "ann_dir/val/s11_patch_1.png").write_bytes(b"not a png")
    assert open_data(root).num_classes == 3


def test_binary_masks_need_a_specification(tmp_path):
    root = put_set(tmp_path, spec=None, splits={"train": 1})
    put_mask(root / "ann_dir/train/s00_patch_0.png", np.eye(12, 16) * 255)
    with pytest.raises(InputError, match=r"hold 0 and 255, and 255 is the ignore index; .*value_map"):
        open_data(root)
    (root / "dataset.yaml").write_text("classes: [no, 'yes']\nvalue_map: {255: 1}\nignore_index: 254")
    with pytest.raises(InputError, match=r"classes.*False.*no in quotes"):
        open_data(root)
    (root / "dataset.yaml").write_text("classes: ['no', 'yes']\nvalue_map: {255: 1}\nignore_index: 254")
    data = open_data(root)
    np.testing.assert_array_equal(data.read(data.pairs("train")[0])[1], np.eye(12, 16))


def test_default_palette_has_distinct_colours():
    assert len(set(default_palette(40))) == 40
    assert all(0 <= channel <= 255 for colour in default_palette(255) for channel in colour)


def test_masks_in_palette_mode_read_as_indices(tmp_path):
    mask = np.arange(12).reshape(3, 4).astype(np.uint8) % 3
    image = Image.new("P", (4, 3))
    image.putdata(mask.ravel().tolist())
    image.putpalette([185, 101, 71, 248, 202, 155, 92, 144, 77])
    image.save(tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").mode == "P"
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), mask)


def test_value_map(tmp_path):
    root = put_set(tmp_path, spec="classes: [x, y]\nvalue_map: {0: 255, 1: 0, 2: 1}\n")
    raw = read_mask(root / "ann_dir/train/s00_patch_0.png")
    data = open_data(root)
    _, mask = data.read(data.pairs("train")[0])
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.choose(raw, [255, 0, 1]))


def test_masks_of_16_bits(tmp_path):
    root = put_set(tmp_path, spec="classes: [x, y]\nvalue_map: {1000: 1}\n", splits={"train": 1})
    raw = np.where(np.eye(12, 16) > 0, 1000, 0)
    put_mask(root / "ann_dir/train/s00_patch_0.png", raw)
    data = open_data(root)
    np.testing.assert_array_equal(data.read(data.pairs("train")[0])[1], raw // 1000)
    (root / "dataset.yaml").write_text("classes: [x, y]")
    data = open_data(root)
    with pytest.raises(InputError, match=r"labels 1000 are neither a class \(0 to 1\) nor ignore_index 255; mend"):
        data.read(data.pairs("train")[0])


def test_pairs_are_strict(tmp_path):
    root = put_set(tmp_path)
    data = open_data(root)
    with pytest.raises(InputError, match=r"no split 'dev'; it has train, val"):
        data.pairs("dev")
    put_image(root / "img_dir/train/alone.png")
    (root / "img_dir/train/._s00_patch_0.png").write_bytes(b"a file that another system leaves behind")
    (root / "img_dir/train/folder.png").mkdir()
    with pytest.raises(InputError, match=r"alone of train needs .*, has img_dir/train/alone\.png; `ktda data"):
        data.pairs("train")
    put_mask(root / "ann_dir/train/alone.png", np.zeros((12, 16)))
    assert len(data.pairs("train")) == 4
    put_image(root / "img_dir/train/alone.jpg")
    with pytest.raises(InputError, match=r"alone of train .*alone\.jpg, img_dir/.*alone\.png, ann_dir/.*alone\.png"):
        data.pairs("train")
    put_image(root / "img_dir/val/s10_patch_0.png", size=(20, 12))
    with pytest.raises(InputError, match="the image is 20x12 pixels and its mask 16x12"):
        data.read(data.pairs("val")[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [a, b, c]\ncolours: []", "unknown key 'colours'; expected one of classes, palette"),
        ("classes: [a, b]\npalette: [[1, 2, 3]]", "palette has 1 colours for 2 classes"),
        ("palette: [[1, 2, 3]]", "palette has 1 colours for 3 classes"),
        (
            "classes: [a]\npalette: [[1, 2, 256]]",
            r"palette=\[\[1, 2, 256\]\]; expected a list of \[red",
        ),
        ("classes: [a]\npalette: red", "palette='red'; expected a list"),
        ("classes: {0: a}", "classes={0: 'a'}; expected a list"),
        ("classes: []", r"classes=\[\]; expected a list"),
        ("classes: [1, 2]", "expected a list.*numbers.* in quotes"),
        ("classes: [a, b, a]", "'a', 'b', 'a'.*different names"),
        (f"classes: [{', '.join(f'c{i}' for i in range(256))}]", "1 to 255 different names"),
        ("classes: [a]\nignore_index: -1", "ignore_index=-1; expected an integer from 0 to 255"),
        ("classes: [a]\nignore_index: true", "ignore_index=True; expected an integer from 0 to 255"),
        ("classes: [a, b]\nignore_index: 1", "ignore_index 1 is one of the 2 classes"),
        ("ignore_index: 1", "ignore_index 1 is one of the 3 classes"),
        ("classes: [a]\nvalue_map: {0: 256}", "value_map={0: 256}; expected lines"),
        ("classes: [a]\nvalue_map: {x: 0}", "value_map={'x': 0}; expected lines"),
        ("classes: [a]\nvalue_map: [0]", r"value_map=\[0\]; expected lines"),
        ("scene: '('", r"scene='\('; expected a regular expression"),
        ("scene: 3", "scene=3; expected a regular expression"),
        ("scene: '^a'", "with a group"),
        ("- a", "got \\['a'\\]; expected a mapping with classes, palette"),
        ("classes: [a]\nscene: '(\\d+)'\nclasses: [b]", "line 3: classes stands there twice"),
        ("class: [a]", "unknown key 'class'; did you mean classes"),
        ("classes: [a]\nignore_index: 255.0", "ignore_index=255.0; expected an integer"),
        ("value_map: {true: 1}", "value_map={True: 1}; expected lines"),
        ("classes: [' ']", "expected a list of 1 to 255"),
        ("classes:", "classes=None; expected a list"),
        ("scene: '(" + "a" * 200 + ")'", "at most 200 characters"),
        ("scene: '(a+)+b'", "without a repeat or . inside a repeat"),
        ("scene: '((ab|a)*)b'", "without a repeat or . inside a repeat"),
        ("scene: '((?=(a*?)){2,}b)'", "without a repeat or . inside a repeat"),
        ("scene: '(a?){30}'", "without a repeat or . inside a repeat"),
        ("scene: '(" + "a?" * 30 + ")'", "at most 6 of .*got 30"),
        ("scene: '(a{99999999999})'", "expected a regular expression"),
        ("bands: [a, a]", "expected the number of bands"),
        ("bands: 0", "bands=0; expected the number of bands"),
        ("rgb: [0, 1, 2]", "expected the three bands"),
        ("stretch: [[1, 1]]", r"stretch=\[\[1, 1\]\]; expected one \[low, high\]"),
        ("mean: [.nan]", "expected one number per band"),
        ("std: [0]", "expected one number above 0"),
        ("source: x", "source='x'; expected lines"),
        ("a: [", "cannot be read as YAML"),
        ("a: \x07", "cannot be read as YAML"),
    ],
)
def test_bad_specifications_name_the_file(tmp_path, text, message):
    root = put_set(tmp_path, spec=text)
    with pytest.raises(InputError, match=rf"dataset\.yaml: .*{message}") as raised:
        open_data(root)
    assert "\n" not in str(raised.value)


def test_scenes(tmp_path):
    data = open_data(put_set(tmp_path))
    assert data.scene_of("anything") == "anything"
    (tmp_path / "dataset.yaml").write_text(CLASSES + "scene: '(s\\d+)_patch|z'\n")
    data = open_data(tmp_path)
    assert data.scene_of("s17_patch_3_4") == "s17"
    for stem in ("other", "z"):
        with pytest.raises(InputError, match=rf"does not fit the file name '{stem}'"):
            data.scene_of(stem)


@pytest.mark.parametrize("suffix", ["PNG", "tif", "TIFF"])
def test_masks_are_found_by_one_rule_whatever_is_asked(tmp_path, suffix):
    root = put_set(tmp_path, spec=None)
    for path in sorted((root / "ann_dir").glob("*/*.png")):
        Image.open(path).save(path.with_suffix(f".{suffix}"))
        path.unlink()
    data = open_data(root)
    assert data.num_classes == 3
    assert [len(data.pairs(split)) for split in ("train", "val")] == [3, 2]
    assert data.read(data.pairs("val")[0])[1].max() == 2


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("no splits", "img_dir has 5 files and no folders; training needs train, and val or test"),
        ("other splits", "img_dir has training, validation; training needs .* or rename"),
        ("other suffix", r"ann_dir/train holds 3 \.bmp; expected \.png, \.tif, \.tiff"),
        ("colours", r"ann_dir/train/s00_patch_0\.png: mask is RGB, .*import` decodes it by palette"),
        ("0 and 255", "the masks hold 0 and 255, and 255 is the ignore index; if it is a class"),
        ("empty", "ann_dir/train holds nothing; expected"),
        ("one class", "the masks hold labels up to 0; name classes and value_map"),
        ("16 bits", "the masks hold labels up to 900; name classes and value_map"),
    ],
)
def test_without_classes_the_true_cause_is_named(tmp_path, fault, cause):
    root = put_set(tmp_path, spec=None)
    for kind in ("img_dir", "ann_dir"):
        if fault == "no splits":
            for path in sorted((root / kind).glob("*/*")):
                path.rename(root / kind / path.name)
            for folder in ("train", "val"):
                (root / kind / folder).rmdir()
        if fault == "other splits":
            (root / kind / "train").rename(root / kind / "training")
            (root / kind / "val").rename(root / kind / "validation")
            for path in (root / kind).glob("*/*"):
                path.unlink()
    new = {"0 and 255": np.eye(12, 16) * 255, "one class": np.zeros((12, 16))}
    new["16 bits"] = 900 * np.eye(12, 16)
    for path in sorted((root / "ann_dir").glob("*/*.png")):
        if fault == "other suffix":
            path.rename(path.with_suffix(".bmp"))
        if fault == "empty":
            path.unlink()
        if fault == "colours":
            put_image(path)
        if fault in new:
            put_mask(path, new[fault])
    with pytest.raises(InputError, match=cause) as raised:
        open_data(root)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("where", ["folder", "file"])
def test_names_that_are_not_utf8_are_refused(tmp_path, where):
    root = tmp_path / "b\udcff" if where == "folder" else tmp_path
    put_set(root)
    if where == "file":
        path = root / "img_dir/train/s00_patch_0.png"
        path.rename(path.with_name("gr\udcfcn.png"))
    with pytest.raises(InputError, match=r"\\xf[fc].*the name is not UTF-8; rename it"):
        open_data(root).pairs("train")


BANDS = CLASSES + "bands: [B2, B3, B4, B8]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"names 4 bands; add rgb, such as \[3, 2, 1\]"),
        ("rgb: [5, 3, 1]", r"rgb is \[5, 3, 1\], but the images have 4 bands"),
        ("rgb: [3, 2, 1]\nstretch: [[0, 1]]", "stretch has 1 entries for 4 bands"),
        ("rgb: [3, 2, 1]\nmean: [0.1, 0.2, 0.3, 0.4]", "mean and std belong together"),
    ],
)
def test_what_is_said_of_bands_fits_together(tmp_path, text, message):
    with pytest.raises(InputError, match=rf"dataset\.yaml: {message}"):
        open_data(put_set(tmp_path, spec=BANDS + text))


def test_wrong_places(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"'gras' is neither a folder.*built in are grass, cloud"):
        open_data("gras")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"found notes.txt, expected img_dir/<split>"):
        open_data(tmp_path)
    root = put_set(tmp_path / "cloud")
    monkeypatch.chdir(tmp_path)
    assert open_data("./cloud").root == open_data(Path("cloud")).root == root
    with pytest.raises(InputError, match=r"cloud is not in .*data_root; to get it: `ktda data fetch cloud"):
        open_data("cloud")
    shutil.rmtree(root / "ann_dir")
    with pytest.raises(InputError, match=r"found dataset\.yaml, img_dir, expected .*ann_dir"):
        open_data(root)


def test_an_unpacked_archive_is_found_one_folder_deeper(tmp_path, own_data_root):
    root = put_set(own_data_root / "cloud/l8_biome", spec=None)
    data = open_data("cloud")
    assert (data.name, data.root) == ("cloud", root)
    assert data.classes[1] == "Cloud Shadow"
    assert data.scene_of("Forest_LC80010_patch_3_4") == "Forest_LC80010"
    (root / "dataset.yaml").write_text("classes: [p, q, r]")  # the user's own counts
    assert open_data("cloud").classes == ("p", "q", "r")
    put_set(own_data_root / "cloud/other")
    with pytest.raises(InputError, match="found l8_biome, other, expected"):
        open_data("cloud")


def test_built_in_specifications_are_the_papers():
    grass, cloud = builtin.built_in_spec("grass"), builtin.built_in_spec("cloud")
    assert grass["classes"] == ("low", "middle-low", "middle", "middle-high", "high")
    assert grass["palette"][4] == (92, 144, 77)
    assert cloud["palette"][0] == (79, 253, 199)
    assert len(cloud["source"]["sha256"]) == 64
    assert builtin.built_in_spec("demo_grass")["classes"] == grass["classes"]


def test_demo_sets_are_made_once_however_many_ask(own_data_root, monkeypatch):
    made, locate, together = [], builtin.locate, threading.Barrier(2, timeout=900)

    def make_world(name, out):
        made.append(out)
        return put_set(out)

    def locate_together(name):
        found = locate(name)
        together.wait()  # both have seen that nothing is there
        return found

    monkeypatch.setitem(sys.modules, "ktda_lab.worlds", types.SimpleNamespace(make_world=make_world))
    monkeypatch.setattr(builtin, "locate", locate_together)
    found = []
    threads = [threading.Thread(target=lambda: found.append(open_data("demo_cloud"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.setattr(builtin, "locate", locate)
    assert (len(made), len(found)) == (1, 2)
    assert {data.root for data in found} == {own_data_root / "demo_cloud"}
    assert {path.name for path in own_data_root.iterdir()} == {"demo_cloud", ".demo_cloud.lock"}
    assert open_data("demo_cloud").splits() == ["train", "val"]
    assert len(made) == 1


def test_a_demo_that_fails_leaves_nothing(own_data_root, monkeypatch):
    def render_scene(name, world, seed, index, size):
        raise MemoryError

    monkeypatch.setattr(worlds, "render_scene", render_scene)
    with pytest.raises(MemoryError):
        open_data("demo_grass")
    assert [path.name for path in own_data_root.iterdir()] == [".demo_grass.lock"]


def test_hash_depends_on_content_and_not_on_place(tmp_path):
    first, second = put_set(tmp_path / "one"), put_set(tmp_path / "elsewhere/two")
    (second / "dataset.yaml").write_text("# the same, laid out in another way\nclasses:\n- a\n- b\n- c\n")
    (second / "img_dir/train/.hidden").touch()
    expected = data_hash(open_data(first))
    assert re.fullmatch(r"[0-9a-f]{64}", expected)
    assert data_hash(open_data(second)) == expected
    hashes = {expected}
    (second / "dataset.yaml").write_text("classes: [a, b, d]")
    hashes.add(data_hash(open_data(second)))
    (second / "dataset.yaml").write_text(CLASSES + "bands: [r, g, b]")
    hashes.add(data_hash(open_data(second)))
    put_tile(first, "val", "s10_patch_0", seed=77)
    hashes.add(data_hash(open_data(first)))
    (first / "img_dir/train/s00_patch_0.png").rename(first / "img_dir/train/new.png")
    (first / "ann_dir/train/s00_patch_0.png").rename(first / "ann_dir/train/new.png")
    hashes.add(data_hash(open_data(first)))
    for kind in ("img_dir", "ann_dir"):  # the last of train becomes the first of val
        (first / kind / "train/s02_patch_2.png").rename(first / kind / "val/s02_patch_2.png")
    hashes.add(data_hash(open_data(first)))
    assert len(hashes) == 6


def test_tiles(tmp_path):
    data = open_data(put_set(tmp_path))
    pairs = data.pairs("train")
    tiles = Tiles(data, pairs)
    item = tiles[1]
    image, mask = data.read(pairs[1])
    assert len(tiles) == 3
    assert (item["image"].dtype, item["mask"].dtype, item["index"]) == (torch.float32, torch.int64, 1)
    assert item["image"].is_contiguous()
    torch.testing.assert_close(item["image"] * 255, torch.from_numpy(image).permute(2, 0, 1).float())
    torch.testing.assert_close(item["mask"], torch.from_numpy(mask).long())


def test_tiles_randomness_is_keyed_by_seed_epoch_and_index(tmp_path):
    data = open_data(put_set(tmp_path))
    augment = Augment(vflip=0.5, rot90=True, crop=8, photometric=True)
    keys = [(epoch, index) for epoch in range(4) for index in range(3)]

    def all_of(order, seed=3, cache=False):
        tiles = Tiles(data, data.pairs("train"), augment, seed=seed, cache=cache)
        return {key: tiles[key] for key in order}

    first = all_of(keys)
    for other in (all_of(keys[::-1]), all_of(keys[::-1], cache=True)):
        for key in keys:
            assert torch.equal(first[key]["image"], other[key]["image"])
            assert torch.equal(first[key]["mask"], other[key]["mask"])
    assert sum(torch.equal(first[key]["image"], all_of([key], seed=4)[key]["image"]) for key in keys) <= 1
    assert len({first[(epoch, 0)]["image"].sum().item() for epoch in range(4)}) > 1


def test_tiles_cache_holds_what_was_read(tmp_path):
    data = open_data(put_set(tmp_path))
    tiles = Tiles(data, data.pairs("train"), Augment(hflip=1.0, photometric=True), cache=True)
    plain = tiles[0]["image"].clone()
    augmented = tiles[(0, 0)]["image"]
    augmented.zero_()
    shutil.rmtree(tmp_path / "img_dir")
    assert torch.equal(tiles[0]["image"], plain)  # an int: no augmentation, and nothing was changed in place


def test_tiles_in_worker_processes_are_the_same(tmp_path):
    data = open_data(put_set(tmp_path))
    tiles = Tiles(data, data.pairs("train"), Augment(photometric=True), seed=5)
    keys = [(2, 0), (2, 2), (2, 1)]
    loader = torch.utils.data.DataLoader(tiles, batch_size=3, sampler=keys, num_workers=2)
    batch = next(iter(loader))
    assert batch["image"].shape == (3, 3, 12, 16)
    assert batch["index"].tolist() == [0, 2, 1]
    torch.testing.assert_close(batch["image"], torch.stack([tiles[key]["image"] for key in keys]))


def test_listing_and_checking_need_no_torch():
    code = (
        "import sys, ktda.cli.data, ktda.data.folder, ktda.data.check, ktda.data.fetch\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_refuses_folders_before_it_imports_torch(tmp_path):
    put_set(tmp_path / "other", splits={"training": 1, "validation": 1})
    (tmp_path / "flat/img_dir").mkdir(parents=True)
    (tmp_path / "flat/ann_dir").mkdir()
    code = """
import sys
from ktda.cli.main import app
from ktda.errors import InputError
for data in sys.argv[1:]:
    try:
        app(["train", data], standalone_mode=False)
    except InputError as error:
        print(error)
sys.exit("torch" in sys.modules)
"""
    paths = [str(tmp_path / name) for name in ("other", "flat", "missing")]
    ended = subprocess.run([sys.executable, "-c", code, *paths], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    first, second, third = ended.stdout.splitlines()
    assert "img_dir has training, validation; training needs train, and val or test" in first
    assert "img_dir has 0 files and no folders; training needs" in second
    assert "is neither a folder nor a built-in data set" in third


@needs_sample
def test_the_real_sample(monkeypatch):
    monkeypatch.setenv("KTDA_SHARED", str(SHARED))
    data = open_data("l8_biome_sample")
    assert {split: len(data.pairs(split)) for split in data.splits()} == {"train": 23, "val": 8, "test": 5}
    assert data.classes == builtin.built_in_spec("l8_biome_sample")["classes"]
    assert data.scene_of(data.pairs("train")[0].stem) == "Barren_00"
    item = Tiles(data, data.pairs("test"))[0]
    assert item["image"].shape == (3, 256, 256)
    assert set(item["mask"].unique().tolist()) <= {0, 1, 2, 3}


@needs_dubai
def test_the_real_aerial_images_in_folders_of_the_users_own(tmp_path):
    source = SHARED / "data/dubai_aerial"
    for image in sorted((source / "images").glob("tile[18]_*_00[12].jpg")):
        split = "val" if image.name.startswith("tile8") else "train"
        for kind, path in (("img_dir", image), ("ann_dir", source / "masks" / f"{image.stem}.png")):
            target = tmp_path / kind / split / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    shutil.copyfile(source / "dataset.yaml", tmp_path / "dataset.yaml")
    data = open_data(tmp_path)
    assert data.classes == ("building", "land", "road", "vegetation", "water")
    assert {data.scene_of(pair.stem) for pair in data.pairs("train")} == {"tile1"}
    image, mask = data.read(data.pairs("val")[0])
    assert image.shape[:2] == mask.shape
    cropped = Tiles(data, data.pairs("train"), Augment(crop=256))
    assert cropped[(0, 0)]["image"].shape == (3, 256, 256)
