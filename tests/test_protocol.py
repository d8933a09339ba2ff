"""Which tiles a run trains on, selects on and reports."""

from pathlib import Path

import numpy as np
import pytest
from tiny_sets import put_image, put_mask

from ktda.data.folder import TileSet
from ktda.data.protocol import choose_splits
from ktda.errors import InputError

SCENES, PER_SCENE = 10, 3


def make_names(root: Path, splits: dict[str, int], scene: str | None = "^(.+)_patch_") -> TileSet:
    """A set of empty files: choosing tiles reads names only."""
    for split, tiles in splits.items():
        for part in ("img_dir", "ann_dir"):
            (root / part / split).mkdir(parents=True)
            for tile in range(tiles):
                (root / part / split / f"{split}{tile // PER_SCENE}_patch_{tile}.png").touch()
    return TileSet("names", root, ("a", "b"), ((0, 0, 0), (1, 1, 1)), scene=scene)


@pytest.fixture
def grass_like(tmp_path: Path) -> TileSet:
    """Train and val, as the released grass set."""
    return make_names(tmp_path, {"train": SCENES * PER_SCENE, "val": 4})


@pytest.fixture
def cloud_like(tmp_path: Path) -> TileSet:
    """Train, val and test, as the released cloud set."""
    return make_names(tmp_path, {"train": SCENES * PER_SCENE, "val": 4, "test": 5})


def stems(pairs: list) -> list[str]:
    return [pair.stem for pair in pairs]


def test_honest_with_val_and_test_selects_on_val(cloud_like: TileSet) -> None:
    splits = choose_splits(cloud_like, "honest")
    assert (splits.select_name, splits.report_name) == ("val", "test")
    assert stems(splits.train) == stems(cloud_like.pairs("train"))
    assert stems(splits.select) == stems(cloud_like.pairs("val"))
    assert stems(splits.report) == stems(cloud_like.pairs("test"))


def test_paper_selects_on_what_it_reports(cloud_like: TileSet) -> None:
    splits = choose_splits(cloud_like, "paper")
    assert (splits.select_name, splits.report_name) == ("test", "test")
    assert splits.select == splits.report == cloud_like.pairs("test")
    assert splits.train == cloud_like.pairs("train")


def test_paper_on_train_and_val_reports_val(grass_like: TileSet) -> None:
    splits = choose_splits(grass_like, "paper")
    assert (splits.select_name, splits.report_name) == ("val", "val")
    assert splits.select == splits.report == grass_like.pairs("val")
    assert splits.train == grass_like.pairs("train")


@pytest.mark.parametrize("reported", ["val", "test"])
def test_honest_with_one_other_split_holds_out_whole_scenes(tmp_path: Path, reported: str) -> None:
    tile_set = make_names(tmp_path, {"train": SCENES * PER_SCENE, reported: 4})
    splits = choose_splits(tile_set, "honest", holdout=0.2)
    assert (splits.select_name, splits.report_name) == ("held out of train", reported)
    assert splits.report == tile_set.pairs(reported)
    assert sorted(splits.train + splits.select) == tile_set.pairs("train")
    held, kept = ({tile_set.scene_of(p.stem) for p in part} for part in (splits.select, splits.train))
    assert not held & kept
    assert len(splits.select) == 6  # two of ten scenes, a fifth of the tiles


def test_the_held_out_scenes_are_the_same_for_every_seed_and_subset(grass_like: TileSet) -> None:
    first = choose_splits(grass_like, holdout=0.3, seed=0)
    for other in (
        choose_splits(grass_like, holdout=0.3, seed=1),
        choose_splits(grass_like, holdout=0.3, seed=1, tiles=5, scenes=4),
    ):
        assert other.select == first.select
        assert not set(other.train) & set(first.select)
    assert len(choose_splits(grass_like, holdout=0.5).select) > len(first.select)
    assert set(choose_splits(grass_like, holdout=0.5).select) > set(first.select)  # more of the same order


def test_some_scene_stays_to_train_on(tmp_path: Path) -> None:
    tile_set = make_names(tmp_path, {"train": 2 * PER_SCENE, "val": 1})
    splits = choose_splits(tile_set, holdout=0.9)
    assert len(splits.train) == len(splits.select) == PER_SCENE


def test_without_a_scene_pattern_single_tiles_are_held_out(tmp_path: Path) -> None:
    tile_set = make_names(tmp_path, {"train": 20, "val": 1}, scene=None)
    assert len(choose_splits(tile_set, holdout=0.2).select) == 4


