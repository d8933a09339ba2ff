"""From data and settings to a run folder: the parts are made, the loop runs, the manifest says how.

The loop itself is `ktda.loop`.
"""

import signal
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from ktda.build import build, describe, make_teacher, save_config
from ktda.config import Config
from ktda.data.folder import TileSet, open_data
from ktda.data.protocol import Splits, choose_splits
from ktda.errors import InputError
from ktda.loop import Trainer
from ktda.runs.checkpoint import has_checkpoint
from ktda.runs.folder import (
    check_folder,
    earlier_manifest,
    in_one_process,
    read_metrics,
    start_manifest,
)
from ktda.runs.record import ended_by
from ktda.warm_start import initialise


@in_one_process
def train(
    data: str, config: Config, out: Path | str, resume: bool = False, init: str | None = None
) -> dict:
    """Train, keep the weights that score best on the selection tiles, and report once.

    Args:
        data: name or folder of the data set.
        config: settings.
        out: run folder; see "What a run leaves" in README.md.
        resume: go on from the folder's checkpoint; a finished run is left as it is.
        init: run folder or checkpoint to start the weights from.

    Returns:
        The content of ``metrics.json``.

    Raises:
        InputError: a folder in use, or data and settings that do not fit.
    """
    out = Path(out)
    if check_folder(out, data, config, resume, init):
        return read_metrics(out)
    before = earlier_manifest(out)
    tile_set = open_data(data)
    splits = _choose(tile_set, config)

    accelerator = _accelerator(config)
    teacher = make_teacher(config) if config.model in ("ktda", "teacher") else None
    description = describe(config, tile_set.num_classes, teacher)
    model = build(description, teacher, config.student_weights)
    init = init or before.get("init")
    fresh = before.get("left_fresh", [])
    if init and not has_checkpoint(out):  # which holds weights that went on from there
        fresh = initialise(model, init)
    trainer = Trainer(accelerator, config, model, teacher, tile_set, splits, out)

    manifest = None
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        manifest = start_manifest(
            out,
            data,
            tile_set,
            splits,
            config,
            model,
            teacher,
            accelerator.device,
            processes=accelerator.num_processes,
            init=init,
            left_fresh=fresh,
        )
        save_config(out, description, tile_set.classes, tile_set.palette, tile_set.ignore_index)
    try:
        with ended_by(signal.SIGTERM):  # which batch systems send
            trainer.fit(resume)
            metrics = trainer.progress.report()
    except BaseException as error:  # a stopped run says so too
        if manifest:
            manifest.end("failed", error=f"{type(error).__name__}: {error}")
        raise
    if manifest:
        manifest.end("finished", seconds=metrics["seconds"])
    return metrics


def _choose(tile_set: TileSet, config: Config) -> Splits:
    """The tiles of the run, where data and settings fit."""
    weights = len(config.class_weights)
    if weights and weights != tile_set.num_classes:
        raise InputError(f"{weights} class_weights for {tile_set.num_classes} classes")
    return choose_splits(
        tile_set,
        config.protocol,
        config.holdout,
        tiles=config.tiles,
        scenes=config.scenes,
        seed=config.seed,
        class_tiles=config.class_tiles,
    )


def _accelerator(config: Config) -> Accelerator:
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise InputError("precision=fp16 needs a GPU; use bf16 or fp32 on this machine")
    # Accelerate's settings are global to the process, and a second run in it may want others.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    precision = "no" if config.precision == "fp32" else config.precision
    return Accelerator(mixed_precision=precision, gradient_accumulation_steps=config.accumulate)
