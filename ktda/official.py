"""Checkpoints of the authors' implementation, read without it.

The file is opened with ``torch.load(weights_only=True)`` and nothing else. Every size is inferred from the tensors;
what is not in them (8 FMM heads, pool sizes, neck scales, level of the auxiliary head) is the authors' fixed choice.
Source of the key layout: the authors' released implementation (Apache-2.0) at c4fd705.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ktda.errors import InputError
from ktda.model import KTDA
from ktda.runs.weights import read_tensors
from ktda.teacher import Teacher

FMM_HEADS = 8
PATCH = 14
TEACHER_PREFIX = "teach_backbone."

# Convolution, BatchNorm and ReLU: ".conv" and ".bn" with the authors, ".0" and ".1" with SMP, which counts the
# levels of the top-down path from the coarsest, the authors from the finest.
_DECODER_CONVOLUTIONS = {
    **{f"psp_modules.{i}.1": f"psp.blocks.{i}.1" for i in range(4)},
    "bottleneck": "psp.out_conv",
    **{f"lateral_convs.{i}": f"fpn_lateral_blocks.{2 - i}.conv_norm_relu" for i in range(3)},
    **{f"fpn_convs.{i}": f"fpn_conv_blocks.{2 - i}" for i in range(3)},
    "fpn_bottleneck": "fusion_block",
}
# (their name, our name) as regular expressions; the first that matches the whole key is taken.
_SEGMENTER_RULES = [
    (r"backbone\.downsample_layers\.0\.(\d)\.(\w+)", r"student.encoder.model.stem_\1.\2"),
    (r"backbone\.downsample_layers\.(\d)\.(\d)\.(\w+)", r"student.encoder.model.stages_\1.downsample.\2.\3"),
    (r"backbone\.stages\.(\d+)\.(\d+)\.gamma", r"student.encoder.model.stages_\1.blocks.\2.gamma"),
    (
        r"backbone\.stages\.(\d+)\.(\d+)\.depthwise_conv\.(\w+)",
        r"student.encoder.model.stages_\1.blocks.\2.conv_dw.\3",
    ),
    (r"backbone\.stages\.(\d+)\.(\d+)\.norm\.(\w+)", r"student.encoder.model.stages_\1.blocks.\2.norm.\3"),
    (
        r"backbone\.stages\.(\d+)\.(\d+)\.pointwise_conv(\d)\.(\w+)",
        r"student.encoder.model.stages_\1.blocks.\2.mlp.fc\3.\4",
    ),
    (r"backbone\.norm(\d)\.(\w+)", r"student.norms.\1.\2"),
    (r"fam\.convert\.(\d)\.(\w+)", r"fam.projections.\1.\2"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", r"neck.lateral.\1.\2"),
    (r"neck\.convs\.(\d)\.conv\.(\w+)", r"neck.smooth.\1.\2"),
    (r"fmm\.adapters\.(\d)\.(.+)", r"fmm.levels.\1.\2"),
    (r"decode_head\.conv_seg\.(\w+)", r"decode_head.classifier.\1"),
    (r"auxiliary_head\.convs\.0\.conv\.(\w+)", r"auxiliary_head.convolution.\1"),
    (r"auxiliary_head\.convs\.0\.bn\.(\w+)", r"auxiliary_head.bn.\1"),
    (r"auxiliary_head\.conv_seg\.(\w+)", r"auxiliary_head.classifier.\1"),
    *(
        (rf"decode_head\.{re.escape(theirs)}\.{part}\.(\w+)", rf"decode_head.decoder.{ours}.{index}.\1")
        for theirs, ours in _DECODER_CONVOLUTIONS.items()
        for index, part in enumerate(("conv", "bn"))
    ),
]
_TEACHER_RULES = [
    (r"(cls_token|pos_embed)", r"\1"),
    (r"patch_embed\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"layers\.(\d+)\.ln([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"layers\.(\d+)\.attn\.(qkv|proj)\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"layers\.(\d+)\.attn\.gamma1\.weight", r"blocks.\1.ls1.gamma"),
    (r"layers\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"layers\.(\d+)\.ffn\.layers\.1\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layers\.(\d+)\.ffn\.gamma2\.weight", r"blocks.\1.ls2.gamma"),
    (r"ln1\.(\w+)", r"norm.\1"),
]


def load_checkpoint(path: Path | str) -> KTDA:
    """The authors' trained segmenter, teacher dropped.

    Args:
        path: checkpoint in the authors' layout.

    Returns:
        A model in eval mode: normalised (N, 3, H, W) -> logits (N, K, H, W).

    Raises:
        InputError: unreadable file, an unknown or missing key, or a wrong shape; the key is named.
    """
    theirs = {k: v for k, v in read_tensors(path).items() if not k.startswith(TEACHER_PREFIX)}
    model = KTDA(**infer_sizes(theirs))
    model.load_state_dict(_translate(theirs, _SEGMENTER_RULES, model.state_dict(), str(path)))
    return model.eval()


def load_teacher(path: Path | str, heads: int = 12, blocks: tuple[int, ...] | None = None) -> Teacher:
    """The frozen teacher inside the authors' checkpoint, with the authors' resampling of its position embedding.

    Args:
        path: checkpoint in the authors' layout.
        heads: attention heads, which no tensor tells: 12 for the published ViT-B, 16 for ViT-L.
        blocks: as in `Teacher`.

    Raises:
        InputError: as `load_checkpoint`.
    """
    tensors = read_tensors(path)
    theirs = {k.removeprefix(TEACHER_PREFIX): v for k, v in tensors.items() if k.startswith(TEACHER_PREFIX)}
    weight = _need(theirs, "patch_embed.projection.weight")
    grid = round((_need(theirs, "pos_embed").shape[1] - 1) ** 0.5)
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
    """Arguments of `KTDA` from the tensors of the authors' segmenter."""
    channels = [_need(theirs, f"backbone.norm{i}.weight").shape[0] for i in range(4)]
    depths = [_count(theirs, rf"backbone\.stages\.{i}\.(\d+)\.") for i in range(4)]
    vit = "fmm.adapters.0.0.norm1.weight" in theirs
    return {
        "num_classes": _need(theirs, "decode_head.conv_seg.weight").shape[0],
        "encoder": "tu-convnext_base",
        "encoder_options": {"dims": channels, "depths": depths},
        "width": _need(theirs, "fam.convert.0.weight").shape[0],
        "patch": PATCH,
        "neck_scales": (4.0, 2.0, 1.0, 0.5) if any(k.startswith("neck.") for k in theirs) else None,
        "fmm": ("vit" if vit else "mlp") if any(k.startswith("fmm.") for k in theirs) else "none",
        "fmm_depth": max(1, _count(theirs, r"fmm\.adapters\.0\.(\d+)\.")),
        "fmm_heads": FMM_HEADS,
        "decoder_channels": _need(theirs, "decode_head.conv_seg.weight").shape[1],
        "auxiliary": "fmm" if "auxiliary_head.conv_seg.weight" in theirs else "none",
        "auxiliary_channels": theirs.get("auxiliary_head.conv_seg.weight", theirs["decode_head.conv_seg.weight"]).shape[
            1
        ],
    }


