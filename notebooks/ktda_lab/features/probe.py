"""Linear probe: how much of the labels can be read off frozen features by one linear layer.

A multinomial logistic regression from each token to the class shares of its patch, fitted by L-BFGS; the logits are
brought to image size by bilinear interpolation and scored per pixel. Convex, so that nothing is left to luck.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ktda.scores.metrics import confusion_matrices, scores


def linear_probe(
    features: Callable[[Tensor], Tensor],
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    num_classes: int,
    ignore_index: int = 255,
    penalty: float = 1e-4,
) -> dict:
    """Fit on some tiles, score on others.

    Args:
        features: images (N, 3, H, W) in [0, 1] -> one map (N, D, h, w).
        train, test: images (N, 3, H, W) in [0, 1] and masks (N, H, W).
        num_classes: classes K.
        ignore_index: label of pixels that count for nothing.
        penalty: weight of the squared weights, on features of variance 1.

    Returns:
        `ktda.scores.metrics.scores` of the test tiles.
    """
    with torch.no_grad():
        maps = _in_batches(features, train[0])  # (N, D, h, w)
        mean, std = maps.mean((0, 2, 3), keepdim=True), maps.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
        tokens = ((maps - mean) / std).flatten(2).transpose(1, 2).flatten(0, 1)  # (N * h * w, D)
        shares = class_shares_per_patch(train[1], maps.shape[-2:], num_classes, ignore_index)
        labelled = shares.sum(-1) > 0
        tokens, shares = tokens[labelled], shares[labelled]
    weight = torch.zeros(num_classes, tokens.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(tokens @ weight.T + bias, shares) + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    total = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    with torch.no_grad():
        for images, masks in zip(test[0].split(64), test[1].split(64), strict=True):
            maps = (features(images) - mean) / std
            logits = torch.einsum("kd,ndhw->nkhw", weight, maps) + bias[:, None, None]
            logits = F.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)
            total += confusion_matrices(logits.argmax(1), masks, num_classes, ignore_index).sum(0)
    return scores(total)


def class_shares_per_patch(masks: Tensor, grid: Sequence[int], num_classes: int, ignore_index: int = 255) -> Tensor:
    """Shares of the classes in each patch.

    Args:
        masks: (N, H, W) labels.
        grid: patches (h, w); H and W must be multiples of it.

    Returns:
        (N * h * w, K), rows that sum to 1, or to 0 where nothing of the patch is labelled.
    """
    known = masks != ignore_index
    one_hot = F.one_hot(masks.clamp(max=num_classes - 1), num_classes) * known[..., None]  # (N, H, W, K)
    cell = one_hot.shape[1] // grid[0], one_hot.shape[2] // grid[1]
    counts = F.avg_pool2d(one_hot.permute(0, 3, 1, 2).float(), cell)  # (N, K, h, w)
    counts = counts.flatten(2).transpose(1, 2).flatten(0, 1)  # (N * h * w, K)
    return counts / counts.sum(-1, keepdim=True).clamp(min=1e-9)


def raw_patches(images: Tensor, patch: int = 8) -> Tensor:
    """The pixels of each patch as its features: (N, 3, H, W) -> (N, 3 * patch * patch, H / patch, W / patch)."""
    return F.pixel_unshuffle(images, patch)


def _in_batches(features: Callable[[Tensor], Tensor], images: Tensor, size: int = 64) -> Tensor:
    return torch.cat([features(batch) for batch in images.split(size)])
