"""What a table of runs may claim: seeds, pairs over seeds, and images drawn again. All scores are fractions in [0, 1].

Seed noise and test-set noise are different things. A t-interval over seeds says where the mean of *more trainings*
would lie, on these very test images; a bootstrap interval over images says what *other test images* of the kind would
have given, for these very trainings. Neither holds the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ktda.errors import InputError
from ktda.scores.metrics import mean_iou

KEYS = ["data", "row", "group"]
COSTS = {"trained_parameters": "max", "total_inference_parameters": "max", "gflops": "max", "seconds": "mean"}
COSTS |= {"wall_seconds": "mean", "peak_memory_bytes": "max"}


def t_interval(mean: ArrayLike, sd: ArrayLike, n: ArrayLike) -> tuple[NDArray, NDArray]:
    """Ends of Student's 95 % interval of a mean; NaN for fewer than two values.

    Args:
        mean, sd, n: of the values; the deviation is the sample's (n - 1).
    """
    mean, n = np.asarray(mean, float), np.maximum(np.asarray(n, float), 1)
    half = stats.t.ppf(0.975, n - 1) * np.asarray(sd, float) / np.sqrt(n)
    return mean - half, mean + half


def holm(p: ArrayLike) -> NDArray:
    """Holm's step-down correction of p-values; NaN is no test, counts for nothing, and stays NaN."""
    p = np.asarray(p, float)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN sorts last
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """One line per data set and row, in the order of the results.

    Args:
        results: a line per run, as `ktda_lab.grid.results.collect` gives it.

    Returns:
        ``n``, ``mean``, ``sd`` (n - 1) and 95 % t-interval ``low``, ``high`` of mIoU over seeds; means of IoU per class
        and of the seconds; parameters, GFLOPs and the largest peak memory.
    """
    groups = results.groupby(KEYS, sort=False)
    table = groups["miou"].agg(n="count", mean="mean", sd="std")
    table["low"], table["high"] = t_interval(table["mean"], table["sd"], table["n"])
    ious = [name for name in results if name.startswith("iou_")]
    rest = groups.agg({"overall_accuracy": "mean"} | dict.fromkeys(ious, "mean") | COSTS | {"classes": "first"})
    return table.join(rest).reset_index()


def miou_without(results: pd.DataFrame, class_index: int) -> pd.Series:
    """Mean IoU of each run over the defined classes but one."""
    ious = [name for name in results if name.startswith("iou_") and name != f"iou_{class_index}"]
    return results[ious].mean(axis=1)


def seed_differences(results: pd.DataFrame, baseline: str, metric: str = "miou") -> pd.DataFrame:
    """Row minus baseline of the same data set and seed: a line per pair, in the order of the results.

    Returns:
        ``data``, ``row``, ``group``, ``seed``, ``difference``.

    Raises:
        InputError: no run of the baseline, on one of the data sets.
    """
    base = results[results["row"] == baseline]
    for data, rows in results.groupby("data", sort=False)["row"]:
        if baseline not in set(rows):
            found = ", ".join(rows.unique())
            raise InputError(f"no run of the baseline {baseline!r} on {data}; the results there hold rows {found}")
    base = base[["data", "seed", metric]].rename(columns={metric: "base"})
    pairs = results[results["row"] != baseline].merge(base, on=["data", "seed"])
    pairs["difference"] = pairs[metric] - pairs["base"]
    return pairs[[*KEYS, "seed", "difference"]].dropna()


