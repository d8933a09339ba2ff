"""Figures and tables of a grid: the values and words in them, not their pixels."""

import warnings

import numpy as np
import pandas as pd
import pytest
from published_grid import make_published

pytest.importorskip("matplotlib")

import matplotlib.pyplot as plt

from ktda_lab.ablations.figures import class_heat_map, cost_figure, forest, grid_curves
from ktda_lab.ablations.statistics import bootstrap_table, complete, paired_differences, seed_differences, summarise
from ktda_lab.ablations.tables import latex, markdown, render_differences, render_summary, write_tables
from ktda_lab.grid.results import read_published


@pytest.fixture(autouse=True)
def nothing_is_left_open_and_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert plt.get_fignums() == []


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return read_published(make_published(tmp_path_factory.mktemp("published") / "grid"))


@pytest.fixture
def summary(grid):
    return complete(summarise(grid.results), grid.table)


@pytest.fixture
def differences(grid):
    return complete(paired_differences(grid.results, "full"), grid.table, baseline=False)


def drawn(figure):
    figure.draw_without_rendering()
    return figure


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_forest_shows_means_seeds_noise_and_what_was_not_run(grid, differences):
    figure = drawn(forest(differences, seed_differences(grid.results, "full"), "full", title="T"))
    assert [axes.get_title() for axes in figure.axes] == ["demo_grass", "demo_cloud"]
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["modules", "no_fmm", "no_fam", "losses", "dice", "student", "big"]
    assert texts(axes) == ["not run"]
    own = differences[differences["data"] == "demo_grass"].set_index("row")
    means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert means == pytest.approx(100 * own.loc[["no_fmm", "no_fam", "dice"], "mean"])
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "."]
    assert [len(d) for d in dots] == [3, 3, 1]
    assert np.mean(dots[0]) == pytest.approx(means[0])
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert band.x1 == pytest.approx(100 * own["noise"].iloc[0])


def test_forest_marks_intervals_that_leave_the_panel_and_fills_what_holds():
    lines = {"data": "d", "row": ["wide", "firm"], "group": "g", "n": 2, "mean": [0.0, 0.05], "low": [-0.9, 0.04]}
    lines |= {"high": [0.9, 0.06], "p": [0.9, 0.001], "p_holm": [0.9, 0.002], "noise": 0.01}
    pairs = pd.DataFrame({"data": "d", "row": ["wide", "wide"], "difference": [-0.01, 0.01]})
    axes = drawn(forest(pd.DataFrame(lines), pairs, "full")).axes[0]
    assert {"<", ">"} <= {line.get_marker() for line in axes.lines}
    assert axes.get_xlim()[1] < 50
    fills = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert fills[0] == "white" != fills[1]


