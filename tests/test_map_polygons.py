"""Polygons of a map: objects that cross strips are whole, areas add up, names and place are there."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rasterio")
pytest.importorskip("pyogrio")
pytest.importorskip("shapely")

import pyogrio
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine

from ktda.scenes.blend import FILL
from ktda.scenes.polygons import write_polygons

PLACES = {
    "north up": {"crs": "EPSG:32621", "transform": Affine(30, 0, 600000, 0, -30, 7000000)},
    "rotated": {"crs": "EPSG:32621", "transform": Affine(30, 5, 600000, 5, -30, 7000000)},
    "nowhere": {},
}
CLASSES = ["water", "wood"]


def write_map(path: Path, values: np.ndarray, place: str = "north up") -> Path:
    height, width = values.shape
    profile = {"driver": "GTiff", "count": 1, "height": height, "width": width, "nodata": FILL, **PLACES[place]}
    with rasterio.open(path, "w", dtype="uint8", **profile) as file:
        file.write(values, 1)
    return path


def read_polygons(path: Path) -> tuple[dict, np.ndarray, dict]:
    about, _, geometry, values = pyogrio.raw.read(path)
    return about, shapely.from_wkb(geometry), dict(zip(about["fields"], values, strict=True))


def blobs(seed: int, size: tuple[int, int] = (60, 50), cell: int = 1) -> np.ndarray:
    """Fill and two classes at random, in cells of some pixels."""
    cells = np.random.default_rng(seed).choice([0, 1, FILL], size, p=[0.45, 0.45, 0.1])
    return np.kron(cells, np.ones((cell, cell))).astype(np.uint8)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("cell", "rows"), [(1, 7), (5, 16), (5, 60), (10, 1)])
def test_strips_give_the_polygons_of_the_whole_map(tmp_path: Path, cell: int, rows: int, place: str):
    """Against tracing the map in one piece: the same polygons, corner by corner."""
    values = blobs(cell, (60 // cell + 1, 50 // cell), cell)
    path = write_map(tmp_path / "a.tif", values, place)
    count = write_polygons(path, tmp_path / "a.gpkg", CLASSES, rows)
    about, found, fields = read_polygons(tmp_path / "a.gpkg")
    transform = PLACES[place].get("transform", Affine.identity())
    expected = [(shapely.geometry.shape(g), v) for g, v in shapes(values, values != FILL, 4, transform)]
    assert count == len(found) == len(expected) > 2
    for name, label in (("water", 0), ("wood", 1)):
        mine = found[fields["class"] == label]
        theirs = np.array([polygon for polygon, value in expected if value == label], object)
        assert set(fields["name"][fields["class"] == label]) == {name}
        assert shapely.area(mine).sum() == pytest.approx(shapely.area(theirs).sum())
        assert sorted(shapely.area(mine)) == pytest.approx(sorted(shapely.area(theirs)))
        assert sorted(shapely.get_num_coordinates(mine)) == sorted(shapely.get_num_coordinates(theirs))
        nearest = shapely.STRtree(theirs).query_nearest(shapely.centroid(mine), all_matches=False)
        assert len(nearest[0]) == len(mine)
    np.testing.assert_allclose(fields["area"], shapely.area(found))
    pixel = abs(transform.determinant)
    assert fields["area"].sum() == pytest.approx((values != FILL).sum() * pixel)
    assert (about["crs"] or None) == PLACES[place].get("crs")


def test_an_object_through_all_strips_is_one_polygon_with_its_hole(tmp_path: Path):
    values = np.zeros((90, 30), np.uint8)
    values[:, 10:20] = 1
    values[25:65, 13:17] = 0
    write_polygons(write_map(tmp_path / "a.tif", values), tmp_path / "a.gpkg", CLASSES, 10)
    _, found, fields = read_polygons(tmp_path / "a.gpkg")
    assert sorted(fields["name"]) == ["water", "water", "water", "wood"]
    (wood,) = found[fields["class"] == 1]
    assert len(wood.interiors) == 1
    assert shapely.get_num_coordinates(wood) == 10
    assert wood.area == 30 * 30 * (90 * 10 - 40 * 4)


def test_a_map_of_fill_alone_has_an_empty_layer_and_what_was_there_is_replaced(tmp_path: Path):
    path = write_map(tmp_path / "a.tif", blobs(0))
    assert write_polygons(path, tmp_path / "a.gpkg", CLASSES) > 0
    write_map(path, np.full((20, 20), FILL, np.uint8))
    assert write_polygons(path, tmp_path / "a.gpkg", CLASSES) == 0
    about, found, _ = read_polygons(tmp_path / "a.gpkg")
    assert len(found) == 0
    assert list(about["fields"]) == ["class", "name", "area"]
    assert {p.name for p in tmp_path.iterdir()} == {"a.tif", "a.gpkg"}
