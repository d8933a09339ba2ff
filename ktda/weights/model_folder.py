"""What a model folder, or a teacher's file, says of itself, checked before anything is built of it.

Such files come from strangers. Every field is checked by name, type and range; arguments that are
settings by the settings' own bounds; options of a library's constructor against a list of names, so
that none can name a file, fetch weights or change what is built.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ktda.config import make_config
from ktda.errors import InputError, suggest_name
from ktda.files import check_fields

FORMAT = 1
MOST_BLOCKS = 128  # each is built, even if it takes no memory
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")  # suffixes of files that hold a teacher
FIELDS = {
    "format": int,
    "model": str,
    "arguments": dict,
    "normalisation": dict,
    "classes": list,
    "palette": list,
    "ignore_index": int,
}
# Arguments of a model that are no setting: their smallest and largest value.
RANGES = {
    "num_classes": (1, 1000),
    "width": (1, 16_384),
    "patch": (1, 256),
    "fmm_hidden": (0, 65_536),
    "in_channels": (1, 1000),
}
_NORMALISATION = ("mean", "std", "input", "bands", "of", "names", "stretch")
_TEACHER = ("name", "blocks", "pretrained", "norm", "resample", "seed")
# Options of timm's constructors that shape a network, all of them plain values.
OPTIONS = {
    "class_token", "conv_mlp", "depth", "depths", "dims", "drop_path_rate", "drop_rate",
    "dynamic_img_pad", "dynamic_img_size", "embed_dim", "embed_dims", "fc_norm", "final_norm",
    "global_pool", "img_size", "init_values", "kernel_sizes", "ls_init_value", "mlp_ratio",
    "no_embed_class", "num_classes", "num_heads", "patch_size", "pos_embed", "pre_norm",
    "proj_bias", "qk_norm", "qkv_bias", "reg_tokens", "strict_img_size", "use_fc_norm",
    "use_grn", "window_size",
}  # fmt: skip


def check_options(options: Any, where: str) -> dict[str, Any]:
    """The options of a library's constructor, if each is known, plain and of a sensible size."""
    check_fields(options, {}, where)
    for name, value in options.items():
        if name not in OPTIONS:
            message = f"{where} sets {name!r}, which no file may"
            raise InputError(f"{message}; {suggest_name(name, sorted(OPTIONS))}")
        numbers = value if isinstance(value, list) else [value]
        most = MOST_BLOCKS if name.startswith("depth") else 65_536
        plain = isinstance(value, str | bool | None) or all(_is_size(n, most) for n in numbers)
        if not plain or len(numbers) > 64 or len(str(value)) > 500:
            message = f"{where}: {name} is {str(value)[:80]!r}"
            raise InputError(f"{message}; expected a flag, a word, or numbers from 0 to {most:,}")
    return options


def _is_size(value: Any, most: int) -> bool:
    return type(value) in (int, float) and 0 <= value <= most


def check_model_folder(content: Any, path: Path, constructor: Callable[[str], Callable]) -> None:
    """Check the content of a ``config.json``; `constructor` gives the class of a model's name.

    Raises:
        InputError: another format, or a field that is missing, unknown, of another type or range.
    """
    where = f"{path} is no description of a model"
    check_fields(content, {"format": int}, where)
    if content["format"] != FORMAT:
        cure = f"this version reads {FORMAT}; load it with the version that wrote it"
        raise InputError(f"{path} has format {content['format']}; {cure}")
    check_fields(content, FIELDS, where)
    # the teacher is of model "teacher" alone, and the tile came later
    _check_names(content, [*FIELDS, "teacher", "tile"], where)
    tile = content.get("tile", 0)
    if type(tile) is not int or not 0 <= tile <= 16_384:
        raise InputError(f"{where}: tile is {str(tile)[:80]}, expected a side of 0 to 16384 pixels")
    arguments = content["arguments"]
    _check_arguments(content["model"], arguments, constructor, where)
    classes = content["classes"]
    if not all(isinstance(name, str) and name and name.isprintable() for name in classes):
        raise InputError(f"{where}: classes are {str(classes)[:80]}, expected words")
    if len(classes) != arguments.get("num_classes"):
        expected = f"num_classes is {arguments.get('num_classes')}"
        raise InputError(f"{where}: it names {len(classes)} classes, but {expected}")
    palette = content["palette"]
    if len(palette) != len(classes) or not all(_are_numbers(c, 0, 255, 3) for c in palette):
        raise InputError(f"{where}: palette; expected [red, green, blue] for every class")
    if not 0 <= (index := content["ignore_index"]) <= 65_535:
        raise InputError(f"{where}: ignore_index is {index}, expected 0 to 65535")
    _check_normalisation(content["normalisation"], arguments.get("in_channels", 3), where)
    if "teacher" in content:
        _check_teacher(content["teacher"], path.parent, where)


