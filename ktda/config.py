"""Presets, and the settings that a preset with overrides gives; the settings themselves stand in settings.py."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from ktda.errors import InputError
from ktda.settings import Config, allowed, check_name

# What a laptop can train: a 3.4 M student, narrow neck and decoder, one FMM block per level. The small teachers have
# patches of 8 pixels, so these neck scales give the strides 4, 8, 16 and 32; the authors' would give 2 to 16. Two heads
# of 32 channels: the authors' eight, of 96 there, would have 8 here, and attention would take a third of a step.
_SMALL = {
    "student": "tu-convnext_atto",
    "teacher": "demo",
    "neck_scales": (2.0, 1.0, 0.5, 0.25),
    "neck_width": 64,
    "fmm_depth": 1,
    "fmm_heads": 2,
    "decoder_channels": 64,
    "auxiliary_channels": 64,
    "student_drop_path": 0.0,
    "reduction": "mean",
    "kl_axis": "channel",
    "standardise": True,
    "ce_average": "valid",
    "rot90": True,
    "vflip": 0.5,
}
PRESETS: dict[str, dict] = {
    "smoke": _SMALL
    | {"steps": 4, "batch_size": 2, "crop": 64, "warmup_steps": 2, "poly_begin": 2, "tiles": 8},
    "demo": _SMALL
    | {
        "steps": 300,
        "batch_size": 4,
        "crop": 128,
        "warmup_steps": 30,
        "poly_begin": 30,
        "evaluate_epochs": 10,
    },
    # The authors' protocol. ImageNet-1k weights: the paper says "ImageNet" only.
    "paper": {
        "student": "tu-convnext_base.fb_in1k",
        "student_weights": "imagenet",
        "student_drop_path": 0.4,
        "teacher": "vit_base_patch14_dinov2.lvd142m",
        "teacher_resample": "authors",
        "student_passes": 2,
        "protocol": "paper",
        "workers": 4,
    },
}
# Few labels and many images: alignment beside the decoder, the teacher heard on images without labels.
PRESETS["few_labels"] = PRESETS["demo"] | {
    "fam_path": "beside",
    "fmm": "none",
    "unlabelled": 8,
    "distill_weight": 10.0,
}
# The laboratory's: well under a minute on one core, on whole tiles of 64 px, so that the teacher's maps can be kept.
PRESETS["grid"] = _SMALL | {
    "student": "tu-mobilenetv3_small_050",
    "decoder_channels": 32,
    "auxiliary_channels": 32,
    "photometric": False,
    "steps": 200,
    "batch_size": 8,
    "learning_rate": 1.2e-2,
    "warmup_steps": 20,
    "poly_begin": 20,
    "evaluate_epochs": 25,
    "tiles": 32,
    "scenes": 5,
    "class_tiles": 8,
}
# The cloud set's schedule differs: warm-up to step 2,000 overlaps the decay from 1,000; both multiply.
PAPER_CLOUD = {"steps": 80_000, "batch_size": 2, "warmup_steps": 2_000, "poly_begin": 1_000}


def make_config(
    preset: str = "demo", overrides: Mapping | Sequence[str] = (), data: str = ""
) -> Config:
    """A preset with overrides.

    Args:
        preset: smoke (seconds), demo (CPU minutes), few_labels (the same size, and images without labels),
            grid (a run of an ablation table) or paper (the authors').
        overrides: name -> value, or "name=value" strings (lists are comma-separated, empty for none).
        data: name or folder of the data set; "paper" takes the cloud schedule for cloud and l8_biome_sample.

    Raises:
        InputError: unknown preset or setting, a wrong type, or a value out of range.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}")
    values = dict(PRESETS[preset])
    if preset == "paper" and PurePath(data).name in ("cloud", "l8_biome_sample"):
        values |= PAPER_CLOUD
    values |= overrides if isinstance(overrides, Mapping) else dict(map(read_override, overrides))
    return Config(**values)


_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def read_override(override: str) -> tuple[str, object]:
    """Name and value of "name=value"."""
    name, sign, text = (part.strip() for part in str(override).partition("="))
    if not sign:
        raise InputError(f"override {override!r:.80}; expected KEY=VALUE, such as alpha=0.3")
    check_name(name)
    kind = type(Config.model_fields[name].default)
    try:
        if kind is bool:
            return name, _BOOLS[text.lower()]
        if kind is tuple:
            parts = text.strip("()[] ").split(",")
            return name, tuple(_number(part) for part in parts if part.strip())
        return name, kind(text)
    except (KeyError, ValueError):
        raise InputError(f"{name}={' '.join(text.split()):.80}; expected {allowed(name)}") from None


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
