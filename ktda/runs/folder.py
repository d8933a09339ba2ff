"""A run folder: refused while it holds another run, and its manifest."""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ktda.config import Config
from ktda.data import builtin
from ktda.data.folder import data_hash, open_data
from ktda.errors import InputError
from ktda.files import data_root, locked, now, read_json
from ktda.runs.progress import Progress
from ktda.runs.record import Manifest, machine
from ktda.teacher import Teacher

MANIFEST = "manifest.json"
METRICS = "metrics.json"
LOCK = ".lock"
# PyTorch before 2.15 leaves the attention of a CPU out of its count.
ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
        sdpa_flop_count(q, k, v)
    )
}
# What is read of a manifest and of the scores, and is checked when they are opened.
_MANIFEST = {
    "status": str,
    "start": str,
    "config": dict,
    "config_hash": str,
    "data": dict,
    "data.source": str,
    "data.hash": str,
}
_METRICS = {"split": str, "protocol": str, "seconds": float, "best_step": int}
_METRICS |= dict.fromkeys(("iou", "f1", "precision", "recall"), list)
_MEANS = ("miou", "overall_accuracy", "mean_f1", "mean_f1_mmseg")
_METRICS |= dict.fromkeys(_MEANS, (float, type(None)))


def in_one_process(train: Callable) -> Callable:
    """Let a function with arguments (data, config, out, ...) have its run folder for itself.

    The lock ends with the process, however it ends. The other processes of a run on several GPUs
    go with the first one.

    Raises:
        InputError: `out` can be no run folder, or another process is at work in it.
    """

    @functools.wraps(train)
    def alone(data: str, config: Config, out: Path | str, *rest: Any, **named: Any) -> Any:
        out = Path(out)
        check_place(out, data)
        # asked as the training will: the first answer holds for the whole process
        if not PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).is_main_process:
            return train(data, config, out, *rest, **named)
        out.mkdir(parents=True, exist_ok=True)
        try:
            with locked(out / LOCK, str(out)):
                return train(data, config, out, *rest, **named)
        finally:
            with contextlib.suppress(OSError):  # it holds a run
                out.rmdir()

    return alone


def check_place(out: Path, data: str) -> None:
    """Raise `InputError` where no run folder can be: a file or device, or inside the data set."""
    above = next(p for p in (out, *out.absolute().parents) if p.exists() or p.is_symlink())
    if not above.is_dir():
        raise InputError(f"{above} is no folder; choose another --out")
    root = Path(data).expanduser()
    if data in builtin.NAMES:
        root = builtin.locate(data) or data_root() / data
    if out.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{out} is inside the data set {root}; choose another --out")


def check_folder(
    out: Path, data: str, config: Config, resume: bool, init: str | None = None
) -> bool:
    """Whether the folder already holds the finished run of these settings.

    Raises:
        InputError: it holds a run and `resume` is not set, a run of other settings, data or `init`,
            or foreign files.
    """
    if not (out / MANIFEST).is_file():
        held = [path.name for path in out.iterdir()] if out.exists() else []
        # a killed start leaves partial files
        if any(name != LOCK and not name.endswith(".partial") for name in held):
            raise InputError(f"{out} is not empty and holds no run; choose another --out")
        return False
    manifest = earlier_manifest(out)
    status = manifest["status"]
    if not resume:
        cure = "go on with --resume, or choose another --out"
        raise InputError(f"{out} holds a run ({status}); {cure}")
    if manifest["config_hash"] != config.config_hash:
        before = Config(**manifest["config"]).as_dict()  # also of settings that it did not know yet
        changed = [f"{k}={before[k]!r}" for k, v in config.as_dict().items() if before[k] != v]
        what = f"was started with other settings ({', '.join(changed)})"
        raise InputError(f"{out} {what}; resume with the same, or choose another")
    if init and init != manifest.get("init"):
        begun = f"with --init {manifest['init']}" if manifest.get("init") else "without --init"
        cure = "resume without --init, or choose another --out"
        raise InputError(f"{out} was started {begun}; {cure}")
    finished = status == "finished" and (out / METRICS).is_file()
    if finished and str(data) != manifest["data"]["source"]:  # the same name: the same data
        _check_data(out, data, data_hash(open_data(data)), manifest)
    return finished