def test_subset_of_tiles_is_drawn_by_the_seed(cloud_like: TileSet) -> None:
    def draw(seed: int, tiles: int = 6) -> list[str]:
        return stems(choose_splits(cloud_like, tiles=tiles, seed=seed).train)

    assert draw(0) == draw(0)
    assert draw(0) == sorted(draw(0))
    assert len(draw(0)) == 6
    assert len({tuple(draw(seed)) for seed in range(5)}) == 5
    assert set(draw(0, 12)) > set(draw(0, 6))  # a learning curve adds tiles
    assert choose_splits(cloud_like, tiles=6).report == cloud_like.pairs("test")


def test_subset_of_scenes_takes_whole_scenes_drawn_by_the_seed(cloud_like: TileSet) -> None:
    def draw(seed: int) -> set[str]:
        train = choose_splits(cloud_like, scenes=3, seed=seed).train
        assert len(train) == 3 * PER_SCENE
        return {cloud_like.scene_of(p.stem) for p in train}

    assert draw(0) == draw(0)
    assert len(draw(0)) == 3
    assert len({frozenset(draw(seed)) for seed in range(5)}) > 1


def test_tiles_are_drawn_from_the_chosen_scenes(cloud_like: TileSet) -> None:
    both = choose_splits(cloud_like, scenes=2, tiles=4, seed=3).train
    chosen = choose_splits(cloud_like, scenes=2, seed=3).train
    assert len(both) == 4
    assert set(both) < set(chosen)


@pytest.mark.parametrize(
    ("splits", "settings", "message"),
    [
        ({"train": 6}, {}, "has the splits train; training needs train and val or test"),
        ({"val": 6}, {}, "has the splits val; training needs train and val or test"),
        ({"train": 6, "val": 2}, {"tiles": 7, "protocol": "paper"}, "tiles=7, but names has 6 to train on"),
        ({"train": 6, "val": 2}, {"scenes": 3, "protocol": "paper"}, "scenes=3, but names has 2 training scenes"),
        ({"train": 3, "val": 2}, {}, "1 training scenes: none can be held out; add a val split"),
        ({"train": 0, "val": 2}, {}, "0 training scenes"),
        ({"train": 6, "val": 2, "test": 0}, {}, "split test of .* holds no tiles"),
        ({"train": 6, "val": 0, "test": 2}, {}, "split val of .* holds no tiles"),
    ],
)
def test_what_does_not_suffice_is_one_line(tmp_path: Path, splits: dict, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        choose_splits(make_names(tmp_path, splits), **settings)
    assert "\n" not in str(caught.value)


def test_what_is_left_out_is_unlabelled(cloud_like: TileSet) -> None:
    splits = choose_splits(cloud_like, scenes=4, tiles=7, seed=1)
    assert len(splits.train) == 7
    assert sorted(stems(splits.train + splits.unlabelled)) == stems(cloud_like.pairs("train"))
    assert choose_splits(cloud_like).unlabelled == []


def test_a_draw_with_every_class_in_enough_tiles(tmp_path: Path) -> None:
    root = tmp_path / "rare"
    for tile in range(30):  # class 1 in 6 tiles, all of three scenes of ten
        mask = np.zeros((4, 4), np.uint8)
        mask[0, 0] = tile < 9 and tile % 3 != 2
        stem = f"train{tile // 3}_patch_{tile}"
        put_image(root / "img_dir/train" / f"{stem}.png", tile, (4, 4))
        put_mask(root / "ann_dir/train" / f"{stem}.png", mask)
    put_image(root / "img_dir/val/a.png", 0, (4, 4))
    put_mask(root / "ann_dir/val/a.png", np.zeros((4, 4), np.uint8))
    rare = TileSet("rare", root, ("a", "b"), ((0, 0, 0), (1, 1, 1)), scene="^(.+)_patch_")

    def draw(seed: int, class_tiles: int) -> list:
        return choose_splits(rare, "paper", scenes=4, tiles=9, seed=seed, class_tiles=class_tiles).train

    for seed in range(5):
        chosen = draw(seed, 3)
        assert sum(bool(rare.read(pair)[1].any()) for pair in chosen) >= 3
        assert chosen == draw(seed, 3)
        assert draw(seed, 1) == draw(seed, 0) or not any(rare.read(pair)[1].any() for pair in draw(seed, 0))
    with pytest.raises(InputError, match="no 500 draws of 9 tiles of rare have every class in 7 of them; lower"):
        draw(0, 7)
