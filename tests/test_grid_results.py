"""Results collected from run folders, read, published; and the operations that a run counts."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_runs import TINY, make_set, manifest_of, tiny
from torch import nn

from ktda.cli.main import main
from ktda.errors import InputError
from ktda.runs.folder import inference_gflops
from ktda.training import train
from ktda_lab.grid.plan import Run
from ktda_lab.grid.results import COLUMNS, collect, publish, read_published, read_results, write_results

ROWS = {"full": {}, "teacher": {"model": "teacher"}}
TABLE = f"""question: which?
preset: smoke
data: [tiny]
baseline: full
settings: {TINY}
rows: [{{name: full, group: method}}, {{name: teacher, group: method, set: {{model: teacher}}}}]
"""


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Two real runs, and one that the plan holds but nobody ran."""
    root = tmp_path_factory.mktemp("grid")
    data, out, plan = str(make_set(root / "set")), root / "ablations", []
    for number, (row, overrides) in enumerate(ROWS.items()):
        run_id = f"{number:012d}"
        train(data, tiny(**overrides), out / "runs" / run_id)
        manifest = manifest_of(out / "runs" / run_id)
        hashes = [manifest["config_hash"], manifest["data"]["hash"], manifest["source_hash"]]
        words = tuple(f"{key}={value}" for key, value in overrides.items())
        plan.append(asdict(Run(run_id, "ablations", row, "method", data, 0, "smoke", words, False, *hashes)))
        about = {"status": "finished", "start": "2025-01-01T00:00:00+00:00", "end": "2025-01-01T00:01:30+00:00"}
        (out / "runs" / f"{run_id}.manifest.json").write_text(json.dumps(about))
    plan.append(plan[0] | {"id": "f" * 12, "row": "late"})
    (out / "plan.json").write_text(json.dumps({"table": "ablations", "runs": plan}))
    (out / "table.yaml").write_text(TABLE)
    return out


@pytest.fixture
def copy(grid, tmp_path):
    return shutil.copytree(grid, tmp_path / "grid")


def test_a_line_holds_what_the_run_folder_says(grid):
    results = collect(grid)
    assert results["row"].tolist() == ["full", "teacher"]  # the third was not run
    run = grid / "runs" / results.loc[0, "id"]
    manifest, metrics = manifest_of(run), json.loads((run / "metrics.json").read_text())
    line = results.iloc[0]
    for name in ("split", "miou", "overall_accuracy", "mean_f1", "best_step", "seconds", "peak_memory_bytes"):
        assert line[name] == metrics[name]
    assert [line["iou_0"], line["iou_1"], line["iou_2"]] == metrics["iou"]
    assert line["classes"] == "a|b|c"
    assert line["select_miou"] == metrics["splits"]["val"]["miou"]
    assert line["gflops"] == manifest["inference_gflops"] > 0
    assert line["wall_seconds"] == 90
    assert line["data_hash"] == manifest["data"]["hash"]
    assert results["overrides"].tolist() == ["", "model=teacher"]
    # only model=teacher takes its teacher along
    parameters = [manifest_of(grid / "runs" / i)["parameters"] for i in results["id"]]
    assert line["total_inference_parameters"] == parameters[0]["inference"]
    assert results.loc[1, "total_inference_parameters"] == parameters[1]["inference"] + parameters[1]["teacher"]


def test_columns_keep_their_order(grid):
    columns = list(collect(grid))
    assert [c for c in columns if not c.startswith("iou_")] == list(COLUMNS)
    assert columns[columns.index("classes") + 1] == "iou_0"


def test_only_finished_runs_of_the_planned_settings_count(copy):
    first = collect(copy).loc[0, "id"]
    manifest = manifest_of(copy / "runs" / first)
    path = copy / "runs" / first / "manifest.json"
    for change in ({"status": "failed"}, {"config_hash": "other"}):
        path.write_text(json.dumps(manifest | change))
        assert collect(copy)["row"].tolist() == ["teacher"]


def test_results_survive_the_way_through_the_file(copy):
    written = write_results(copy)
    read = read_results(copy)
    assert read["id"].tolist() == ["000000000000", "000000000001"]  # not numbers
    assert read["overrides"].tolist() == ["", "model=teacher"]  # not NaN
    assert read["miou"].tolist() == written["miou"].tolist()
    assert list(read) == list(written)
    assert not list(copy.glob("*.partial"))


