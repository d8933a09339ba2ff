"""What the laboratory's notebook shows: contact sheets of the worlds, features without knowledge, contrasts, dose.

A contrast is the method minus one of its rivals over the same seeds; which rival is left out tells what the
difference is made of.
"""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from ktda.data.folder import TileSet, open_data
from ktda.data.tiles import Tiles
from ktda.errors import InputError
from ktda.seeding import derive_seed, generator
from ktda.teacher import Teacher
from ktda_lab.ablations.statistics import holm, paired_differences, seed_differences, summarise
from ktda_lab.drawing import SERIES, WIDTH, class_patches, colour_mask, gallery, styled, titled
from ktda_lab.features.probe import linear_probe, raw_patches
from ktda_lab.worlds import Scene


def contrasts(
    results: pd.DataFrame, pairs: Mapping[str, tuple[str, str]], metric: str = "miou"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row minus another, over the seeds that both have.

    Args:
        results: a line per run, as `ktda_lab.grid.results.collect` gives it.
        pairs: label of the contrast -> names of the row and of its rival.
        metric: column of `results`.

    Returns:
        As `paired_differences`, with the label as row and Holm's correction over all contrasts; and
        the single seeds, as `seed_differences`.

    Raises:
        InputError: no run of a row or of its rival.
    """
    lines, seeds = [], []
    for label, (row, rival) in pairs.items():
        both = results[results["row"].isin((row, rival))]
        if not {row, rival} <= set(both["row"]):
            found = ", ".join(results["row"].unique())
            raise InputError(f"the contrast {label!r} needs the rows {row} and {rival}; the results hold {found}")
        lines.append(paired_differences(both, rival, metric).assign(row=label, group="contrast"))
        seeds.append(seed_differences(both, rival, metric).assign(row=label))
    table = pd.concat(lines, ignore_index=True).sort_values("data", kind="stable", ignore_index=True)
    table["p_holm"] = holm(table["p"])
    return table, pd.concat(seeds, ignore_index=True)


def tile_statistics(images: Tensor, patch: int = 8) -> Tensor:
    """Mean and deviation of each channel over the whole tile, at every patch: (N, 3, H, W) -> (N, 6, h, w)."""
    height, width = (side // patch for side in images.shape[-2:])
    statistics = torch.cat((images.mean((2, 3)), images.std((2, 3))), 1)  # (N, 6)
    return statistics[..., None, None].expand(-1, -1, height, width)


def shuffled_pixels(images: Tensor, patch: int = 8) -> Tensor:
    """The pixels of each patch, after all pixels of a tile have changed places: colours stay, places are lost."""
    order = torch.randperm(images[0, 0].numel(), generator=generator(0, "shuffle"))
    mixed = images.flatten(2)[..., order].view_as(images)
    return F.pixel_unshuffle(mixed, patch)  # (N, 3 * patch * patch, h, w)


def probe_table(
    sets: Sequence[str], tiles: int, draws: int, test_tiles: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Linear probes of features with and without knowledge, fitted on training tiles and scored on test tiles.

    Args:
        sets: names of data sets, of small tiles.
        tiles: to fit on.
        draws: how often tiles, and the random network, are drawn.
        test_tiles: to score on; all if None.
        seed: of the draws.

    Returns:
        A line per set, draw and kind of features: ``data``, ``features``, ``draw``, ``miou`` in [0, 1].
    """
    demo, lines = Teacher("demo"), []
    for name in sets:
        tile_set = open_data(name)
        train, test = (Tiles(tile_set, tile_set.pairs(split)) for split in ("train", "test"))
        scored = _stack(test, range(len(test))[:test_tiles])
        for draw in range(draws):
            order = torch.randperm(len(train), generator=generator(seed, "probe", draw))[:tiles]
            fitted, random = (
                _stack(train, order.tolist()),
                Teacher("demo", pretrained=False, seed=derive_seed(seed, draw)),
            )
            features = {
                "tile statistics": tile_statistics,
                "patch colour": lambda images: F.avg_pool2d(images, 8),
                "shuffled pixels": shuffled_pixels,
                "raw pixels": raw_patches,
                "random weights": lambda images, teacher=random: teacher(images)[-1],
                "demo teacher": lambda images: demo(images)[-1],
            }
            for kind, feature in features.items():
                miou = linear_probe(feature, fitted, scored, tile_set.num_classes)["miou"]
                lines.append({"data": name, "features": kind, "draw": draw, "miou": miou})
    return pd.DataFrame(lines)


def _stack(tiles: Tiles, indices: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) and masks (N, H, W)."""
    found = [tiles[i] for i in indices]
    return torch.stack([tile["image"] for tile in found]), torch.stack([tile["mask"] for tile in found])


def contact_sheet(worlds: Mapping[str, Sequence[Scene]], tile_set: TileSet, title: str = "") -> Figure:
    """Scenes and their labels, two rows per world.

    Args:
        worlds: name -> scenes, as many of each.
        tile_set: for the classes and their colours.
    """
    rows, notes = {}, []
    for name, scenes in worlds.items():
        rows[name] = [scene.image for scene in scenes]
        rows[f"{name}: labels"] = [colour_mask(torch.from_numpy(scene.mask), tile_set) for scene in scenes]
    for scenes in zip(*worlds.values(), strict=True):
        suns = (f"{name}: sun at {s.conditions.sun_elevation:.0f}°" for name, s in zip(worlds, scenes, strict=True))
        notes.append("\n".join(suns))
    masks = [torch.from_numpy(scene.mask) for scenes in worlds.values() for scene in scenes]
    return gallery(rows, notes, class_patches(tile_set, masks), title)


@styled
def dose_response(results: pd.DataFrame, title: str = "") -> Figure:
    """Score over the number of labelled scenes, a line per model and a panel per data set.

    Args:
        results: a line per run; rows are called MODEL_SCENES, as in ``plain_8``.
    """
    summary = summarise(results)
    summary["model"] = summary["row"].str.rpartition("_")[0]
    summary["scenes"] = summary["row"].str.rpartition("_")[2].astype(int)
    names, models = list(summary["data"].unique()), list(summary["model"].unique())
    figure, panels = plt.subplots(1, len(names), figsize=(WIDTH, 4.2), layout="constrained", squeeze=False)
    for axes, data in zip(panels[0], names, strict=True):
        for number, model in enumerate(models):
            line = summary[(summary["data"] == data) & (summary["model"] == model)].sort_values("scenes")
            shift = 1.03 ** (number - (len(models) - 1) / 2)  # bars side by side on the logarithmic axis
            ends = 100 * (line["mean"] - line["low"]), 100 * (line["high"] - line["mean"])
            style = {"color": SERIES[number % len(SERIES)], "marker": "os^Dv"[number % 5], "capsize": 3}
            axes.errorbar(line["scenes"] * shift, 100 * line["mean"], ends, label=model, **style)
        doses = sorted(summary["scenes"].unique())
        axes.set_xscale("log")
        axes.set_xticks(doses, [str(dose) for dose in doses])
        axes.minorticks_off()
        axes.set(title=data, xlabel="labelled scenes")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("mIoU (%)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(models))
    return titled(figure, title)
