"""Maps of scenes: place, fill, stretch and bands; interrupted work ends with the same bytes; errors in a line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("rasterio")

import rasterio
from rasterio.transform import Affine

from ktda.errors import InputError
from ktda.scenes.blend import FILL
from ktda.scenes.jobs import predict_scenes
from ktda.scenes.predict import Options, check_options, find_scenes, predict_scene, threads, tile_of
from ktda.scenes.sink import Sink
from ktda.scenes.source import open_source

PLACE = {"crs": "EPSG:32621", "transform": Affine(30, 0, 600000, 0, -30, 7000000)}
ROTATED = Affine(30, 5, 600000, 5, -30, 7000000)


class Threshold(nn.Module):
    """Class 1 where the first band is above a half, else class 0."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: Tensor) -> Tensor:
        above = 40 * (images[:, 0] - self.level)
        return torch.stack((-above, above), 1)


DESCRIPTION = {
    "classes": ["dark", "bright"],
    "palette": [[10, 20, 30], [200, 100, 50]],
    "normalisation": {"mean": [0, 0, 0], "std": [1, 1, 1]},
}


def write(path: Path, values: np.ndarray, **profile) -> Path:
    bands, height, width = values.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, **PLACE, **profile}
    with rasterio.open(path, "w", dtype=values.dtype, **profile) as file:
        file.write(values)
    return path


def scene(size: tuple[int, int] = (90, 70), bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(0).integers(1, 255, (bands, *size))
    return values.astype(dtype)


def predict(path: Path, out: Path, **options) -> dict:
    options = {"stretch": "fixed", "tile": 32, **options}
    return predict_scene(Threshold().eval(), DESCRIPTION, path, out, Options(**options))


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def test_a_map_has_the_classes_place_colours_and_names(tmp_path: Path):
    values = scene()
    done = predict(write(tmp_path / "a.tif", values), tmp_path / "maps", confidence=True)
    assert [path.name for path in done["files"]] == ["a.tif", "a.confidence.tif"]
    with rasterio.open(done["files"][0]) as file:
        assert (file.read(1) == (values[0] > 127)).all()
        assert file.crs == PLACE["crs"]
        assert file.transform == PLACE["transform"]
        assert file.nodata == FILL
        assert file.colormap(1)[1] == (200, 100, 50, 255)
        assert (file.tags()["CLASS_0"], file.tags()["CLASS_1"]) == ("dark", "bright")
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert read(done["files"][1]).max() == 100
    assert not list((tmp_path / "maps").glob("*.partial"))
    assert done["shares"]["bright"] == pytest.approx((values[0] > 127).mean())


@pytest.mark.parametrize("how", ["nodata", "zeros", "flag", "mask", "alpha", "nan"])
def test_fill_stays_fill(tmp_path: Path, how: str):
    values = scene(dtype="float32" if how == "nan" else "uint8")
    hole = np.zeros(values.shape[1:], bool)
    hole[10:60, 20:50] = True
    profile, options = {}, {}
    if how in ("zeros", "alpha", "mask"):
        values[:, hole] = 0
    elif how == "nan":
        values[:, hole] = np.nan
        options = {"stretch": "percentile"}
    else:
        values[:, hole] = 7
        values[0][~hole & (values[0] == 7)] = 8
        profile, options = ({"nodata": 7}, {}) if how == "nodata" else ({}, {"nodata": 7.0})
    if how == "alpha":
        values = np.concatenate((values, np.where(hole, 0, 255)[None].astype(np.uint8)))
    path = write(tmp_path / "a.tif", values, **profile)
    if how == "alpha":
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [*file.colorinterp[:3], rasterio.enums.ColorInterp.alpha]
    if how == "mask":
        with rasterio.open(path, "r+") as file:
            file.write_mask(~hole)
    found = read(predict(path, tmp_path / "maps", **options)["files"][0])
    assert ((found == FILL) == hole).all()


def test_everything_is_data_where_the_user_says_so(tmp_path: Path):
    values = scene()
    values[:, :40] = 0
    found = read(predict(write(tmp_path / "a.tif", values), tmp_path / "maps", nodata="none")["files"][0])
    assert not (found == FILL).any()


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (200, 31), (64, 64)], ids=str)
def test_scenes_of_any_size(tmp_path: Path, size: tuple[int, int]):
    values = scene(size)
    found = read(predict(write(tmp_path / "a.tif", values), tmp_path / "maps")["files"][0])
    assert (found == (values[0] > 127)).all()


