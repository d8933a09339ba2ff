"""Checkpoints of the authors' implementation, read without it.

The file is opened with ``torch.load(weights_only=True)`` and nothing else; what their framework
stores beside the tensors is passed over, its objects by a stand-in without any code. Every size is
inferred from the tensors; what is not in them (8 FMM heads, pool sizes, neck scales, level of the
auxiliary head) is the authors' fixed choice. Source of the key layout: the authors' released
implementation (Apache-2.0) at c4fd705.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ktda.errors import InputError
from ktda.model import KTDA
from ktda.neck import AUTHORS_SCALES
from ktda.teacher import Teacher
from ktda.weights.tensors import find_tensors, open_torch

FMM_HEADS = 8
PATCH = 14
TEACHER_PREFIX = "teach_backbone."
_AUXILIARY = "auxiliary_head.conv_seg.weight"
_PATCHES = TEACHER_PREFIX + "patch_embed.projection.weight"

# Convolution, BatchNorm and ReLU: ".conv" and ".bn" with the authors, ".0" and ".1" with SMP, which
# counts the levels of the top-down path from the coarsest, the authors from the finest.
_DECODER_CONVOLUTIONS = {
    **{f"psp_modules.{i}.1": f"psp.blocks.{i}.1" for i in range(4)},
    "bottleneck": "psp.out_conv",
    **{f"lateral_convs.{i}": f"fpn_lateral_blocks.{2 - i}.conv_norm_relu" for i in range(3)},
    **{f"fpn_convs.{i}": f"fpn_conv_blocks.{2 - i}" for i in range(3)},
    "fpn_bottleneck": "fusion_block",
}
# (their name, our name); {n}, {m} stand for numbers, {p} for one word, {rest} for anything. The
# first that fits the whole key is taken, in either direction.
_ENCODER = "student.encoder.model"
_THEIR_BLOCK = "backbone.stages.{n}.{m}"
_BLOCK = f"{_ENCODER}.stages_{{n}}.blocks.{{m}}"
_SEGMENTER_RULES = [
    ("backbone.downsample_layers.0.{n}.{p}", f"{_ENCODER}.stem_{{n}}.{{p}}"),
    ("backbone.downsample_layers.{n}.{m}.{p}", f"{_ENCODER}.stages_{{n}}.downsample.{{m}}.{{p}}"),
    (f"{_THEIR_BLOCK}.gamma", f"{_BLOCK}.gamma"),
    (f"{_THEIR_BLOCK}.depthwise_conv.{{p}}", f"{_BLOCK}.conv_dw.{{p}}"),
    (f"{_THEIR_BLOCK}.norm.{{p}}", f"{_BLOCK}.norm.{{p}}"),
    (f"{_THEIR_BLOCK}.pointwise_conv1.{{p}}", f"{_BLOCK}.mlp.fc1.{{p}}"),
    (f"{_THEIR_BLOCK}.pointwise_conv2.{{p}}", f"{_BLOCK}.mlp.fc2.{{p}}"),
    ("backbone.norm{n}.{p}", "student.norms.{n}.{p}"),
    ("fam.convert.{n}.{p}", "fam.projections.{n}.{p}"),
    ("neck.lateral_convs.{n}.conv.{p}", "neck.lateral.{n}.{p}"),
    ("neck.convs.{n}.conv.{p}", "neck.smooth.{n}.{p}"),
    ("fmm.adapters.{n}.{rest}", "fmm.levels.{n}.{rest}"),
    ("decode_head.conv_seg.{p}", "decode_head.classifier.{p}"),
    ("auxiliary_head.convs.0.conv.{p}", "auxiliary_head.convolution.{p}"),
    ("auxiliary_head.convs.0.bn.{p}", "auxiliary_head.bn.{p}"),
    ("auxiliary_head.conv_seg.{p}", "auxiliary_head.classifier.{p}"),
    *(
        (f"decode_head.{theirs}.{part}.{{p}}", f"decode_head.decoder.{ours}.{index}.{{p}}")
        for theirs, ours in _DECODER_CONVOLUTIONS.items()
        for index, part in enumerate(("conv", "bn"))
    ),
]
_TEACHER_RULES = [
    ("cls_token", "cls_token"),
    ("pos_embed", "pos_embed"),
    ("patch_embed.projection.{p}", "patch_embed.proj.{p}"),
    ("layers.{n}.ln{m}.{p}", "blocks.{n}.norm{m}.{p}"),
    ("layers.{n}.attn.qkv.{p}", "blocks.{n}.attn.qkv.{p}"),
    ("layers.{n}.attn.proj.{p}", "blocks.{n}.attn.proj.{p}"),
    ("layers.{n}.attn.gamma1.weight", "blocks.{n}.ls1.gamma"),
    ("layers.{n}.ffn.layers.0.0.{p}", "blocks.{n}.mlp.fc1.{p}"),
    ("layers.{n}.ffn.layers.1.{p}", "blocks.{n}.mlp.fc2.{p}"),
    ("layers.{n}.ffn.gamma2.weight", "blocks.{n}.ls2.gamma"),
    ("ln1.{p}", "norm.{p}"),
]
# of the ViT form, of the MLP form
_FMM_HIDDEN = ("fmm.adapters.0.0.mlp.fc1.weight", "fmm.adapters.0.0.fc1.weight")
_PLACEHOLDERS = {
    "{n}": r"(?P<n>\d+)",
    "{m}": r"(?P<m>\d+)",
    "{p}": r"(?P<p>\w+)",
    "{rest}": r"(?P<rest>.+)",
}


class _Inert:
    """Stands for an object of a library that is not here, and does nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


