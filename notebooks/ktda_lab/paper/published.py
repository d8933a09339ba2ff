"""The published numbers, and the arithmetic that needs nothing else: no images, no weights, no code of the authors.

The numbers stand in ``published.yaml`` in percent, as printed; here and everywhere else scores are fractions.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import linprog

from ktda.data.builtin import built_in_spec
from ktda.errors import InputError
from ktda.yaml_files import read_yaml

FILE = Path(__file__).with_suffix(".yaml")
MEANS = {"miou": "mIoU (%)", "overall_accuracy": "OA (%)", "mean_f1": "F1 (%)"}
ROUNDING = 1e-4  # between a printed mean and the mean of printed values: half a unit of the last digit from each


@cache
def facts() -> dict[str, Any]:
    """Content of ``published.yaml``: ``sources``, ``rerun``, and per data set of ``sets`` classes, claim, shares."""
    return read_yaml(FILE)


def published_scores() -> pd.DataFrame:
    """One line per published row: ``data``, ``method``, ``miou``, ``overall_accuracy``, ``mean_f1``, ``iou_0`` and so
    on as fractions, NaN where nothing was published, and ``source``, a key of ``facts()["sources"]``.
    """
    lines = []
    for data, own in facts()["sets"].items():
        for row in own["rows"]:
            numbers = {name: row.get(name, np.nan) for name in ("miou", "overall_accuracy", "mean_f1")}
            numbers |= {f"iou_{k}": value for k, value in enumerate(row.get("iou", ()))}
            numbers = {name: value / 100 for name, value in numbers.items()}
            lines.append({"data": data, "method": row["method"], **numbers, "source": row["source"]})
    frame = pd.DataFrame(lines)
    return frame[[name for name in frame if name != "source"] + ["source"]]


def render_published(data: str) -> pd.DataFrame:
    """The rows of a data set as text in percent, with the names of the classes; empty where nothing was published."""
    rows = published_scores().query("data == @data")
    heads = MEANS | {f"iou_{k}": f"IoU {name} (%)" for k, name in enumerate(built_in_spec(data)["classes"])}
    numbers = rows[list(heads)].mul(100).map(lambda value: "" if np.isnan(value) else f"{value:.2f}")
    return pd.concat([rows["method"].rename("row"), numbers.rename(columns=heads), rows["source"]], axis=1)


def check_means() -> pd.DataFrame:
    """Whether printed means are those of the printed classes: a line per row whose classes are known."""
    rows = published_scores().dropna(subset="iou_0")
    means = rows.filter(regex="^iou_").mean(axis=1)  # NaN where the other data set has more classes
    agree = (means - rows["miou"]).abs() <= ROUNDING + 1e-9  # and a hair for floats
    return rows[["data", "method"]].assign(**{"mean of classes": means, "published": rows["miou"], "agree": agree})


def leads() -> pd.DataFrame:
    """By how much the method leads each other row: ``data``, ``over``, ``lead``, ``claimed`` (NaN), ``source``."""
    lines = []
    for data, own in facts()["sets"].items():
        rows = published_scores().query("data == @data").set_index("method")
        lead = rows.loc[own["method"], "miou"] - rows["miou"].drop(own["method"])
        claimed = {own["claim"]["over"]: own["claim"]["points"] / 100}
        for over, value in lead.items():
            line = {"data": data, "over": over, "lead": value, "claimed": claimed.get(over, np.nan)}
            lines.append(line | {"source": rows.loc[over, "source"]})
    return pd.DataFrame(lines)


def by_class(data: str) -> pd.DataFrame:
    """The claim of a data set taken apart: a line per class, in class order.

    Args:
        data: key of ``facts()["sets"]``.

    Returns:
        A column of IoU for the best baseline and one for the method, by their names; their ``difference``; the
        class's ``part`` of the claim, which sum to it; the claim over all ``other classes``.

    Raises:
        InputError: no such data set.
    """
    if data not in facts()["sets"]:
        raise InputError(f"nothing is published for {data!r}; choose one of {', '.join(facts()['sets'])}")
    own = facts()["sets"][data]
    ious = {row["method"]: np.array(row["iou"]) / 100 for row in own["rows"] if "iou" in row}
    frame = pd.DataFrame(ious, built_in_spec(data)["classes"])[[own["claim"]["over"], own["method"]]]
    difference = frame[own["method"]] - frame[own["claim"]["over"]]
    others = (difference.sum() - difference) / (len(difference) - 1)
    return frame.assign(difference=difference, part=difference / len(difference), **{"other classes": others})


def mean_f1s(iou: ArrayLike) -> tuple[float, float]:
    """Mean F1 of one row of IoU per class, strict and with every class of IoU 0 dropped.

    A class without one right pixel has an F1 of 0 / 0 where it is made from precision and recall; mmsegmentation
    leaves such values out of the mean, so that missing a class altogether raises it.
    """
    iou = np.asarray(iou, float)
    f1 = 2 * iou / (1 + iou)  # which is Dice: 2 TP / (2 TP + FP + FN)
    return float(f1.mean()), float(f1[f1 > 0].mean())


def f1_means() -> pd.DataFrame:
    """Both means of F1 for the rows whose classes are known, and the published one: ``strict``, ``dropped``."""
    rows = published_scores().dropna(subset="iou_0").reset_index(drop=True)
    means = [mean_f1s(line.dropna()) for _, line in rows.filter(regex=r"^iou_").iterrows()]
    return rows[["data", "method", "mean_f1"]].join(pd.DataFrame(means, columns=["strict", "dropped"]))


def accuracy_range(iou: ArrayLike, shares: ArrayLike) -> tuple[float, float]:
    """Lowest and highest overall accuracy that any prediction with these IoUs per class can have.

    With the share f of a class in the labels and its wrong predictions e, both of all pixels, its right ones are
    IoU (f + e), at most f, and the rest of f is missed. In sum as much is missed as is wrong; and what is wrong in one
    class was missed in another, so that e and the missed of a class are no more than all wrong ones. A linear
    programme in e.

    Args:
        iou: (K,) in [0, 1].
        shares: (K,) of the labels, scaled to sum to 1.

    Raises:
        InputError: no prediction has them.
    """
    iou, shares = np.asarray(iou, float), np.asarray(shares, float) / np.sum(shares)
    limits = {
        "bounds": [(0, f * (1 - q) / q if q else None) for q, f in zip(iou, shares, strict=True)],
        "A_eq": [1 + iou],
        "b_eq": [shares @ (1 - iou)],
        "A_ub": np.diag(1 - iou) - 1,
        "b_ub": -shares * (1 - iou),
    }
    found = [linprog(sign * iou, **limits) for sign in (1, -1)]
    if not all(f.success for f in found):
        raise InputError(f"no prediction has IoU {iou.round(4).tolist()} with shares {shares.round(4).tolist()}")
    low, high = (float(iou @ (shares + f.x)) for f in found)
    return low, high


def accuracy_ranges() -> pd.DataFrame:
    """`accuracy_range` of the methods for the shares of classes that are known, beside the published accuracy."""
    lines = []
    for data, own in facts()["sets"].items():
        row = next(row for row in own["rows"] if row["method"] == own["method"])
        shares = {"labels as cited": own["shares"]["percent"], "whole set": own.get("whole_set")}
        for name, values in shares.items():
            if values:
                low, high = accuracy_range(np.array(row["iou"]) / 100, values)
                line = {"data": data, "shares of": name, "lowest": low, "published": row["overall_accuracy"] / 100}
                lines.append(line | {"highest": high})
    return pd.DataFrame(lines)
