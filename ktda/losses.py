r"""Losses of KTDA: distillation and segmentation (cross-entropy, Dice, focal).

Distillation, per level between the teacher's map t and the aligned student's map s, both
(N, D, h, w), averaged over the levels. As published, `kind` "kl_mse":

    L = alpha * T^2 * KL(softmax(t / T) || softmax(s / T)) + (1 - alpha) * MSE(s, t)

Which values form one distribution is the `axis`: the released code takes dim -1, the image *width*
(D * h distributions of w values); "channel" takes the D channels of one place, "spatial" the h * w
places of one channel. Other kinds of distance stand in `ktda.relations`.

What the field calls them: MSE on maps is FitNet (Romero et al., ICLR 2015), KL over "spatial" is
channel-wise distillation, CWD (Shu et al., ICCV 2021).
Sources: KTDA (ICME 2025) and its released code; Hinton et al. 2015 for T and its square.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss
from torch import Tensor

from ktda.errors import check_choice
from ktda.relations import RELATIONS

AXES = ("width", "channel", "spatial")
REDUCTIONS = ("authors", "mean")
CE_AVERAGES = ("authors", "valid")


def kl_divergence(
    student: Tensor,
    teacher: Tensor,
    axis: str = "width",
    temperature: float = 1.0,
    reduction: str = "authors",
) -> Tensor:
    """KL(teacher || student) of softmaxes in nats, times the temperature's square, always in fp32.

    Args:
        student, teacher: (N, D, h, w); no gradient flows into the teacher.
        axis: which values form one distribution, see above.
        temperature: divides both maps; positive.
        reduction: "authors" sums over the distributions of an image and averages over images (1e2
            to 1e3 nats at the authors' sizes); "mean" averages over the distributions.
    """
    check_choice("KL axis", axis, AXES)
    check_choice("reduction", reduction, REDUCTIONS)
    with torch.autocast(student.device.type, enabled=False):
        s = student.float() / temperature
        t = teacher.detach().float() / temperature
        if axis == "spatial":
            s = s.flatten(2)  # (N, D, h, w) -> (N, D, h * w)
            t = t.flatten(2)
        dim = 1 if axis == "channel" else -1
        # log_softmax, not log(softmax): the latter can reach -inf in half precision.
        log_s = s.log_softmax(dim)
        log_t = t.log_softmax(dim)
        total = F.kl_div(log_s, log_t, reduction="sum", log_target=True)
        count = len(s) if reduction == "authors" else s.numel() // s.shape[dim]
        return total * (temperature**2 / count)


def distillation_loss(
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    alpha: float = 0.5,
    temperature: float = 1.0,
    axis: str = "width",
    reduction: str = "authors",
    kind: str = "kl_mse",
) -> Tensor:
    """Mean over levels of ``alpha * KL + (1 - alpha) * MSE``, or of another distance, in fp32.

    With ``reduction="authors"`` and alpha 0, the loss is halved as in the released code (so that
    the MSE keeps the weight that it has at alpha 0.5); "mean" never does that.

    Args:
        students, teachers: maps of the same shape (N, D, h, w), one per level; for kind
            "relational" the teacher's width is free.
        alpha: share of KL, in [0, 1].
        temperature, axis, reduction: see `kl_divergence`.
        kind: "kl_mse", or one of `ktda.relations.RELATIONS`, which read no other argument.
    """
    check_choice("distillation", kind, ("kl_mse", *RELATIONS))
    if len(students) != len(teachers):
        maps = f"{len(students)} student maps but {len(teachers)} teacher maps"
        raise ValueError(f"{maps}; choose as many teacher blocks")
    levels = []
    for s, t in zip(students, teachers, strict=True):
        compared = slice(1) if kind == "relational" else slice(None)  # channels
        if s[:, compared].shape != t[:, compared].shape:
            shapes = f"student map {tuple(s.shape)} and teacher map {tuple(t.shape)}"
            raise ValueError(f"{shapes} differ in shape")
        if kind != "kl_mse":
            levels.append(RELATIONS[kind](s, t))
            continue
        level = torch.zeros((), device=s.device)
        if alpha > 0:
            level = level + alpha * kl_divergence(s, t, axis, temperature, reduction)
        if alpha < 1:
            level = level + (1 - alpha) * F.mse_loss(s.float(), t.detach().float())
        levels.append(level)
    loss = torch.stack(levels).mean()
    return loss / 2 if kind == "kl_mse" and reduction == "authors" and alpha == 0 else loss


def cross_entropy(
    logits: Tensor,
    masks: Tensor,
    ignore_index: int = 255,
    average: str = "authors",
    class_weights: Tensor | None = None,
) -> Tensor:
    """Pixel-wise cross-entropy in fp32, 0 where every pixel is ignored.

    Args:
        logits: (N, K, H, W).
        masks: (N, H, W) class indices, `ignore_index` where unlabelled.
        average: "authors" divides by all pixels, ignored ones too; "valid" by those that count.
        class_weights: (K,) factors on each pixel's loss by its class.
    """
    check_choice("ce_average", average, CE_AVERAGES)
    counted = {"ignore_index": ignore_index, "reduction": "sum"}
    total = F.cross_entropy(logits.float(), masks, class_weights, **counted)
    if average == "authors":
        return total / masks.numel()
    return total / (masks != ignore_index).sum().clamp(min=1)


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    ignore_index: int = 255,
    average: str = "authors",
    class_weights: Tensor | None = None,
    dice: float = 0.0,
    focal: float = 0.0,
) -> Tensor:
    """Cross-entropy plus optional multi-class Dice and focal terms (SMP's), each by its weight."""
    loss = cross_entropy(logits, masks, ignore_index, average, class_weights)
    if dice:
        dice_loss = DiceLoss("multiclass", ignore_index=ignore_index)
        loss = loss + dice * dice_loss(logits.float(), masks)
    # SMP's focal term averages over the labelled pixels: NaN where there are none.
    if focal and (masks != ignore_index).any():
        focal_loss = FocalLoss("multiclass", ignore_index=ignore_index)
        loss = loss + focal * focal_loss(logits.float(), masks)
    return loss
