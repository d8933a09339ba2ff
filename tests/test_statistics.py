"""Statistics of a grid, against hand-computed values and scipy."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from published_grid import draw_matrices, make_published
from scipy import stats

from ktda.errors import InputError
from ktda.scores.metrics import mean_iou
from ktda_lab.ablations.statistics import (
    bootstrap_difference,
    bootstrap_table,
    compare_noise,
    complete,
    draw_miou,
    holm,
    miou_without,
    paired_differences,
    seed_differences,
    summarise,
    t_interval,
    verdicts,
)
from ktda_lab.grid.results import read_published


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return read_published(make_published(tmp_path_factory.mktemp("published") / "grid"))


def interval(matrices: np.ndarray, groups: list[str] | None = None, **draws: int) -> tuple[float, ...]:
    return tuple(np.percentile(draw_miou([matrices], groups, **draws), (2.5, 97.5)))


def miou(matrices: np.ndarray) -> float:
    return float(mean_iou(torch.from_numpy(np.asarray(matrices))))


def runs(scores: dict[str, list[float]], data: str = "d") -> pd.DataFrame:
    """Results with only what the statistics read; seeds count from 0."""
    lines = [
        {"data": data, "row": row, "group": "g", "seed": seed, "miou": value, "iou_0": value, "iou_1": value / 2}
        | {"overall_accuracy": 0.5, "classes": "a|b", "trained_parameters": 7, "total_inference_parameters": 6}
        | {"gflops": 1.5, "seconds": 10.0 + seed, "wall_seconds": 20.0, "peak_memory_bytes": 100 + seed}
        for row, values in scores.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(lines)


def test_t_interval_of_three_values_by_hand():
    # mean 2, sd 1, and 4.302653 is the 97.5 % quantile of Student's t with 2 degrees of freedom
    low, high = t_interval(2, 1, 3)
    assert low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-6)
    assert high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-6)


def test_one_value_or_none_has_no_interval():
    low, high = t_interval([2, np.nan], [np.nan, np.nan], [1, 0])
    assert np.isnan([low, high]).all()


def test_holm_follows_a_worked_example():
    # sorted 0.005, 0.01, 0.03, 0.04 -> times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04 -> never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])


def test_holm_leaves_out_what_was_not_tested():
    adjusted = holm([np.nan, 0.01, np.nan, 0.02])
    assert adjusted[[1, 3]] == pytest.approx([0.02, 0.02])
    assert np.isnan(adjusted[[0, 2]]).all()
    assert holm([]).shape == (0,)


def test_summary_of_seeds_by_hand():
    table = summarise(runs({"full": [0.1, 0.2, 0.3], "once": [0.4]})).set_index("row")
    full, once = table.loc["full"], table.loc["once"]
    assert (full["n"], once["n"]) == (3, 1)
    assert full["mean"] == pytest.approx(0.2)
    assert full["sd"] == pytest.approx(0.1)  # n - 1
    assert full["high"] - full["mean"] == pytest.approx(4.302653 * 0.1 / 3**0.5, abs=1e-6)
    assert full["iou_1"] == pytest.approx(0.1)
    assert full["seconds"] == pytest.approx(11)
    assert full["peak_memory_bytes"] == 102
    assert np.isnan(once[["sd", "low", "high"]].astype(float)).all()


def test_pairs_are_taken_over_the_seeds_that_both_have():
    results = runs({"full": [0.5, 0.6], "row": [0.4, 0.8, 0.9]})
    pairs = seed_differences(results, "full")
    assert pairs["seed"].tolist() == [0, 1]
    assert pairs["difference"].tolist() == pytest.approx([-0.1, 0.2])
    # another order of the lines, and a data set of its own, change nothing
    other = pd.concat([results.sample(frac=1, random_state=0), runs({"full": [0.0], "row": [1.0]}, "e")])
    again = seed_differences(other, "full")
    assert sorted(again.loc[again["data"] == "d", "difference"]) == pytest.approx([-0.1, 0.2])


def test_paired_test_is_scipys_and_holm_is_over_the_table():
    base, row, other = [0.5, 0.6, 0.55], [0.52, 0.66, 0.58], [0.4, 0.7, 0.5]
    results = pd.concat([runs({"full": base, "row": row, "other": other}), runs({"full": base, "row": row}, "e")])
    table = paired_differences(results, "full").set_index(["data", "row"])
    p, p_other = stats.ttest_rel(row, base).pvalue, stats.ttest_rel(other, base).pvalue
    assert p < p_other
    line = table.loc[("d", "row")]
    assert line["p"] == pytest.approx(p)
    assert line["p_holm"] == pytest.approx(3 * p)  # the smallest of three p-values, twice
    assert table.loc[("e", "row"), "p_holm"] == pytest.approx(3 * p)
    interval = stats.ttest_rel(row, base).confidence_interval()
    assert (line["low"], line["high"]) == pytest.approx((interval.low, interval.high))
    assert line["noise"] == pytest.approx(np.std(base, ddof=1))
    assert line["effect"] == pytest.approx(np.mean(np.subtract(row, base)) / np.std(base, ddof=1))


def test_degenerate_pairs_give_no_false_claim():
    same, shifted = [0.5, 0.5, 0.5], [0.6, 0.6, 0.6]
    table = paired_differences(runs({"full": same, "same": same, "shifted": shifted, "once": [0.7]}), "full")
    table = table.set_index("row")
    assert table.loc["same", "p"] == 1
    assert table.loc["same", ["low", "high"]].tolist() == [0, 0]
    assert np.isnan(table.loc["shifted", "p"])  # equal to the bit, thrice: a t-test would divide by zero
    assert table["effect"].isna().all()  # no seed noise to measure with
    assert table.loc["once", "mean"] == pytest.approx(0.2)
    assert np.isnan(table.loc["once", ["sd", "low", "p", "p_holm"]].astype(float)).all()


def test_a_row_without_a_shared_seed_stays_in_the_table():
    results = runs({"full": [0.5], "row": [0.4, 0.8]})
    table = paired_differences(results[(results["row"] == "full") | (results["seed"] == 1)], "full")
    assert table[["row", "n"]].to_numpy().tolist() == [["row", 0]]
    assert table["mean"].isna().all()


def test_an_unknown_baseline_is_named_with_the_rows_there_are():
    with pytest.raises(InputError, match="no run of the baseline 'ful' on d; the results there hold rows full, row"):
        paired_differences(runs({"full": [0.5], "row": [0.4]}), "ful")


def test_miou_without_a_class_is_the_mean_of_the_others():
    results = pd.DataFrame({"iou_0": [0.2, 0.4], "iou_1": [0.6, np.nan], "iou_2": [0.8, 0.6], "miou": [9, 9]})
    assert miou_without(results, 1).tolist() == pytest.approx([0.5, 0.5])
    assert miou_without(results, 2).tolist() == pytest.approx([0.4, 0.4])  # an undefined IoU is no zero


def test_verdicts_by_corrected_and_plain_p():
    lines = {
        "n": [3, 3, 3, 1, 0],
        "p": [0.001, 0.03, 0.4, np.nan, np.nan],
        "p_holm": [0.003, 0.06, 0.4, np.nan, np.nan],
    }
    assert verdicts(pd.DataFrame(lines)).tolist() == ["holds", "suggested", "undecided", "not tested", "not run"]


def test_completion_follows_the_table_and_adds_what_was_not_run():
    rows = [{"name": name, "group": "g"} for name in ("big", "row", "full")]
    table = {"baseline": "full", "rows": rows}
    results = runs({"full": [0.5], "row": [0.4]})
    full = complete(summarise(results), table)
    assert full[["row", "n"]].to_numpy().tolist() == [["big", 0], ["row", 1], ["full", 1]]
    assert np.isnan(full.loc[0, "mean"])
    assert complete(paired_differences(results, "full"), table, baseline=False)["row"].tolist() == ["big", "row"]


def test_bootstrap_is_seeded_covers_the_score_and_equals_a_plain_loop():
    matrices = draw_matrices(np.random.default_rng(1), 0.6, 3, images=8)
    matrices[4:] = matrices[4:, ::-1]  # half of the images are hard
    low, high = interval(matrices, times=300)
    assert low < miou(matrices.sum(0)) < high
    assert (low, high) == interval(matrices, times=300) != interval(matrices, times=300, seed=1)
    times = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=300)
    draws = [miou(sum(count * matrix for count, matrix in zip(t, matrices, strict=True))) for t in times]
    assert (low, high) == pytest.approx(np.percentile(draws, (2.5, 97.5)))


def test_bootstrap_draws_whole_scenes():
    rng = np.random.default_rng(1)
    easy, hard = draw_matrices(rng, 0.9, 3, images=6), draw_matrices(rng, 0.5, 3, images=6)
    matrices, scene = np.concatenate([easy, hard]), ["easy"] * 6 + ["hard"] * 6
    low, high = interval(matrices, scene)
    # both scenes drawn, or one of them twice: the ends are the scores of the scenes
    assert (low, high) == pytest.approx((float(miou(hard.sum(0))), float(miou(easy.sum(0)))))
    images = interval(matrices)
    assert high - low > images[1] - images[0]


def test_a_difference_is_scored_on_the_same_draws():
    rng = np.random.default_rng(2)
    matrices = np.concatenate([draw_matrices(rng, a, 3, images=5) for a in (0.5, 0.9)])
    worse = matrices.copy()
    worse[:, 0, 0] -= 5
    worse[:, 0, 1] += 5  # five pixels of each image
    assert bootstrap_difference([matrices], [matrices]) == (0, 0)
    low, high = bootstrap_difference([worse, worse], [matrices])
    own = interval(matrices)
    assert low < high < 0
    assert high - low < (own[1] - own[0]) / 5
    assert bootstrap_difference([matrices], [worse]) == pytest.approx((-high, -low))


def test_runs_of_other_images_are_refused():
    matrices = draw_matrices(np.random.default_rng(2), 0.6, 3)
    for other in (matrices[:-1], 2 * matrices):
        with pytest.raises(InputError, match="not scored on the same images"):
            bootstrap_difference([matrices], [other])


def test_bootstrap_table_and_the_kinds_of_noise(published):
    results = published.results
    table = bootstrap_table(results, "full", published.matrices, published.scenes, times=200)
    assert table[["data", "row"]].to_numpy().tolist() == results[["data", "row"]].drop_duplicates().to_numpy().tolist()
    assert set(table["images"]) == {12}
    assert set(table["scenes"]) == {4}
    base = table[table["row"] == "full"]
    assert base.filter(like="diff_").isna().all(axis=None)
    worse = table[table["row"] == "no_fmm"]
    assert (worse[["diff_high_images", "diff_high_scenes"]] < 0).all(axis=None)
    kinds = compare_noise(summarise(results), paired_differences(results, "full"), table, "full")
    assert kinds["count"].tolist() == [3, 12, 4] * 2
    assert kinds["rows"].tolist() == [2, 3, 3] * 2  # a row of one seed has no interval over seeds
    assert (kinds["clear"] >= 1).all()
    assert (kinds["score_width"] > 0).all()
