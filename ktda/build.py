"""From a config to a model, to the two files that rebuild it without a network, and back.

``config.json`` holds constructor arguments, normalisation and classes; ``model.safetensors`` the weights. The
teacher is in neither; only ``model=teacher`` needs it again, and names it.
"""

from pathlib import Path

from torch import nn

from ktda.baselines import BASELINES, Baseline, TeacherSegmenter
from ktda.config import Config
from ktda.errors import InputError
from ktda.files import read_json, write_json
from ktda.images import IMAGENET_MEAN, IMAGENET_STD
from ktda.model import KTDA
from ktda.teacher import Teacher
from ktda.weights.tensors import load_strict, read_tensors

FORMAT = 1
_CLASSIFIERS = ("classifier", "segmentation_head")  # ours, SMP's


def make_teacher(config: Config) -> Teacher:
    """The teacher that a config names; without its weights where only its width and patch are needed."""
    needed = config.distils or config.model == "teacher"
    arguments = _teacher_arguments(config)
    return Teacher(**arguments | {"pretrained": arguments["pretrained"] and needed})


def _teacher_arguments(config: Config) -> dict:
    return {
        "name": config.teacher,
        "blocks": config.teacher_blocks or None,
        "pretrained": config.teacher_pretrained,
        "norm": config.teacher_norm,
        "resample": config.teacher_resample,
        "seed": config.seed,
    }


def describe(config: Config, num_classes: int, teacher: Teacher | None) -> dict:
    """What `build` needs: model name and constructor arguments, plain values for json.

    Args:
        config: settings of the run.
        num_classes: classes K.
        teacher: gives width and patch; not needed by the baselines.
    """
    student = {
        "encoder": config.student,
        "encoder_options": {"drop_path_rate": config.student_drop_path} if config.student_drop_path else {},
        "seed": config.seed,
    }
    heads = {"decoder": config.decoder, "decoder_channels": config.decoder_channels, "dropout": config.dropout}
    arguments: dict = {"num_classes": num_classes}
    if config.model in BASELINES:
        return {"model": config.model, "arguments": arguments | student}
    if config.model == "teacher":
        if not config.neck_scales:
            raise InputError("neck_scales is empty, but model=teacher needs the neck between teacher and decoder")
        arguments |= heads | {"neck_scales": config.neck_scales, "neck_width": config.neck_width, "seed": config.seed}
        return {"model": "teacher", "arguments": arguments, "teacher": _teacher_arguments(config)}
    arguments |= student | heads | {"student_norm": config.student_norm}
    arguments |= {"auxiliary": config.auxiliary, "auxiliary_channels": config.auxiliary_channels}
    if config.model == "upernet":  # the student with the same heads, and no part of the transfer
        return {"model": "ktda", "arguments": arguments | {"fam": False, "neck_scales": (), "fmm": "none"}}
    arguments |= {
        "width": teacher.dim,
        "patch": teacher.patch,
        "fam": config.fam,
        "neck_scales": config.neck_scales,
        "neck_width": config.neck_width,
        "fmm": config.fmm,
        "fmm_depth": config.fmm_depth,
        "fmm_heads": config.fmm_heads,
    }
    return {"model": "ktda", "arguments": arguments}


def build(description: dict, teacher: Teacher | None = None, student_weights: str = "none") -> nn.Module:
    """The model of a description.

    Args:
        description: from `describe` or a ``config.json``.
        teacher: for model "teacher"; None makes the one that the description names.
        student_weights: "none", "imagenet", "source" or a file.
    """
    name, arguments = description["model"], description["arguments"]
    if name == "teacher":
        model = TeacherSegmenter(teacher=teacher or Teacher(**description["teacher"]), **arguments)
    elif name == "ktda":
        model = KTDA(**arguments, student_weights=student_weights)
    else:
        model = Baseline(name, **arguments, student_weights=student_weights)
    if "normalisation" in description:
        model.mean, model.std = (tuple(description["normalisation"][key]) for key in ("mean", "std"))
    return model


def save_config(folder: Path, description: dict, classes: list[str], palette: list, ignore_index: int) -> None:
    """Write ``config.json``: the description with normalisation and classes."""
    content = {
        "format": FORMAT,
        **description,
        "normalisation": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "input": "RGB in [0, 1]"},
        "classes": list(classes),
        "palette": [list(c) for c in palette],
        "ignore_index": ignore_index,
    }
    write_json(folder / "config.json", content)


def load_model(run: Path | str) -> tuple[nn.Module, dict]:
    """A trained model in eval mode and its ``config.json``, from a run folder, without a network.

    Raises:
        InputError: the folder holds no finished model.
    """
    run = Path(run)
    if not (run / "config.json").is_file() or not (run / "model.safetensors").is_file():
        raise InputError(f"{run} holds no trained model (config.json and model.safetensors); train with --out {run}")
    content = read_json(run / "config.json")
    model = build(content)
    load_strict(model, read_tensors(run / "model.safetensors"), f"weights of {run} do not fit this model")
    return model.eval(), content


def initialise(model: nn.Module, source: str) -> list[str]:
    """Start from trained weights: a run folder, a safetensors file, or a checkpoint of the authors (``.pth``).

    Classifiers of another class count keep their fresh start.

    Args:
        model: changed in place.
        source: run folder or file.

    Returns:
        Names of the tensors that were *not* taken over.

    Raises:
        InputError: nothing there, or a tensor other than a classifier's does not fit.
    """
    path = Path(source)
    if path.suffix in (".pth", ".pt"):
        from ktda.official import load_checkpoint

        tensors = load_checkpoint(path).state_dict()
    else:
        tensors = read_tensors(path / "model.safetensors" if path.is_dir() else path)
        # a training checkpoint holds the model's tensors under a prefix
        held = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        tensors = held or tensors
    own = model.state_dict()
    heads = [k for k in own if any(part in k for part in _CLASSIFIERS)]
    fresh = [k for k in heads if k in tensors and tensors[k].shape != own[k].shape]
    tensors = {k: own[k] if k in fresh else v for k, v in tensors.items()}
    load_strict(model, tensors, f"weights of {source} do not fit this model")
    return fresh