def test_a_grid_without_finished_runs_gives_an_empty_table(copy):
    shutil.rmtree(copy / "runs")
    assert write_results(copy).empty
    assert list(read_results(copy)) == list(COLUMNS)
    with pytest.raises(InputError, match="holds no row whose seeds have all finished"):
        publish(copy, copy / "published")
    assert not (copy / "published").exists()


def test_bad_files_are_named_with_the_cure(copy, tmp_path):
    with pytest.raises(InputError, match=r"holds no plan\.json"):
        collect(tmp_path / "nowhere")
    with pytest.raises(InputError, match="run the table first"):
        read_results(tmp_path / "results.csv")
    results = write_results(copy)
    results.drop(columns="miou").to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(InputError, match="no column miou"):
        read_results(tmp_path / "short.csv")
    pd.concat([results, results.iloc[:1]]).to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(InputError, match=r"row full, data .*, seed 0 twice"):
        read_results(tmp_path / "twice.csv")


def test_published_files_hold_what_figures_need(grid, tmp_path):
    publish(grid, tmp_path / "published")
    assert {p.name for p in (tmp_path / "published").iterdir()} == {
        "results.csv",
        "table.yaml",
        "matrices.npz",
        "histories.csv",
    }
    published = read_published(tmp_path / "published")
    assert published.table["baseline"] == "full"
    for run_id in published.results["id"]:
        with np.load(grid / "runs" / run_id / "confusions.npz") as archive:
            assert (published.matrices[run_id] == archive["test"]).all()
        assert published.scenes[run_id].tolist() == [0, 0]  # two tiles of one scene
        history = pd.read_csv(grid / "runs" / run_id / "history.csv").dropna(subset="select_miou")
        own = published.histories[published.histories["id"] == run_id]
        assert own["step"].tolist() == history["step"].tolist()
        assert own["select_miou"].tolist() == pytest.approx(history["select_miou"].tolist(), rel=1e-5)
    with np.load(tmp_path / "published" / "matrices.npz") as archive:
        assert archive["000000000000"].dtype.itemsize <= 2


def test_rows_published_before_stay_while_they_are_valid(copy, tmp_path):
    folder = tmp_path / "published"
    assert publish(copy, folder) == []
    before = read_published(folder)
    ids = dict(zip(before.results["row"], before.results["id"], strict=True))
    plan = json.loads((copy / "plan.json").read_text())
    plan["runs"] = [run for run in plan["runs"] if run["row"] == "full"]  # a call that runs one row only
    (copy / "plan.json").write_text(json.dumps(plan))
    publish(copy, folder)
    after = read_published(folder)
    pd.testing.assert_frame_equal(after.results, before.results)
    assert (after.matrices[ids["teacher"]] == before.matrices[ids["teacher"]]).all()
    assert set(after.histories["id"]) == set(ids.values())

    (copy / "table.yaml").write_text(TABLE.replace("set: {", "set: {alpha: 0.3, "))  # the row says something else now
    shutil.copytree(folder, tmp_path / "changed")
    publish(copy, tmp_path / "changed")
    assert read_published(tmp_path / "changed").results["row"].tolist() == ["full"]
    (copy / "table.yaml").write_text(TABLE)

    results = pd.read_csv(folder / "results.csv", dtype=str)
    elsewhere = results.assign(data="elsewhere", data_hash="e" * 64, id=["a" * 12, "b" * 12])
    matrices = dict(np.load(folder / "matrices.npz"))
    for own, other in zip(results["id"], elsewhere["id"], strict=True):
        matrices |= {other: matrices[own], f"{other}_scenes": matrices[f"{own}_scenes"]}
    np.savez_compressed(folder / "matrices.npz", **matrices)
    pd.concat([results, elsewhere]).to_csv(folder / "results.csv", index=False)
    publish(copy, folder)  # which runs nothing on that set: its rows stay
    assert set(read_published(folder).results["data"]) == {"elsewhere", results.loc[0, "data"]}
    elsewhere.iloc[:0].to_csv(folder / "results.csv", index=False)
    publish(copy, folder)

    plan["runs"][0]["data_hash"] = "f" * 64  # other data: the old row cannot be compared any more
    (copy / "plan.json").write_text(json.dumps(plan))
    manifest = copy / "runs" / ids["full"] / "manifest.json"
    content = json.loads(manifest.read_text())
    content["data"]["hash"] = "f" * 64
    manifest.write_text(json.dumps(content))
    publish(copy, folder)
    found = read_published(folder)
    assert found.results["row"].tolist() == ["full"]
    assert list(found.matrices) == [ids["full"]]