# What a training log of the authors' framework is made of; none of it is read. Its `getattr` would
# name a method of the log: here it names nothing.
_LOG = ("mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr", "numpy.ndarray")
_LOG += ("numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar")
_LOG += ("numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar")


def _read(path: Path | str) -> tuple[dict[str, Tensor], dict]:
    """The tensors, and what the authors' framework noted of the data beside them."""
    with torch.serialization.safe_globals([(_Inert, name) for name in _LOG]):
        content = open_torch(path)
    meta = content.get("meta") if isinstance(content, dict) else None
    about = meta.get("dataset_meta") if isinstance(meta, dict) else None
    return find_tensors(content, path), about if isinstance(about, dict) else {}


def load_checkpoint(path: Path | str) -> KTDA:
    """The authors' trained segmenter, teacher dropped; errors as `open_checkpoint`."""
    return open_checkpoint(path)[0]


def open_checkpoint(path: Path | str) -> tuple[KTDA, dict, dict]:
    """The authors' trained segmenter, teacher dropped.

    Args:
        path: checkpoint in the authors' layout.

    Returns:
        A model in eval mode, normalised (N, 3, H, W) -> logits (N, K, H, W); its arguments; and
        what the file says of the data, with ``classes`` and ``palette`` where it was trained by
        the authors' framework, else {}.

    Raises:
        InputError: unreadable file, an unknown or missing key, or a wrong shape; the key is named.
    """
    tensors, about = _read(path)
    arguments = infer_sizes(tensors)
    model = KTDA(**arguments)
    theirs = {k: v for k, v in tensors.items() if not k.startswith(TEACHER_PREFIX)}
    model.load_state_dict(_translate(theirs, _SEGMENTER_RULES, model.state_dict(), str(path)))
    return model.eval(), arguments, about


def load_teacher(
    path: Path | str, heads: int | None = None, blocks: tuple[int, ...] | None = None
) -> Teacher:
    """The frozen teacher inside the authors' checkpoint, its embedding resampled as they do it.

    Args:
        path: checkpoint in the authors' layout.
        heads: attention heads, which no tensor tells; None takes one per 64 channels, as in the
            published ViT-B (12) and ViT-L (16).
        blocks: as in `Teacher`.

    Raises:
        InputError: as `load_checkpoint`.
    """
    tensors, _ = _read(path)
    held = [k for k in tensors if k.startswith(TEACHER_PREFIX)]
    theirs = {k.removeprefix(TEACHER_PREFIX): tensors[k] for k in held}
    weight = _need(theirs, "patch_embed.projection.weight")
    grid = round((_need(theirs, "pos_embed").shape[1] - 1) ** 0.5)
    heads = heads or weight.shape[0] // 64
    if not heads or weight.shape[0] % heads:
        what = f"{path}: {heads} heads for a teacher of width {weight.shape[0]}"
        raise InputError(f"{what}; give the heads it was made with")
    model = VisionTransformer(
        img_size=grid * weight.shape[-1],
        patch_size=weight.shape[-1],
        embed_dim=weight.shape[0],
        depth=_count(theirs, r"layers\.(\d+)\."),
        num_heads=heads,
        mlp_ratio=_need(theirs, "layers.0.ffn.layers.0.0.weight").shape[0] / weight.shape[0],
        init_values=1e-5,
        num_classes=0,
        dynamic_img_size=True,
    )
    model.load_state_dict(_translate(theirs, _TEACHER_RULES, model.state_dict(), str(path)))
    return Teacher(model, blocks, resample="authors")


