"""A timm backbone, most often a vision transformer, by name, hub id or file, with its weights and their provenance."""

import difflib
import functools
import json
from pathlib import Path

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ktda.errors import InputError
from ktda.files import file_sha256, read_json
from ktda.memory import check_fit, of_shapes
from ktda.seeding import seeded
from ktda.weights.hub import hub_file
from ktda.weights.model_folder import WEIGHTS, check_options
from ktda.weights.tensors import (
    WeightsRecord,
    load_by_timm,
    load_strict,
    read_metadata,
    read_tensors,
)

# The tiny vision transformer named "random": 2.7 M parameters, patch 8, made for 128 px.
TINY = {"img_size": 128, "patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3}
TINY |= {"num_classes": 0}
DEMO = Path(__file__).parent / "demo_teacher.safetensors"  # see the model card beside it
METADATA_KEY = "ktda_teacher"  # header of our own files: json with vision_transformer, mean, std
# How timm's models are told to take images of any size: transformers, Swin, and the rest.
_ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
_CLASSIFIERS = ("head.", "classifier.", "fc.", "mask_token")  # what a teacher leaves in its file


def load_vision_transformer(name: str, pretrained: bool = True, seed: int = 0) -> tuple[nn.Module, WeightsRecord]:
    """The model of `ktda.teacher.Teacher`'s `name`, and where its weights came from.

    Arguments and errors as there. A model is described by our own metadata, by timm's
    ``config.json`` (of a hub id, or beside a file), or by its name alone.
    """
    path = DEMO if name == "demo" else Path(name)
    is_file = path.suffix in WEIGHTS
    repo = name.removeprefix("hf-hub:").removeprefix("hf_hub:") if "/" in name else None
    if name == "random":
        description = {"vision_transformer": TINY}
    elif is_file:
        description = _describe(path)
    elif repo:
        description = read_json(hub_file(repo, "config.json"))
    else:
        _check_name(name)
        description = {"architecture": name}

    if name == "random" or not pretrained:
        with seeded(seed, "teacher"):
            model = _from_description(repo or name, description)
        return model, WeightsRecord(f"seed {seed}", kind="random")
    if is_file:
        return _from_file(path, description), WeightsRecord(path.name, file_sha256(path), kind="file")
    if repo:
        path = hub_file(repo)
        licence = (description.get("pretrained_cfg") or {}).get("license")
        return _from_file(path, description), WeightsRecord(repo, file_sha256(path), licence)
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id:
        cure = "name a variant that has some, or a file"
        raise InputError(f"timm publishes no weights for {name!r}; {cure}")
    path = hub_file(cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors")
    model = load_by_timm(functools.partial(_create, name), path, name)
    return model, WeightsRecord(cfg.hf_hub_id, file_sha256(path), cfg.license)


def _check_name(name: str) -> None:
    """Raise `InputError` with near names unless timm knows the model and its tag."""
    plain = name.split(".")[0]
    if not timm.is_model(plain):
        near = difflib.get_close_matches(plain, timm.list_models())
        hint = f"; near names: {', '.join(near)}" if near else ""
        what = "not a timm model, a hub id, a file, or 'random'"
        raise InputError(f"unknown teacher {name!r}: {what}{hint}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{plain}.*")) or "none"
        raise InputError(f"unknown teacher weights {name!r}; timm has {tags}") from error


def _create(name: str, **arguments) -> nn.Module:
    for size in _ANY_SIZE:
        try:
            model = timm.create_model(name, num_classes=0, **size, **arguments)
        except TypeError as error:  # the architecture does not know this argument
            refusal = error
            continue
        if hasattr(model, "forward_intermediates") and hasattr(model, "feature_info"):
            return model
        raise InputError(f"teacher {name!r} gives no maps of features, as timm has it")
    raise InputError(f"timm could not make teacher {name!r}: {refusal}")


def _describe(path: Path) -> dict:
    """What a weights file is: its own metadata, a config.json beside it, or its name as timm's."""
    if not path.is_file():
        raise InputError(f"no teacher weights at {path}")
    metadata = read_metadata(path)
    if METADATA_KEY in metadata:
        return json.loads(metadata[METADATA_KEY])
    if (path.parent / "config.json").is_file():
        return read_json(path.parent / "config.json")
    plain = path.stem.split(".")[0]
    if timm.is_model(plain):
        tagged = path.stem in timm.list_models(pretrained=True)  # timm's own tag tells mean and std
        return {"architecture": path.stem if tagged else plain}
    raise InputError(
        f"{path} does not say what model it is: put timm's config.json beside it, or name the file "
        "after the timm model (vit_base_patch14_dinov2.safetensors)"
    )


def _from_description(name: str, description: dict) -> nn.Module:
    """The untrained model of a description; nothing in it may name a file or fetch weights."""
    if "vision_transformer" in description:
        sizes = check_options(description["vision_transformer"], f"the header of {name}")
        model = VisionTransformer(**sizes, dynamic_img_size=True)
        given = {k: description[k] for k in ("mean", "std") if k in description}
    elif isinstance(architecture := description.get("architecture"), str):
        if not timm.is_model(architecture.split(".")[0]):
            what = f"a {architecture}, which timm {timm.__version__} does not know"
            raise InputError(f"{name} is {what}")
        options = description.get("model_args") or {}
        model = _create(architecture, **check_options(options, f"the config.json of {name}"))
        cfg = description.get("pretrained_cfg") or {}
        given = {k: v for k, v in cfg.items() if v is not None}
    else:
        raise InputError(f"the config.json of {name} names no architecture; timm's does")
    model.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), **given}
    return model


def _from_file(path: Path, description: dict) -> nn.Module:
    tensors = read_tensors(path)
    message = f"{path} does not fit {description.get('architecture', 'its own description')}"
    make = functools.partial(_from_description, str(path), description)
    own = (of_shapes(make) or make()).state_dict()
    tensors = {k: v for k, v in tensors.items() if k in own or not k.startswith(_CLASSIFIERS)}
    check_fit(make, tensors, message)
    model = make()
    load_strict(model, tensors, message)
    return model
