r"""Losses of KTDA: distillation and segmentation (cross-entropy, Dice, focal).

Distillation, per level between the teacher's map t and the aligned student's map s, both
(N, D, h, w), averaged over the levels. As published, `kind` "kl_mse":

    L = alpha * T^2 * KL(softmax(t / T) || softmax(s / T)) + (1 - alpha) * MSE(s, t)

Which values form one distribution is the `axis`: the released code takes dim -1, the image *width*
(D * h distributions of w values); "channel" takes the D channels of one place, "spatial" the h * w
places of one channel. The other kinds, "cosine" and "relational", have a function each.

What the field calls them: MSE on maps is FitNet (Romero et al., ICLR 2015), KL over "spatial" is
channel-wise distillation, CWD (Shu et al., ICCV 2021), "relational" is pair-wise or relational
distillation, of the family of Gram matrices.
Sources: KTDA (ICME 2025) and its released code; Hinton et al. 2015 for T and its square.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss
from torch import Tensor

AXES = ("width", "channel", "spatial")
REDUCTIONS = ("authors", "mean")
DISTILLATIONS = ("kl_mse", "cosine", "relational")
CE_AVERAGES = ("authors", "valid")


def kl_divergence(
    student: Tensor,
    teacher: Tensor,
    axis: str = "width",
    temperature: float = 1.0,
    reduction: str = "authors",
) -> Tensor:
    """KL(teacher || student) of softmaxes, times the temperature's square, always in fp32.

    Args:
        student: (N, D, h, w).
        teacher: (N, D, h, w), no gradient flows into it.
        axis: which values form one distribution: "width" (as released), "channel" or "spatial".
        temperature: divides both maps; positive.
        reduction: "authors" sums over the distributions of an image and averages over images (1e2
            to 1e3 nats at the authors' sizes); "mean" averages over the distributions.

    Returns:
        A scalar in nats, at least 0, and 0 where both are equal.
    """
    if axis not in AXES:
        raise ValueError(f"KL axis {axis!r}; expected one of {', '.join(AXES)}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction {reduction!r}; expected one of {', '.join(REDUCTIONS)}")
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


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - cos(s, t)`` over the channels of each place, averaged over places and images.

    It sees directions alone: a map and its double are equal. In fp32, in [0, 2].

    Args:
        student, teacher: (N, D, h, w); no gradient flows into the teacher.
    """
    similarity = F.cosine_similarity(student.float(), teacher.detach().float(), dim=1)  # (N, h, w)
    return 1 - similarity.mean()


def relational_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean square difference of the patch similarities that two maps have within an image.

    With the L = h w features of an image at unit length as rows of S (L, D) and T (L, E), their
    cosine similarities are the Gram matrices S S' and T T' (L, L), and

        ||S S' - T T'||^2 / L^2 = (||S' S||^2 - 2 ||S' T||^2 + ||T' T||^2) / L^2

    The right side is what runs: its matrices are of channels (at D 768 2.3 MB each, whatever the
    grid), those of the left of places (at 37 x 37 7.5 MB, at 128 x 128 1 GB for each image).
    Source: the pair-wise distillation of Liu et al., Structured Knowledge Distillation for Semantic
    Segmentation, CVPR 2019; differs in that every place is a node, and none is pooled.

    Args:
        student: (N, D, h, w).
        teacher: (N, E, h, w), of any width E; no gradient flows into it.

    Returns:
        A scalar in fp32, 0 (but for rounding, 1e-6) where all similarities are equal.
    """
    with torch.autocast(student.device.type, enabled=False):
        s = F.normalize(student.float().flatten(2), dim=1)  # (N, D, h, w) -> (N, D, L)
        t = F.normalize(teacher.detach().float().flatten(2), dim=1)  # (N, E, L)
        places = s.shape[2]
        total = 0.0
        for a, b, sign in ((s, s, 1), (s, t, -2), (t, t, 1)):
            products = a @ b.transpose(1, 2) / places  # (N, D or E, D or E)
            total = total + sign * products.square().sum((1, 2)).mean()
        return total


def distillation_loss(
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    alpha: float = 0.5,
    temperature: float = 1.0,
    axis: str = "width",
    reduction: str = "authors",
    kind: str = "kl_mse",
) -> Tensor:
    """Mean over levels of ``alpha * KL + (1 - alpha) * MSE``, or of another distance.

    With ``reduction="authors"`` and alpha 0, the loss is halved as in the released code (so that
    the MSE keeps the weight that it has at alpha 0.5); "mean" never does that.

    Args:
        students: aligned student maps, (N, D, h, w) per level.
        teachers: teacher maps of the same shapes; for kind "relational" their width is free.
        alpha: share of KL, in [0, 1].
        temperature, axis, reduction: see `kl_divergence`.
        kind: "kl_mse", "cosine" (`cosine_distance`) or "relational" (`relational_distance`); the
            last two read no other argument.

    Returns:
        A scalar in fp32.
    """
    if kind not in DISTILLATIONS:
        raise ValueError(f"distillation {kind!r}; expected one of {', '.join(DISTILLATIONS)}")
    if len(students) != len(teachers):
        maps = f"{len(students)} student maps but {len(teachers)} teacher maps"
        raise ValueError(f"{maps}; choose as many teacher blocks")
    levels = []
    for s, t in zip(students, teachers, strict=True):
        same_width = s.shape[1] == t.shape[1] or kind == "relational"
        if not same_width or s.shape[::2] != t.shape[::2] or s.shape[3] != t.shape[3]:
            shapes = f"student map {tuple(s.shape)} and teacher map {tuple(t.shape)}"
            raise ValueError(f"{shapes} differ in shape")
        if kind == "cosine":
            level = cosine_distance(s, t)
        elif kind == "relational":
            level = relational_distance(s, t)
        else:
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
    """Pixel-wise cross-entropy in fp32.

    Args:
        logits: (N, K, H, W).
        masks: (N, H, W) class indices, `ignore_index` where unlabelled.
        ignore_index: label that does not count.
        average: "authors" divides by all pixels, ignored ones too; "valid" by those that count.
        class_weights: (K,) factors on each pixel's loss by its class.

    Returns:
        A scalar; 0 where every pixel is ignored.
    """
    if average not in CE_AVERAGES:
        raise ValueError(f"ce_average {average!r}; expected one of {', '.join(CE_AVERAGES)}")
    total = F.cross_entropy(
        logits.float(), masks, class_weights, ignore_index=ignore_index, reduction="sum"
    )
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