def infer_sizes(theirs: dict[str, Tensor]) -> dict:
    """Arguments of `KTDA` from the authors' tensors; the teacher's only tell its patch size."""
    channels = [_need(theirs, f"backbone.norm{i}.weight").shape[0] for i in range(4)]
    for i in range(4):  # a stage without any block would pass for one of depth 0
        _need(theirs, f"backbone.stages.{i}.0.depthwise_conv.weight")
    neck = any(k.startswith("neck.") for k in theirs)
    auxiliary = any(k.startswith("auxiliary_head.") for k in theirs)
    depths = [_count(theirs, rf"backbone\.stages\.{i}\.(\d+)\.") for i in range(4)]
    vit = "fmm.adapters.0.0.norm1.weight" in theirs
    classifier = _need(theirs, "decode_head.conv_seg.weight")  # (K, channels, 1, 1)
    return {
        "num_classes": classifier.shape[0],
        "encoder": "tu-convnext_base",
        "encoder_options": {"dims": channels, "depths": depths},
        "width": _need(theirs, "fam.convert.0.weight").shape[0],
        "patch": theirs[_PATCHES].shape[-1] if _PATCHES in theirs else PATCH,
        "neck_scales": AUTHORS_SCALES if neck else None,
        "neck_width": _need(theirs, "neck.convs.0.conv.weight").shape[0] if neck else 0,
        "fmm": ("vit" if vit else "mlp") if any(k.startswith("fmm.") for k in theirs) else "none",
        "fmm_depth": max(1, _count(theirs, r"fmm\.adapters\.0\.(\d+)\.")),
        "fmm_heads": FMM_HEADS,
        "fmm_hidden": next((theirs[k].shape[0] for k in _FMM_HIDDEN if k in theirs), 0),
        "decoder_channels": classifier.shape[1],
        "auxiliary": "fmm" if auxiliary else "none",
        "auxiliary_channels": _need(theirs, _AUXILIARY).shape[1] if auxiliary else 1,
    }


def export_names(names: Iterable[str]) -> dict[str, str]:
    """Our parameter name for each of the authors', as in their checkpoints and optimiser groups."""
    return {name: _rename(name, _SEGMENTER_RULES, "the list") for name in names}


def _translate(
    theirs: dict[str, Tensor], rules: list, expected: dict[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Rename every tensor; the result has exactly the expected names and shapes."""
    ours = {}
    for key, tensor in theirs.items():
        name = _rename(key, rules, where)
        if name not in expected:
            inferred = "a model of the sizes inferred from the tensors"
            raise InputError(f"{where}: key {key} has no place in {inferred}")
        found, needed = tuple(tensor.shape), tuple(expected[name].shape)
        if found != needed:
            raise InputError(f"{where}: key {key} has shape {found}, expected {needed}")
        ours[name] = tensor
    back = [(ours_form, their_form) for their_form, ours_form in rules]
    for name in expected:
        if name not in ours:
            raise InputError(f"{where}: key {_rename(name, back, where)} is missing")
    return ours


def _rename(key: str, rules: list[tuple[str, str]], where: str) -> str:
    for source, target in rules:
        pattern = re.escape(source)
        for placeholder, expression in _PLACEHOLDERS.items():
            pattern = pattern.replace(re.escape(placeholder), expression)
        match = re.fullmatch(pattern, key)
        if match:
            return target.format(**match.groupdict())
    raise InputError(f"{where}: unknown key {key}; expected the layout of the authors' checkpoints")


def _need(tensors: dict[str, Tensor], key: str) -> Tensor:
    if key not in tensors:
        raise InputError(f"key {key} is missing; expected the layout of the authors' checkpoints")
    return tensors[key]


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    """One more than the largest number that the pattern's group finds among the keys; or 0."""
    matches = [re.match(pattern, key) for key in tensors]
    return max((int(match[1]) for match in matches if match), default=-1) + 1
