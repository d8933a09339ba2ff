"""What a table of scores can hide, measured on runs whose confusion matrices are known: which mean of F1, which labels,
how many tiles, and the best of how many evaluations. All scores are fractions in [0, 1].
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from ktda.scores.metrics import scores
from ktda.seeding import derive_seed
from ktda_lab.ablations.statistics import draw_miou, paired_differences


def f1_by_row(results: pd.DataFrame, matrices: Mapping[str, NDArray]) -> pd.DataFrame:
    """Mean F1 by two conventions, mean over the seeds of a row: ``data``, ``method``, ``strict``, ``dropped``.

    Args:
        results: a line per run.
        matrices: (images, K, K) by run id, rows = label.
    """
    found = [scores(torch.from_numpy(matrices[run].sum(0))) for run in results["id"]]
    means = pd.DataFrame({"strict": [s["mean_f1"] for s in found], "dropped": [s["mean_f1_mmseg"] for s in found]})
    names = results[["data", "row"]].rename(columns={"row": "method"}).reset_index(drop=True)
    return names.join(means).groupby(["data", "method"], sort=False).mean().reset_index()


def label_ratios(matrices: NDArray, digits: int = 4) -> NDArray:
    """Recall over precision per class, from values rounded as a table would print them.

    With the shares f of the classes in the labels, sum(f * recall / precision) is 1 for every row that was scored on
    these labels: f * recall is the right pixels of the class over all pixels, so that each term is the share of the
    class in the *predictions*. A class without a right pixel counts 0, since its predictions cannot be seen.

    Args:
        matrices: (..., K, K) counts, rows = label.
        digits: after the point, of the fractions; 4 are two of a percentage.

    Returns:
        (..., K)
    """
    hit = matrices.diagonal(axis1=-2, axis2=-1).astype(float)
    recall = np.round(hit / np.maximum(matrices.sum(-1), 1), digits)
    precision = np.round(hit / np.maximum(matrices.sum(-2), 1), digits)
    return np.divide(recall, precision, out=np.zeros_like(hit), where=precision > 0)


def label_check(results: pd.DataFrame, matrices: Mapping[str, NDArray]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The sums of `label_ratios` times shares for runs scored on their own labels, and on the first half of them.

    Runs without a right pixel in some class are left out, and data sets with fewer other runs than classes.

    Args:
        results: a line per run.
        matrices: (images, K, K) by run id, rows = label.

    Returns:
        Distances of the sums from 1: ``data``, ``scored on``, ``runs``, ``median``, ``largest``; and by ``data`` and
        ``class`` the share in the labels beside that which is solved for from the printed scores of all runs.
    """
    lines, shares = [], []
    for data, runs in results.groupby("data", sort=False):
        each = np.stack([matrices[run] for run in runs["id"]])  # (runs, images, K, K)
        ratios = {
            "all labels": label_ratios(each.sum(1)),
            "half of them": label_ratios(each[:, : each.shape[1] // 2].sum(1)),
        }
        seen = np.logical_and.reduce([(r > 0).all(1) for r in ratios.values()])
        if seen.sum() < each.shape[-1]:
            continue
        share = each[0].sum(axis=(0, 2)) / each[0].sum()
        for name, ratio in ratios.items():
            away = np.abs(ratio[seen] @ share - 1)
            line = {"data": data, "scored on": name, "runs": seen.sum()}
            lines.append(line | {"median": np.median(away), "largest": away.max()})
        solved = np.linalg.lstsq(ratios["all labels"][seen], np.ones(seen.sum()), rcond=None)[0]
        classes = runs["classes"].iloc[0].split("|")
        shares.append(pd.DataFrame({"data": data, "class": classes, "in the labels": share, "solved": solved}))
    nothing = pd.DataFrame(columns=["data", "class", "in the labels", "solved"])
    columns = ["data", "scored on", "runs", "median", "largest"]
    return pd.DataFrame(lines, columns=columns), pd.concat(shares or [nothing])


def half_widths(
    first: NDArray,
    second: NDArray | None,
    groups: ArrayLike,
    sizes: Sequence[int],
    times: int = 500,
    seed: int = 0,
) -> NDArray:
    """Half of the 95 % bootstrap interval of a run's mIoU, or of a paired difference, for test sets of other sizes.

    Args:
        first, second: (images, K, K) of two runs, of the same images; None: the score of `first`.
        groups: (images,) names of what is drawn with replacement, such as scenes.
        sizes: groups in a drawn test set; more than there are is allowed.
        times: test sets drawn per size.
        seed: of the draws.

    Returns:
        (sizes,) in the units of mIoU.
    """
    widths = []
    for size in sizes:
        draws = draw_miou([first], groups, times, seed, size=size)
        if second is not None:
            draws = draws - draw_miou([second], groups, times, seed, like=first, size=size)
        low, high = np.percentile(draws, (2.5, 97.5))
        widths.append((high - low) / 2)
    return np.array(widths)


def width_table(
    results: pd.DataFrame,
    matrices: Mapping[str, NDArray],
    scenes: Mapping[str, NDArray],
    rows: tuple[str, str],
    tiles: Sequence[int],
    seed: int = 0,
) -> pd.DataFrame:
    """`half_widths` of one run of each of two rows, of their first common seed, on every data set that has one.

    Args:
        results: a line per run.
        matrices, scenes: by run id, as in `ktda_lab.grid.results.Published`.
        rows: the row whose score is meant, and the one that it is compared with.
        tiles: sizes of a test set.
        seed: of the draws.

    Returns:
        ``data``, ``tiles``, ``what`` (score or difference, by tiles or by scenes), ``half_width``.
    """
    lines = []
    for data, runs in results.groupby("data", sort=False):
        pairs = runs.pivot(index="seed", columns="row", values="id").reindex(columns=rows).dropna()
        if pairs.empty:
            continue
        own, other = (matrices[run] for run in pairs.iloc[0])
        scene = scenes[pairs.iloc[0, 0]]
        for unit, groups in (("tiles", np.arange(len(scene))), ("scenes", scene)):
            share = len(np.unique(groups)) / len(scene)  # of groups per tile
            for what, pair in (("score", None), ("difference", other)):
                halves = half_widths(own, pair, groups, [max(1, round(n * share)) for n in tiles], seed=seed)
                names = {"data": data, "what": f"{what}, {unit} drawn"}
                lines += [names | {"tiles": n, "half_width": h} for n, h in zip(tiles, halves, strict=True)]
    return pd.DataFrame(lines)


def evaluation_noise(histories: pd.DataFrame, results: pd.DataFrame) -> Mapping[str, float]:
    """Standard deviation of one evaluation during training about its trend, by data set; NaN where unknown.

    From the last two evaluations of each run: their difference, about its mean over the seeds of a row, has twice the
    variance of one evaluation.

    Args:
        histories: ``id``, ``step``, ``select_miou``, missing where nothing was evaluated.
        results: a line per run; says row and data set of an id.
    """
    last = histories.dropna(subset="select_miou").sort_values("step").groupby("id")["select_miou"]
    runs = results[["id", "data", "row"]].merge(last.diff().groupby(histories["id"]).last().rename("step"), on="id")
    groups = runs.dropna().groupby(["data", "row"], sort=False)["step"]
    pooled = (
        groups.agg(squares=lambda d: ((d - d.mean()) ** 2).sum(), free=lambda d: len(d) - 1)
        .groupby("data", sort=False)
        .sum()
    )
    return np.sqrt(pooled["squares"] / pooled["free"].where(pooled["free"] > 0) / 2).to_dict()


def best_of(counts: Sequence[int], correlation: float = 0.0, times: int = 4000, seed: int = 0) -> NDArray:
    """By how much the best of so many evaluations of an unchanging model lies above their true mean, in deviations.

    Args:
        counts: numbers of evaluations to choose from.
        correlation: between an evaluation and the next, in [0, 1).
        times: simulated trainings.
        seed: of the simulation.

    Returns:
        (counts,) means over the simulated trainings.
    """
    rng = np.random.default_rng(derive_seed("best_of", seed))
    noise = rng.standard_normal((times, max(counts)))
    for k in range(1, noise.shape[1]):
        noise[:, k] = correlation * noise[:, k - 1] + np.sqrt(1 - correlation**2) * noise[:, k]
    return np.array([noise[:, :count].max(1).mean() for count in counts])


def optimism(noise: Mapping[str, float], counts: Sequence[int], seed: int = 0) -> dict[str, NDArray]:
    """`best_of` times the noise of one evaluation, by "data, kind": independent evaluations, and neighbours alike.

    Args:
        noise: of `evaluation_noise`.
        counts: numbers of evaluations.
        seed: of the simulation.
    """
    kinds = {"independent": best_of(counts, 0.0, seed=seed), "neighbours alike": best_of(counts, 0.9, seed=seed)}
    return {f"{data}, {kind}": sigma * best for data, sigma in noise.items() for kind, best in kinds.items()}


def class_differences(results: pd.DataFrame, row: str, control: str) -> pd.DataFrame:
    """Paired difference of IoU per class between two rows: ``data``, ``class``, ``n``, ``mean``, ``low``, ``high``."""
    lines = []
    for data, runs in results[results["row"].isin((row, control))].groupby("data", sort=False):
        for k, name in enumerate(runs["classes"].iloc[0].split("|")):
            found = paired_differences(runs, control, f"iou_{k}")
            lines.append(found.assign(data=data, **{"class": name}))
    return pd.concat(lines)[["data", "class", "n", "mean", "low", "high"]].reset_index(drop=True)
