"""From a config to a model, to the two files that rebuild it without a network, and back.

``config.json`` holds constructor arguments, normalisation and classes; ``model.safetensors`` the
weights. The teacher is in neither; only ``model=teacher`` needs it again, and names it.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from ktda.baselines import Baseline, TeacherSegmenter
from ktda.config import Config
from ktda.errors import InputError
from ktda.files import read_json, write_json
from ktda.images import IMAGENET_MEAN, IMAGENET_STD
from ktda.memory import check_fit
from ktda.model import KTDA
from ktda.seeding import training_seed
from ktda.teacher import Teacher
from ktda.weights.model_folder import FORMAT, check_model_folder
from ktda.weights.tensors import load_strict, read_tensors

_CONSTRUCTORS = {"ktda": KTDA, "upernet": KTDA, "teacher": TeacherSegmenter}
_APART = ("model", "teacher", "student_weights")  # given to `build` beside the arguments
_TRANSFER = ("width", "patch", "neck_", "fmm_")


def make_teacher(config: Config) -> Teacher:
    """The teacher that a config names; without weights where only width and patch are needed."""
    arguments = _teacher_arguments(config)
    if not (config.distils or config.model == "teacher"):
        arguments["pretrained"] = False
    return Teacher(**arguments)


def _teacher_arguments(config: Config) -> dict:
    return {
        "name": config.teacher,
        "blocks": config.teacher_blocks or None,
        "pretrained": config.teacher_pretrained,
        "norm": config.teacher_norm,
        "resample": config.teacher_resample,
        "seed": training_seed(config.seed, config.repeat),
    }


def describe(
    config: Config, num_classes: int, teacher: Teacher | None, normalisation: dict | None = None
) -> dict:
    """What `build` needs: model name and constructor arguments, plain values for json.

    A constructor's argument is the setting of the same name; those of another name stand below.

    Args:
        config: settings of the run.
        num_classes: classes K.
        teacher: gives width and patch; not needed by the baselines.
        normalisation: of `ktda.data.bands.describe_bands`; None for RGB images.
    """
    values = config.identity()  # a setting that came later stands here only where it is set
    values |= {"num_classes": num_classes, "encoder": config.student}
    values["seed"] = training_seed(config.seed, config.repeat)
    drop_path = config.student_drop_path
    values["encoder_options"] = {"drop_path_rate": drop_path} if drop_path else {}
    if teacher is not None:
        _check_levels(config, teacher)
        values |= {"width": _one_or_all(teacher.dims), "patch": _one_or_all(teacher.patches)}
    bands = len(normalisation["mean"]) if normalisation else 3
    if bands != 3:
        values["in_channels"] = bands
    name, constructor = config.model, _CONSTRUCTORS.get(config.model, Baseline)
    if name == "upernet":  # the student with the same heads, and no part of the transfer
        name = "ktda"
        values = {k: v for k, v in values.items() if not k.startswith(_TRANSFER)}
        values |= {"fam": False, "neck_scales": (), "fmm": "none"}
    elif name == "ktda" and config.fam_path == "beside":  # the levels are a pyramid already
        values |= {"neck_scales": (), "neck_width": 0, "fam": config.distils}
    if name == "teacher" and not config.neck_scales:
        cure = "model=teacher needs the neck between teacher and decoder"
        raise InputError(f"neck_scales is empty, but {cure}")
    wanted = [key for key in inspect.signature(constructor).parameters if key not in _APART]
    description = {"model": name, "arguments": {k: values[k] for k in wanted if k in values}}
    if name == "teacher":
        description["teacher"] = _teacher_arguments(config)
    if normalisation:
        description["normalisation"] = normalisation
    return description


def _check_levels(config: Config, teacher: Teacher) -> None:
    """Refuse settings that want a teacher with one grid for all levels, if this one has several."""
    if len(set(teacher.patches)) == 1:
        return
    what = f"teacher {teacher.name} has {', '.join(map(str, teacher.patches))} pixels per place"
    if len(set(config.neck_scales)) > 1 and config.fam_path == "through":
        raise InputError(f"{what}, a pyramid already; set neck_scales=1,1,1,1")
    if config.distill_sum:
        raise InputError(f"{what}; distill_sum=true wants one grid and one width")


def _one_or_all(values: Sequence[int]) -> int | list[int]:
    """One value where all levels share it."""
    return values[0] if len(set(values)) == 1 else list(values)


def build(
    description: dict, teacher: Teacher | None = None, student_weights: str = "none"
) -> nn.Module:
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
        normalisation = description["normalisation"]
        model.mean = tuple(normalisation["mean"])
        model.std = tuple(normalisation["std"])
        model.bands = tuple(band - 1 for band in normalisation.get("bands", ()))
    return model


def save_config(
    folder: Path, description: dict, classes: list[str], palette: list, ignore_index: int
) -> None:
    """Write ``config.json``; arguments as `model_config`'s."""
    content = model_config(description, classes, palette, ignore_index)
    write_json(folder / "config.json", content)


def model_config(
    description: dict, classes: Sequence[str], palette: Sequence, ignore_index: int = 255
) -> dict:
    """What stands in ``config.json``: the description of what predicts, normalisation, classes."""
    arguments = dict(description["arguments"])
    if arguments.pop("fam_path", "through") == "beside":
        arguments["fam"] = False  # see `inference_tensors`
    rgb = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "input": "RGB in [0, 1]"}
    return {
        "format": FORMAT,
        **description,
        "arguments": arguments,
        "normalisation": description.get("normalisation", rgb),
        "classes": list(classes),
        "palette": [list(c) for c in palette],
        "ignore_index": ignore_index,
    }


def inference_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that `load_model` wants: without parts that serve the training alone."""
    apart = tuple(f"{part}." for part in getattr(model, "training_only", ()))
    return {k: v for k, v in model.state_dict().items() if not k.startswith(apart)}


def load_model(run: Path | str) -> tuple[nn.Module, dict]:
    """A trained model in eval mode and its ``config.json``, from a run folder, without a network.

    Raises:
        InputError: the folder holds no finished model, or a damaged or foreign description of one.
    """
    run = Path(run)
    paths = run / "config.json", run / "model.safetensors"
    if not all(path.is_file() for path in paths):
        what = f"{run} holds no trained model (config.json and model.safetensors)"
        raise InputError(f"{what}; train with --out {run}")
    return load_files(*paths, str(run))


def load_files(config: Path, weights: Path, name: str) -> tuple[nn.Module, dict]:
    """`load_model` from the paths of the two files; `name` is what an error calls the model."""
    content = read_json(config)
    check_content(content, config)
    described = content
    if "teacher" in content and content["teacher"]["name"].endswith(".safetensors"):
        file = config.parent / content["teacher"]["name"]
        described = content | {"teacher": content["teacher"] | {"name": str(file)}}
    message = f"weights of {name} do not fit this model"
    tensors = read_tensors(weights)
    broken = [k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise InputError(f"{message}: {broken[0]} holds numbers that are not finite")
    check_fit(lambda: build(described), tensors, message)
    model = build(described)
    load_strict(model, tensors, message)
    return model.eval(), content


def check_content(content: dict, path: Path) -> None:
    """Raise `InputError` unless a ``config.json`` describes a model that can be built."""
    check_model_folder(content, path, lambda name: _CONSTRUCTORS.get(name, Baseline))
