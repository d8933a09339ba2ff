"""Every setting of a run in one flat dataclass, and the presets.

Names are the command line's (``--set alpha=0.3``) and the ablation table's. An unknown name or a wrong type is an
error before anything runs.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ktda.errors import InputError, suggest_name


@dataclass(frozen=True)
class Config:
    """Settings of one run; the defaults are the method as published, on the student and teacher named.

    Model:
        model: ktda | unet | deeplabv3plus | pspnet | segformer | upernet | teacher.
        student: SMP encoder; student_weights: none | imagenet | source (pretrained on simulated source worlds,
        for preset grid's) | FILE; student_norm: LayerNorm per level; student_drop_path: stochastic depth of a ``tu-``
        encoder; student_frozen: train all but the encoder.
        teacher: timm name, hub id, file, "demo", "random"; teacher_pretrained; teacher_blocks: empty for the default
        four; teacher_norm: last | all; teacher_resample: timm | authors; teacher_images: own | other (a control: the
        maps of another tile of the batch, alike in statistics but without knowledge of this image).
        fam: the alignment; neck_scales: empty leaves the neck out; neck_width: its output channels, 0 as the teacher.
        fmm: vit | mlp | none; fmm_depth, fmm_heads.
        decoder: upernet | segformer; decoder_channels; dropout: of channels, in both heads.
        auxiliary: fmm | fam | none; auxiliary_channels; auxiliary_weight of its cross-entropy.
    Losses:
        distill_weight: of the distillation term, 0 leaves the teacher out; distill_levels: which levels it reads;
        distill_sum: the sum of their maps instead of each.
        alpha: share of KL; temperature; kl_axis: width | channel | spatial; reduction: authors | mean.
        standardise: teacher maps by fixed per-channel statistics of the training set.
        student_passes: 1, or 2 as the authors run the student.
        ce_average: authors | valid; class_weights: empty or one per class; dice_weight, focal_weight.
    Data:
        protocol: honest (select on held-out data, score the reported split once) | paper (select on the
        reported split); holdout: share of train held out where there is no split to select on.
        tiles, scenes: use only so many labelled training tiles, scenes (0: all), drawn by the seed; class_tiles: in
        such a draw every class occurs in at least so many tiles; unlabelled: tiles per batch, besides batch_size,
        of those left out, whose labels no loss sees: they reach the distillation term (and BatchNorm statistics).
        crop: side in pixels, 0 the whole tile; hflip, vflip: probabilities; rot90; photometric: the authors'.
    Optimisation:
        steps of the optimiser; batch_size per process; accumulate: batches per step.
        learning_rate, weight_decay; warmup_steps from factor warmup_start; poly_power decay from step poly_begin on.
        precision: fp32 | bf16 | fp16; evaluate_epochs: epochs between evaluations; checkpoint_steps: between
        checkpoints besides those at evaluations (0: none); workers: loader processes; seed.
    """

    model: str = "ktda"
    student: str = "tu-convnext_base"
    student_weights: str = "none"
    student_norm: bool = True
    student_drop_path: float = 0.0
    student_frozen: bool = False
    teacher: str = "random"
    teacher_pretrained: bool = True
    teacher_blocks: tuple[int, ...] = ()
    teacher_norm: str = "last"
    teacher_resample: str = "timm"
    teacher_images: str = "own"
    fam: bool = True
    neck_scales: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)
    neck_width: int = 0
    fmm: str = "vit"
    fmm_depth: int = 4
    fmm_heads: int = 8
    decoder: str = "upernet"
    decoder_channels: int = 512
    dropout: float = 0.1
    auxiliary: str = "fmm"
    auxiliary_channels: int = 256
    auxiliary_weight: float = 0.4
    distill_weight: float = 1.0
    distill_levels: tuple[int, ...] = (0, 1, 2, 3)
    distill_sum: bool = False
    alpha: float = 0.5
    temperature: float = 1.0
    kl_axis: str = "width"
    reduction: str = "authors"
    standardise: bool = False
    student_passes: int = 1
    ce_average: str = "authors"
    class_weights: tuple[float, ...] = ()
    dice_weight: float = 0.0
    focal_weight: float = 0.0
    protocol: str = "honest"
    holdout: float = 0.2
    tiles: int = 0
    scenes: int = 0
    class_tiles: int = 0
    unlabelled: int = 0
    crop: int = 0
    hflip: float = 0.5
    vflip: float = 0.0
    rot90: bool = False
    photometric: bool = True
    steps: int = 23_000
    batch_size: int = 4
    accumulate: int = 1
    learning_rate: float = 6e-4
    weight_decay: float = 0.01
    warmup_steps: int = 1_150
    warmup_start: float = 1e-3
    poly_power: float = 0.9
    poly_begin: int = 1_150
    precision: str = "fp32"
    evaluate_epochs: int = 1
    checkpoint_steps: int = 0
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)!r}; expected one of {', '.join(map(str, allowed))}")
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high or getattr(self, name) == _INF:
                bound = f"at least {low}" if high == _INF else f"from {low} to {high}"
                raise InputError(f"{name}={getattr(self, name)}; expected {bound}")
        if self.neck_scales and (len(self.neck_scales) != 4 or not all(0 < s < _INF for s in self.neck_scales)):
            raise InputError(f"neck_scales={self.neck_scales}; expected four positive factors, or none for no neck")
        if not self.distill_levels or not set(self.distill_levels) <= {0, 1, 2, 3}:
            raise InputError(f"distill_levels={self.distill_levels}; expected some of 0, 1, 2, 3")
        if self.teacher_blocks and len(self.teacher_blocks) != 4:
            raise InputError(f"teacher_blocks={self.teacher_blocks}; expected four, one per level")
        if self.neck_width and not self.neck_scales:
            raise InputError("neck_width is set but neck_scales is empty: without a neck the width is the teacher's")
        if self.class_tiles and not (self.tiles or self.scenes):
            raise InputError("class_tiles is set but neither tiles nor scenes: nothing is drawn")
        if self.unlabelled and not self.distils:
            raise InputError("unlabelled is set, but without distillation nothing is learned from such tiles")
        if 0 < self.crop < 32:
            raise InputError(f"crop={self.crop}; expected 0, the whole tile, or at least 32, the student's last stride")
        if not all(0 <= w < _INF for w in self.class_weights):
            raise InputError(f"class_weights={self.class_weights}; expected factors of at least 0, one per class")

    @property
    def distils(self) -> bool:
        """Whether a training step asks the teacher."""
        return self.model == "ktda" and self.fam and self.distill_weight > 0

    @property
    def transfers(self) -> bool:
        """Whether the weights of a pretrained teacher reach the run."""
        asked = self.distils or self.model == "teacher"
        return asked and self.teacher_pretrained and self.teacher != "random"

    def as_dict(self) -> dict:
        """Plain values, for json."""
        return dataclasses.asdict(self)


_INF = float("inf")
_CHOICES: dict[str, tuple] = {
    "model": ("ktda", "unet", "deeplabv3plus", "pspnet", "segformer", "upernet", "teacher"),
    "teacher_norm": ("last", "all"),
    "teacher_resample": ("timm", "authors"),
    "teacher_images": ("own", "other"),
    "fmm": ("vit", "mlp", "none"),
    "decoder": ("upernet", "segformer"),
    "auxiliary": ("fmm", "fam", "none"),
    "kl_axis": ("width", "channel", "spatial"),
    "reduction": ("authors", "mean"),
    "ce_average": ("authors", "valid"),
    "protocol": ("honest", "paper"),
    "precision": ("fp32", "bf16", "fp16"),
    "student_passes": (1, 2),
}
# Bounds of numbers, both included. UPerNet pools to 1 x 1 before a BatchNorm, which cannot train on one image.
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("dropout", "student_drop_path"), (0, 0.99)),
    **dict.fromkeys(("alpha", "hflip", "vflip", "warmup_start"), (0, 1)),
    **dict.fromkeys(
        ("neck_width", "tiles", "scenes", "class_tiles", "unlabelled", "crop", "workers", "seed"), (0, _INF)
    ),
    **dict.fromkeys(("auxiliary_weight", "distill_weight", "dice_weight", "focal_weight"), (0, _INF)),
    **dict.fromkeys(("learning_rate", "weight_decay", "poly_power"), (0, _INF)),
    **dict.fromkeys(("warmup_steps", "poly_begin", "checkpoint_steps"), (0, _INF)),
    **dict.fromkeys(("fmm_depth", "fmm_heads", "decoder_channels", "auxiliary_channels"), (1, _INF)),
    **dict.fromkeys(("steps", "accumulate", "evaluate_epochs"), (1, _INF)),
    "temperature": (1e-3, _INF),
    "holdout": (0.01, 0.9),
    "batch_size": (2, _INF),
}

# What a laptop can train: a 3.4 M student, narrow neck and decoder, one FMM block per level. The small teachers have
# patches of 8 pixels, so these neck scales give the strides 4, 8, 16 and 32; the authors' would give 2 to 16.
_SMALL = {
    "student": "tu-convnext_atto",
    "teacher": "demo",
    "neck_scales": (2.0, 1.0, 0.5, 0.25),
    "neck_width": 64,
    "fmm_depth": 1,
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
    "smoke": _SMALL | {"steps": 4, "batch_size": 2, "crop": 64, "warmup_steps": 2, "poly_begin": 2, "tiles": 8},
    "demo": _SMALL
    | {"steps": 300, "batch_size": 4, "crop": 128, "warmup_steps": 30, "poly_begin": 30, "evaluate_epochs": 10},
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
# The laboratory's: well under a minute on one core, on whole tiles of 64 px, so that the teacher's maps can be kept.
PRESETS["grid"] = _SMALL | {
    "student": "tu-mobilenetv3_small_050",
    "fmm_heads": 2,
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


def make_config(preset: str = "demo", overrides: Mapping | Sequence[str] = (), data: str = "") -> Config:
    """A preset with overrides.

    Args:
        preset: smoke (seconds), demo (CPU minutes), grid (a run of an ablation table) or paper (the authors').
        overrides: field -> value (types are checked), or "field=value" strings (converted by the field's type;
            lists are comma-separated, empty for none).
        data: name or folder of the data set; "paper" takes the cloud schedule for cloud and l8_biome_sample.

    Raises:
        InputError: unknown preset or field, a wrong type, or a value out of range.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}")
    values = dict(PRESETS[preset])
    if preset == "paper" and PurePath(data).name in ("cloud", "l8_biome_sample"):
        values |= PAPER_CLOUD
    if isinstance(overrides, Mapping):
        values |= {k: _checked(k, v) for k, v in overrides.items()}
    else:
        values |= {k: _convert(k, v) for k, v in map(_split, overrides)}
    return Config(**values)


def _split(item: str) -> tuple[str, str]:
    key, sign, value = str(item).partition("=")
    if not sign:
        raise InputError(f"override {item!r}; expected KEY=VALUE, such as alpha=0.3")
    return key.strip(), value.strip()


def _type_of(name: str) -> type | types.GenericAlias:
    hints = typing.get_type_hints(Config)
    if name not in hints:
        raise InputError(f"unknown setting {name!r}; {suggest_name(name, hints)}")
    return hints[name]


def _convert(name: str, text: str) -> object:
    """The value of a field from its text."""
    kind = _type_of(name)
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if typing.get_origin(kind) is tuple:
            item = typing.get_args(kind)[0]
            return tuple(item(part) for part in text.strip("()[] ").split(",") if part.strip())
        return kind(text)
    except (ValueError, KeyError):
        raise InputError(f"{name}={text}; expected {_name(kind)}") from None


def _checked(name: str, value: object) -> object:
    """The value itself if it has the field's type (an integer will do for a float, a list for a tuple)."""
    kind = _type_of(name)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        if isinstance(value, list | tuple) and all(_is(v, item) for v in value):
            return tuple(item(v) for v in value)
    elif _is(value, kind):
        return kind(value)
    raise InputError(f"{name}={value!r}; expected {_name(kind)}")


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _name(kind: type | types.GenericAlias) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    return names.get(kind) or f"a list of {names[typing.get_args(kind)[0]].removeprefix('a ')}s, comma-separated"