def _check_data(out: Path, data: str, found: str, manifest: dict[str, Any]) -> None:
    if found != manifest["data"]["hash"]:
        what = f"{manifest['data']['source']}, whose content was not that of {data}"
        cure = "resume with the same data, or choose another --out"
        raise InputError(f"{out} was started on {what}; {cure}")


def earlier_manifest(out: Path) -> dict[str, Any]:
    """The manifest of the run that is resumed; {} for a new one."""
    path = out / MANIFEST
    return read_json(path, _MANIFEST) if path.is_file() else {}


def read_metrics(out: Path) -> dict[str, Any]:
    """The scores of a finished run."""
    return read_json(out / METRICS, _METRICS)


def start_manifest(progress: Progress, data: str, teacher: Teacher | None, **more: Any) -> Manifest:
    """Write ``manifest.json`` with everything that is known before the first step.

    Raises:
        InputError: the run was started on other data.
    """
    out, config, model = progress.out, progress.config, progress.model
    tile_set, splits = progress.tile_set, progress.splits
    device = progress.accelerator.device
    data_sha256 = data_hash(tile_set)
    resumed = []
    if before := earlier_manifest(out):
        _check_data(out, data, data_sha256, before)
        resumed = [*before.get("resumed", []), now()]
        more["start"] = before["start"]
    tiles = {"train": splits.train, "select": splits.select, "report": splits.report}
    size = tile_set.read_image(splits.report[0].image).shape[:2]  # (H, W, bands)
    if config.crop:  # refused now, not in the first step
        inference_gflops(model, (config.crop, config.crop), device)
    return Manifest(
        out / MANIFEST,
        resumed=resumed,
        config=config.as_dict(),
        config_hash=config.config_hash,
        seed=config.seed,
        data={
            "source": str(data),
            "name": tile_set.name,
            "hash": data_sha256,
            "classes": list(tile_set.classes),
            "scene": tile_set.scene,
            "notes": list(tile_set.notes),
            "tiles": {name: len(pairs) for name, pairs in tiles.items()},
            "selected_on": splits.select_name,
            "reported": splits.report_name,
        },
        machine=machine(device),
        processes=progress.accelerator.num_processes,
        weights=_weights(config, model, teacher),
        parameters=_parameters(model, teacher),
        inference_gflops=inference_gflops(model, size, device),
        **more,
    )


def _weights(config: Config, model: nn.Module, teacher: Teacher | None) -> dict[str, Any]:
    """Where the weights of student and teacher came from."""
    record = getattr(getattr(model, "student", model), "record", None)
    used = config.distils or config.model == "teacher"
    return {
        "student": record and asdict(record),
        "teacher": teacher and {"name": teacher.name, "used": used, **asdict(teacher.record)},
    }


def _parameters(model: nn.Module, teacher: Teacher | None) -> dict[str, int]:
    """Numbers of parameters: trained, needed for a prediction, and the teacher's."""
    named = dict(model.named_parameters())
    apart = ("auxiliary_head", *getattr(model, "training_only", ()))
    needed = [p for name, p in named.items() if not name.startswith(apart)]
    return {
        "trained": sum(p.numel() for p in named.values() if p.requires_grad),
        "inference": sum(p.numel() for p in needed),
        "teacher": teacher.parameters if teacher else 0,
    }


@torch.inference_mode()
def inference_gflops(
    model: nn.Module, size: tuple[int, int], device: torch.device | str = "cpu"
) -> float:
    """Floating point operations of an image (rows, columns), in 10^9; a multiply-add is two.

    Counted are matrix products, convolutions and attention; sums, norms and activations are not.
    Every part of the model is left in the mode that it had.

    Raises:
        InputError: the model does not take such an image.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
            model(torch.zeros(1, len(getattr(model, "mean", "RGB")), *size, device=device))
    except InputError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:  # of an encoder made for one size
        found = f"the model does not take images of {size[1]}x{size[0]} pixels"
        cure = "choose another student, or tiles and crop of another size"
        raise InputError(f"{found} ({' '.join(str(error).split())[:150]}); {cure}") from error
    for module, training in modes:
        module.training = training
    return counter.get_total_flops() / 1e9