def _check_arguments(model: str, arguments: dict[str, Any], constructor: Callable[[str], Callable], where: str) -> None:
    """Names from the constructor's signature, values by the settings of the same name."""
    settings = {"model": model}
    settings |= {k: v for k, v in arguments.items() if k not in RANGES}
    options = settings.pop("encoder_options", None) or {}
    if "encoder" in settings:
        settings["student"] = settings.pop("encoder")
    _check_settings(settings, where)  # first of all, the model's own name
    _check_names(arguments, inspect.signature(constructor(model)).parameters, where)
    for apart in {"model", "teacher", "student_weights"} & arguments.keys():
        raise InputError(f"{where}: {apart} is no argument of a trained model")
    for name, (low, high) in RANGES.items():
        value = arguments.get(name, low)
        per_level = name in ("width", "patch") and isinstance(value, list) and len(value) == 4
        whole = (type(v) is int and low <= v <= high for v in (value if per_level else [value]))
        if not all(whole):
            expected = f"a whole number from {low} to {high}"
            raise InputError(f"{where}: {name} is {str(value)[:80]}, expected {expected}")
    check_options(options, f"{where}: encoder_options")


def _check_normalisation(content: dict[str, Any], channels: int, where: str) -> None:
    """What `ktda.data.bands.describe_bands` gives, for a student of so many channels."""
    where = f"{where}: normalisation"
    _check_names(content, _NORMALISATION, where)
    ranges = {"mean": (-1e6, 1e6), "std": (1e-6, 1e6)}
    if "bands" in content:
        check_fields(content, {"of": int}, where)
        ranges["bands"] = (1, content["of"])
    check_fields(content, {"input": str} if "input" in content else {}, where)
    for name in ("names", "stretch"):
        check_fields(content, {name: list} if name in content else {}, where)
        if len(content.get(name, ())) not in (0, channels):
            raise InputError(f"{where}: {name} has not one entry for each of {channels} bands")
    for low_high in content.get("stretch", ()):
        if not _are_numbers(low_high, -1e12, 1e12, 2) or low_high[0] >= low_high[1]:
            raise InputError(f"{where}: stretch has {str(low_high)[:80]}; expected [low, high]")
    for name, (low, high) in ranges.items():
        if not _are_numbers(content.get(name), low, high, channels):
            expected = f"expected {channels} numbers from {low:g} to {high:g}"
            raise InputError(f"{where}: {name} is {str(content.get(name))[:80]}; {expected}")
    if any(type(band) is not int for band in content.get("bands", [])):
        raise InputError(f"{where}: bands are {content['bands']}; expected whole numbers")


def _check_teacher(teacher: dict[str, Any], folder: Path, where: str) -> None:
    """The arguments of `ktda.teacher.Teacher`; a file of weights may lie in the folder alone."""
    where = f"{where}: teacher"
    check_fields(teacher, {"name": str}, where)
    _check_names(teacher, _TEACHER, where)
    file = Path(teacher["name"])
    inside = file.suffix == ".safetensors" and file.name == str(file) and (folder / file).is_file()
    if file.suffix in WEIGHTS and not inside:
        cure = f"put it into {folder} as .safetensors, and name it without a folder"
        raise InputError(f"{where}: its weights are a file elsewhere, {file}; {cure}")
    settings = {f"teacher_{k}": v for k, v in teacher.items() if k not in ("name", "seed")}
    settings["teacher_blocks"] = settings.get("teacher_blocks") or []
    settings |= {"teacher": teacher["name"], "seed": teacher.get("seed", 0)}
    _check_settings(settings, where)


def _check_settings(settings: dict[str, Any], where: str) -> None:
    try:
        make_config("paper", settings)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _check_names(given: Mapping, known: Iterable[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"{where}: unknown field {name!r}; {suggest_name(name, list(known))}")


def _are_numbers(values: Any, low: float, high: float, count: int) -> bool:
    """Whether a value is a list of so many finite numbers in a range."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(v) in (int, float) and math.isfinite(v) and low <= v <= high for v in values)
    )
