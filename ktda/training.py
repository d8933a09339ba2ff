"""From data and settings to a run folder: the parts are made, the loop runs, the manifest says how.

The loop itself is `ktda.loop`.
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin, parse_flag_from_env

from ktda.build import build, describe, make_teacher, save_config
from ktda.config import Config
from ktda.data.bands import describe_bands
from ktda.data.folder import TileSet, open_data
from ktda.data.protocol import Splits, check_tiles, choose_splits
from ktda.data.unlabelled import Unlabelled, find_images, folder_images, smallest_tile
from ktda.errors import InputError
from ktda.loop import Trainer
from ktda.memory import check_memory
from ktda.runs.checkpoint import has_checkpoint
from ktda.runs.folder import (
    check_folder,
    earlier_manifest,
    in_one_process,
    read_metrics,
    start_manifest,
)
from ktda.runs.record import ended_by
from ktda.seeding import training_seed
from ktda.teacher import Teacher
from ktda.warm_start import count_parts, initialise


@in_one_process
def train(
    data: str,
    config: Config,
    out: Path | str,
    resume: bool = False,
    init: str | None = None,
    init_part: str = "all",
    unlabelled: Sequence[str] = (),
) -> dict:
    """Train, keep the weights that score best on the selection tiles, and report once.

    With ``segmentation_weight=0`` there is nothing to score: the last weights are kept.

    Args:
        data: name or folder of the data set.
        config: settings.
        out: run folder; see "What a run leaves" in docs/train.md.
        resume: go on from the folder's checkpoint; a finished run is left as it is.
        init: run folder or checkpoint to start the weights from.
        init_part: "all" or "encoder", see `ktda.warm_start.initialise`.
        unlabelled: folders, lists and files of images without masks, besides those of the data
            set; of all, ``config.unlabelled`` a batch.

    Returns:
        The content of ``metrics.json``.

    Raises:
        InputError: a folder in use, or data and settings that do not fit.
    """
    out = Path(out)
    if check_folder(out, data, config, resume, init):
        return read_metrics(out)
    if init_part != "all" and not init:
        raise InputError("--init-part says what to take of --init, which is not given")
    before = earlier_manifest(out)
    tile_set = open_data(data)
    splits = _choose(tile_set, config)
    tile_set = check_tiles(tile_set, splits, config.segmentation_weight > 0)
    images, about_images = _find_unlabelled(tile_set, splits, config, unlabelled, before)

    accelerator = make_accelerator(config, out)
    teacher = make_teacher(config) if config.model in ("ktda", "teacher") else None
    # the frozen teacher with a decoder sees what a teacher sees
    bands = tile_set.rgb or () if config.model == "teacher" else config.bands
    normalisation = describe_bands(tile_set, splits.train, bands)
    description = describe(config, tile_set.num_classes, teacher, normalisation)
    _check_memory(config, description, teacher, tile_set, splits, accelerator.device)
    model = build(description, teacher, config.student_weights)
    start = {key: before.get(key) for key in ("init", "init_part", "init_tensors", "left_fresh")}
    if init and not before:
        start |= {"init": init, "init_part": init_part}
    elif init and init_part != (start["init_part"] or "all"):
        raise InputError(f"{out} was started with --init-part {start['init_part']}; resume so")
    if start["init"] and not has_checkpoint(out):  # which holds weights that went on from there
        fresh = initialise(model, start["init"], start["init_part"] or "all")
        start["init_tensors"] = count_parts(model, fresh)
        start["left_fresh"] = [] if start["init_part"] == "encoder" else fresh
    start["left_fresh"] = start["left_fresh"] or []
    trainer = Trainer(accelerator, config, model, teacher, tile_set, splits, out, images)

    manifest = None
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        progress = trainer.progress
        manifest = start_manifest(progress, data, teacher, unlabelled=about_images, **start)
        description["tile"] = trainer.progress.tile
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
    if config.photometric and tile_set.num_bands != 3:
        found = f"photometric distortion is defined for RGB, not for {tile_set.num_bands} bands"
        raise InputError(f"{found}; set photometric=false")
    return choose_splits(
        tile_set,
        config.protocol,
        config.holdout,
        tiles=config.tiles,
        scenes=config.scenes,
        seed=config.seed,
        class_tiles=config.class_tiles,
        unlabelled_tiles=config.unlabelled_tiles,
    )


def _find_unlabelled(
    tile_set: TileSet,
    splits: Splits,
    config: Config,
    sources: Sequence[str],
    before: dict,
) -> tuple[Unlabelled | None, dict | None]:
    """The images without masks, and what the manifest says of them.

    Raises:
        InputError: none are asked for, or they are not those that the run was started with.
    """
    if sources and not config.unlabelled:
        raise InputError("--unlabelled is given, but unlabelled=0 tiles a batch; set unlabelled")
    earlier = before.get("unlabelled") or {}
    sources = list(sources) or earlier.get("sources", [])
    paths = folder_images(tile_set) + find_images(sources) if config.unlabelled else []
    if not paths:
        return None, None
    size = (config.crop, config.crop) if config.crop else smallest_tile(tile_set, splits.train)
    images = Unlabelled(tile_set, paths, size, training_seed(config.seed, config.repeat))
    about = images.describe(sources)
    if before and about["hash"] != earlier.get("hash"):
        cure = "resume with the same, or choose another --out"
        raise InputError(f"the run was started with other unlabelled images; {cure}")
    return images, about


def _check_memory(
    config: Config,
    description: dict,
    teacher: Teacher | None,
    tile_set: TileSet,
    splits: Splits,
    device: torch.device,
) -> None:
    """Refuse a crop that does not fit into a tile, and a model that does not into the memory."""
    size = smallest_tile(tile_set, splits.train[:1])
    if config.crop > min(size):
        tile = f"a tile of {size[1]}x{size[0]} pixels"
        raise InputError(f"crop {config.crop} does not fit into {tile}; lower it")
    size = (config.crop, config.crop) if config.crop else size
    bands = description["arguments"].get("in_channels", 3)
    images = (config.batch_size + config.unlabelled, bands, *size)
    widths = (config.decoder_channels, config.auxiliary_channels, config.neck_width)
    if images[0] * size[0] * size[1] < _MANY_PIXELS and max(widths) < _WIDE:
        return  # what any machine has; finding it out takes most of a second
    copies = 5 if config.ema else 4
    kept = 1.0 if config.precision == "fp32" else 0.5
    kept *= not config.checkpoint_activations
    frozen = teacher.parameters if teacher else 0
    check_memory(lambda: build(description, teacher), images, device, copies, frozen, kept)


_MANY_PIXELS, _WIDE = 2**16, 1024
_NOT_OURS = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


def make_accelerator(config: Config, out: Path) -> Accelerator:
    """Device, precision, accumulation and trackers of a run."""
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise InputError("precision=fp16 needs a GPU; use bf16 or fp32 on this machine")
    if config.sync_batch_norm and not torch.cuda.is_available():
        raise InputError("sync_batch_norm needs GPUs; on CPUs each process has its own statistics")
    log_with = None if config.log_with == "none" else config.log_with
    if log_with and log_with not in map(str, get_available_trackers()):
        raise InputError(f"log_with={log_with} needs its library: pip install {log_with}")
    asked = [name for name in _NOT_OURS if parse_flag_from_env(f"ACCELERATE_USE_{name}")]
    if asked:
        raise InputError(f"ACCELERATE_USE_{asked[0]} is set, which is not supported here; unset it")
    # as far as the GPU has such kernels; it warns of one that has none
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = config.deterministic
    # Accelerate's settings are global to the process, and a second run in it may want others.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    # of other encoders and models some have parameters that no output depends on
    known = config.model in ("ktda", "upernet") and config.student.startswith("tu-convnext")
    precision = "no" if config.precision == "fp32" else config.precision
    return Accelerator(
        mixed_precision=precision,
        # a plugin, because the environment goes before a number
        gradient_accumulation_plugin=GradientAccumulationPlugin(config.accumulate),
        dynamo_backend="no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=not known)],
        log_with=log_with,
        project_dir=out / "logs",  # of trackers that write files
    )
