"""Scores as pure functions of a confusion matrix (rows = label, columns = prediction).

Two conventions for means over classes, which differ where a class is absent or never predicted:
mmsegmentation's drops every undefined value (0 / 0) from the mean, so that a model which never predicts a rare class
gets a *better* mean F1; the strict one counts an undefined score of a class that is in the labels as 0.
"""

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix


def confusion_matrices(predictions: Tensor, masks: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """One matrix per image.

    Args:
        predictions: (N, H, W) class indices.
        masks: (N, H, W) labels, `ignore_index` where unlabelled.

    Returns:
        (N, K, K) int64 on the CPU, rows = label.
    """
    matrices = [
        multiclass_confusion_matrix(p, m, num_classes, ignore_index=ignore_index, validate_args=False)
        for p, m in zip(predictions, masks, strict=True)
    ]
    return torch.stack(matrices).cpu()


def scores(matrix: Tensor) -> dict:
    """Every score of one matrix, plain numbers for json (None where undefined: 0 / 0).

    Args:
        matrix: (K, K) counts, rows = label.

    Returns:
        Per class, in class order: ``iou``, ``f1`` (Dice), ``precision``, ``recall``.
        ``overall_accuracy``: correct over labelled pixels.
        ``miou``: mean IoU over the classes that occur in labels or predictions (mmsegmentation's NaN-mean; a class
        that is in the labels but never predicted counts 0). ``miou_all``: absent classes count 0 (torchmetrics').
        ``mean_f1``: strict mean over the classes in the labels or predictions; ``mean_f1_mmseg``: F1 from precision
        and recall, undefined ones dropped, as mmsegmentation prints "mFscore". ``mean_precision`` (undefined
        dropped), ``mean_recall`` (classes in the labels).
        ``confusion_matrix``: the counts.
    """
    matrix = matrix.double()
    hit, label, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = hit / (label + predicted - hit)
    f1 = 2 * hit / (label + predicted)
    precision, recall = hit / predicted, hit / label
    f1_mmseg = 2 * precision * recall / (precision + recall)
    return {
        "miou": _mean(iou),
        "overall_accuracy": _number(hit.sum() / matrix.sum()),
        "iou": _list(iou),
        "f1": _list(f1),
        "precision": _list(precision),
        "recall": _list(recall),
        "miou_all": _number(iou.nan_to_num(0.0).mean()),
        "mean_f1": _mean(f1),
        "mean_f1_mmseg": _mean(f1_mmseg),
        "mean_precision": _mean(precision),
        "mean_recall": _mean(recall),
        "confusion_matrix": matrix.long().tolist(),
    }


def _number(value: Tensor) -> float | None:
    value = float(value)
    return None if value != value else value  # NaN is not json


def _mean(values: Tensor) -> float | None:
    return _number(values.nanmean())


def _list(values: Tensor) -> list[float | None]:
    return [_number(v) for v in values]
