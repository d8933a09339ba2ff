"""The results of a grid: one line per finished run, and a compact copy that figures and statistics need.

`collect` reads the run folders, so ``results.csv`` can always be made anew. `publish` copies what a reader without the
run folders needs; `read_published` opens such a copy.
"""

import contextlib
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_float_dtype

from ktda.errors import InputError
from ktda.files import here_or_checkout, read_json, replacing, write_beside
from ktda.yaml_files import read_yaml
from ktda_lab.grid.plan import PLAN, RUNS, TABLE, Run, finished, read_plan, wall_seconds
from ktda_lab.grid.table import Row, Table, read_table

RESULTS, MATRICES, HISTORIES = "results.csv", "matrices.npz", "histories.csv"
TEXT = ("id", "table", "data", "row", "group", "overrides", "preset", "split", "classes", "device", "machine")
TEXT += ("config_hash", "data_hash", "source_hash", "commit", "dirty")
COLUMNS = ("id", "table", "data", "row", "group", "seed", "overrides", "preset", "split")
COLUMNS += ("miou", "overall_accuracy", "mean_f1", "classes", "select_miou", "best_step")  # iou_* after classes
COLUMNS += ("trained_parameters", "total_inference_parameters", "gflops", "seconds", "wall_seconds")
COLUMNS += ("peak_memory_bytes", "device", "machine", "config_hash", "data_hash", "source_hash", "commit", "dirty")


class Published(NamedTuple):
    """What a published grid holds.

    Attributes:
        results: a line per run, as `collect` gives it.
        table: the table of the grid, as in its file.
        matrices: per-image matrices (images, K, K) of the reported split, by run id; rows = label.
        scenes: number of the scene of each image, (images,), by run id.
        histories: a line per run and evaluation: id, step, select_miou, losses of that epoch.
    """

    results: pd.DataFrame
    table: dict[str, Any]
    matrices: dict[str, NDArray]
    scenes: dict[str, NDArray]
    histories: pd.DataFrame


def collect(out: Path | str) -> pd.DataFrame:
    """Results of the planned runs that have finished, in the order of the plan.

    Args:
        out: folder of the grid, with ``plan.json`` and ``runs/``.

    Returns:
        One line per run. Scores are fractions in [0, 1], empty where undefined; ``gflops`` counts a multiply-add as
        two operations, of one image in inference; ``seconds`` are the training's, ``wall_seconds`` the notebook's.

    Raises:
        InputError: the folder holds no plan.
    """
    out = Path(out)
    if not (out / PLAN).is_file():
        raise InputError(f"{out} holds no {PLAN}; expected the folder of a grid")
    runs = [run for run in read_plan(out)[1] if finished(run, out / RUNS)]
    lines = [_line(run, out / RUNS) for run in runs]
    results = pd.DataFrame(lines, columns=None if lines else COLUMNS)
    ious = sorted((c for c in results if c.startswith("iou_")), key=lambda c: int(c[4:]))
    place = COLUMNS.index("classes") + 1
    return results[[*COLUMNS[:place], *ious, *COLUMNS[place:]]]


def write_results(out: Path | str) -> pd.DataFrame:
    """Collect, and replace ``results.csv`` in one step."""
    results = collect(out)
    write_beside(Path(out) / RESULTS, results.to_csv(index=False, lineterminator="\n"))
    return results


def read_results(path: Path | str) -> pd.DataFrame:
    """Read a ``results.csv``, or that of a folder.

    Raises:
        InputError: no such file, columns missing, or two runs of one row, data set and seed.
    """
    path = Path(path)
    path = path / RESULTS if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path} does not exist; run the table first")
    results = pd.read_csv(path, dtype=str, keep_default_na=False)  # an id of digits, a row called "none"
    missing = [name for name in COLUMNS if name not in results]
    if missing:
        raise InputError(f"{path} has no column {missing[0]}; expected the results of a grid, with {COLUMNS[0]}, ...")
    for name in results.columns.difference(TEXT):
        numbers = pd.to_numeric(results[name])
        if is_float_dtype(numbers):  # whose last digit pandas before 3 rounds and Python does not
            numbers = results[name].replace("", "nan").map(float)
        results[name] = numbers
    twice = results[results.duplicated(["data", "row", "seed"])]
    if len(twice):
        first = twice.iloc[0]
        raise InputError(f"{path} has row {first.row}, data {first.data}, seed {first.seed} twice; keep one of them")
    return results


