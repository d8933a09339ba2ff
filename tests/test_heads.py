"""Decode heads and the auxiliary head."""

import pytest
import torch
from torch import nn

from ktda.heads import AuxiliaryHead, DecodeHead

CHANNELS = (8, 8, 8, 8)


def pyramid(sizes: tuple = ((16, 12), (8, 6), (4, 3), (2, 1)), channels: tuple = CHANNELS) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, *s, generator=g) for c, s in zip(channels, sizes, strict=True)]


def test_upernet_is_in_the_authors_form() -> None:
    head = DecodeHead(CHANNELS, 3, "upernet", 16)
    assert not [n for n in head.state_dict() if "feature_norms" in n]
    assert not [m for m in head.modules() if isinstance(m, nn.LayerNorm)]
    assert isinstance(head.dropout, nn.Dropout2d)
    assert head.dropout.p == 0.1
    pools = [m.output_size for m in head.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    assert [p if isinstance(p, int) else p[0] for p in pools] == [1, 2, 3, 6]


def test_auxiliary_head() -> None:
    head, x = AuxiliaryHead(8, 5, 6, dropout=0.5), pyramid()[0]
    assert head(x).shape == (2, 5, 16, 12)
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))
    y = (head.convolution(x) - head.bn.running_mean.view(-1, 1, 1)) / (head.bn.running_var.view(-1, 1, 1) + 1e-5).sqrt()
    torch.testing.assert_close(head(x), head.classifier(y.relu()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", [DecodeHead(CHANNELS, 3, channels=64), AuxiliaryHead(8, 3, 64)])
def test_classifiers_start_small(head: nn.Module) -> None:
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert not head.classifier.bias.any()