def test_a_scene_of_fill_alone_and_one_without_a_place(tmp_path: Path):
    path = write(tmp_path / "a.tif", scene() * 0, crs=None, transform=Affine.identity())
    done = predict(path, tmp_path / "maps")
    assert (read(done["files"][0]) == FILL).all()
    assert set(done["shares"].values()) == {0}


def test_a_rotated_transform_is_kept(tmp_path: Path):
    path = write(tmp_path / "a.tif", scene(), transform=ROTATED)
    with rasterio.open(predict(path, tmp_path / "maps")["files"][0]) as file:
        assert file.transform == ROTATED


def test_bands_are_taken_in_the_order_asked_for(tmp_path: Path):
    values = scene(bands=5)
    found = read(predict(write(tmp_path / "a.tif", values), tmp_path / "maps", bands=[4, 1, 2])["files"][0])
    assert (found == (values[3] > 127)).all()


def test_percentiles_are_those_of_the_data_alone(tmp_path: Path):
    values = scene(dtype="uint16") * 100
    values[:, :30] = 0
    with open_source(write(tmp_path / "a.tif", values), None, 3, None, "percentile") as source:
        stretched, data = source.read(0, 90)
        low, high = np.percentile(values[:, 30:].reshape(3, -1), (2, 98), axis=1)
    expected = np.clip((values - low[:, None, None]) / (high - low)[:, None, None], 0, 1)
    assert not data[:30].any()
    np.testing.assert_allclose(stretched[:, 30:], np.rint(255 * expected[:, 30:]) / 255, atol=1e-6)


def test_per_tile_stretches_on_a_grid_of_its_own(tmp_path: Path):
    values = scene((600, 530), dtype="uint16")
    values[:, :, 512:] *= 50
    with open_source(write(tmp_path / "a.tif", values), None, 3, None, "per-tile") as source:
        rows, _ = source.read(500, 530)
        again = torch.cat((source.read(500, 512)[0], source.read(512, 530)[0]), 1)
    assert torch.equal(rows, again)
    cell = values[:, :512, 512:].astype(float)
    expected = (cell[:, 500:] - cell.min()) / (cell.max() - cell.min())
    np.testing.assert_allclose(rows[:, :12, 512:], np.rint(255 * expected) / 255, atol=1e-6)


def test_interrupted_work_goes_on_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.tif", scene((150, 40)))
    whole = predict(path, tmp_path / "whole", confidence=True)["files"]
    write_strip, rows = Sink.write, []

    def stop_after_two(self, strip):
        if len(rows) == 2:
            raise KeyboardInterrupt
        rows.append(strip.row)
        write_strip(self, strip)

    monkeypatch.setattr(Sink, "write", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        predict(path, tmp_path / "part", confidence=True)
    assert not (tmp_path / "part" / "a.tif").exists()
    state = tmp_path / "part" / "a.tif.partial" / "state.json"
    assert json.loads(state.read_text())["rows"] > 0
    computed = []
    monkeypatch.setattr(Sink, "write", lambda self, strip: (computed.append(strip.row), write_strip(self, strip)))
    again = predict(path, tmp_path / "part", confidence=True)["files"]
    assert computed[0] > rows[1]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in whole]


def test_a_finished_map_is_left_as_it_is_and_another_job_makes_it_anew(tmp_path: Path):
    path, out, told = write(tmp_path / "a.tif", scene()), tmp_path / "maps", []
    arguments = (Threshold().eval(), DESCRIPTION, path, out)
    plain = Options(tile=32, nodata="none")
    more = plain._replace(confidence=True)
    first = predict_scene(*arguments, plain, "cpu", told.append)
    before = first["files"][0].stat().st_mtime_ns
    again = predict_scene(*arguments, plain, "cpu", told.append)
    assert told == [f"{out / 'a.tif'} was finished before"]
    assert again["shares"] == first["shares"]
    assert first["files"][0].stat().st_mtime_ns == before
    both = predict_scene(*arguments, more, "cpu", told.append)
    assert len(told) == 1
    both["files"][1].unlink()  # half of what was asked for
    predict_scene(*arguments, more, "cpu", told.append)
    assert len(told) == 1
    assert both["files"][1].exists()


