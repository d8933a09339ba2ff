"""Simulated worlds: layout, determinism, causes of the labels, and no class told by a slip of the renderer."""

import hashlib
import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ktda.errors import InputError
from ktda_lab.worlds import clouds, grass, make_world, render_scene, render_views, terrain_seed
from ktda_lab.worlds.conditions import RANGES, draw_conditions
from ktda_lab.worlds.fields import _double, blur, fractal, lines, rng_of, sample, streaks

NAMES = ("demo_grass", "demo_cloud")
REFERENCE = Path(__file__).parent / "reference" / "worlds.npz"
PALETTES = {  # of the paper's two data sets
    "demo_grass": [[185, 101, 71], [248, 202, 155], [211, 232, 158], [138, 191, 104], [92, 144, 77]],
    "demo_cloud": [[79, 253, 199], [221, 53, 223], [251, 255, 41], [77, 2, 115]],
}


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        total.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return total.hexdigest()


def shares(mask: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(mask.ravel(), minlength=count) / mask.size


# ---- what is written


@pytest.mark.parametrize("name", NAMES)
def test_layout(name: str, tmp_path: Path) -> None:
    root = make_world(name, tmp_path / "set", tiles=20, size=32)
    spec = yaml.safe_load((root / "dataset.yaml").read_text())
    assert spec["palette"] == PALETTES[name]
    assert len(spec["classes"]) == len(spec["palette"])
    assert spec["ignore_index"] == 255
    scenes = {}
    for split, count in {"train": 20, "val": 10, "test": 20}.items():
        images = sorted((root / "img_dir" / split).glob("*.png"))
        masks = sorted((root / "ann_dir" / split).glob("*.png"))
        assert [file.stem for file in images] == [file.stem for file in masks]
        assert len(images) == count
        order = [re.search(spec["scene"], file.stem).group(1) for file in images]
        scenes[split] = set(order)
        # Going round the scenes: the first files are all of other scenes.
        assert len(set(order[: len(scenes[split])])) == len(scenes[split])
        for image, mask in zip(images, masks, strict=True):
            with Image.open(image) as picture, Image.open(mask) as labels:
                assert (picture.mode, labels.mode) == ("RGB", "P")
                assert picture.size == labels.size == (32, 32)
                assert np.asarray(labels).max() < len(spec["classes"])
                assert labels.getpalette()[: 3 * len(spec["classes"])] == list(np.ravel(spec["palette"]))
    assert sum(map(len, scenes.values())) == len(set.union(*scenes.values()))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_tiles_are_windows_of_their_scene(tmp_path: Path) -> None:
    root = make_world("demo_cloud", tmp_path / "set", tiles=10, size=32, seed=3)
    for file in (root / "img_dir" / "train").glob("*.png"):
        index, row, column = map(int, re.fullmatch(r"\d+_s(\d+)_r(\d)_c(\d)", file.stem).groups())
        scene = render_scene("demo_cloud", "target", 3, index, 96)
        window = slice(32 * row, 32 * row + 32), slice(32 * column, 32 * column + 32)
        np.testing.assert_array_equal(np.asarray(Image.open(file)), scene.image[window])
        mask = np.asarray(Image.open(root / "ann_dir" / "train" / file.name))
        np.testing.assert_array_equal(mask, scene.mask[window])


def test_same_seed_gives_same_bytes(tmp_path: Path) -> None:
    first, again = (digest(make_world("demo_cloud", tmp_path / part, tiles=12, size=32)) for part in "ab")
    assert first == again
    others = [{"seed": 1}, {"world": "source"}]
    for number, other in enumerate(others):
        assert digest(make_world("demo_cloud", tmp_path / str(number), tiles=12, size=32, **other)) != first


def test_more_tiles_keep_the_test_scenes(tmp_path: Path) -> None:
    few, many = (make_world("demo_cloud", tmp_path / str(n), tiles=n, size=32) for n in (9, 27))
    scenes = [{file.stem.split("_")[1] for file in (root / "img_dir" / "test").iterdir()} for root in (few, many)]
    assert scenes[0] < scenes[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "demo_sea"}, "demo_sea.*demo_grass, demo_cloud"),
        ({"world": "moon"}, "moon.*source or target"),
        ({"tiles": 1}, "tiles=1.*at least 2"),
        ({"size": 8}, "size=8.*32 to 512"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        make_world(**{"name": "demo_cloud", "out": tmp_path / "set"} | arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        make_world("demo_cloud", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of ink")

    monkeypatch.setattr(clouds, "render", fail)
    with pytest.raises(RuntimeError, match="out of ink"):
        make_world("demo_cloud", tmp_path / "set", tiles=4, size=32)
    assert not list(tmp_path.iterdir())


# ---- source and target


def test_terrain_seeds_are_disjoint() -> None:
    source, target = (
        {terrain_seed(name, world, seed, scene) for name in NAMES for seed in range(5) for scene in range(2000)}
        for world in ("source", "target")
    )
    assert len(source) == len(target) == 20_000
    assert max(source) < 2**62 <= min(target)
    assert max(target) < 2**63


def test_target_is_a_thin_corner_of_the_source() -> None:
    corner = 1.0
    for (low, high), (first, last) in RANGES.values():
        assert low <= first < last <= high
        corner *= (last - first) / (high - low)
    assert corner < 0.01
    drawn = [draw_conditions(rng_of(i), "target") for i in range(50)]
    for name, (_, (low, high)) in RANGES.items():
        assert all(low <= getattr(conditions, name) <= high for conditions in drawn)


@pytest.mark.parametrize("name", NAMES)
def test_against_the_stored_tile(name: str) -> None:
    stored = np.load(REFERENCE)
    scene = render_scene(name, "target", 0, 3, 64)
    difference = np.abs(scene.image.astype(int) - stored[f"{name}_image"].astype(int))
    assert difference.max() <= 1
    assert (scene.mask != stored[f"{name}_mask"]).mean() <= 1e-4


# ---- causes


def test_cloud_shares() -> None:
    part = np.mean([shares(render_scene("demo_cloud", "target", 0, i, 256).mask, 4) for i in range(80)], axis=0)
    np.testing.assert_allclose(part, [0.45, 0.05, 0.17, 0.33], atol=0.06)
    assert 0.04 <= part[1] <= 0.06


def test_grass_shares() -> None:
    part = np.mean([shares(render_scene("demo_grass", "target", 0, i, 256).mask, 5) for i in range(60)], axis=0)
    np.testing.assert_allclose(part, [0.17, 0.18, 0.13, 0.10, 0.42], atol=0.05)


def test_shadow_lies_away_from_the_sun() -> None:
    hits = {1: 0, -1: 0}
    for index in range(30):
        scene = render_scene("demo_cloud", "target", 0, index, 256)
        y, x = scene.conditions.toward_sun
        shadow, cloudy = scene.mask == 1, scene.mask >= 2
        for side in hits:
            for step in range(8, 40, 4):
                moved = np.roll(cloudy, (round(-side * step * y), round(-side * step * x)), (0, 1))
                hits[side] += int((moved & shadow)[40:-40, 40:-40].sum())
    # Walking from a shadow toward the sun meets cloud more often than walking away from it.
    assert hits[1] > 1.5 * hits[-1]


def test_shadow_is_darker_and_cloud_brighter_than_clear() -> None:
    means = []
    for index in range(30):
        scene = render_scene("demo_cloud", "target", 0, index, 256)
        if shares(scene.mask, 4).min() > 0.02:
            means.append([scene.image[scene.mask == k].mean() for k in range(4)])
    clear, shadow, thin, cloud = np.mean(means, axis=0)
    assert len(means) > 5
    assert shadow < clear < thin < cloud


def test_sun_and_shade() -> None:
    east = replace(draw_conditions(rng_of(0), "target"), sun_azimuth=90.0, sun_elevation=45.0)
    np.testing.assert_allclose(east.toward_sun, (0.0, 1.0), atol=1e-12)
    rising = np.tile(np.arange(16.0), (16, 1))  # rises to the right: faces the left, away from this sun
    assert east.shade(rising).max() < 0.5 < 1.0 < east.shade(-rising).min()
    np.testing.assert_allclose(east.shade(np.zeros((8, 8))), 1.0)


def colour_gap(lower: np.ndarray, upper: np.ndarray) -> float:
    """Distance of two sets of colours (n, 3) in standard deviations, in the band where it is largest."""
    return float(np.max(np.abs(lower.mean(0) - upper.mean(0)) / (0.5 * (lower.std(0) + upper.std(0)))))


def test_adjacent_grass_levels_overlap_in_colour() -> None:
    within, everything = [], [[] for _ in range(5)]
    for index in range(16):
        scene = render_scene("demo_grass", "target", 0, index, 256)
        colours = [scene.image[scene.mask == level].astype(float) for level in range(5)]
        for level in range(5):
            everything[level].append(colours[level][::10])
        pairs = [pair for pair in itertools.pairwise(colours) if min(map(len, pair)) > 500]
        within += [colour_gap(*pair) for pair in pairs]
    pooled = [np.concatenate(parts) for parts in everything]
    across = [colour_gap(*pair) for pair in itertools.pairwise(pooled)]
    # Two normal distributions d apart overlap so that the best threshold errs in Phi(-d / 2) of the cases.
    assert np.median(within) < 2.0  # in one scene: at least 16 percent
    assert max(across) < 1.2  # over scenes: at least 27 percent


@pytest.mark.parametrize("name", NAMES)
def test_views_show_one_ground(name: str) -> None:
    for index in range(4):
        first, second = render_views(name, "source", 0, index, 128)
        np.testing.assert_array_equal(first, render_scene(name, "source", 0, index, 128).image)
        assert np.abs(first.mean((0, 1)) - second.mean((0, 1))).max() > 3

    # The same ground, not another: averaged over scenes, structure agrees, and noise does not.
    def likeness(one: int, other: int) -> float:
        first, second = render_views(name, "source", 0, one, 128)[0], render_views(name, "source", 0, other, 128)[1]
        return float(np.corrcoef(first.mean(-1).ravel(), second.mean(-1).ravel())[0, 1])

    assert np.mean([likeness(i, i) for i in range(8)]) > 0.3 + np.mean([likeness(i, i + 1) for i in range(8)])


def test_views_may_have_other_weather() -> None:
    same, other = (render_views("demo_cloud", "source", 0, 2, 64, same_weather=flag) for flag in (True, False))
    np.testing.assert_array_equal(same[0], other[0])
    assert (same[1] != other[1]).mean() > 0.5


# ---- no class can be told by a slip of the renderer


@pytest.mark.parametrize(("name", "module"), [("demo_grass", grass), ("demo_cloud", clouds)])
def test_noise_does_not_depend_on_the_class(name: str, module: object) -> None:
    """Two pictures of one scene that differ in the sensor noise only: the difference is alike in every class."""
    totals: dict[int, list] = {}
    for index in range(6):
        conditions = replace(
            draw_conditions(rng_of(index), "target"), haze=0.0, noise=2.5, exposure=0.7, warmth=0.0, tint=0.0
        )
        draws = [
            module.render(rng_of(index), rng_of(index, "w"), rng_of(index, part), conditions, 128) for part in "ab"
        ]
        np.testing.assert_array_equal(draws[0][1], draws[1][1])
        (one, mask), (two, _) = draws
        inside = ((one > 8) & (one < 247)).all(-1)
        for label in np.unique(mask):
            rest = (one.astype(float) - two)[(mask == label) & inside]
            totals.setdefault(int(label), []).append(rest)
    spread = [np.concatenate(parts).std() for parts in totals.values()]
    assert len(spread) == len(module.CLASSES)
    np.testing.assert_allclose(spread, 2.5 * np.sqrt(2), rtol=0.03)


def pixels(name: str, indices: range, key: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Some pixels per tile: colour, its square, the tile's mean and spread; and their labels."""
    rng, features, labels = rng_of("probe", key), [], []
    for index in indices:
        scene = render_scene(name, "target", 0, index, 128)
        colours = scene.image.reshape(-1, 3) / 255.0
        chosen = rng.integers(0, len(colours), 150)
        whole = np.tile(np.r_[colours.mean(0), colours.std(0)], (len(chosen), 1))
        features.append(np.c_[colours[chosen], colours[chosen] ** 2, whole])
        labels.append(scene.mask.ravel()[chosen])
    return torch.from_numpy(np.concatenate(features)), torch.from_numpy(np.concatenate(labels)).long()


def probe(train: tuple, test: tuple, columns: slice, count: int) -> float:
    """mIoU on `test` of a logistic regression on some columns of the features of `train`."""
    (seen, labels), (fresh, truth) = train, test
    mean, spread = seen[:, columns].mean(0), seen[:, columns].std(0)
    seen, fresh = ((part[:, columns] - mean) / spread for part in (seen, fresh))
    weight = torch.zeros(seen.shape[1], count, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=40)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(seen @ weight + bias, labels) + 1e-3 * weight.pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    guess = (fresh @ weight + bias).argmax(1)
    both = torch.bincount(truth * count + guess, minlength=count * count).view(count, count).double()
    return float((both.diag() / (both.sum(0) + both.sum(1) - both.diag())).mean())


@pytest.mark.parametrize(("name", "module"), [("demo_grass", grass), ("demo_cloud", clouds)])
def test_shuffled_pixels_and_tile_statistics_tell_little_more_than_colour(name: str, module: object) -> None:
    count = len(module.CLASSES)
    train, test = pixels(name, range(60), 0), pixels(name, range(20_000, 20_030), 1)
    colour = probe(train, test, slice(0, 6), count)
    statistics = probe(train, test, slice(6, 12), count)
    shuffled = probe(train, test, slice(0, 12), count)
    assert shuffled < colour + 0.08
    assert statistics < colour
    assert colour < 0.55  # colour alone does not solve the task


@pytest.mark.parametrize("name", NAMES)
def test_colour_varies_more_between_scenes_than_within(name: str) -> None:
    """The balance of the bands is the scene's; brightness is left out, since clouds and lakes change it."""
    balance = []
    for index in range(16):
        image = render_scene(name, "target", 0, index, 192).image.astype(float) + 1
        tiles = image.reshape(2, 96, 2, 96, 3).mean((1, 3)).reshape(4, 3)
        balance.append(np.log(tiles[:, :1] / tiles[:, 1:]))
    balance = np.array(balance)
    assert (balance.mean(1).std(0) > 2 * balance.std(1).mean(0)).all()


def test_no_wrap_around() -> None:
    opposite, beside = [], []
    for seed in range(40):
        field = fractal(rng_of("wrap", seed), (64, 64), 16)
        opposite.append(np.mean(field[0] * field[-1]))
        beside.append(np.mean(field[0] * field[1]))
    assert np.mean(beside) > 0.6
    assert abs(np.mean(opposite)) < 0.15


# ---- fields


def test_fractal_is_standard_and_keyed() -> None:
    field = fractal(rng_of("a", 1), (50, 70), 32)
    assert field.shape == (50, 70)
    np.testing.assert_allclose([field.mean(), field.std()], [0, 1], atol=1e-9)
    np.testing.assert_array_equal(field, fractal(rng_of("a", 1), (50, 70), 32))
    assert (field != fractal(rng_of("a", 2), (50, 70), 32)).any()
    rough, smooth = (np.diff(fractal(rng_of(0), (64, 64), 32, p)).std() for p in (0.8, 0.4))
    assert rough > 2 * smooth


def test_streaks_run_along_their_angle() -> None:
    field = streaks(rng_of(0), (96, 96), 8, 6.0, 0.0)
    assert np.diff(field, axis=0).std() > 2 * np.diff(field, axis=1).std()


def test_sample_and_blur_by_hand() -> None:
    field = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert sample(field, np.array([0.5]), np.array([0.25]))[0] == pytest.approx(1.25)
    point = np.zeros((15, 15))
    point[7, 7] = 1.0
    spread = blur(point, 1.0)
    assert spread.sum() == pytest.approx(1.0)
    assert spread[7, 8] / spread[7, 7] == pytest.approx(np.exp(-0.5))
    np.testing.assert_allclose(spread, spread.T)
    np.testing.assert_allclose(blur(np.full((3, 9, 9), 0.3), 0.7), 0.3)


def test_doubling_in_few_passes_is_the_formula_to_the_last_bit() -> None:
    """The published worlds hang on these bytes."""
    for shape in ((5, 9), (64, 31), (98, 98)):
        grid = rng_of("grid").standard_normal(shape)
        rows, fine = np.empty((2 * shape[0] - 4, shape[1])), np.empty((2 * shape[0] - 4, 2 * shape[1] - 4))
        rows[0::2] = 0.125 * (grid[:-2] + grid[2:]) + 0.75 * grid[1:-1]
        rows[1::2] = 0.5 * (grid[1:-1] + grid[2:])
        fine[:, 0::2] = 0.125 * (rows[:, :-2] + rows[:, 2:]) + 0.75 * rows[:, 1:-1]
        fine[:, 1::2] = 0.5 * (rows[:, 1:-1] + rows[:, 2:])
        np.testing.assert_array_equal(_double(grid), 64 * fine)


def test_lines_have_the_width_asked_for() -> None:
    across = np.tile(np.arange(-20.0, 21.0) * 3.0, (41, 1))
    assert lines(across, 5.0).sum(1).mean() == pytest.approx(5.0, abs=1.1)
