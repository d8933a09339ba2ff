"""``ktda data check`` and the rest of the ``data`` commands: findings, exit codes, and strange files."""

import re
import shutil
import sys
import types

import numpy as np
import pytest
from PIL import Image
from tiny_sets import CLASSES, SHARED, needs_sample, put_image, put_mask, put_set, put_tile
from typer.main import get_command
from typer.testing import CliRunner

from ktda.cli.data import app
from ktda.data.check import check
from ktda.errors import InputError

SCENES = CLASSES + "scene: '^(.+)_patch_'\n"


@pytest.fixture(autouse=True)
def own_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("KTDA_DATA", str(tmp_path / "data_root"))
    monkeypatch.setenv("KTDA_SHARED", str(tmp_path / "nothing"))
    return tmp_path / "data_root"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_good_set_has_no_findings_and_right_counts(tmp_path):
    root = put_set(tmp_path / "good", spec=SCENES, splits={"train": 2, "val": 1})
    put_mask(root / "ann_dir/val/s10_patch_0.png", np.r_[np.zeros(96), np.ones(60), np.full(24, 2), np.full(12, 255)]
             .reshape(12, 16))  # fmt: skip
    result = check(root)
    assert (result.errors, result.warnings) == ([], [])
    val = result.splits["val"]
    assert (val.scenes, dict(val.sizes)) == (1, {(16, 12): 1})
    assert val.pixels.tolist() == [96, 60, 24]
    assert val.ignored == 12
    np.testing.assert_allclose(val.shares, [96 / 180, 60 / 180, 24 / 180])

    shown = run("check", root)
    assert shown.exit_code == 0
    assert re.search(r"val +1 +1 +16x12 +53\.3 % +33\.3 % +13\.3 % +6\.2 %", shown.output)
    assert "0 errors, 0 warnings" in shown.output


def one_error(result, *parts: str) -> None:
    found = [error for error in result.errors if all(part in error for part in parts)]
    assert len(found) == 1, (parts, result.errors)