def test_heat_map_cells_are_differences_in_points(summary):
    here = (summary["data"] == "demo_grass") & (summary["row"] == "dice")
    scores = summary.columns[summary.columns.str.startswith("iou_")]
    summary.loc[here, ["n", *scores]] = [0, *(np.nan for _ in scores)]
    figure = drawn(class_heat_map(summary, "full"))
    axes = figure.axes[1]
    own = summary[summary["data"] == "demo_cloud"].set_index("row")
    shown = np.asarray(axes.images[0].get_array())
    assert shown[0, 1] == pytest.approx(100 * (own.loc["no_fmm", "iou_1"] - own.loc["full", "iou_1"]))
    assert [t.get_text() for t in axes.get_xticklabels()] == ["Clear", "Cloud Shadow", "Thin Cloud", "Cloud"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["no_fmm", "no_fam", "dice"]
    assert f"{shown[0, 1]:+.1f}".replace("-", "−") in texts(axes)
    assert [texts(panel).count("not run") for panel in figure.axes[:2]] == [1, 0]
    low, high = axes.images[0].get_clim()
    assert low == -high


def test_cost_is_logarithmic_and_every_row_is_named_once(summary):
    axes, _, beside, _ = drawn(cost_figure(summary, "gflops")).axes
    assert axes.get_xscale() == "log"
    assert [t.get_text() for t in beside.get_yticklabels()] == ["no_fmm", "full", "no_fam", "dice"]  # by score
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    own = summary[summary["data"] == "demo_grass"].set_index("row")
    assert points[0] == pytest.approx((own.loc["no_fmm", "gflops"], 100 * own.loc["no_fmm", "mean"]))
    left_out = drawn(cost_figure(summary.assign(gflops=summary["gflops"].where(summary["row"] != "dice")), "gflops"))
    assert len(left_out.axes[2].get_yticklabels()) == 3


def test_curves_are_means_with_a_band_over_seeds(grid):
    figure = drawn(grid_curves(grid.histories, grid.results, ["full", "no_fmm"]))
    axes = figure.axes[0]
    runs = grid.results[(grid.results["data"] == "demo_grass") & (grid.results["row"] == "full")]
    assert axes.lines[0].get_xdata().tolist() == [2, 4]
    assert axes.lines[0].get_ydata()[1] == pytest.approx(100 * runs["miou"].mean())
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((50 * runs["miou"].min(), 100 * runs["miou"].max()))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["full", "no_fmm"]


def test_one_seed_draws_without_warnings(tmp_path):
    grid = read_published(make_published(tmp_path / "one", seeds=1, data=("demo_cloud",)))
    rows = complete(paired_differences(grid.results, "full"), grid.table, baseline=False)
    drawn(forest(rows, seed_differences(grid.results, "full"), "full"))
    summary = complete(summarise(grid.results), grid.table)
    drawn(cost_figure(summary, "seconds"))
    drawn(class_heat_map(summary, "full"))
    assert set(render_differences(rows, "demo_cloud")["verdict"]) == {"not tested", "not run"}


def test_rendered_tables_are_in_percent_and_say_not_run(summary, differences):
    table = render_summary(summary, "demo_cloud").set_index("row")
    own = summary[(summary["data"] == "demo_cloud") & (summary["row"] == "full")].iloc[0]
    assert table.loc["full", "mIoU (%)"] == f"{100 * own['mean']:.1f}"
    assert table.loc["full", "IoU Cloud Shadow (%)"] == f"{100 * own['iou_1']:.1f}"
    assert table.loc["full", ["trained (M)", "memory (GiB)"]].tolist() == ["1.00", "1.00"]
    assert table.loc["big", ["n", "mIoU (%)"]].tolist() == ["not run", ""]
    changes = render_differences(differences, "demo_grass").set_index("row")
    assert changes.loc["no_fmm", "difference (points)"].startswith("−")
    assert changes.loc["no_fmm", "95 %"].count("−") == 2
    assert changes.loc["dice", ["95 %", "p", "verdict"]].tolist() == ["", "", "not tested"]


def test_small_numbers_are_neither_minus_zero_nor_a_p_of_zero():
    line = {"data": "d", "row": "a_b", "group": "g", "n": 3, "mean": -1e-6, "sd": 0.1, "low": -0.2, "high": 0.2}
    lines = pd.DataFrame([line | {"p": 1e-5, "p_holm": 2e-4, "noise": 0.1, "effect": -1e-5}])
    row = render_differences(lines, "d").iloc[0]
    assert row[["difference (points)", "p", "p (Holm)"]].tolist() == ["+0.0", "< 0.001", "< 0.001"]


def test_markdown_and_latex_escape_what_would_break_a_table():
    frame = pd.DataFrame({"row": ["a_b"], "x|y (%)": ["−1.0"]})
    assert markdown(frame).splitlines() == ["| row | x\\|y (%) |", "| --- | ---: |", "| a_b | −1.0 |"]
    assert "$<$ 0.001" in latex(pd.DataFrame({"p": ["< 0.001"]}))
    text = latex(frame)
    assert r"a\_b & $-$1.0 \\" in text
    assert r"x|y (\%)" in text


def test_tables_are_written_in_three_forms_and_the_csv_is_exact(tmp_path, grid, summary, differences):
    bootstrap = bootstrap_table(grid.results, "full", grid.matrices, grid.scenes, times=50)
    paths = write_tables(tmp_path / "out", summary, differences, bootstrap)
    assert [p.name for p in paths] == [f"{n}.{s}" for n in ("summary", "differences") for s in ("csv", "md", "tex")]
    again = pd.read_csv(paths[0])
    assert again["mean"].tolist() == pytest.approx(summary["mean"].tolist(), rel=1e-15, nan_ok=True)
    row = bootstrap.iloc[0]
    line = again.set_index(["data", "row"]).loc[(row["data"], row["row"])]
    assert line[["low_images", "high_scenes"]].tolist() == pytest.approx(row[["low_images", "high_scenes"]].tolist())
    assert f"{100 * row['low_images']:.1f} to {100 * row['high_images']:.1f}" in paths[1].read_text()
    changes = pd.read_csv(paths[3])
    found = bootstrap[["data", "row", "diff_low_images"]].merge(changes, on=["data", "row"]).dropna()
    assert len(found)
    assert found["low_images"].tolist() == pytest.approx(found["diff_low_images"].tolist())
    assert "95 % over scenes" in paths[4].read_text()
    assert paths[1].read_text().count("**demo_") == 2
    assert paths[5].read_text().count(r"\begin{tabular}") == 2
