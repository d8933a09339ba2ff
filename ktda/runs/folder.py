"""A run folder: refused while it holds another run, and its manifest."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ktda.config import Config
from ktda.data.folder import TileSet, data_hash, open_data, read_image
from ktda.data.protocol import Splits
from ktda.errors import InputError
from ktda.files import now, read_json
from ktda.runs.record import Manifest, machine
from ktda.teacher import Teacher


def check_folder(out: Path, data: str, config: Config, resume: bool, init: str | None = None) -> bool:
    """Whether the folder already holds the finished run of these settings.

    Raises:
        InputError: it holds a run and `resume` is not set, a run of other settings, data or `init`, or foreign files.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise InputError(f"{out} is a file; --out must be a folder")
    if not (out / "manifest.json").is_file():
        if any(p.suffix != ".partial" for p in out.iterdir()):  # which a killed start leaves
            raise InputError(f"{out} is not empty and holds no run; choose another --out")
        return False
    manifest = read_json(out / "manifest.json")
    status = manifest.get("status")
    if not resume:
        raise InputError(f"{out} holds a run ({status}); go on with --resume, or choose another --out")
    if manifest.get("config_hash") != config.config_hash:
        before = manifest.get("config", {})
        changed = [f"{k}={before.get(k)!r}" for k, v in _plain(config).items() if before.get(k) != v]
        raise InputError(
            f"{out} was started with other settings ({', '.join(changed)}); resume with the same, or choose another"
        )
    if init and init != manifest.get("init"):
        begun = f"with --init {manifest['init']}" if manifest.get("init") else "without --init"
        raise InputError(f"{out} was started {begun}; resume without --init, or choose another --out")
    finished = status == "finished" and (out / "metrics.json").is_file()
    if finished and str(data) != manifest["data"]["source"]:  # the same name is taken for the same data
        _check_data(out, data, data_hash(open_data(data)), manifest)
    return finished


def _check_data(out: Path, data: str, found: str, manifest: dict[str, Any]) -> None:
    if found != manifest["data"]["hash"]:
        raise InputError(
            f"{out} was started on {manifest['data']['source']}, whose content was not that of {data}; "
            "resume with the same data, or choose another --out"
        )


def earlier_manifest(out: Path) -> dict[str, Any]:
    """The manifest of the run that is resumed; {} for a new one."""
    path = out / "manifest.json"
    return read_json(path) if path.is_file() else {}


def start_manifest(
    out: Path,
    data: str,
    tile_set: TileSet,
    splits: Splits,
    config: Config,
    model: nn.Module,
    teacher: Teacher | None,
    device: Any,
    **more: Any,
) -> Manifest:
    """Write ``manifest.json`` with everything that is known before the first step.

    Raises:
        InputError: the run was started on other data.
    """
    before, data_sha256 = earlier_manifest(out), data_hash(tile_set)
    if before:
        _check_data(out, data, data_sha256, before)
    resumed = [*before.get("resumed", []), now()] if before else []
    student = getattr(model, "student", model)
    record = getattr(student, "record", None)
    used = config.distils or config.model == "teacher"
    return Manifest(
        out / "manifest.json",
        **({"start": before["start"]} if before else {}),
        resumed=resumed,
        config=_plain(config),
        config_hash=config.config_hash,
        seed=config.seed,
        data={
            "source": str(data),
            "name": tile_set.name,
            "hash": data_sha256,
            "classes": list(tile_set.classes),
            "scene": tile_set.scene,
            "notes": list(tile_set.notes),
            "tiles": {"train": len(splits.train), "select": len(splits.select), "report": len(splits.report)},
            "selected_on": splits.select_name,
            "reported": splits.report_name,
        },
        machine=machine(device),
        weights={
            "student": record.as_dict() if record else None,
            "teacher": {"name": teacher.name, "used": used, **teacher.record.as_dict()} if teacher else None,
        },
        parameters={
            "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "inference": sum(p.numel() for n, p in model.named_parameters() if not n.startswith("auxiliary_head")),
            "teacher": teacher.parameters if teacher else 0,
        },
        inference_gflops=inference_gflops(model, read_image(splits.report[0].image).shape[:2], device),
        **more,
    )


@torch.inference_mode()
def inference_gflops(model: nn.Module, size: tuple[int, int], device: torch.device | str = "cpu") -> float:
    """Floating point operations of one image in inference, in 10^9; a multiply-add counts as two.

    Counted are matrix products, convolutions and attention; sums, norms and activations are not. Every part of the
    model is left in the mode that it had.

    Args:
        model: a segmenter.
        size: rows and columns of the image.
        device: of the model.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *size, device=device))
    for module, training in modes:
        module.training = training
    return counter.get_total_flops() / 1e9


def _plain(config: Config) -> dict[str, Any]:
    """Settings as json gives them back: tuples as lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.as_dict().items()}
