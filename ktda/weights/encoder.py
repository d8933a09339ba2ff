"""An SMP encoder by name, with its weights and their provenance."""

import difflib
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from ktda.errors import InputError
from ktda.files import file_sha256
from ktda.seeding import seeded
from ktda.weights.tensors import WeightsRecord, hub_file, load_strict, read_tensors

# The student of preset grid, pretrained on source worlds without labels; see the model card beside it.
SOURCE_STUDENT = Path(__file__).parent / "source_student.safetensors"


def make_encoder(
    name: str, weights: str | Path = "none", options: dict | None = None
) -> tuple[nn.Module, WeightsRecord]:
    """An SMP encoder with five stages, and where its weights came from; arguments as `ktda.student.Student`'s."""
    options = dict(options or {})
    check_encoder(name)
    is_timm = name.startswith("tu-")
    if options and not is_timm:
        raise InputError(f"encoder {name} takes no options, got {', '.join(options)}; timm's do: tu-NAME")
    weights = str(weights)
    if weights == "none":
        return _build(name, options), WeightsRecord("random start", kind="random")
    if weights == "imagenet":
        return _hub_encoder(name, options)
    if weights == "source":
        weights = str(SOURCE_STUDENT)
    tensors = read_tensors(weights)
    record = WeightsRecord(Path(weights).name, file_sha256(weights), kind="file")
    encoder = _build(name, options)
    expected = encoder.state_dict()
    for prefix in ("", "student.encoder.", "encoder."):
        given = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if given.keys() >= expected.keys():
            load_strict(encoder, {k: given[k] for k in expected}, f"{weights} does not fit encoder {name}")
            return encoder, record
    if not is_timm:
        missing = next(k for k in expected if k not in tensors)
        raise InputError(f"{weights} does not fit encoder {name}: tensor {missing} is missing")
    return _timm_encoder(name, options, weights), record


def check_encoder(name: str) -> None:
    """Raise `InputError` with near names unless SMP (or timm, for ``tu-``) knows the encoder."""
    if name.startswith("tu-"):
        plain, _, tag = name[3:].partition(".")
        known = timm.list_models()
        if tag and plain in known and name[3:] not in timm.list_pretrained(f"{plain}.*"):
            tags = ", ".join(t.removeprefix(plain + ".") for t in timm.list_pretrained(f"{plain}.*")) or "none"
            raise InputError(f"unknown student encoder {name!r}: timm's {plain} has no weights {tag}; it has {tags}")
    else:
        known, plain = list(smp_encoders), name
    if plain not in known:
        near = [("tu-" if name.startswith("tu-") else "") + n for n in difflib.get_close_matches(plain, known)]
        hint = f"; near names: {', '.join(near)}" if near else "; timm's encoders are written tu-NAME"
        raise InputError(f"unknown student encoder {name!r}{hint}")


def _build(name: str, options: dict, pretrained: bool = False) -> nn.Module:
    try:
        encoder = get_encoder(name, depth=5, weights=True if pretrained else None, **options)
    except TypeError as error:
        raise InputError(f"encoder {name} refused its options {options}: {error}") from error
    except ValueError as error:  # SMP: "Unsupported model downsampling pattern."
        raise InputError(f"encoder {name} has not the strides 4, 8, 16, 32 that a student needs") from error
    if len(encoder.out_channels) != 6:
        raise InputError(f"encoder {name} has not the strides 4, 8, 16, 32 that a student needs")
    return encoder


def _timm_encoder(name: str, options: dict, path: Path | str) -> nn.Module:
    """An encoder with a file in timm's own layout, which timm renames and filters, and checks only in part."""
    with seeded("fit"):
        start = _build(name, options).state_dict()
    try:
        with seeded("fit"):
            encoder = _build(name, options | {"pretrained_cfg_overlay": {"file": str(path)}}, pretrained=True)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} does not fit encoder {name}: {reason}") from error
    for key, value in encoder.state_dict().items():
        # timm passes over what a file lacks: a matrix that still has its random start was not in it
        if value.ndim > 1 and torch.equal(value, start[key]):
            raise InputError(f"{path} does not fit encoder {name}: tensor {key} is missing")
    return encoder


def _hub_encoder(name: str, options: dict) -> tuple[nn.Module, WeightsRecord]:
    if name.startswith("tu-"):
        cfg = timm.get_pretrained_cfg(name[3:], allow_unregistered=False)
        if cfg is None or not cfg.hf_hub_id:
            raise InputError(f"timm publishes no weights for {name}; use student_weights=none or a file")
        path = hub_file(cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors")
        return _timm_encoder(name, options, path), WeightsRecord(cfg.hf_hub_id, file_sha256(path), cfg.license)
    settings = smp_encoders[name]["pretrained_settings"].get("imagenet")
    if settings is None:
        raise InputError(f"SMP {smp.__version__} publishes no ImageNet weights for {name}; use none or a file")
    path = hub_file(settings["repo_id"], revision=settings["revision"])
    encoder = _build(name, options)
    load_strict(encoder, read_tensors(path), f"{path} does not fit encoder {name}")
    return encoder, WeightsRecord(settings["repo_id"], file_sha256(path))
