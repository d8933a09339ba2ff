"""The laboratory: contrasts against hand-computed values, features that know too little, figures of what was run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ktda.data.folder import open_data
from ktda.errors import InputError
from ktda_lab.ablations import knowledge, laboratory
from ktda_lab.ablations.statistics import summarise, verdicts
from ktda_lab.grid.results import read_published
from ktda_lab.grid.table import read_table
from ktda_lab.worlds import make_world, render_scene

ROOT = Path(__file__).resolve().parents[1]
COSTS = ("trained_parameters", "total_inference_parameters", "gflops", "seconds", "wall_seconds", "peak_memory_bytes")


def results(scores: dict[str, list[float]], data: str = "d") -> pd.DataFrame:
    """A line per row and seed."""
    lines = [(data, row, "g", seed, miou) for row, values in scores.items() for seed, miou in enumerate(values)]
    frame = pd.DataFrame(lines, columns=["data", "row", "group", "seed", "miou"])
    return frame.assign(overall_accuracy=0.5, classes="a|b", **dict.fromkeys(COSTS, 1.0))


def test_a_contrast_is_the_method_minus_the_rival_within_the_seed():
    runs = results({"ktda": [0.5, 0.6, 0.7], "plain": [0.4, 0.4, 0.4], "random": [0.5, 0.6, 0.8]})
    table, dots = laboratory.contrasts(runs, {"a": ("ktda", "plain"), "e": ("ktda", "random")})
    assert table["row"].tolist() == ["a", "e"]
    assert table["mean"].tolist() == pytest.approx([0.2, -0.1 / 3])
    assert table.loc[0, "sd"] == pytest.approx(0.1)
    half = 4.302652729911275 * 0.1 / 3**0.5  # Student's factor at two degrees of freedom
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([0.2 - half, 0.2 + half])
    smaller, larger = sorted(table["p"])
    assert sorted(table["p_holm"]) == pytest.approx(sorted([min(1, 2 * smaller), max(larger, 2 * smaller)]))
    assert dots.groupby("row")["difference"].apply(list)["e"] == pytest.approx([0.0, 0.0, -0.1])
    with pytest.raises(InputError, match="needs the rows ktda and nothing; the results hold ktda, plain, random"):
        laboratory.contrasts(runs, {"x": ("ktda", "nothing")})


def test_features_keep_what_they_should_and_lose_the_rest():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    statistics = laboratory.tile_statistics(images)
    assert statistics.shape == (2, 6, 4, 4)
    assert torch.equal(statistics[..., 0, 0], statistics[..., 3, 2])  # the same everywhere
    torch.testing.assert_close(statistics[1, :3, 0, 0], images[1].mean((1, 2)))
    shuffled = laboratory.shuffled_pixels(images)
    assert shuffled.shape == (2, 192, 4, 4)
    assert torch.equal(shuffled.flatten().sort().values, images.flatten().sort().values)
    whole = torch.nn.functional.pixel_shuffle(shuffled, 8)  # channels of a pixel stay together
    colours = {tuple(c) for c in images[0].flatten(1).T.tolist()}
    assert {tuple(c) for c in whole[0].flatten(1).T.tolist()} == colours
    assert not torch.equal(whole, images)


def test_probes_rank_features_by_what_they_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KTDA_DATA", str(tmp_path))
    make_world("demo_cloud", tmp_path / "demo_cloud", tiles=48, val=9, test=48, size=64)
    table = laboratory.probe_table(["demo_cloud"], tiles=48, draws=1, test_tiles=48)
    scores = table.set_index("features")["miou"]
    assert len(scores) == 6
    assert scores["demo teacher"] > scores["raw pixels"]
    assert scores["demo teacher"] > scores["tile statistics"] + 0.05
    again = laboratory.probe_table(["demo_cloud"], tiles=48, draws=1, test_tiles=48)
    pd.testing.assert_frame_equal(table, again)


def test_a_contact_sheet_shows_every_scene_and_its_labels(tmp_path: Path):
    make_world("demo_grass", tmp_path / "d", tiles=2, val=1, test=1, size=32)
    scenes = {w: [render_scene("demo_grass", w, 0, i, 48) for i in range(2)] for w in ("source", "target")}
    figure = laboratory.contact_sheet(scenes, open_data(str(tmp_path / "d")), "two worlds")
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    assert len(pictures) == 8
    assert np.array_equal(pictures[5], scenes["target"][1].image)
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["source", "source: labels", "target", "target: labels"]


def test_dose_draws_a_line_per_model_over_scenes():
    runs = results({"plain_4": [0.2, 0.3], "plain_16": [0.4, 0.5], "ktda_4": [0.3, 0.3], "ktda_16": [0.5, 0.6]})
    figure = laboratory.dose_response(runs, "dose")
    axes = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["plain", "ktda"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "16"]
    heights = [bars[0].get_ydata().tolist() for bars in axes.containers]
    assert heights == [pytest.approx([25, 45]), pytest.approx([30, 55])]


def test_luck_is_the_root_mean_square_between_equal_rows():
    rows = [("a", 0, 0.30), ("a_again", 0, 0.34), ("a", 1, 0.50), ("a_again", 1, 0.47), ("b", 0, 0.1)]
    runs = pd.DataFrame([{"data": "d", "row": row, "seed": seed, "select_miou": m} for row, seed, m in rows])
    (line,) = knowledge.luck(runs).itertuples()
    assert (line.data, line.row, line.n) == ("d", "a", 2)
    assert line.mean == pytest.approx(0.4025)
    assert line.sd == pytest.approx(((0.04**2 + 0.03**2) / 2) ** 0.5)


@pytest.mark.parametrize(("score", "tiles"), [(0.20, 32), (0.25, 64), (0.30, 128), (0.35, float("inf")), (0.15, 0)])
def test_a_score_in_labels_is_read_off_the_plain_students_curve(score, tiles):
    runs = results({"plain_32": [0.2, 0.2], "plain_128": [0.3, 0.3], "ours": [score, score]})
    assert knowledge.worth_in_labels(runs, "ours", "plain")["d"] == pytest.approx(tiles)


def test_pools_stand_in_the_order_asked_for():
    runs = results({"pool_32": [0.2, 0.3], "pool_0": [0.1, 0.1], "other": [0.9, 0.9]})
    table = knowledge.pool_table(runs, {"pool_0": "0", "pool_32": "32"})
    assert table["d"].tolist() == ["10.0 (10.0 to 10.0)", "25.0 (-38.5 to 88.5)"]
    assert table.index.tolist() == ["0", "32"]


def test_contrasts_come_from_the_table_as_far_as_they_were_run():
    table = {"contrasts": [["a", "b", "more"], ["b", "c", "less"], ["a", "d", "less"]]}
    runs = pd.DataFrame({"row": ["a", "b", "c"]})
    assert list(knowledge.stated_contrasts(table, runs).items()) == [("a − b", ("a", "b")), ("b − c", ("b", "c"))]


@pytest.mark.parametrize(
    "name", ["gates", "tuning", "rates", "study", "dose", "noise", "noise_plain", "knowledge", "label_dose"]
)
def test_the_tables_of_the_laboratory_are_sound(name: str):
    assert read_table(ROOT / "notebooks" / f"{name}.yaml").data == ("lab_grass", "lab_cloud")
    assert f"[{name}.yaml]({name}.yaml)" in (ROOT / "notebooks" / "README.md").read_text()


def verdicts_of(differences: pd.DataFrame) -> dict[str, set[tuple[str, str]]]:
    """Data set and row by verdict."""
    keys = list(zip(differences["data"], differences["row"], strict=True))
    return pd.Series(keys).groupby(verdicts(differences).to_numpy()).agg(set).to_dict()


FORMS = {
    "plain": "plain student",
    "published": "method as published",
    "through_unlabelled": "as published, and unlabelled tiles",
    "beside": "alignment beside the decoder, unlabelled tiles",
    "two_stages": "two stages",
    "two_stages_no_fmm": "two stages, no FMM",
    "two_stages_random": "two stages, random teacher",
    "teacher": "frozen teacher with a decoder",
}


def ends(line: pd.Series) -> str:
    """A difference as the README writes it."""
    return f"{100 * line['mean']:+.1f} ({100 * line['low']:+.1f} to {100 * line['high']:+.1f})".replace("-", "\u2212")


def test_the_readme_says_what_the_published_study_says():
    said = " ".join((ROOT / "README.md").read_text().split())
    folder = ROOT / "reports" / "published" / "knowledge"
    study, dose, real = (read_published(folder / name) for name in ("study", "label_dose", "real_images"))
    runs = knowledge.scored(study.results)
    sets = ["lab_grass", "lab_cloud"]
    assert f"{runs['seed'].nunique()} paired seeds" in said

    summary = summarise(runs).set_index(["row", "data"])
    for row, words in FORMS.items():
        means = [f"{100 * summary.loc[(row, data), 'mean']:.1f}" for data in sets]
        cost = f"{500 * summary.loc[(row, sets[0]), 'gflops']:.0f}"
        assert f"| {words} | {' | '.join(means)} | {cost} |" in said

    claims, _ = laboratory.contrasts(runs, knowledge.stated_contrasts(study.table, runs))
    claims = claims.assign(verdict=verdicts(claims)).set_index(["row", "data"])
    for row in ("two_stages \u2212 plain", "two_stages \u2212 two_stages_random", "published \u2212 plain"):
        for data in sets:
            assert f"{ends(claims.loc[(row, data)])}, {claims.loc[(row, data), 'verdict']}" in said, (row, data)

    plain = dose.results[dose.results["row"].str.startswith("plain_")]
    worth = knowledge.worth_in_labels(pd.concat([plain, runs[runs["row"] == "two_stages"]]), "two_stages", "plain")
    assert f"{round(worth['lab_grass'], -1):.0f} labelled tiles of the plain student on grass" in said
    assert f"{round(worth['lab_cloud'], -1):.0f} on cloud" in said

    found = knowledge.scored(real.results)
    claims, _ = laboratory.contrasts(found, knowledge.stated_contrasts(real.table, found))
    claims = claims.assign(verdict=verdicts(claims)).set_index("row")
    assert f"{found['seed'].nunique()} draws of the labelled tiles" in said
    for tiles in (16, 64):
        for rival in ("plain", "two_stages_random"):
            line = claims.loc[f"two_stages_{tiles} \u2212 {rival}_{tiles}"]
            assert f"{ends(line)}, {line['verdict']}" in said, (tiles, rival)

    clouds = read_published(folder / "l8_sample")
    found = knowledge.scored(clouds.results)
    claims, _ = laboratory.contrasts(found, knowledge.stated_contrasts(clouds.table, found))
    claims = claims.assign(verdict=verdicts(claims)).set_index("row")
    assert set(claims["verdict"]) == {"undecided"}
    line = claims.loc["two_stages \u2212 plain"]
    assert f"nothing can be told: two stages over the plain student {ends(line)}, undecided" in said

    apart = pd.concat([knowledge.luck(read_published(folder / name).results) for name in ("noise", "noise_plain")])
    own = 100 * apart[apart["row"] == "short"]["sd"]  # under the study's schedule
    assert f"differ by {own.min():.1f} to {own.max():.1f} points" in said
