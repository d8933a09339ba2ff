"""Distances between two maps other than the published: of directions, and of patch similarities.

What the field calls the second: pair-wise or relational distillation, of the family of Gram
matrices.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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


RELATIONS = {"cosine": cosine_distance, "relational": relational_distance}
