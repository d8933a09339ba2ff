"""Decode heads on a four-level pyramid, and the auxiliary head.

The UPerNet topology is SMP's decoder in the authors' form: without its per-level norms, with
channel dropout and a 1x1 classifier (Xiao et al., ECCV 2018). The SegFormer head is SMP's all-MLP
decoder (Xie et al., NeurIPS 2021).
"""

from collections.abc import Sequence

from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from ktda.errors import check_choice

KINDS = ("upernet", "segformer")


def _initialise(head: nn.Module) -> None:
    """The authors' framework's: Kaiming-normal convolutions, a classifier normal with std 0.01."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(head.classifier.weight, std=0.01)
    nn.init.zeros_(head.classifier.bias)


class DecodeHead(nn.Module):
    """Pyramid in, logits at the resolution of its first level out.

    Args:
        in_channels: channels of the four levels, finest first.
        num_classes: classes K.
        kind: "upernet" or "segformer".
        channels: width of the decoder (the authors use 512).
        dropout: probability of dropping a whole channel before the classifier.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        kind: str = "upernet",
        channels: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_choice("decode head", kind, KINDS)
        # SMP's decoders count five levels below the image; strides 1 and 2 have no channels here.
        pyramid = [0, 0, *in_channels]
        if kind == "upernet":
            self.decoder = UPerNetDecoder(pyramid, 5, decoder_channels=channels)
            self.decoder.feature_norms = nn.ModuleList()  # the authors' form: no norm per level
        else:
            self.decoder = SegformerDecoder(pyramid, 5, segmentation_channels=channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        _initialise(self)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """(N, C_i, h_i, w_i) per level, finest first -> logits (N, K, h_0, w_0)."""
        n, _, h, w = pyramid[0].shape
        # The placeholder stands for strides 1 and 2: SMP's SegFormer reads its size (4 h, 4 w) and
        # no channel of it.
        stride_1 = pyramid[0].new_empty((n, 0, 4 * h, 4 * w))
        x = self.decoder([stride_1, stride_1, *pyramid])  # (N, channels, h_0, w_0)
        x = self.dropout(x)
        return self.classifier(x)  # (N, K, h_0, w_0)


class AuxiliaryHead(nn.Module):
    """3x3 convolution, BatchNorm, ReLU, channel dropout, 1x1 classifier on one level.

    Arguments as `DecodeHead`'s; the authors use 256 channels.
    """

    def __init__(
        self, in_channels: int, num_classes: int, channels: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> logits (N, K, h, w)."""
        x = self.convolution(x)  # (N, channels, h, w)
        x = self.act(self.bn(x))
        x = self.dropout(x)
        return self.classifier(x)