def test_polygons_of_a_map_that_was_there(tmp_path: Path):
    pyogrio = pytest.importorskip("pyogrio")
    values = scene((40, 40))
    path = write(tmp_path / "a.tif", values)
    predict(path, tmp_path / "maps")
    done = predict(path, tmp_path / "maps", polygons=True)
    assert [file.name for file in done["files"]] == ["a.tif", "a.gpkg"]
    about, _, _, (_, names, areas) = pyogrio.raw.read(done["files"][1])
    assert about["crs"] == PLACE["crs"]
    assert areas[names == "bright"].sum() == (values[0] > 127).sum() * 900


@pytest.mark.slow
def test_jobs_give_the_same_maps_and_one_line_for_a_mistake(tmp_path: Path):
    """Processes of their own, a scene each."""
    scenes = [write(tmp_path / f"{name}.tif", scene((70, 60 + i))) for i, name in enumerate("abc")]
    model, options = Threshold().eval(), Options(tile=32)
    alone = list(predict_scenes(model, DESCRIPTION, scenes, tmp_path / "alone", options, ["cpu"]))
    told: list[str] = []
    together = predict_scenes(model, DESCRIPTION, scenes, tmp_path / "jobs", options, ["cpu"], 2, told.append)
    assert {str(done["shares"]) for done in together} == {str(done["shares"]) for done in alone}
    assert len(told) == 3  # of fill
    for path in (tmp_path / "alone").iterdir():
        assert (tmp_path / "jobs" / path.name).read_bytes() == path.read_bytes()
    wrong = write(tmp_path / "wrong.tif", scene(bands=2))
    with pytest.raises(InputError, match="has 2 bands, the model takes 3"):
        list(predict_scenes(model, DESCRIPTION, [wrong, scenes[0]], tmp_path / "jobs", options, ["cpu"], 2))


def test_rows_of_another_scene_or_with_other_options_are_not_taken_over(tmp_path: Path):
    out = tmp_path / "a.tif"
    sink = Sink(out, (4, 2), {"scene": "one"}, False)
    sink.path("classes").write_bytes(b"\x01" * 6)
    (sink.folder / "state.json").write_text(json.dumps({"rows": 3, "job": {"scene": "one"}}))
    assert Sink(out, (4, 2), {"scene": "one"}, False).rows == 3
    assert Sink(out, (4, 2), {"scene": "two"}, False).rows == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": [1, 2]}, "the model takes 3"),
        ({"bands": [1, 2, 9]}, "has 1 to 3"),
        ({"stretch": "fixed"}, "recorded no stretch"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path: Path, options: dict, message: str):
    path = write(tmp_path / "a.tif", scene(dtype="uint16"))
    with pytest.raises(InputError, match=message):
        predict(path, tmp_path / "maps", **{"stretch": "percentile"} | options)
    assert not (tmp_path / "maps").exists()


def test_without_a_recorded_stretch_a_scene_that_is_not_of_bytes_takes_percentiles_and_says_so(tmp_path: Path):
    path = write(tmp_path / "a.tif", 40 * scene(dtype="uint16"))
    told: list[str] = []
    predict_scene(Threshold().eval(), DESCRIPTION, path, tmp_path / "none", Options(tile=32), "cpu", told.append)
    assert "a.tif holds uint16, and the training recorded no stretch: percentiles 2 and 98" in told[-1]
    predict(path, tmp_path / "said", tile=32, stretch="percentile")
    assert (tmp_path / "none" / "a.tif").read_bytes() == (tmp_path / "said" / "a.tif").read_bytes()
    with open_source(write(tmp_path / "b.tif", scene()), None, 3) as source:
        assert source.stretch == "fixed"  # bytes are as they are
        assert not any("stretch" in note for note in source.notes)
    known = {**DESCRIPTION, "normalisation": DESCRIPTION["normalisation"] | {"stretch": [[0, 9999]] * 3}}
    predict_scene(Threshold().eval(), known, path, tmp_path / "known", Options(tile=32), "cpu", told.append)
    assert sum("stretch" in line for line in told) == 1
    assert (tmp_path / "known" / "a.tif").read_bytes() != (tmp_path / "said" / "a.tif").read_bytes()


