"""Weights from one run to the next: start a model from trained ones, save an encoder for others."""

from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from ktda.build import load_model
from ktda.errors import InputError, check_choice
from ktda.official import load_checkpoint
from ktda.weights.tensors import load_strict, read_tensors, save_tensors

PARTS = ("all", "encoder")
_CLASSIFIERS = ("classifier", "segmentation_head")  # ours, SMP's
# The same tensors in `KTDA` and in the baselines.
_COMMON = {"student.encoder.": "encoder.", "network.encoder.": "encoder."}
_COMMON |= {"student.norms.": "norms."}


def initialise(model: nn.Module, source: str, part: str = "all") -> list[str]:
    """Take weights over.

    Args:
        model: changed in place.
        source: run folder, safetensors file, or a checkpoint of the authors (``.pth``).
        part: "all", where classifiers of another class count and a FAM that the source does not
            hold keep their fresh start; or "encoder", the student's, with its output norms where
            both have them: the rest may be of any other kind.

    Returns:
        Names of the tensors that were *not* taken over.

    Raises:
        InputError: nothing there, or a tensor that is to be taken over does not fit.
    """
    check_choice("init part", part, PARTS)
    tensors = read_segmenter(source)
    own = model.state_dict()
    if part == "encoder":
        fresh, given = _match_encoders(own, tensors, source)
    else:
        apart = tuple(f"{name}." for name in getattr(model, "training_only", ()))
        fresh = [k for k in own if k.startswith(apart) and k not in tensors]
        heads = [k for k in own if any(name in k for name in _CLASSIFIERS)]
        fresh += [k for k in heads if k in tensors and tensors[k].shape != own[k].shape]
        given = tensors
    message = f"weights of {source} do not fit this model"
    load_strict(model, given | {k: own[k] for k in fresh}, message)
    return fresh


def _match_encoders(
    own: dict[str, Tensor], tensors: dict[str, Tensor], source: str
) -> tuple[list[str], dict[str, Tensor]]:
    """Names that stay as they are, and the encoder's tensors by the model's own names."""
    theirs = {_common_name(k): v for k, v in tensors.items()}
    wanted = {k: _common_name(k) for k in own}
    encoder = [name for name in wanted.values() if name.startswith("encoder.")]
    missing = [name for name in encoder if name not in theirs]
    if missing or not encoder:
        what = f"{missing[0]} is missing" if missing else "this model has no student"
        raise InputError(f"no encoder for this model in {source}: {what}")
    given = {k: theirs[name] for k, name in wanted.items() if name and name in theirs}
    return [k for k in own if k not in given], given


def _common_name(name: str) -> str:
    """The name of an encoder's tensor whatever model it is in; "" for any other tensor."""
    for prefix, common in _COMMON.items():
        if name.startswith(prefix):
            return common + name.removeprefix(prefix)
    return ""


def count_parts(model: nn.Module, fresh: list[str]) -> dict[str, dict[str, int]]:
    """Per part of a model, how many tensors were taken over, and how many started anew."""
    counts: dict[str, dict[str, int]] = {}
    for name in model.state_dict():
        depth = 2 if name.startswith(("student.", "network.")) else 1
        part = ".".join(name.split(".")[:depth])
        count = counts.setdefault(part, {"taken": 0, "anew": 0})
        count["anew" if name in fresh else "taken"] += 1
    return counts


def read_segmenter(source: str) -> dict[str, Tensor]:
    """A segmenter's tensors by our names; argument as `initialise`'s."""
    path = Path(source)
    if path.suffix in (".pth", ".pt"):
        return load_checkpoint(path).state_dict()
    tensors = read_tensors(path / "model.safetensors" if path.is_dir() else path)
    # a training checkpoint holds the model's tensors under a prefix, beside the optimiser's
    held = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
    return held or tensors


def export_encoder(run: Path | str, path: Path) -> str:
    """Save the encoder of a finished run as plain weights.

    Those of a ``tu-`` encoder have timm's names: ``timm.create_model`` reads them with
    ``pretrained=True, pretrained_cfg_overlay={"file": path}``, and so does SMP's ``get_encoder``
    with ``weights=True``. Those of another have SMP's, for ``load_state_dict``. ``student_weights``
    takes both.

    Returns:
        The encoder's name.

    Raises:
        InputError: no finished run, or its model holds no whole encoder.
    """
    model, content = load_model(run)
    holder = getattr(model, "student", getattr(model, "network", None))
    if holder is None or content["model"] == "pspnet":
        raise InputError(f"model={content['model']} of {run} holds no whole encoder of a student")
    arguments = content["arguments"]
    name = arguments["encoder"]
    tensors = holder.encoder.state_dict()
    if name.startswith("tu-"):
        options = arguments.get("encoder_options") or {}
        tensors = _timm_names(tensors, name.removeprefix("tu-"), options)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors, {"encoder": name})
    return name


def _timm_names(tensors: dict[str, Tensor], name: str, options: dict) -> dict[str, Tensor]:
    """From the names of timm's feature extractor, which flattens stages, to those of the model."""
    with torch.device("meta"):
        whole = timm.create_model(name, **options)
    flat = {key.replace(".", "_"): key for key in whole.state_dict()}
    try:
        return {flat[k.removeprefix("model.").replace(".", "_")]: v for k, v in tensors.items()}
    except KeyError as error:
        raise InputError(f"timm's {name} has no tensor {error} of the encoder") from error
