"""The headline of a report: the published scores with intervals, and by what each row differs from the baseline."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from ktda.errors import InputError
from ktda.files import project_root
from ktda_lab.ablations import statistics as stats
from ktda_lab.ablations.figures import forest
from ktda_lab.ablations.knowledge import scored
from ktda_lab.ablations.tables import render_differences, render_summary
from ktda_lab.book.text import plain, table
from ktda_lab.grid.results import read_published

PUBLISHED = (Path("reports/published/knowledge/study"), Path("reports/published/ablations"))  # the first that is there


class Headline(NamedTuple):
    """What published results say.

    Attributes:
        folder: The published results.
        question: Of their table.
        baseline: The row that the others are compared with.
        tables: By data set, a line of text per row that was run: scores in percent, differences in points.
        figure: The differences and their intervals.
    """

    folder: Path
    question: str
    baseline: str
    tables: dict[str, pd.DataFrame]
    figure: Figure


def read_headline(folders: Sequence[Path] = PUBLISHED) -> Headline | None:
    """The headline of the first of `folders`, here or in the checkout, that holds results; None where none does."""
    for place in [root / folder for folder in folders for root in (Path(), project_root())]:
        try:
            published = read_published(place)
        except InputError:
            continue
        results, baseline = scored(published.results), published.table["baseline"]
        says = {row["name"]: row.get("says", "") for row in published.table["rows"]}
        scores, differences = stats.summarise(results), stats.paired_differences(results, baseline)
        tables = {data: _lines(scores, differences, says, data) for data in scores["data"].unique()}
        title = f"Differences to {baseline}, paired by seed"
        figure = forest(differences, stats.seed_differences(results, baseline), baseline, title=title)
        return Headline(place, published.table.get("question", ""), baseline, tables, figure)
    return None


def headline_text(headline: Headline, folder: str) -> str:
    """The tables in Markdown, and how to read them; `folder` is how the page calls the published results."""
    names = ["row", "mIoU, %:", "95 %:", "difference, points:", "95 %:", "verdict", "seeds:"]
    parts = [
        f"Published results of several trainings per row, in {folder}; they do not depend on this report's preset.",
        f"Differences are to `{headline.baseline}`, paired by seed; intervals are Student's over seeds. "
        "*holds*: p < 0.05 after Holm's correction over the table; *suggested*: only before it. "
        "Sets called `lab_` or `demo_` are simulated: what holds on them need not hold on satellite images.",
    ]
    for data, lines in headline.tables.items():
        rows = [
            (f"**{plain(name)}**<br>{plain(says)}", *map(plain, rest))
            for name, says, *rest in lines.itertuples(index=False)
        ]
        parts += [f"**{plain(data)}**", table(names, rows)]
    return "\n\n".join(parts)


def _lines(scores: pd.DataFrame, differences: pd.DataFrame, says: dict[str, str], data: str) -> pd.DataFrame:
    score = render_summary(scores, data).reset_index(drop=True)
    other = render_differences(differences, data).set_index("row").reindex(score["row"]).reset_index()
    columns = {"row": score["row"], "says": score["row"].map(says).fillna("")}
    columns |= {"mIoU (%)": score["mIoU (%)"], "mIoU, 95 %": score["95 %"]}
    columns |= {"difference (points)": other["difference (points)"], "difference, 95 %": other["95 %"]}
    columns |= {"verdict": other["verdict"].fillna("baseline"), "seeds": score["n"]}
    return pd.DataFrame(columns).fillna("")
