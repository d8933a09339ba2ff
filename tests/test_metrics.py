"""Scores by hand, both conventions, and against torchmetrics and the published rows."""

import json

import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from ktda.scores.metrics import confusion_matrices, mean_f1, mean_iou, scores

# rows = label: 10 pixels of class 0, 10 of class 1
TWO = torch.tensor([[8, 2], [4, 6]])


def test_scores_of_two_classes_by_hand() -> None:
    found = scores(TWO)
    assert found["iou"] == pytest.approx([8 / 14, 6 / 12])
    assert found["miou"] == pytest.approx((8 / 14 + 6 / 12) / 2)
    assert found["overall_accuracy"] == pytest.approx(14 / 20)
    assert found["precision"] == pytest.approx([8 / 12, 6 / 8])
    assert found["recall"] == pytest.approx([8 / 10, 6 / 10])
    assert found["f1"] == pytest.approx([16 / 22, 12 / 18])
    assert [found["mean_f1"], found["mean_f1_mmseg"]] == pytest.approx([(16 / 22 + 12 / 18) / 2] * 2)
    assert found["confusion_matrix"] == [[8, 2], [4, 6]]


def test_a_class_that_is_never_predicted_counts_zero_but_for_the_lenient_f1() -> None:
    found = scores(torch.tensor([[9, 1, 0], [2, 8, 0], [5, 5, 0]]))
    assert found["iou"][2] == found["f1"][2] == found["recall"][2] == 0
    assert found["precision"][2] is None  # 0 / 0
    f1 = [2 * 9 / (10 + 16), 2 * 8 / (10 + 14)]
    assert found["mean_f1"] == pytest.approx(sum(f1) / 3)
    assert found["mean_f1_mmseg"] == pytest.approx(sum(f1) / 2)  # the mean gets better
    assert found["miou"] == pytest.approx((9 / 17 + 8 / 16 + 0) / 3)
    assert found["miou"] == found["miou_all"]
    assert found["mean_precision"] == pytest.approx((9 / 16 + 8 / 14) / 2)


def test_a_class_that_is_absent_is_dropped_or_counts_zero() -> None:
    found = scores(torch.tensor([[9, 1, 0], [2, 8, 0], [0, 0, 0]]))
    assert [found[key][2] for key in ("iou", "f1", "precision", "recall")] == [None] * 4
    assert found["miou"] == pytest.approx((9 / 12 + 8 / 11) / 2)
    assert found["miou_all"] == pytest.approx((9 / 12 + 8 / 11) / 3)
    assert [found["mean_f1"], found["mean_f1_mmseg"]] == pytest.approx([(18 / 21 + 16 / 19) / 2] * 2)


def test_a_class_that_is_only_predicted_counts_zero() -> None:
    found = scores(torch.tensor([[8, 0, 2], [0, 10, 0], [0, 0, 0]]))
    assert found["iou"][2] == found["f1"][2] == found["precision"][2] == 0
    assert found["recall"][2] is None
    assert found["miou"] == pytest.approx((0.8 + 1 + 0) / 3)
    assert found["mean_recall"] == pytest.approx((0.8 + 1) / 2)
    assert found["mean_f1"] == pytest.approx((16 / 18 + 1) / 3)
    assert found["mean_f1_mmseg"] == pytest.approx((16 / 18 + 1) / 2)


def test_nothing_labelled_is_undefined_and_still_json() -> None:
    found = scores(torch.zeros(3, 3, dtype=torch.long))
    assert found["miou"] is found["overall_accuracy"] is found["mean_f1"] is None
    json.dumps(found, allow_nan=False)


def test_means_of_many_matrices_are_those_of_each() -> None:
    matrices = torch.randint(0, 99, (2, 5, 3, 3), generator=torch.Generator().manual_seed(0))
    matrices[0, 2, 2] = matrices[0, 2, :, 2] = 0  # a class that is absent
    each = [scores(matrix) for matrix in matrices.flatten(0, 1)]
    assert mean_iou(matrices).flatten().tolist() == [found["miou"] for found in each]
    assert mean_f1(matrices).flatten().tolist() == [found["mean_f1"] for found in each]
    assert mean_iou(torch.zeros(2, 2)).isnan()


def test_counts_of_a_large_test_set_stay_exact() -> None:
    large = torch.tensor([[2**40 + 1, 0], [0, 1]])
    assert scores(large)["confusion_matrix"] == large.tolist()


def test_one_matrix_per_image_with_rows_as_labels() -> None:
    masks = torch.tensor([[[0, 0, 1], [1, 2, 255]], [[2, 2, 2], [255, 255, 255]]])
    predictions = torch.tensor([[[0, 1, 1], [1, 0, 2]], [[2, 0, 2], [0, 1, 2]]])
    matrices = confusion_matrices(predictions, masks, 3)
    assert matrices.dtype == torch.int64
    assert matrices[0].tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert matrices[1].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 2]]


def test_another_ignore_index_and_an_unlabelled_image() -> None:
    masks, predictions = torch.tensor([[[9, 1]], [[9, 9]]]), torch.tensor([[[0, 0]], [[1, 1]]])
    matrices = confusion_matrices(predictions, masks, 2, ignore_index=9)
    assert matrices.tolist() == [[[0, 0], [1, 0]], [[0, 0], [0, 0]]]


def test_miou_all_is_torchmetrics_jaccard() -> None:
    draw = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 4, (3, 16, 16), generator=draw)
    predictions = torch.randint(0, 3, (3, 16, 16), generator=draw)
    found = scores(confusion_matrices(predictions, masks, 5).sum(0))  # class 4 is absent
    per_class = multiclass_jaccard_index(predictions, masks, 5, average="none")
    assert found["miou_all"] == pytest.approx(float(per_class.mean()))
    assert [value or 0.0 for value in found["iou"]] == pytest.approx(per_class.tolist())


# Per-class IoU of the paper's tables (grass: KTDA, SegFormer; cloud: KTDA, UNetMobv2), its mIoU and F1.
PUBLISHED = [
    ([68.88, 45.49, 32.84, 27.06, 80.04], 50.86, 65.01),
    ([64.91, 43.32, 26.87, 29.67, 76.71], 48.29, None),
    ([81.68, 0.00, 44.61, 79.68], 51.49, 60.08),
    ([79.18, 3.05, 28.35, 80.46], 47.76, None),
]


@pytest.mark.parametrize(("iou", "miou", "f1"), PUBLISHED)
def test_published_rows(iou: list[float], miou: float, f1: float | None) -> None:
    # Every class makes the same number of mistakes, spread evenly over the others, in both directions. Then its hits
    # h and mistakes m give IoU = h / (h + 2 m).
    mistakes = 1_000_000 * (len(iou) - 1)
    matrix = torch.full((len(iou), len(iou)), 1_000_000)
    for k, value in enumerate(iou):
        matrix[k, k] = round(2 * mistakes * (value / 100) / (1 - value / 100))
    found = scores(matrix)
    assert [100 * v for v in found["iou"]] == pytest.approx(iou, abs=1e-4)
    assert 100 * found["miou"] == pytest.approx(miou, abs=0.01)
    if f1:
        assert 100 * found["mean_f1"] == pytest.approx(f1, abs=0.01)