@pytest.mark.parametrize(
    "options",
    [{"tile": 100}, {"tile": 0}, {"overlap": 1.0}, {"overlap": -0.1}, {"stretch": "other"}, {"precision": "fp8"}],
)
def test_options_out_of_range_are_refused(options: dict):
    with pytest.raises(InputError, match=f"--{next(iter(options))}"):
        check_options(Options(**options))


def test_a_tile_is_as_large_as_in_training():
    assert [tile_of(d) for d in ({}, {"tile": 128}, {"tile": 509}, {"tile": 20})] == [256, 128, 480, 32]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_holds_in_every_thread_and_threads_are_left_as_they_were(tmp_path: Path, precision: str):
    asked = []

    class Asked(Threshold):
        def forward(self, images: Tensor) -> Tensor:
            asked.append((torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()))
            return super().forward(images)

    before, options = torch.get_num_threads(), Options(tile=32, precision=precision)
    predict_scene(Asked().eval(), DESCRIPTION, write(tmp_path / "a.tif", scene()), tmp_path / "maps", options)
    assert set(asked) == {(precision == "bf16", True)}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("passes", "workers", "each"), [(1, 1, 4), (2, 2, 2), (3, 3, 1), (50, 4, 1)])
def test_few_passes_share_the_cores(passes: int, workers: int, each: int):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with threads("cpu", passes) as pool:
            assert pool._max_workers == workers
            assert pool.submit(torch.get_num_threads).result() == each
    finally:
        torch.set_num_threads(before)


def test_scenes_are_found_and_double_names_refused(tmp_path: Path):
    write(tmp_path / "a.tif", scene())
    (tmp_path / "notes.txt").write_text("")
    assert [path.name for path in find_scenes([tmp_path])] == ["a.tif"]
    with pytest.raises(InputError, match="two scenes are called a"):
        find_scenes([tmp_path, tmp_path / "a.tif"])
    with pytest.raises(InputError, match="no scene at"):
        find_scenes([tmp_path / "b.tif"])
    (tmp_path / "broken.tif").write_bytes(b"no raster")
    with pytest.raises(InputError, match="no raster that can be read"):
        predict(tmp_path / "broken.tif", tmp_path / "maps")


@pytest.mark.slow
def test_a_profile_maps_a_scene_a_job(finished_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("snakemake")
    tmp_path = tmp_path / "an odd {place}"
    tmp_path.mkdir()
    names = ["first {a} b.tif", "second.tif"]
    for number, name in enumerate(names):
        write(tmp_path / name, scene((64, 96)) if number else scene((70, 50)))
    write(tmp_path / "two.tif", scene(bands=2))
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text("cores: 2\n")

    def predict(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "ktda", "predict", str(finished_run), *words, "--tile", "32", "--confidence"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = predict(*names, "two.tif", "--out", "by jobs", "--profile", "profile")
    assert done.returncode == 1, done.stderr
    assert done.stdout.strip() == "2 of 3 scenes are mapped in by jobs"
    assert done.stderr.startswith("ktda: failed: two.tif; see by jobs/.predict/2.log")
    assert "--bands" in (tmp_path / "by jobs" / ".predict" / "2.log").read_text()
    assert predict(*names, "--out", "here").returncode == 0
    for path in (tmp_path / "here").iterdir():
        assert (tmp_path / "by jobs" / path.name).read_bytes() == path.read_bytes()
    again = predict(*names, "--out", "by jobs", "--profile", "profile", "--jobs", "1")
    assert (again.returncode, again.stdout.strip()) == (0, "2 of 2 scenes are mapped in by jobs"), again.stderr
    nowhere = predict(*names, "--out", "by jobs", "--profile", "nowhere")
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (2, 1), nowhere.stderr