def test_a_row_with_some_of_its_seeds_is_left_out(copy, tmp_path):
    plan = json.loads((copy / "plan.json").read_text())
    plan["runs"].append(plan["runs"][0] | {"id": "e" * 12, "seed": 1})
    (copy / "plan.json").write_text(json.dumps(plan))
    assert publish(copy, tmp_path / "published") == [f"full on {plan['runs'][0]['data']}"]
    assert read_published(tmp_path / "published").results["row"].tolist() == ["teacher"]
    assert not list((tmp_path / "published").glob("*.partial"))


def test_a_missing_publication_says_what_to_do(grid, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"nowhere does not exist; run `ktda grid TABLE --publish nowhere`"):
        read_published("nowhere")
    publish(grid, "published")
    read_published("published")  # in the working directory
    (tmp_path / "published" / "matrices.npz").unlink()
    with pytest.raises(InputError, match=r"published has no matrices.npz"):
        read_published("published")


def test_the_command_publishes_what_it_ran(grid, tmp_path, monkeypatch, capsys):
    table = tmp_path / "t.yaml"
    table.write_text(
        "question: which?\npreset: smoke\nbaseline: full\nrows: [{name: full, group: method}]\ndata: [d]\n"
    )
    monkeypatch.setattr("ktda_lab.grid.engine.run_grid", lambda *a, **k: [])
    monkeypatch.setattr("sys.argv", ["ktda", "grid", str(table), "--out", str(grid), "--publish", str(tmp_path / "p")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code in (0, False)
    assert f"published: {tmp_path / 'p'}" in capsys.readouterr().out
    assert len(read_published(tmp_path / "p").results) == 2


def test_what_failed_is_left_out_of_what_is_published(copy, tmp_path, monkeypatch, capsys):
    table = tmp_path / "t.yaml"
    table.write_text(
        "question: which?\npreset: smoke\nbaseline: full\nrows: [{name: full, group: method}]\ndata: [d]\n"
    )
    plan = json.loads((copy / "plan.json").read_text())
    failed = Run("a" * 12, "t", "full", "method", plan["runs"][0]["data"], 1, "smoke", (), False, "", "", "")
    (copy / "plan.json").write_text(json.dumps(plan | {"runs": [*plan["runs"], asdict(failed)]}))
    monkeypatch.setattr("ktda_lab.grid.engine.run_grid", lambda *a, **k: [failed])
    monkeypatch.setattr("sys.argv", ["ktda", "grid", str(table), "--out", str(copy), "--publish", str(tmp_path / "p")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "not published, for want of some of their seeds: full on " in capsys.readouterr().err
    assert read_published(tmp_path / "p").results["row"].tolist() == ["teacher"]


def test_a_multiply_add_is_two_operations_and_the_modes_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))
    model[1].eval()  # as a frozen part is
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # 8 x 10 becomes 6 x 8 places; 3 * 3 * 3 * 4 and 4 * 2 multiply-adds at each
    assert inference_gflops(model, (8, 10)) == 2 * 6 * 8 * (108 + 8) / 1e9
    assert [module.training for module in model] == [True, False, True]
    assert model.training
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, torch.Tensor.detach])  # which PyTorch counts apart
def test_attention_is_counted(layout):
    class Attention(nn.Module):
        def forward(self, images):
            tokens = layout(images.flatten(2).transpose(1, 2)[:, None])  # (1, 1, 16, 3)
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    assert inference_gflops(Attention(), (4, 4)) == 2 * 2 * 16 * 16 * 3 / 1e9  # scores, then their use


def test_counting_changes_no_random_draw():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Dropout())
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    inference_gflops(model, (4, 4))
    assert torch.equal(torch.rand(3), expected)
