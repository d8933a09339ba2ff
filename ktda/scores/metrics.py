"""Scores as pure functions of a confusion matrix (rows = label, columns = prediction).

Two conventions for means over classes, which differ where a class is absent or never predicted:
mmsegmentation's drops every undefined value (0 / 0) from the mean, so that a model which never
predicts a rare class gets a *better* mean F1; the strict one counts an undefined score of a class
that is in the labels as 0.
"""

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix


def confusion_matrices(
    predictions: Tensor,
    masks: Tensor,
    num_classes: int,
    ignore_index: int = 255,
) -> Tensor:
    """One matrix per image.

    Args:
        predictions: (N, H, W) class indices.
        masks: (N, H, W) labels, `ignore_index` where unlabelled.

    Returns:
        (N, K, K) int64 on the CPU, rows = label.
    """
    settings = {"ignore_index": ignore_index, "validate_args": False}
    matrices = [
        multiclass_confusion_matrix(prediction, mask, num_classes, **settings)
        for prediction, mask in zip(predictions, masks, strict=True)
    ]
    return torch.stack(matrices).cpu()


def class_iou(matrices: Tensor) -> Tensor:
    """IoU = hits / (labelled + predicted - hits): (..., K, K) -> (..., K), NaN where 0 / 0."""
    hits, labelled, predicted = _counts(matrices)
    return hits / (labelled + predicted - hits)


def class_f1(matrices: Tensor) -> Tensor:
    """F1, which is Dice, = 2 hits / (labelled + predicted): (..., K, K) -> (..., K)."""
    hits, labelled, predicted = _counts(matrices)
    return 2 * hits / (labelled + predicted)


def mean_iou(matrices: Tensor) -> Tensor:
    """Mean IoU over the classes in labels or predictions: (..., K, K) -> (...), NaN for none."""
    return class_iou(matrices).nanmean(-1)


def mean_f1(matrices: Tensor) -> Tensor:
    """The strict mean F1, over the same classes as `mean_iou`: (..., K, K) -> (...)."""
    return class_f1(matrices).nanmean(-1)


def scores(matrix: Tensor) -> dict:
    """Every score of one matrix, plain numbers for json (None where undefined: 0 / 0).

    Args:
        matrix: (K, K) counts, rows = label.

    Returns:
        Per class, in class order: ``iou``, ``f1`` (Dice), ``precision``, ``recall``.
        ``overall_accuracy``: correct over labelled pixels.
        ``miou``: mean IoU over the classes that occur in labels or predictions (mmsegmentation's
        NaN-mean; a class that is in the labels but never predicted counts 0). ``miou_all``: absent
        classes count 0 (torchmetrics').
        ``mean_f1``: strict mean over the classes in the labels or predictions; ``mean_f1_mmseg``:
        F1 from precision and recall, undefined ones dropped, as mmsegmentation prints "mFscore".
        ``mean_precision`` (undefined dropped), ``mean_recall`` (classes in the labels).
        ``confusion_matrix``: the counts.
    """
    hits, labelled, predicted = _counts(matrix)
    iou = class_iou(matrix)
    precision = hits / predicted
    recall = hits / labelled
    f1_mmseg = 2 * precision * recall / (precision + recall)
    return {
        "miou": _number(mean_iou(matrix)),
        "overall_accuracy": _number(hits.sum() / labelled.sum()),
        "iou": _numbers(iou),
        "f1": _numbers(class_f1(matrix)),
        "precision": _numbers(precision),
        "recall": _numbers(recall),
        "miou_all": _number(iou.nan_to_num(0.0).mean() if matrix.any() else iou.mean()),
        "mean_f1": _number(mean_f1(matrix)),
        "mean_f1_mmseg": _number(f1_mmseg.nanmean()),
        "mean_precision": _number(precision.nanmean()),
        "mean_recall": _number(recall.nanmean()),
        "confusion_matrix": matrix.long().tolist(),
    }


def _counts(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels per class (..., K) that are right, labelled so, and predicted so; float64."""
    matrices = matrices.double()
    return matrices.diagonal(dim1=-2, dim2=-1), matrices.sum(-1), matrices.sum(-2)


def _number(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)  # NaN is not json


def _numbers(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values]
