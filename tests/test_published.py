"""The published numbers, what follows from them by hand, and the pitfalls on matrices that are known."""

import tomllib

import numpy as np
import pandas as pd
import pytest
import torch
from published_grid import draw_matrices, make_published

from ktda.data.builtin import built_in_spec
from ktda.errors import InputError
from ktda.files import project_root
from ktda.scores.metrics import mean_iou
from ktda_lab.ablations.statistics import draw_miou, paired_differences
from ktda_lab.grid.results import read_published
from ktda_lab.paper import figures, pitfalls, published


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return read_published(make_published(tmp_path_factory.mktemp("published") / "grid"))


# The file


def test_rows_have_a_known_source_and_plausible_numbers():
    scores, facts = published.published_scores(), published.facts()
    assert set(scores["source"]) <= set(facts["sources"])
    assert not scores.duplicated(["data", "method"]).any()
    numbers = scores.select_dtypes("number")
    assert ((numbers >= 0) & (numbers <= 1) | numbers.isna()).all(axis=None)
    assert scores["miou"].notna().all()
    for data, own in facts["sets"].items():
        classes = len(built_in_spec(data)["classes"])
        assert all(len(row["iou"]) == classes for row in own["rows"] if "iou" in row)
        assert sum(own["shares"]["percent"]) == pytest.approx(100, abs=0.02)


def test_printed_means_are_those_of_the_printed_classes():
    means = published.check_means()
    assert list(means["method"]) == ["SegFormer", "KTDA", "UNetMobv2", "KTDA"]
    assert means["agree"].all()
    assert means["mean of classes"].iloc[-1] == pytest.approx((0.8168 + 0 + 0.4461 + 0.7968) / 4)


def test_leads_give_the_claims_and_the_rows_outside_the_table():
    leads = published.leads().set_index(["data", "over"])
    claims = leads["claimed"].dropna()
    assert claims.to_dict() == pytest.approx({("grass", "SegFormer"): 0.0257, ("cloud", "UNetMobv2"): 0.0373})
    assert leads.loc[claims.index, "lead"].to_numpy() == pytest.approx(claims.to_numpy())
    assert leads.loc[("cloud", "DBNet"), "lead"] == pytest.approx(0.0008)
    assert leads.loc[("cloud", "Cloud-Adapter"), "lead"] == pytest.approx(-0.0604)


def test_parts_of_a_claim_sum_to_it():
    cloud = published.by_class("cloud")
    assert cloud["part"].sum() == pytest.approx(0.0373, abs=1e-4)
    assert cloud.loc["Cloud Shadow", "difference"] == pytest.approx(-0.0305)
    # without thin cloud: (2.50 - 3.05 - 0.78) / 3; without shadow: (2.50 + 16.26 - 0.78) / 3
    assert cloud.loc["Thin Cloud", "other classes"] == pytest.approx(-0.0133 / 3)
    assert cloud.loc["Cloud Shadow", "other classes"] == pytest.approx(0.1798 / 3)
    with pytest.raises(InputError, match="nothing is published for 'sea'; choose one of grass, cloud"):
        published.by_class("sea")


def test_rendered_rows_leave_open_what_is_not_known():
    rows = published.render_published("cloud").set_index("row")
    assert rows.loc["KTDA", "IoU Cloud Shadow (%)"] == "0.00"
    assert rows.loc["DBNet", "F1 (%)"] == ""