def paired_differences(results: pd.DataFrame, baseline: str, metric: str = "miou") -> pd.DataFrame:
    """Every row against the baseline over the seeds that both have, a line per data set and row.

    Args:
        results: a line per run.
        baseline: name of the row that the others are compared with.
        metric: column of `results`.

    Returns:
        ``n`` pairs, ``mean`` and ``sd`` of the differences, 95 % t-interval ``low``, ``high``; ``p`` of the paired
        t-test (1 where all pairs are equal; NaN where they differ by one same amount: there is nothing to test
        against) and ``p_holm``, corrected over all lines of the table; ``noise``, the baseline's deviation over its
        seeds, and ``effect``, the mean in units of it.

    Raises:
        InputError: no run of the baseline.
    """
    pairs = seed_differences(results, baseline, metric).groupby(KEYS, sort=False)["difference"]
    table = pairs.agg(n="count", mean="mean", sd="std", p=_paired_t_test)
    rows = results.loc[results["row"] != baseline, KEYS].drop_duplicates()
    table = table.reindex(pd.MultiIndex.from_frame(rows))
    table["n"] = table["n"].fillna(0).astype(int)
    table["low"], table["high"] = t_interval(table["mean"], table["sd"], table["n"])
    table["p_holm"] = holm(table["p"])
    table = table.reset_index()
    noise = results[results["row"] == baseline].groupby("data")[metric].std()
    table["noise"] = table["data"].map(noise)
    table["effect"] = table["mean"] / table["noise"].where(table["noise"] > 1e-12)
    return table[[*KEYS, "n", "mean", "sd", "low", "high", "p", "p_holm", "noise", "effect"]]


def verdicts(differences: pd.DataFrame) -> pd.Series:
    """What each line of `paired_differences` may claim, in two words.

    "holds": p < 0.05 after Holm's correction; "suggested": only before it, so that the interval leaves out zero;
    "undecided"; "not tested": fewer than two seeds, or differences of one same size; "not run".
    """
    cases = {
        "not run": differences["n"] == 0,
        "not tested": differences["p"].isna(),
        "holds": differences["p_holm"] < 0.05,
        "suggested": differences["p"] < 0.05,
    }
    return pd.Series(np.select(list(cases.values()), list(cases), "undecided"), differences.index, name="verdict")


def complete(frame: pd.DataFrame, table: Mapping[str, Any], baseline: bool = True) -> pd.DataFrame:
    """The same lines in the order of the table, with a line of ``n`` 0 for every row that has no result.

    Args:
        frame: of `summarise` or `paired_differences`.
        table: the grid's table, with ``rows`` of ``name`` and ``group``.
        baseline: False leaves the baseline out.
    """
    listed = [row for row in table["rows"] if baseline or row["name"] != table["baseline"]]
    rows = [(row["name"], row.get("group", "")) for row in listed]
    keys = [(data, *row) for data in frame["data"].unique() for row in rows]
    full = pd.DataFrame(keys, columns=KEYS).merge(frame.drop(columns="group"), on=["data", "row"], how="left")
    full["n"] = full["n"].fillna(0).astype(int)
    return full


