"""A timm vision transformer by name, hub id or file, with its weights and their provenance."""

import difflib
import json
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ktda.errors import InputError
from ktda.files import file_sha256, read_json
from ktda.seeding import seeded
from ktda.weights.tensors import WeightsRecord, hub_file, load_strict, read_metadata, read_tensors

# The tiny vision transformer named "random": 2.7 M parameters, patch 8, made for 128 px.
TINY = {"img_size": 128, "patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3, "num_classes": 0}
DEMO = Path(__file__).parent / "demo_teacher.safetensors"  # see the model card beside it
METADATA_KEY = "ktda_teacher"  # header of our own teacher files: json with vision_transformer, mean, std
_NEEDED = ("forward_intermediates", "blocks", "patch_embed", "norm", "embed_dim", "num_prefix_tokens")


def load_vision_transformer(name: str, pretrained: bool = True, seed: int = 0) -> tuple[nn.Module, WeightsRecord]:
    """The model of `ktda.teacher.Teacher`'s `name`, and where its weights came from; arguments and errors as there."""
    if name == "random":
        with seeded(seed, "teacher"):
            return VisionTransformer(**TINY, dynamic_img_size=True), WeightsRecord(f"seed {seed}", kind="random")
    path = DEMO if name == "demo" else Path(name)
    if path.suffix in (".safetensors", ".pth", ".pt", ".bin"):
        if not path.is_file():
            raise InputError(f"no teacher weights at {path}")
        if not pretrained:
            with seeded(seed, "teacher"):
                return _from_description(name, _describe(path)), WeightsRecord(f"seed {seed}", kind="random")
        return _from_file(path, _describe(path)), WeightsRecord(path.name, file_sha256(path), kind="file")
    if "/" in name:  # a hub id: its config.json names the architecture
        repo = name.removeprefix("hf-hub:").removeprefix("hf_hub:")
        description = read_json(hub_file(repo, "config.json"))
        if not pretrained:
            with seeded(seed, "teacher"):
                return _from_description(repo, description), WeightsRecord(f"seed {seed}", kind="random")
        path = hub_file(repo)
        licence = (description.get("pretrained_cfg") or {}).get("license")
        return _from_file(path, description), WeightsRecord(repo, file_sha256(path), licence)
    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models("*vit*"))
        hint = f"; near names: {', '.join(near)}" if near else ""
        raise InputError(f"unknown teacher {name!r}: not a timm model, a hub id, a file, or 'random'{hint}")
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag
        tags = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}.*")) or "none"
        raise InputError(f"unknown teacher weights {name!r}; timm has {tags}") from error
    if not pretrained:
        with seeded(seed, "teacher"):
            return _create(name, {}), WeightsRecord(f"seed {seed}", kind="random")
    if cfg is None or not cfg.hf_hub_id:
        raise InputError(f"timm publishes no weights for {name!r}; name a variant that has some, or a file")
    path = hub_file(cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors")
    try:
        with seeded(seed, "teacher"):
            model = _create(name, {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}})
    except RuntimeError as error:
        raise InputError(f"{path} does not fit {name}: {' '.join(str(error).split())[:300]}") from error
    if not model.state_dict().keys() <= read_tensors(path).keys():
        # timm renames, but also passes over what a file lacks: a matrix that still has its random start was not in it
        with seeded(seed, "teacher"):
            start = _create(name, {}).state_dict()
        missing = [k for k, v in model.state_dict().items() if v.ndim > 1 and torch.equal(v, start[k])]
        if missing:
            raise InputError(f"{path} does not fit {name}: tensor {missing[0]} is missing")
    return model, WeightsRecord(cfg.hf_hub_id, file_sha256(path), cfg.license)


def _create(name: str, arguments: dict) -> nn.Module:
    try:
        model = timm.create_model(name, num_classes=0, dynamic_img_size=True, **arguments)
    except TypeError:  # the architecture knows no size but its own
        model = None
    check_plain(name, model)
    return model


def check_plain(name: str, model: nn.Module | None) -> None:
    """Raise `InputError` unless the model has what `Teacher` reads off timm's plain vision transformers."""
    if any(not hasattr(model, a) for a in _NEEDED) or not hasattr(model.patch_embed, "grid_size"):
        raise InputError(f"teacher {name!r} is not a plain vision transformer (one grid of any size, one width)")


def _describe(path: Path) -> dict:
    """What a weights file is: its own metadata, a config.json beside it, or its name as a timm model's."""
    try:
        metadata = read_metadata(path)
    except SafetensorError as error:
        raise InputError(f"{path} is not a readable safetensors file ({error})") from error
    if METADATA_KEY in metadata:
        return json.loads(metadata[METADATA_KEY])
    if (path.parent / "config.json").is_file():
        return read_json(path.parent / "config.json")
    if timm.is_model(path.stem.split(".")[0]):
        tagged = path.stem in timm.list_models(pretrained=True)  # a tag of timm's own also tells mean and std
        return {"architecture": path.stem if tagged else path.stem.split(".")[0]}
    raise InputError(
        f"{path} does not say what model it is: put timm's config.json beside it, or name the file after the timm "
        "model (vit_base_patch14_dinov2.safetensors)"
    )


def _from_description(name: str, description: dict) -> nn.Module:
    """The untrained model of a description: our own metadata, or timm's config.json."""
    if "vision_transformer" in description:
        model = VisionTransformer(**description["vision_transformer"], dynamic_img_size=True)
        given = {k: description[k] for k in ("mean", "std") if k in description}
    elif "architecture" in description:
        if not timm.is_model(description["architecture"].split(".")[0]):
            raise InputError(f"{name} is a {description['architecture']}, which timm {timm.__version__} does not know")
        model = _create(description["architecture"], dict(description.get("model_args") or {}))
        given = {k: v for k, v in (description.get("pretrained_cfg") or {}).items() if v is not None}
    else:
        raise InputError(f"the config.json of {name} names no architecture; timm's does")
    model.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), **given}
    return model


def _from_file(path: Path, description: dict) -> nn.Module:
    model = _from_description(str(path), description)
    tensors = {k: v for k, v in read_tensors(path).items() if not k.startswith("head.") and k != "mask_token"}
    load_strict(model, tensors, f"{path} does not fit {description.get('architecture', 'its own description')}")
    return model
