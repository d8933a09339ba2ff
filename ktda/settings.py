"""Every setting of a run, each once: type, default, meaning and bounds in one place.

Names are the command line's (``--set alpha=0.3``) and the ablation table's; ``ktda settings`` prints
this table. To add a setting, write one line into the group it belongs to::

    ema: float = _setting(0.0, "decay of averaged weights, 0: off", 0, 0.99999, added=True)

and nothing else: text, types, bounds and help follow from it. A setting with ``added=True`` is left
out of `Config.config_hash` while it has its default, so that runs made before it keep theirs; that
default must do what was done before the setting was there, and must never change.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from ktda.errors import InputError, suggest_name
from ktda.files import content_hash
from ktda.schema import Strict, tuples

_Scale = Annotated[float, Field(gt=0, le=64)]
_Block = Annotated[int, Field(ge=0, lt=1000)]
_Band = Annotated[int, Field(ge=1, le=1000)]
_Level = Annotated[int, Field(ge=0, le=3)]
_ClassWeight = Annotated[float, Field(ge=0, le=1e6)]
_WIDEST, _LONGEST, _HEAVIEST = 8192, 10**8, 1_000_000

# What other projects call a setting.
_ALSO = {
    **dict.fromkeys(("lr", "base_lr", "max_lr"), "learning_rate"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("bs", "batch", "train_batch_size", "samples_per_gpu"), "batch_size"),
    **dict.fromkeys(("epochs", "max_epochs", "num_epochs", "iterations", "iters", "max_iters", "max_steps"), "steps"),
    **dict.fromkeys(("warmup", "warmup_iters"), "warmup_steps"),
    **dict.fromkeys(("grad_accum", "gradient_accumulation_steps", "accumulate_grad_batches"), "accumulate"),
    **dict.fromkeys(("amp", "dtype", "fp16", "bf16", "mixed_precision"), "precision"),
    **dict.fromkeys(("backbone", "encoder", "encoder_name"), "student"),
    **dict.fromkeys(("pretrained", "encoder_weights"), "student_weights"),
    **dict.fromkeys(("drop_path", "drop_path_rate"), "student_drop_path"),
    **dict.fromkeys(("num_workers", "n_workers"), "workers"),
    **dict.fromkeys(("crop_size", "img_size", "image_size"), "crop"),
    **dict.fromkeys(("val_interval", "eval_every", "val_every"), "evaluate_epochs"),
    **dict.fromkeys(("tau", "T"), "temperature"),
    "random_state": "seed",
    "depth": "fmm_depth",
    "kd_weight": "distill_weight",
    "head": "decoder",
}


def _setting(default: Any, meaning: str, low: Any = None, high: Any = None, form: str = "", added: bool = False) -> Any:
    """A field: its default and meaning, bounds (both included), how its values look, and whether it came later."""
    form = form or (f"from {low:,} to {high:,}" if high is not None else "")
    return Field(default, ge=low, le=high, description=meaning, json_schema_extra={"form": form, "added": added})


class Config(Strict):
    """Settings of one run; the defaults are the method as published, on the student and teacher named.

    Raises:
        InputError: an unknown setting, a value of another type or out of range, or two that contradict.
    """

    # Model
    model: Literal["ktda", "unet", "deeplabv3plus", "pspnet", "segformer", "upernet", "teacher"] = _setting(
        "ktda", "the method, another decoder on the same student, or the frozen teacher with a decoder"
    )
    student: str = _setting("tu-convnext_base", "encoder by SMP's name; tu-NAME: by timm's")
    student_weights: str = _setting("none", "none | imagenet | source (pretrained on simulated source worlds) | FILE")
    student_norm: bool = _setting(True, "LayerNorm on each level of the student")
    student_drop_path: float = _setting(0.0, "stochastic depth of a tu- encoder", 0, 0.99)
    student_frozen: bool = _setting(False, "train all but the encoder")
    fam: bool = _setting(True, "feature alignment (FAM): the student's levels to the teacher's grid and width")
    fam_path: Literal["through", "beside"] = _setting(
        "through", "beside: FAM in training only, the heads read the student's own levels, no neck", added=True
    )
    neck_scales: tuple[()] | tuple[_Scale, _Scale, _Scale, _Scale] = _setting(
        (4.0, 2.0, 1.0, 0.5), "resize factor per level; empty: no neck", form="four positive factors up to 64, or none"
    )
    neck_width: int = _setting(0, "output channels of the neck, 0: as the teacher", 0, _WIDEST)
    fmm: Literal["vit", "mlp", "conv", "mona", "ssf", "none"] = _setting(
        "vit", "blocks of the feature modulation (FMM); none: no FMM"
    )
    fmm_depth: int = _setting(4, "blocks of the FMM per level", 1, 64)
    fmm_heads: int = _setting(8, "attention heads of a vit block", 1, 256)
    decoder: Literal["upernet", "segformer"] = _setting("upernet", "decode head")
    decoder_channels: int = _setting(512, "channels of the decode head", 1, _WIDEST)
    dropout: float = _setting(0.1, "dropout of channels, in both heads", 0, 0.99)
    auxiliary: Literal["fmm", "fam", "none"] = _setting("fmm", "maps that the auxiliary head reads; none: no such head")
    auxiliary_channels: int = _setting(256, "channels of the auxiliary head", 1, _WIDEST)

    # Teacher
    teacher: str = _setting("random", "timm name, hub id, file, demo (shipped, small) or random")
    teacher_pretrained: bool = _setting(True, "load the teacher's weights")
    teacher_blocks: tuple[()] | tuple[_Block, _Block, _Block, _Block] = _setting(
        (), "blocks whose maps are taken; empty: the default four", form="four, one per level, or none"
    )
    teacher_norm: Literal["last", "all"] = _setting("last", "maps that pass its last LayerNorm: the last, or all")
    teacher_resample: Literal["timm", "authors"] = _setting("timm", "whose resizing of position embeddings")
    teacher_images: Literal["own", "other"] = _setting(
        "own", "image behind the maps; other: another tile of the batch, a control (alike in statistics only)"
    )

    # Losses
    segmentation_weight: float = _setting(
        1.0, "weight of all segmentation terms, 0: distil only and keep the last weights", 0, _HEAVIEST, added=True
    )
    auxiliary_weight: float = _setting(0.4, "weight of the auxiliary head's cross-entropy", 0, _HEAVIEST)
    distill_weight: float = _setting(1.0, "weight of the distillation, 0: no teacher", 0, _HEAVIEST)
    distill_levels: Annotated[tuple[_Level, ...], Field(min_length=1, max_length=4)] = _setting(
        (0, 1, 2, 3), "levels that the distillation reads", form="some of 0, 1, 2, 3"
    )
    distill_sum: bool = _setting(False, "compare the sum of the levels' maps instead of each")
    distillation: Literal["kl_mse", "cosine", "relational"] = _setting(
        "kl_mse", "distance of the maps: KL and MSE as published, of directions, or of patch similarities", added=True
    )
    alpha: float = _setting(0.5, "share of KL in the distillation; the rest is MSE", 0, 1)
    temperature: float = _setting(1.0, "softmax temperature of KL", 1e-3, 1000)
    kl_axis: Literal["width", "channel", "spatial"] = _setting("width", "values that KL takes as one distribution")
    reduction: Literal["authors", "mean"] = _setting("authors", "KL averaged over images, or over distributions (mean)")
    standardise: bool = _setting(False, "standardise teacher maps by fixed channel statistics of the training set")
    student_passes: Literal[1, 2] = _setting(1, "forward passes of the student per step; 2: as the authors")
    ce_average: Literal["authors", "valid"] = _setting("authors", "average over all pixels, or valid (labelled) ones")
    class_weights: Annotated[tuple[_ClassWeight, ...], Field(max_length=255)] = _setting(
        (), "weights in the cross-entropy; empty: equal", form="factors of at least 0, one per class, or none"
    )
    dice_weight: float = _setting(0.0, "weight of the Dice loss", 0, _HEAVIEST)
    focal_weight: float = _setting(0.0, "weight of the focal loss", 0, _HEAVIEST)

    # Data
    protocol: Literal["honest", "paper"] = _setting(
        "honest", "honest: select on held-out data, score the reported split once; paper: select on the reported split"
    )
    holdout: float = _setting(0.2, "share of train held out where there is no split to select on", 0.01, 0.9)
    tiles: int = _setting(0, "labelled training tiles to use, drawn by the seed, 0: all", 0, 10**7)
    scenes: int = _setting(0, "training scenes to use, drawn by the seed, 0: all", 0, 10**7)
    class_tiles: int = _setting(0, "tiles of such a draw in which each class occurs, at least", 0, 10**7)
    unlabelled: int = _setting(
        0, "tiles per batch without labels (left out, or images given), for the distillation only", 0, 65_536
    )
    unlabelled_tiles: int = _setting(
        0, "tiles left out of the draw that may serve as unlabelled, drawn by the seed, 0: all", 0, 10**7, added=True
    )
    bands: Annotated[tuple[_Band, ...], Field(max_length=1000)] = _setting(
        (), "bands of the images that the student reads; empty: all", form="numbers from 1, each once", added=True
    )
    crop: int = _setting(0, "side in pixels, 0: the whole tile", 0, 16_384)
    hflip: float = _setting(0.5, "probability of a horizontal flip", 0, 1)
    vflip: float = _setting(0.0, "probability of a vertical flip", 0, 1)
    rot90: bool = _setting(False, "rotate by multiples of 90 degrees")
    photometric: bool = _setting(True, "the authors' photometric distortion")

    # Optimisation
    steps: int = _setting(23_000, "steps of the optimiser", 1, _LONGEST)
    # UPerNet pools to 1 x 1 before a BatchNorm, which cannot train on one image.
    batch_size: int = _setting(4, "tiles per batch and process", 2, 65_536)
    accumulate: int = _setting(1, "batches per step", 1, 65_536)
    learning_rate: float = _setting(6e-4, "of AdamW, before warm-up and decay", 0, 100)
    encoder_rate: float = _setting(1.0, "factor on the encoder's learning rate", 1e-6, 1, added=True)
    ema: float = _setting(0.0, "decay of averaged weights, which are scored and kept, 0: off", 0, 0.99999, added=True)
    weight_decay: float = _setting(0.01, "of AdamW", 0, 100)
    warmup_steps: int = _setting(1_150, "steps of linear warm-up", 0, _LONGEST)
    warmup_start: float = _setting(1e-3, "factor at which the warm-up starts", 0, 1)
    poly_power: float = _setting(0.9, "power of the polynomial decay", 0, 100)
    poly_begin: int = _setting(1_150, "step at which the decay begins", 0, _LONGEST)
    precision: Literal["fp32", "bf16", "fp16"] = _setting("fp32", "arithmetic of the forward pass")
    tf32: bool = _setting(False, "TF32 in the matrix products of an NVIDIA GPU, if precision=fp32", added=True)
    channels_last: bool = _setting(False, "images and maps in memory with their channels last", added=True)
    compile: bool = _setting(False, "torch.compile the parts of the model: minutes at the start, faster steps", added=True)
    checkpoint_activations: bool = _setting(
        False, "blocks of FMM and ConvNeXt compute again what they would keep: less memory, more time", added=True
    )
    sync_batch_norm: bool = _setting(False, "BatchNorm statistics over the batches of all GPUs of a run", added=True)
    deterministic: bool = _setting(False, "of a GPU's kernels those that give the same bits again", added=True)
    evaluate_epochs: int = _setting(1, "epochs between evaluations", 1, 1_000_000)
    checkpoint_steps: int = _setting(0, "steps between checkpoints besides those at evaluations, 0: none", 0, _LONGEST)
    log_with: Literal[
        "none", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
    ] = _setting("none", "Accelerate's tracker that hears of each evaluation; tells no runs apart", added=True)
    workers: int = _setting(0, "loader processes", 0, 256)
    seed: int = _setting(0, "of weights, order, augmentation and dropout", 0, 2**63 - 1)
    repeat: int = _setting(0, "another training on the seed's own draw of tiles, 0: the first", 0, 10**6, added=True)

    def __init__(self, **values: Any) -> None:
        for name in values:
            check_name(name)
        try:
            super().__init__(**{name: tuples(value) for name, value in values.items()})
            return
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
        if not first["loc"]:  # two settings that contradict
            raise InputError(str(first["ctx"]["error"]))
        name = first["loc"][0]
        raise InputError(f"{name}={values[name]!r:.80}; expected {allowed(name)}")

    @model_validator(mode="after")
    def _agree(self) -> "Config":
        """Refuse settings that contradict each other."""
        if self.neck_width and not self.neck_scales:
            raise InputError("neck_width is set but neck_scales is empty: without a neck the width is the teacher's")
        if self.class_tiles and not (self.tiles or self.scenes):
            raise InputError("class_tiles is set but neither tiles nor scenes: nothing is drawn")
        if self.unlabelled and not self.distils:
            raise InputError("unlabelled is set, but without distillation nothing is learned from such tiles")
        if self.unlabelled_tiles and not self.unlabelled:
            raise InputError("unlabelled_tiles is set, but unlabelled=0 of them a batch; set unlabelled")
        if self.fam_path == "beside" and not self.fam:
            raise InputError("fam_path=beside, but fam=false: there is nothing to stand beside")
        if self.student_frozen and self.encoder_rate != 1:
            raise InputError("encoder_rate is set but student_frozen=true: the encoder does not learn")
        if not self.segmentation_weight and not self.distils:
            raise InputError("segmentation_weight=0 without distillation trains nothing; set distill_weight")
        if 0 < self.crop < 32:
            raise InputError(f"crop={self.crop}; expected 0, the whole tile, or at least 32, the student's last stride")
        return self

    @property
    def distils(self) -> bool:
        """Whether a training step asks the teacher."""
        return self.model == "ktda" and self.fam and self.distill_weight > 0

    @property
    def transfers(self) -> bool:
        """Whether the weights of a pretrained teacher reach the run."""
        asked = self.distils or self.model == "teacher"
        return asked and self.teacher_pretrained and self.teacher != "random"

    def as_dict(self) -> dict[str, Any]:
        """Plain values of all settings, for json."""
        return self.model_dump()

    def identity(self) -> dict[str, Any]:
        """What tells runs apart: all settings but added ones at their defaults, and `log_with`."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in self.as_dict().items()
            if name != "log_with"
            if value != fields[name].default or not fields[name].json_schema_extra["added"]
        }

    @property
    def config_hash(self) -> str:
        """SHA-256 of `identity`."""
        return content_hash(self.identity())


# The first setting of each group above.
GROUPS = {"Model": "model", "Teacher": "teacher", "Losses": "segmentation_weight", "Data": "protocol"}
GROUPS |= {"Optimisation": "steps"}


def check_name(name: str) -> None:
    """Refuse an unknown setting.

    Raises:
        InputError: with the nearest known name, also for what other projects call it.
    """
    if name in Config.model_fields:
        return
    cure = f"did you mean {_ALSO[name]}?" if name in _ALSO else suggest_name(name, Config.model_fields, _SEE)
    raise InputError(f"unknown setting {name!r:.60}; {cure}")


_SEE = "`ktda settings` lists all"


def allowed(name: str) -> str:
    """The values that a setting may have, in words: "a number from 0 to 1"."""
    field = Config.model_fields[name]
    if choices := get_args(field.annotation) if type(field.default) is not tuple else ():
        return f"one of {', '.join(map(str, choices))}"
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", tuple: ""}
    return f"{kind[type(field.default)]} {field.json_schema_extra['form']}".strip()