def draw_miou(
    runs: Sequence[NDArray],
    groups: ArrayLike | None = None,
    times: int = 2000,
    seed: int = 0,
    like: NDArray | None = None,
    size: int | None = None,
) -> NDArray:
    """(times,) mIoU of drawn test sets, mean over the runs; equal arguments draw equal test sets.

    Args:
        runs: one (images, K, K) per run, all of the same images, rows = label.
        groups: (images,) names; whole groups are drawn with replacement, such as scenes. None draws images.
        times: test sets drawn.
        seed: of the draws.
        like, size: another run whose images they must be; groups per test set, as many as there are by default.

    Raises:
        InputError: the runs were not scored on the same images.
    """
    like = runs[0] if like is None else like
    if any(r.shape != like.shape or (r.sum(2) != like.sum(2)).any() for r in runs):  # labels of every image
        raise InputError("the runs were not scored on the same images; compare runs of one data set and split")
    names, number = np.unique(np.arange(len(like)) if groups is None else groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(size or len(names), np.full(len(names), 1 / len(names)), size=times)  # how often each
    weights = counts[:, number].astype(float)  # (times, images); floats multiply faster, and are exact to 2^53
    drawn = [np.tensordot(weights, run.astype(float), 1) for run in runs]  # (times, K, K) each
    return np.mean([mean_iou(torch.from_numpy(matrices)).numpy() for matrices in drawn], axis=0)


def bootstrap_difference(
    first: Sequence[NDArray],
    second: Sequence[NDArray],
    groups: ArrayLike | None = None,
    times: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of mIoU of `first` minus that of `second` over test sets like this one.

    Both are scored on the same draws, so that what is hard for both cancels; each is the mean over its runs.

    Args:
        first, second: one (images, K, K) per run, all of the same images.
        groups, times, seed: as in `draw_miou`.

    Raises:
        InputError: the runs were not scored on the same images.
    """
    return _interval(draw_miou(first, groups, times, seed) - draw_miou(second, groups, times, seed, like=first[0]))


def bootstrap_table(
    results: pd.DataFrame,
    baseline: str,
    matrices: Mapping[str, NDArray],
    scenes: Mapping[str, NDArray],
    times: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Bootstrap intervals for every data set and row, by images and by scenes.

    Args:
        results: a line per run.
        baseline: name of the row that the others are compared with.
        matrices, scenes: by run id, as in `ktda_lab.grid.results.Published`.
        times, seed: as in `draw_miou`.

    Returns:
        ``images`` and ``scenes`` counted; ends ``low_images``, ``high_images``, ``low_scenes``, ``high_scenes`` of the
        row's mIoU (mean over its seeds), and the same with ``diff_`` for its difference to the baseline over the
        seeds that both have (NaN for the baseline, or without such a seed).
    """
    lines = []
    for (data, row, group), runs in results.groupby(KEYS, sort=False):
        base = results[(results["data"] == data) & (results["row"] == baseline)].set_index("seed")["id"]
        own = runs.set_index("seed")["id"]
        shared = [] if row == baseline else own.index.intersection(base.index)
        scene = scenes[own.iloc[0]]
        line = {"data": data, "row": row, "group": group}
        line |= {"images": len(scene), "scenes": len(np.unique(scene))}
        for name, groups in (("images", None), ("scenes", scene)):
            options = {"groups": groups, "times": times, "seed": seed}
            line[f"low_{name}"], line[f"high_{name}"] = _interval(draw_miou([matrices[i] for i in own], **options))
            pair = [[matrices[ids[s]] for s in shared] for ids in (own, base)]
            ends = bootstrap_difference(*pair, **options) if len(shared) else (np.nan, np.nan)
            line[f"diff_low_{name}"], line[f"diff_high_{name}"] = ends
        lines.append(line)
    return pd.DataFrame(lines)


def compare_noise(
    summary: pd.DataFrame, differences: pd.DataFrame, bootstrap: pd.DataFrame, baseline: str
) -> pd.DataFrame:
    """What drawing seeds, images or scenes again would change, side by side.

    Args:
        summary, differences, bootstrap: of `summarise`, `paired_differences` and `bootstrap_table`.
        baseline: name of the row that the others are compared with.

    Returns:
        A line per data set and kind of noise: ``count`` of what is drawn, ``score_width`` of the baseline's interval,
        ``difference_width`` (median over rows), ``clear`` of ``rows`` intervals of differences leave out zero.
    """
    lines = []
    for data, drawn in bootstrap.groupby("data", sort=False):
        base = summary[(summary["data"] == data) & (summary["row"] == baseline)].iloc[0]
        own, paired = drawn[drawn["row"] == baseline].iloc[0], differences[differences["data"] == data]
        kinds = {"seeds": (base["n"], base["high"] - base["low"], paired["low"], paired["high"])}
        for kind in ("images", "scenes"):
            ends = drawn[f"diff_low_{kind}"], drawn[f"diff_high_{kind}"]
            kinds[kind] = (own[kind], own[f"high_{kind}"] - own[f"low_{kind}"], *ends)
        for kind, (count, width, low, high) in kinds.items():
            line = {"data": data, "kind": kind, "count": count, "score_width": width}
            line |= {"difference_width": (high - low).median(), "clear": ((low > 0) | (high < 0)).sum()}
            lines.append(line | {"rows": low.notna().sum()})
    return pd.DataFrame(lines)


def _paired_t_test(differences: pd.Series) -> float:
    if len(differences) < 2:
        return np.nan
    if np.ptp(differences) <= 1e-12:
        return 1.0 if abs(differences.iloc[0]) <= 1e-12 else np.nan
    return stats.ttest_1samp(differences, 0).pvalue  # the same as scipy.stats.ttest_rel of the pairs


def _interval(draws: NDArray) -> tuple[float, float]:
    if np.isnan(draws).all():
        return np.nan, np.nan
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return float(low), float(high)