def test_every_kind_of_error_is_found_in_one_go(tmp_path):
    root = put_set(tmp_path, spec=SCENES, splits={"train": 9, "val": 2, "empty": 1})
    image, mask = root / "img_dir/train", root / "ann_dir/train"
    (mask / "s00_patch_0.png").unlink()
    (image / "s01_patch_1.png").unlink()
    put_image(image / "s02_patch_2.png", size=(20, 12))
    put_mask(mask / "s03_patch_3.png", np.pad(np.diag(np.r_[np.full(8, 7), np.full(4, 9)]), ((0, 0), (0, 4))))
    whole = (image / "s04_patch_4.png").read_bytes()
    (image / "s04_patch_4.png").write_bytes(whole[: len(whole) // 2])
    (mask / "s05_patch_5.png").write_bytes(b"")
    Image.new("RGB", (16, 12), (1, 2, 3)).save(mask / "s06_patch_6.png")
    (image / "s07_patch_7.png").write_bytes(b"GIF89a not at all")
    (image / "readme.txt").write_text("x")
    (image / ".DS_Store").touch()
    put_tile(root, "val", "odd_name", seed=50)
    put_tile(root, "val", "s08_patch_9", seed=51)
    (root / "img_dir/val/copy_patch_0.png").write_bytes((image / "s08_patch_8.png").read_bytes())
    put_mask(root / "ann_dir/val/copy_patch_0.png", np.zeros((12, 16)))
    for kind in ("img_dir", "ann_dir"):
        for path in (root / kind / "empty").iterdir():
            path.unlink()
    put_image(root / "img_dir/maskless/u_patch_0.png", seed=60)
    put_mask(root / "ann_dir/imageless/u_patch_0.png", np.zeros((12, 16)))

    result = check(root)
    one_error(result, "s00_patch_0 of train needs one image and one mask, has img_dir/train/s00_patch_0.png")
    one_error(result, "s01_patch_1 of train needs one image and one mask, has ann_dir/train/s01_patch_1.png")
    one_error(result, "img_dir/train/s02_patch_2.png", "20x12", "16x12")
    one_error(result, "ann_dir/train/s03_patch_3.png", "labels 7, 9 are neither a class (0 to 2)")
    one_error(result, "img_dir/train/s04_patch_4.png: cannot be read")
    one_error(result, "ann_dir/train/s05_patch_5.png: cannot be read")
    one_error(result, "ann_dir/train/s06_patch_6.png: mask is RGB", "decodes it by palette")
    one_error(result, "img_dir/train/s07_patch_7.png: cannot be read")
    one_error(result, "does not fit the file name 'odd_name'")
    one_error(result, "the same scene is in train/s08_patch_8 and val/s08_patch_9: what is trained on is scored")
    one_error(result, "the same image is in train/s08_patch_8 and val/copy_patch_0")
    one_error(result, "empty: no pixel has a class")
    one_error(result, "ann_dir/imageless has no img_dir/imageless")
    assert len(result.errors) == 13, result.errors
    assert "img_dir/train: left out 1 .txt" in result.warnings
    assert any("img_dir/maskless has no ann_dir/maskless" in warning for warning in result.warnings)
    assert result.splits["train"].sizes == {(16, 12): 1}

    shown = run("check", root)
    assert shown.exit_code == 1
    assert shown.output.count("error: ") == 13
    assert "13 errors" in shown.output


def test_warnings_do_not_fail(tmp_path):
    root = put_set(tmp_path, splits={"train": 2, "val": 1})
    put_tile(root, "train", "large", seed=9, size=(20, 20))
    put_tile(root, "val", "s00_patch_0", seed=70, classes=2)  # a name of train's: without a pattern no scene
    result = check(root)
    assert result.errors == []
    assert [warning.split(":")[0] for warning in result.warnings] == ["no scene pattern", "train"]
    assert "2 sizes, 16 to 20 wide, 12 to 20 high; set crop, to at most 12" in result.warnings[1]
    shown = run("check", root)
    assert shown.exit_code == 0
    assert re.search(r"train +3 +- +2 sizes ", shown.output)


def test_what_training_cannot_use_fails_the_check(tmp_path):
    root = put_set(tmp_path, splits={"training": 1, "validation": 1})
    one_error(check(root), "img_dir has training, validation; training needs train, and val or test")
    assert run("check", root).exit_code == 1
    put_set(root, splits={"train": 1, "dev": 1})
    one_error(check(root), "ann_dir has dev, train, training, validation")
    put_set(root, splits={"train": 1, "val": 1})
    (root / "img_dir/val/s10_patch_0.png").rename(root / "img_dir/val/s10_patch_0.bmp")
    one_error(check(root), "img_dir/val holds 1 .bmp; expected .png, .jpg")
    for kind in ("img_dir", "ann_dir"):
        shutil.rmtree(root / kind)
        (root / kind).mkdir()
    one_error(check(root), "ann_dir has 0 files and no folders")


def test_folders_come_before_classes_that_nobody_named(tmp_path):
    for kind in ("img_dir", "ann_dir"):
        (tmp_path / kind / "training").mkdir(parents=True)
    put_image(tmp_path / "img_dir" / "training" / "a.png")
    Image.new("L", (8, 8)).save(tmp_path / "ann_dir" / "training" / "a.png")
    with pytest.raises(InputError, match="img_dir has training; training needs train"):
        check(tmp_path)


def test_the_same_fault_of_many_files_is_said_once(tmp_path):
    root = put_set(tmp_path, splits={"train": 4, "val": 1})
    for path in (root / "ann_dir/train").iterdir():
        put_image(path)
    one_error(check(root), "ann_dir/train/s00_patch_0.png (and 3 more files): mask is RGB")


def test_masks_of_0_and_255_do_not_pass_as_one_class(tmp_path):
    root = put_set(tmp_path, spec="classes: [a, b]\n", splits={"train": 1, "val": 1})
    for path in (root / "ann_dir").glob("*/*"):
        put_mask(path, 255 * np.eye(12, 16))
    one_error(check(root), "train holds one class only, a, and 6.2% of train is ignored", "value_map")
    (root / "dataset.yaml").write_text("classes: [a, b]\nvalue_map: {255: 1}\n")
    assert check(root).errors == []  # the map comes first: what is 255 in the file is class 1


def test_what_wants_a_look_is_said(tmp_path):
    root = put_set(tmp_path, spec=SCENES, splits={"train": 1, "val": 1})
    mask = np.where(np.arange(192).reshape(12, 16) < 64, 255, np.arange(16) % 2)
    put_mask(root / "ann_dir/train/s00_patch_0.png", mask)
    put_tile(root, "val", "big_patch_0", seed=5, size=(1024, 1024))
    result = check(root)
    assert result.errors == []
    assert result.warnings == [
        "train: no pixel is c: nothing can be learned of it",
        "33.3% of train is ignored: 255 is the ignore index; if it is a class, use value_map",
        "val: an image of 1024x1024 is scored whole: memory and time of 4 tiles of 512x512",
    ]


def test_a_turn_in_exif_is_said(tmp_path):
    root = put_set(tmp_path / "set", spec=SCENES, splits={"train": 3, "val": 1})
    exif = Image.Exif()
    exif[0x0112] = 1  # as it lies
    image, first, second = sorted((root / "img_dir/train").iterdir())
    Image.open(image).save(image, exif=exif)
    exif[0x0112] = 6  # a quarter turn
    Image.open(first).save(first, exif=exif)
    Image.open(second).convert("RGB").save(second.with_suffix(".jpg"), exif=exif)
    second.unlink()
    (said,) = check(root).warnings
    assert said.startswith(f"train: EXIF orientation in {first.name} and 1 more: masks must lie on the pixels as")


def test_images_without_masks_are_counted_and_read(tmp_path):
    root = put_set(tmp_path, spec=SCENES, splits={"train": 1, "val": 1})
    for number in range(3):
        put_image(root / f"img_dir/unlabelled/{number}.png", seed=number)
    result = check(root)
    assert (result.unlabelled, result.errors, result.warnings) == (3, [], [])
    assert "3 images without masks" in run("check", root).output
    Image.new("L", (9, 9)).save(root / "img_dir/unlabelled/1.png")
    one_error(check(root), "img_dir/unlabelled/1.png: holds 1 band of uint8 (grey), expected 8-bit RGB")


def test_images_of_one_colour_are_not_taken_for_copies(tmp_path):
    root = put_set(tmp_path, splits={"train": 1, "val": 1})
    for split, stem in (("train", "s00_patch_0"), ("val", "s10_patch_0")):
        Image.new("RGB", (16, 12)).save(root / f"img_dir/{split}/{stem}.png")
    assert check(root).errors == []


def test_a_set_without_any_class_pixel_is_an_error(tmp_path):
    root = put_set(tmp_path, splits={"train": 1, "val": 1})
    put_mask(root / "ann_dir/val/s10_patch_0.png", np.full((12, 16), 255))
    one_error(check(root), "val: no pixel has a class")


def test_a_users_mistake_is_an_input_error(tmp_path):
    for arguments in (("check", tmp_path / "missing"), ("check", "cloud"), ("make", "demo_moon"), ("fetch", "moon")):
        result = run(*arguments)
        assert isinstance(result.exception, InputError), arguments
        assert "\n" not in str(result.exception)
    put_set(tmp_path / "bad", spec="class: [a]")
    assert "dataset.yaml: unknown key 'class'" in str(run("check", tmp_path / "bad").exception)
    assert isinstance(run("make", "demo_cloud", "--world", "moon", "--out", tmp_path / "moon").exception, InputError)


def test_list_shows_what_is_there_and_how_to_get_the_rest(own_data_root):
    put_set(own_data_root / "cloud")
    put_set(own_data_root / "demo_grass", spec="colour: 3")
    lines = run("list").output.splitlines()
    row = {line.split()[0]: line for line in lines if line}
    assert "920 train, 231 val" in row["grass"]
    assert "ktda data fetch grass" in row["grass"]
    assert "3 train, 2 val" in row["cloud"]
    assert str(own_data_root / "cloud") in row["cloud"]
    assert "broken:" in row["demo_grass"]
    assert "made on first use" in row["demo_cloud"]
    assert str(own_data_root / "l8_biome_sample") in row["l8_biome_sample"]
    assert not (own_data_root / "demo_cloud").exists()


def test_make_passes_what_was_asked_and_keeps_the_plain_name_for_the_default(tmp_path, own_data_root, monkeypatch):
    calls = []

    def make_world(name, out, **settings):
        calls.append((name, settings))
        return put_set(out)

    monkeypatch.setitem(sys.modules, "ktda_lab.worlds", types.SimpleNamespace(make_world=make_world))
    assert run("make", "demo_cloud").exit_code == 0
    assert calls == [("demo_cloud", {})]  # the defaults, as on first use
    again = run("make", "demo_cloud")
    assert (again.exit_code, len(calls)) == (0, 1)  # it is there: nothing is made twice
    assert "demo_cloud: 3 train, 2 val tiles" in again.output
    settings = ("--world", "source", "--tiles", 9, "--size", 64, "--seed", 3)
    assert "say --out FOLDER" in str(run("make", "demo_grass", *settings).exception)
    asked = run("make", "demo_grass", *settings, "--out", tmp_path / "source")
    assert calls[1] == ("demo_grass", {"world": "source", "tiles": 9, "size": 64, "seed": 3})
    assert "demo_grass (source): 3 train, 2 val tiles" in asked.output
    assert run("make", "demo_grass", "--out", tmp_path / "mine").exit_code == 0
    assert {path.name for path in own_data_root.iterdir()} - {".demo_cloud.lock"} == {"demo_cloud"}
    assert (tmp_path / "mine/img_dir/train").is_dir()


def test_make_takes_no_occupied_place(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    assert "mine exists and is not empty" in str(run("make", "demo_cloud", "--out", tmp_path / "mine").exception)


def test_every_option_has_help():
    commands = get_command(app).commands
    assert sorted(commands) == ["check", "fetch", "import", "list", "make"]
    for command in commands.values():
        assert command.help
        assert all(parameter.help for parameter in command.params if parameter.name != "help")


@needs_sample
def test_the_real_sample_is_clean(monkeypatch):
    monkeypatch.setenv("KTDA_SHARED", str(SHARED))
    result = check("l8_biome_sample")
    assert (result.errors, result.warnings) == ([], [])
    np.testing.assert_allclose(100 * result.splits["test"].shares, [67.4, 7.9, 8.4, 16.3], atol=0.06)
    assert result.splits["train"].scenes == 23