def publish(out: Path | str, folder: Path | str) -> list[str]:
    """Copy results, table, per-image matrices and histories of a grid to a folder of four files.

    A row of which only some of the planned seeds have finished on a data set would be a selection: it is left out. What
    was published there before stays where the table still gives it the same settings, its data are the same, and it has
    not been run anew: a table may be run a few rows at a time. Each line tells the commit that it is from.

    Returns:
        What was left out: row and data set.

    Raises:
        InputError: the grid has no row that is complete.
    """
    out, folder = Path(out), Path(folder)
    results, planned = collect(out), pd.DataFrame(read_plan(out)[1])[["row", "data"]].value_counts()
    found = results[["row", "data"]].value_counts()
    part = [key for key in found.index if found[key] < planned[key]]
    results = results[~pd.MultiIndex.from_frame(results[["row", "data"]]).isin(part)]
    if results.empty:
        raise InputError(f"{out} holds no row whose seeds have all finished; run its table first")
    arrays, histories = {}, []
    for run_id, split in zip(results["id"], results["split"], strict=True):
        run = out / RUNS / run_id
        with np.load(run / "confusions.npz") as archive:
            matrices, stems = archive[split], archive[f"{split}_stems"]
        pattern = read_json(run / "manifest.json")["data"]["scene"]
        scenes = [re.search(pattern, stem)[1] if pattern else stem for stem in stems]
        arrays[run_id] = _smallest(matrices)
        arrays[f"{run_id}_scenes"] = _smallest(np.unique(scenes, return_inverse=True)[1])
        history = pd.read_csv(run / "history.csv").dropna(subset="select_miou")
        losses = [name for name in history if name.startswith("loss_")]
        histories.append(history[["step", "select_miou", *losses]].assign(id=run_id))
    merged = pd.concat(histories, ignore_index=True)
    merged = merged[["id", *merged.columns.drop("id")]]
    if (folder / RESULTS).is_file():
        old = read_published(folder)
        kept = _still_valid(old.results, results, read_table(out / TABLE))
        results = pd.concat([results, kept], ignore_index=True)
        merged = pd.concat([merged, old.histories[old.histories["id"].isin(kept["id"])]], ignore_index=True)
        for run_id in kept["id"]:
            arrays[run_id] = _smallest(old.matrices[run_id])
            arrays[f"{run_id}_scenes"] = _smallest(old.scenes[run_id])
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:  # all four take their names, or none does
        names = (RESULTS, TABLE, HISTORIES, MATRICES)
        partial = {name: stack.enter_context(replacing(folder / name)) for name in names}
        with partial[MATRICES].open("wb") as file:
            np.savez_compressed(file, **arrays)
        lines = merged.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        partial[HISTORIES].write_text(lines, encoding="utf-8")
        shutil.copyfile(out / TABLE, partial[TABLE])
        lines = results.to_csv(index=False, lineterminator="\n")
        partial[RESULTS].write_text(lines, encoding="utf-8")
    return [f"{row} on {data}" for row, data in part]


def _still_valid(old: pd.DataFrame, new: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Lines that the table still gives the same settings and that were not run anew, nor other bytes of their data."""
    rows = {row.name: row for row in table.rows}
    run = set(zip(new["data"], new["row"], new["seed"], strict=True))
    data = dict(zip(new["data"], new["data_hash"], strict=True))
    valid = [
        line.row in rows
        and (line.data, line.row, line.seed) not in run
        and data.get(line.data, line.data_hash) == line.data_hash
        and table.config(rows[line.row], line.data, line.seed).config_hash == line.config_hash
        and _init(rows[line.row]) == [word for word in line.overrides.split() if word.startswith("init")]
        for line in old.itertuples()
    ]
    return old[pd.Series(valid, old.index, dtype=bool)]


def read_published(folder: Path | str) -> Published:
    """Open what `publish` wrote.

    Args:
        folder: a relative one is looked for in the working directory, then in the checkout.

    Raises:
        InputError: no such folder, or a file of it is missing.
    """
    found = next((place for place in here_or_checkout(folder) if place.is_dir()), None)
    missing = [f for f in (RESULTS, TABLE, MATRICES, HISTORIES) if not (found and (found / f).is_file())]
    if missing:
        what = f"has no {missing[0]}" if found else "does not exist"
        raise InputError(f"{folder} {what}; run `ktda grid TABLE --publish {folder}`")
    with np.load(found / MATRICES) as archive:
        arrays = {name: archive[name].astype(np.int64) for name in archive.files}
    scenes = {name.removesuffix("_scenes"): arrays.pop(name) for name in list(arrays) if name.endswith("_scenes")}
    table = read_yaml(found / TABLE)
    return Published(read_results(found), table, arrays, scenes, pd.read_csv(found / HISTORIES, dtype={"id": str}))


def _line(run: Run, folder: Path) -> dict[str, Any]:
    """One run as a line of results."""
    manifest, metrics = (read_json(folder / run.id / name) for name in ("manifest.json", "metrics.json"))
    parameters, teacher_stays = manifest["parameters"], manifest["config"]["model"] == "teacher"
    # Under protocol=paper the split that is selected on is the reported one, and stands nowhere else.
    selected = next(iter(metrics["splits"].values()), metrics)
    return {
        **{name: getattr(run, name) for name in ("id", "table", "data", "row", "group", "seed", "preset")},
        "overrides": " ".join([*_init(run), *run.overrides]),
        **{name: metrics[name] for name in ("split", "miou", "overall_accuracy", "mean_f1", "best_step", "seconds")},
        **{f"iou_{k}": value for k, value in enumerate(metrics["iou"])},
        "classes": "|".join(manifest["data"]["classes"]),
        "select_miou": selected["miou"],
        "trained_parameters": parameters["trained"],
        "total_inference_parameters": parameters["inference"] + teacher_stays * parameters["teacher"],
        "gflops": manifest["inference_gflops"],
        "wall_seconds": wall_seconds(run, folder),
        "peak_memory_bytes": metrics["peak_memory_bytes"],
        "device": manifest["machine"]["device"],
        "machine": manifest["machine"]["name"],
        **{name: getattr(run, name) for name in ("config_hash", "data_hash", "source_hash")},
        **{name: manifest[name] for name in ("commit", "dirty")},
    }


def _init(row: Run | Row) -> list[str]:
    """Whose weights a run starts from, in the form of an override."""
    part = [f"init_part={row.init_part}"] if row.init_part != "all" else []
    return [f"init={row.init}", *part] if row.init else []


def _smallest(counts: NDArray) -> NDArray:
    """The same counts in the smallest unsigned integers that hold them."""
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