def test_the_file_is_part_of_the_package():
    listed = tomllib.loads((project_root() / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert published.FILE.name in listed["ktda_lab.paper"]


# F1 and accuracy


def test_published_f1_is_the_strict_mean():
    f1 = published.f1_means().set_index(["data", "method"])
    grass, cloud = f1.loc[("grass", "KTDA")], f1.loc[("cloud", "KTDA")]
    assert grass["strict"] == grass["dropped"] == pytest.approx(0.6501, abs=5e-5)
    assert cloud["strict"] == pytest.approx(cloud["mean_f1"], abs=5e-5)
    assert cloud["dropped"] == pytest.approx(0.8010, abs=5e-5)  # three classes instead of four
    assert cloud["dropped"] == pytest.approx(cloud["strict"] * 4 / 3)


def test_means_of_f1_by_hand():
    assert published.mean_f1s([0, 1 / 3]) == pytest.approx((0.25, 0.5))


def test_accuracy_of_every_matrix_is_in_the_range_of_its_ious():
    rng = np.random.default_rng(0)
    for _ in range(20):
        matrix = rng.integers(1, 100, (4, 4)).astype(float)
        hit, labels = matrix.diagonal(), matrix.sum(1)
        low, high = published.accuracy_range(hit / (labels + matrix.sum(0) - hit), labels)
        assert low - 1e-9 <= hit.sum() / matrix.sum() <= high + 1e-9


def test_accuracy_range_by_hand():
    # IoU 1/3 twice on equal halves: sum(1 + 1/3) e = 1 - 1/3, so e sums to 1/2, which is what is wrong
    assert published.accuracy_range([1 / 3, 1 / 3], [1, 1]) == pytest.approx((0.5, 0.5))
    # what is wrong in class 1 would have to be missed in class 0, which misses nothing
    with pytest.raises(InputError, match="no prediction has IoU"):
        published.accuracy_range([1.0, 0.5], [0.5, 0.5])


def test_published_accuracies_are_possible():
    ranges = published.accuracy_ranges()
    assert len(ranges) == 3
    assert ranges["published"].between(ranges["lowest"], ranges["highest"]).all()


# Pitfalls


def test_a_missed_class_raises_the_mean_that_drops_it():
    matrix = np.array([[[8, 0, 0], [2, 0, 0], [0, 0, 10]]])  # class 1 is never predicted
    results = pd.DataFrame({"id": ["a"], "data": ["d"], "row": ["r"]})
    line = pitfalls.f1_by_row(results, {"a": matrix}).iloc[0]
    assert line["strict"] == pytest.approx((16 / 18 + 0 + 1) / 3)
    assert line["dropped"] == pytest.approx((16 / 18 + 1) / 2)


def test_label_ratios_sum_to_one_on_their_own_labels_only():
    matrices = draw_matrices(np.random.default_rng(0), 0.7, 3, images=5)
    matrices[0, 0] *= 3  # labels of the first image differ from the rest
    whole = matrices.sum(0)
    shares = whole.sum(1) / whole.sum()
    assert pitfalls.label_ratios(whole, digits=15) @ shares == pytest.approx(1)
    assert pitfalls.label_ratios(whole) @ shares == pytest.approx(1, abs=3e-4)  # as printed
    assert abs(pitfalls.label_ratios(matrices[0]) @ shares - 1) > 0.01
    assert pitfalls.label_ratios(np.array([[3, 0], [1, 0]])).tolist() == [1 / 0.75, 0]


def test_label_check_finds_the_shares(grid):
    away, shares = pitfalls.label_check(grid.results, grid.matrices)
    assert shares["solved"].to_numpy() == pytest.approx(shares["in the labels"].to_numpy(), abs=1e-3)
    assert (away["largest"] < 1e-3).all()  # every image of these has the same labels
    few = pitfalls.label_check(grid.results.iloc[:1], grid.matrices)  # fewer equations than unknowns
    assert [frame.empty for frame in few] == [True, True]


def test_half_widths_shrink_with_the_root_of_the_size_and_agree_with_the_bootstrap():
    matrices = draw_matrices(np.random.default_rng(1), 0.7, 3, images=60)
    images = np.arange(60)
    small, same, large = pitfalls.half_widths(matrices, None, images, (15, 60, 240), times=2000)
    assert small / large == pytest.approx(4, rel=0.15)
    low, high = np.percentile(draw_miou([matrices]), (2.5, 97.5))
    assert same == pytest.approx((high - low) / 2, rel=0.1)
    assert pitfalls.half_widths(matrices, matrices, images, (60,)).tolist() == [0]


def test_width_table_takes_one_common_seed_of_each_set(grid):
    table = pitfalls.width_table(grid.results, grid.matrices, grid.scenes, ("full", "no_fmm"), (6, 12))
    assert table.groupby("data").size().to_dict() == {"demo_grass": 8, "demo_cloud": 8}
    own = grid.matrices[grid.results.query("row == 'full' and data == 'demo_grass'")["id"].iloc[0]]
    expected = pitfalls.half_widths(own, None, np.arange(12), (6, 12))
    assert table["half_width"].iloc[:2].to_numpy() == pytest.approx(expected)
    absent = pitfalls.width_table(grid.results, grid.matrices, grid.scenes, ("full", "big"), (6,))
    assert absent.empty


def test_evaluation_noise_is_that_of_one_evaluation():
    rng, lines = np.random.default_rng(0), []
    for run in range(400):  # a trend of 0.1, noise of 0.02
        values = 0.3 + 0.1 * np.arange(3) + rng.normal(0, 0.02, 3)
        lines += [{"id": str(run), "step": s, "select_miou": v} for s, v in enumerate([np.nan, *values])]
    results = pd.DataFrame({"id": [str(r) for r in range(400)], "data": "d", "row": ["a", "b"] * 200})
    assert pitfalls.evaluation_noise(pd.DataFrame(lines), results)["d"] == pytest.approx(0.02, rel=0.1)
    one = pitfalls.evaluation_noise(pd.DataFrame(lines[:4]), results)
    assert np.isnan(one["d"])


def test_best_of_two_is_one_over_root_pi():
    one, two, hundred = pitfalls.best_of((1, 2, 100), times=20000)
    assert one == pytest.approx(0, abs=0.02)
    assert two == pytest.approx(np.pi**-0.5, abs=0.02)
    assert hundred == pytest.approx(2.508, abs=0.02)  # tabulated
    assert pitfalls.best_of((100,), correlation=0.9)[0] < hundred
    curves = pitfalls.optimism({"d": 0.02}, (1, 2))
    assert curves["d, independent"] == pytest.approx(0.02 * pitfalls.best_of((1, 2)))


def test_class_differences_are_paired(grid):
    table = pitfalls.class_differences(grid.results, "full", "no_fmm").set_index(["data", "class"])
    expected = paired_differences(grid.results, "no_fmm", "iou_1").set_index(["data", "row"])
    assert table.loc[("demo_grass", "middle"), "mean"] == pytest.approx(expected.loc[("demo_grass", "full"), "mean"])
    assert table.index.is_unique


# Figures


def test_figures_show_what_they_are_given(grid):
    scores = published.published_scores()
    ruler = figures.score_ruler(scores, "KTDA", 0.007, title="mIoU")
    assert [axes.get_title() for axes in ruler.axes] == ["grass", "cloud"]
    assert "51.41" in {text.get_text() for text in ruler.axes[1].texts}
    pairs = {data: published.by_class(data) for data in ("grass", "cloud")}
    palettes = {data: built_in_spec(data)["palette"] for data in pairs}
    bells = figures.class_dumbbells(pairs, palettes)
    assert [text.get_text() for text in bells.axes[1].texts] == ["+2.50", "−3.05", "+16.26", "−0.78"]
    rows = pd.concat([published.f1_means(), pitfalls.f1_by_row(grid.results, grid.matrices)])
    assert len(figures.f1_conventions(rows).axes) == 4
    assert len(figures.f1_conventions(rows[rows["data"] != "grass"]).axes) == 3
    widths = pitfalls.width_table(grid.results, grid.matrices, grid.scenes, ("full", "no_fmm"), (6, 12))
    lines = figures.interval_widths(widths, {"claim": 0.02}, 12).axes[0].lines
    assert lines[0].get_ydata() == pytest.approx(100 * widths["half_width"].iloc[:2].to_numpy())
    curve = figures.selection_optimism((1, 100), {"a": np.array([0, 0.02])}, 100)
    assert curve.axes[0].lines[0].get_ydata().tolist() == [0, 2]
    first = torch.from_numpy(grid.matrices[grid.results["id"].iloc[0]].sum(0))
    assert float(mean_iou(first)) == pytest.approx(grid.results["miou"].iloc[0])
