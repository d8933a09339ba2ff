"""Tables of a grid for people: the csv keeps every digit, Markdown and LaTeX are rendered in percent and points."""

from pathlib import Path

import numpy as np
import pandas as pd

from ktda.files import write_beside
from ktda_lab.ablations.statistics import verdicts

TEXT = ("row", "group", "says", "changes", "verdict")  # columns that are no numbers


def render_summary(summary: pd.DataFrame, data: str) -> pd.DataFrame:
    """The lines of one data set as text.

    Args:
        summary: of `ktda_lab.ablations.statistics.summarise`, perhaps completed by rows that were not run, and by the
            bootstrap's intervals.
        data: data set.
    """
    lines = summary[summary["data"] == data]
    classes = lines["classes"].dropna().iloc[0].split("|")
    columns = _head(lines)
    columns |= {"mIoU (%)": _number(lines["mean"], 100), "sd": _number(lines["sd"], 100), "95 %": _ends(lines)}
    columns |= _drawn(lines)
    columns |= {"OA (%)": _number(lines["overall_accuracy"], 100)}
    columns |= {f"IoU {name} (%)": _number(lines[f"iou_{k}"], 100) for k, name in enumerate(classes)}
    columns |= {
        "trained (M)": _number(lines["trained_parameters"], 1e-6, 2),
        "inference (M)": _number(lines["total_inference_parameters"], 1e-6, 2),
        "GFLOPs": _number(lines["gflops"], 1, 2),
        "seconds": _number(lines["seconds"], 1, 0),
        "memory (GiB)": _number(lines["peak_memory_bytes"], 2**-30, 2),
    }
    return pd.DataFrame(columns)


def render_differences(differences: pd.DataFrame, data: str) -> pd.DataFrame:
    """The lines of one data set as text.

    Args:
        differences: of `ktda_lab.ablations.statistics.paired_differences`, perhaps completed in the same ways.
        data: data set.
    """
    lines = differences[differences["data"] == data]
    columns = _head(lines)
    columns |= {"difference (points)": _number(lines["mean"], 100, sign="+"), "sd": _number(lines["sd"], 100)}
    columns |= {"95 %": _ends(lines, "+"), "p": _p(lines["p"]), "p (Holm)": _p(lines["p_holm"])}
    columns |= _drawn(lines, "+")
    columns |= {"seed noise": _number(lines["noise"], 100), "difference / noise": _number(lines["effect"], 1, 1, "+")}
    columns["verdict"] = verdicts(lines)
    return pd.DataFrame(columns)


def markdown(frame: pd.DataFrame) -> str:
    """A frame of text as a Markdown table; numbers are on the right."""
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in (frame.columns, *frame.to_numpy())]
    rule = ["---" if name in TEXT else "---:" for name in frame]
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:])) + "\n"


def latex(frame: pd.DataFrame) -> str:
    """A frame of text as a LaTeX tabular, with the rules of booktabs."""
    text = "".join("l" if name in TEXT else "r" for name in frame)
    return frame.to_latex(index=False, escape=True, column_format=text).replace("−", "$-$").replace("<", "$<$")


def write_tables(
    out: Path | str, summary: pd.DataFrame, differences: pd.DataFrame, bootstrap: pd.DataFrame
) -> list[Path]:
    """Write ``summary`` and ``differences`` as csv (fractions, all lines), md and tex (a table per data set).

    Args:
        out: folder.
        summary, differences, bootstrap: of `ktda_lab.ablations.statistics`; the last's intervals are added to both.

    Returns:
        The six paths.
    """
    out, paths = Path(out), []
    ends = [f"{end}_{kind}" for kind in ("images", "scenes") for end in ("low", "high")]
    scores = bootstrap[["data", "row", "images", "scenes", *ends]]
    summary = summary.merge(scores, on=["data", "row"], how="left")
    paired = bootstrap[["data", "row", *(f"diff_{end}" for end in ends)]]
    paired = paired.rename(columns=lambda name: name.removeprefix("diff_"))
    differences = differences.merge(paired, on=["data", "row"], how="left")
    out.mkdir(parents=True, exist_ok=True)
    for name, frame, render in (
        ("summary", summary, render_summary),
        ("differences", differences, render_differences),
    ):
        tables = [(data, render(frame, data)) for data in frame["data"].unique()]
        contents = {
            "csv": frame.to_csv(index=False, lineterminator="\n"),
            "md": "\n".join(f"**{data}**\n\n{markdown(table)}" for data, table in tables),
            "tex": "\n".join(f"% {data}\n{latex(table)}" for data, table in tables),
        }
        for suffix, content in contents.items():
            paths.append(out / f"{name}.{suffix}")
            write_beside(paths[-1], content)
    return paths


def _head(lines: pd.DataFrame) -> dict[str, pd.Series]:
    return {"row": lines["row"], "group": lines["group"], "n": lines["n"].map(lambda n: str(n) if n else "not run")}


def _number(values: pd.Series, factor: float = 1, digits: int = 1, sign: str = "") -> list[str]:
    """Values times a factor as text, without a minus before a zero; empty where there is none."""
    numbers = (factor * values.astype(float)).round(digits) + 0
    return ["" if np.isnan(n) else f"{n:{sign}.{digits}f}".replace("-", "−") for n in numbers]


def _p(values: pd.Series) -> list[str]:
    return ["< 0.001" if text == "0.000" else text for text in _number(values, 1, 3)]


def _drawn(lines: pd.DataFrame, sign: str = "") -> dict[str, list[str]]:
    """The bootstrap's intervals, where the lines have them."""
    found = [kind for kind in ("images", "scenes") if f"low_{kind}" in lines]
    return {f"95 % over {kind}": _ends(lines, sign, f"_{kind}") for kind in found}


def _ends(lines: pd.DataFrame, sign: str = "", kind: str = "") -> list[str]:
    pairs = zip(*(_number(lines[f"{end}{kind}"], 100, sign=sign) for end in ("low", "high")), strict=True)
    return [f"{low} to {high}" if low else "" for low, high in pairs]
