"""The headline of a report: the published scores with intervals, and by what each row differs from the baseline."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ktda.errors import InputError
from ktda.files import project_root
from ktda_lab.ablations.statistics import paired_differences, summarise
from ktda_lab.ablations.tables import render_differences, render_summary
from ktda_lab.grid.results import read_published

PUBLISHED = (Path("reports/published/laboratory/study"), Path("reports/published/ablations"))  # the first that is there


class Headline(NamedTuple):
    """What published results say, in text.

    Attributes:
        folder: The published results.
        question: Of their table.
        baseline: The row that the others are compared with.
        tables: By data set, a line per row that was run: scores in percent, differences in points, 95 % intervals.
    """

    folder: Path
    question: str
    baseline: str
    tables: dict[str, pd.DataFrame]


def read_headline(folders: Sequence[Path] = PUBLISHED) -> Headline | None:
    """The headline of the first of `folders`, here or in the checkout, that holds results; None where none does."""
    for place in [root / folder for folder in folders for root in (Path(), project_root())]:
        try:
            published = read_published(place)
        except InputError:
            continue
        baseline = published.table["baseline"]
        says = {row["name"]: row.get("says", "") for row in published.table["rows"]}
        scores, differences = summarise(published.results), paired_differences(published.results, baseline)
        tables = {data: _table(scores, differences, baseline, says, data) for data in scores["data"].unique()}
        return Headline(place, published.table.get("question", ""), baseline, tables)
    return None


def _table(scores: pd.DataFrame, differences: pd.DataFrame, baseline: str, says: dict, data: str) -> pd.DataFrame:
    score, difference = render_summary(scores, data), render_differences(differences, data).set_index("row")
    table = pd.DataFrame({"row": score["row"], "says": score["row"].map(says).fillna(""), "seeds": score["n"]})
    table["mIoU, % (95 %)"] = _with_interval(score["mIoU (%)"], score["95 %"])
    points = _with_interval(difference["difference (points)"], difference["95 %"])
    table["difference, points (95 %)"] = score["row"].map(points).fillna("")
    table["verdict"] = score["row"].map(difference["verdict"]).fillna("baseline")
    return table


def _with_interval(values: pd.Series, ends: pd.Series) -> pd.Series:
    return values + (" (" + ends + ")").where(ends != "", "")