def export_names(names: Iterable[str]) -> dict[str, str]:
    """Our parameter name for each of the authors' segmenter names (as in their checkpoints and optimiser groups)."""
    return {name: _rename(name, _SEGMENTER_RULES, "the list") for name in names}


def _translate(theirs: dict[str, Tensor], rules: list, expected: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Rename every tensor; the result has exactly the expected names and shapes."""
    ours, origin = {}, {}
    for key, tensor in theirs.items():
        name = _rename(key, rules, where)
        if name not in expected:
            raise InputError(f"{where}: key {key} has no place in a model of the sizes inferred from the tensors")
        if expected[name].numel() != tensor.numel() or expected[name].squeeze().shape != tensor.squeeze().shape:
            raise InputError(
                f"{where}: key {key} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            )
        ours[name], origin[name] = tensor.reshape(expected[name].shape), key
    for name in expected:
        if name not in ours:
            raise InputError(f"{where}: the tensor for {name} is missing")
    return ours


def _rename(key: str, rules: list[tuple[str, str]], where: str) -> str:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(replacement)
    raise InputError(f"{where}: unknown key {key}; expected the layout of the authors' checkpoints")


def _need(tensors: dict[str, Tensor], key: str) -> Tensor:
    if key not in tensors:
        raise InputError(f"key {key} is missing; expected the layout of the authors' checkpoints")
    return tensors[key]


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    """One more than the largest number that the pattern's group finds among the keys; 0 without any."""
    return max((int(m[1]) for m in (re.match(pattern, k) for k in tensors) if m), default=-1) + 1
