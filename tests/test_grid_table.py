"""The table of a grid: what it reads, and one line for everything that could make a row mean something else."""

import csv
from pathlib import Path

import pytest
import yaml

from ktda.errors import InputError
from ktda_lab.grid.table import read_table, select

ROOT = Path(__file__).resolve().parents[1]
GOOD = """
question: does the FMM help?
preset: smoke
data: [demo_grass, some/folder]
seeds: 2
baseline: full
settings: {learning_rate: 1e-3, neck_scales: [2, 1, 1, 0.5]}
rows:
  - {name: full, group: method, says: full KTDA}
  - {name: no_fmm, group: modules, says: without FMM, set: {fmm: none}}
  - {name: no_neck, group: modules, set: {neck_scales: [], neck_width: 0, vflip: 1}}
  - {name: big, group: student, set: {student: tu-convnext_base}, needs: gpu}
"""


def write(path: Path, text: str = GOOD, **changes: object) -> Path:
    """The good table with keys replaced, or left out where None."""
    content = {key: value for key, value in (yaml.safe_load(text) | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def row(**more: object) -> list[dict]:
    return [{"name": "full", "group": "g"}, {"name": "a", "group": "g"} | more]


def test_a_good_table(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(GOOD)
    table = read_table(path)
    assert (table.name, table.text) == ("small", GOOD)
    assert (table.data, table.seeds) == (("demo_grass", "some/folder"), (0, 1))
    assert [r.needs_gpu for r in table.rows] == [False, False, False, True]
    assert table.rows[1].says == "without FMM"
    no_neck = table.config(table.rows[2], "demo_grass", 7)
    assert (no_neck.neck_scales, no_neck.neck_width, no_neck.vflip, no_neck.seed) == ((), 0, 1.0, 7)
    assert no_neck.learning_rate == 1e-3  # which YAML 1.1 takes for text
    assert table.config(table.rows[0], "demo_grass", 0).neck_scales == (2.0, 1.0, 1.0, 0.5)
    assert table.overrides(table.rows[1]) == ["learning_rate=0.001", "neck_scales=2,1,1,0.5", "fmm=none"]


def test_data_and_seeds_of_the_command_line_win(tmp_path: Path) -> None:
    path = write(tmp_path / "t.yaml", seeds=[5, 3])
    assert read_table(path).seeds == (5, 3)
    table = read_table(path, ("grass",), 3)
    assert (table.data, table.seeds) == (("grass",), (0, 1, 2))
    with pytest.raises(InputError, match="seeds=0; expected at least 1"):
        read_table(path, (), 0)


def test_the_cloud_schedule_of_the_paper_is_resolved_per_data_set(tmp_path: Path) -> None:
    path = write(tmp_path / "t.yaml", preset="paper", settings=None, rows=row(set={"batch_size": 2}), data=["grass"])
    table = read_table(path)
    assert table.config(table.rows[1], "grass", 0).steps == 23_000
    with pytest.raises(InputError, match=r"row a has the same settings as the baseline \(full\) on cloud"):
        read_table(path, ("cloud",))  # whose schedule has that batch size anyway


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"question": None}, "no question; expected one sentence"),
        ({"sedes": 3}, "unknown key 'sedes'; did you mean seeds?"),
        ({"preset": ["smoke"]}, r"preset=\['smoke'\]; expected one of smoke, "),
        ({"rows": row(set={1: 2})}, "row a: set={1: 2}; expected a mapping"),
        ({"settings": {True: 2}}, "settings={True: 2}; expected a mapping"),
        ({"preset": "large"}, "preset='large'; expected one of smoke, "),
        ({"data": "demo_grass"}, "data='demo_grass'; expected a list"),
        ({"data": ["grass", "grass"]}, "data grass stands there twice"),
        ({"seeds": 0}, "seeds=0; expected at least 1"),
        ({"seeds": True}, "seeds=True; expected"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"seeds": [-1]}, "different whole numbers"),
        ({"seeds": [2**63]}, "different whole numbers"),
        ({"seeds": 1001}, "seeds=1001; expected at least 1"),
        ({"seeds": []}, "different whole numbers"),
        ({"name": "x"}, "unknown key 'name'"),
        ({"rows": row(set={"lr": 0.1})}, "row a: unknown setting 'lr'; did you mean learning_rate?"),
        ({"rows": row(set={"steps": 10**9})}, "row a: steps=1000000000; expected a whole number from 1 to 100,000,000"),
        ({"baseline": "ful"}, "baseline 'ful' is no row; did you mean full?"),
        ({"rows": []}, r"rows=\[\]; expected a list of rows"),
        ({"rows": row()}, r"row a has the same settings as the baseline \(full\)"),
        ({"rows": [*row(set={"fmm": "mlp"}), {"name": "a", "group": "g", "set": {"fmm": "none"}}]}, "row a .* twice"),
        (
            {"rows": [*row(set={"fmm": "mlp"}), {"name": "b", "group": "g", "set": {"fmm": "mlp"}}]},
            r"row b has the same settings as row a \(a\)",
        ),
        ({"rows": [*row()[:1], "no_fmm"]}, "row: got 'no_fmm'; expected a mapping with name"),
        ({"rows": [{"group": "g"}]}, "row: no name; expected letters"),
        ({"rows": [{"name": "full"}]}, "row full: no group; expected a word"),
        ({"rows": [{"name": "a/b", "group": "g"}]}, "name='a/b'; expected letters"),
        ({"rows": row(overrides={"fmm": "mlp"})}, "row a: unknown key 'overrides'; expected one of name"),
        ({"rows": row(needs="tpu")}, "row a: needs='tpu'; expected gpu"),
        ({"rows": row(set={"fmm_dept": 2})}, "row a: unknown setting 'fmm_dept'; did you mean fmm_depth?"),
        ({"rows": row(set={"fmm": "cnn"})}, "row a: fmm='cnn'; expected one of vit, mlp"),
        ({"rows": row(set={"alpha": "0.3"})}, "row a: alpha='0.3'; expected a number"),
        ({"rows": row(set={"fam": 0})}, "row a: fam=0; expected true or false"),
        ({"rows": row(set={"steps": 4.5})}, "row a: steps=4.5; expected a whole number"),
        ({"rows": row(set={"alpha": 2})}, "row a: alpha=2; expected a number from 0 to 1"),
        ({"rows": row(set={"seed": 3})}, "seed is set among the overrides; say `seeds"),
        ({"settings": {"seed": 3}}, "seed is set among the overrides; say `seeds"),
        ({"settings": {"nek_width": 3}}, "unknown setting 'nek_width'; did you mean neck_width?"),
        (
            {"rows": row(set={"fmm": "mlp", "alpha": 0.1, "vflip": 0, "crop": 32, "tiles": 4, "hflip": 1})},
            "at most 5 set",
        ),
        ({"rows": row(init="full", init_part="head")}, "row a: init_part='head'; expected all or encoder"),
        ({"rows": row(init="none")}, "row a: init='none' is no row above it"),
        ({"rows": row(init="a")}, "row a: init='a' is no row above it"),
        ({"rows": row(init_part="encoder", set={"fmm": "mlp"})}, "row a: init_part is set, but no init"),
        ({"contrasts": [["full", "b", "more"]]}, "contrast of full and b; expected two different rows"),
        ({"contrasts": [["full", "full", "more"]]}, "contrast of full and full; expected two different rows"),
        ({"contrasts": [["full", "a"]]}, r"expected a list of \[row, rival, what"),
    ],
)
def test_one_line_for_every_mistake(tmp_path: Path, changes: dict, words: str) -> None:
    path = write(tmp_path / "t.yaml", **changes)
    with pytest.raises(InputError, match=words) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("fmm: none}", "fmm: none, fmm: mlp}"), "fmm stands there twice"),
        (GOOD + "  - {name: x", "cannot be read as YAML"),
        (GOOD + "preset: demo", "preset stands there twice"),
        ("", "got None; expected a mapping with question"),
    ],
)
def test_one_line_for_what_is_no_table(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        read_table(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "results", sorted((ROOT / "reports/published").glob("**/results.csv")), ids=lambda p: p.parent.name
)
def test_published_runs_keep_their_hash(results: Path) -> None:
    table = read_table(results.with_name("table.yaml"))
    rows = {row.name: row for row in table.rows}
    with results.open(newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) > 10
    for run in runs:
        assert table.config(rows[run["row"]], run["data"], int(run["seed"])).config_hash == run["config_hash"]


def test_rows_to_run(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.yaml"))
    assert select(table, ()) == ("full", "no_fmm", "no_neck", "big")
    assert select(table, ("no_fmm",)) == ("no_fmm",)
    with pytest.raises(InputError, match="--only nofmm is no row of t; did you mean no_fmm"):
        select(table, ("nofmm",))
