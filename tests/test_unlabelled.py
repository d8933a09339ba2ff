"""Images without masks: which are found, how they are cut, and that they reach the distillation alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import make_set, manifest_of, tiny, train_until
from tiny_sets import put_image

from ktda.data import unlabelled
from ktda.data.check import check
from ktda.data.folder import TileSet, open_data
from ktda.data.unlabelled import Unlabelled, find_images, folder_images, smallest_tile
from ktda.errors import InputError
from ktda.training import train

pytestmark = pytest.mark.usefixtures("quiet")


def test_folders_lists_and_files(tmp_path: Path) -> None:
    names = ["a/one.png", "a/deep/two.TIF", "b/three.jpg", "four.tif"]
    one, two, three, four = (tmp_path / name for name in names)
    for path in (one, two, three, four, tmp_path / "a/.hidden.png"):
        put_image(path)
    (tmp_path / "a/notes.txt").write_text("no image")
    (tmp_path / "list.txt").write_text("b/three.jpg\n\na/one.png\n")
    assert find_images([str(tmp_path / "a")]) == sorted([one, two])
    assert find_images([str(tmp_path / "list.txt"), str(four), str(one)]) == sorted([one, three, four])
    assert find_images([]) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere is no image to learn from; expected an image"),
        ("empty", "empty holds no images; expected .png"),
        ("list.txt", "gone.png is no image to learn from"),
        ("table.csv", "table.csv is no image to learn from"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("gone.png")
    (tmp_path / "table.csv").write_text("")
    with pytest.raises(InputError, match=message):
        find_images([str(tmp_path / source)])


def test_large_images_are_cut_at_random_by_key(tiny_set: Path, tmp_path: Path) -> None:
    # every pixel says where it is: red the row, green the column
    pixels = np.stack([*np.mgrid[:70, :100], np.zeros((70, 100))], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    put_image(tmp_path / "tile.png", size=(32, 30))
    images = find_images([str(tmp_path)])
    cuts = Unlabelled(open_data(tiny_set), images, (30, 32), seed=3)
    assert len(cuts) == 2 * 3 + 1  # 70 // 30 times 100 // 32 places, and the tile
    places = set()
    for turn in range(20):
        for place in range(6):
            cut = cuts.read(turn, place)
            assert cut.shape == (3, 30, 32)
            top, left = cut[0, 0, 0].item(), cut[1, 0, 0].item()
            assert torch.equal(cut, torch.from_numpy(pixels[top : top + 30, left : left + 32]).permute(2, 0, 1))
            places.add((top, left))
            assert torch.equal(cut, cuts.read(turn, place))
    assert len(places) > 100
    tops, lefts = zip(*places, strict=True)
    assert (min(tops), max(tops)) == (0, 40)  # down to the last row
    assert min(lefts) < 5
    assert max(lefts) > 63
    again = Unlabelled(open_data(tiny_set), images, (30, 32), seed=4)
    assert not all(torch.equal(again.read(0, place), cuts.read(0, place)) for place in range(6))


def test_a_window_of_a_large_file_holds_the_same_pixels(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rasterio")
    put_image(tmp_path / "large.tif", 4, (90, 80))
    cuts = Unlabelled(open_data(tiny_set), [tmp_path / "large.tif"], (32, 40))
    whole = [cuts.read(turn, 1) for turn in range(5)]
    monkeypatch.setattr(unlabelled, "CACHED_BYTES", 0)
    monkeypatch.setattr(TileSet, "read_image", None)  # the file is not decoded as a whole
    assert all(torch.equal(cuts.read(turn, 1), whole[turn]) for turn in range(5))


def test_images_that_do_not_fit_are_named_before_training(tiny_set: Path, tmp_path: Path) -> None:
    put_image(tmp_path / "small.png", size=(30, 50))
    with pytest.raises(InputError, match=r"small.png: 30x50 pixels; it is smaller than a tile of 32x32; set a"):
        Unlabelled(open_data(tiny_set), [tmp_path / "small.png"], (32, 32))
    Image.new("L", (50, 50)).save(tmp_path / "grey.png")
    with pytest.raises(InputError, match=r"grey.png: holds 1 band of uint8 \(grey\), expected 8-bit RGB"):
        Unlabelled(open_data(tiny_set), [tmp_path / "grey.png"], (32, 32))


@pytest.mark.parametrize("crop", [0, 32])
def test_they_reach_the_distillation_alone(tmp_path: Path, seen: list, crop: int) -> None:
    data = make_set(tmp_path / "set")
    put_image(data / "img_dir/unlabelled/a.png", 1, (90, 45))
    put_image(tmp_path / "more/b.png", 2, (41, 70))
    config = tiny(steps=3, tiles=4, unlabelled=3, crop=crop, photometric=False)
    out = tmp_path / "run"
    train_until(2, data, config, out, unlabelled=[str(tmp_path / "more")])
    side = crop or 40
    for images, masks in seen:
        assert images.shape == (5, 3, side, side)
        assert (masks[:2] < 3).all()
        assert (masks[2:] == 255).all()
    found = manifest_of(out)["unlabelled"]
    assert (found["sources"], found["images"]) == ([str(tmp_path / "more")], 2)
    assert found["tiles"] == 2 + (2 if crop else 1)
    put_image(tmp_path / "more/b.png", 3, (41, 70))  # the same name, other pixels
    with pytest.raises(InputError, match="was started with other unlabelled images; resume with the same"):
        train(str(data), config, out, resume=True)
    put_image(tmp_path / "more/b.png", 2, (41, 70))
    train(str(data), config, out, resume=True)
    assert manifest_of(out)["unlabelled"] == found


def test_they_must_be_asked_for(tiny_set: Path, tmp_path: Path) -> None:
    put_image(tmp_path / "more/b.png", 2, (41, 70))
    with pytest.raises(InputError, match="unlabelled=0 tiles a batch; set unlabelled"):
        train(str(tiny_set), tiny(), tmp_path / "run", unlabelled=[str(tmp_path / "more")])
    with pytest.raises(InputError, match=r"unlabelled=4, but 2 training tiles are left out; .* by --unlabelled"):
        train(str(tiny_set), tiny(unlabelled=4, tiles=4), tmp_path / "run")


def test_check_reads_them(tiny_set: Path, tmp_path: Path) -> None:
    data = shutil.copytree(tiny_set, tmp_path / "set")
    put_image(data / "img_dir/unlabelled/a.png")
    assert check(data).unlabelled == 1
    assert not any("unlabelled" in line for line in check(data).errors + check(data).warnings)
    (data / "img_dir/unlabelled/b.png").write_bytes(b"no image")
    assert any("b.png" in error for error in check(data).errors)
    tile_set = open_data(data)
    assert [path.name for path in folder_images(tile_set)] == ["a.png", "b.png"]
    assert smallest_tile(tile_set, tile_set.pairs("train")) == (40, 40)
