"""Student: an SMP encoder seen as four maps at strides 4, 8, 16 and 32.

The authors' student is ConvNeXt-B with a LayerNorm on every stage output, which neither timm nor
SMP has; so the norms are here.
"""

from pathlib import Path

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ktda.weights.encoder import make_encoder


class Student(nn.Module):
    """Encoder and its output norms.

    Args:
        encoder: SMP encoder name, ``tu-`` before any timm one (``tu-convnext_base``, ``resnet18``).
        norm: LayerNorm over the channels of every level, as the authors have it.
        weights: the setting `student_weights`; "none" starts from the current random state. The
            first convolution is widened to other than three channels.
        options: further arguments of a ``tu-`` encoder, such as ``{"drop_path_rate": 0.4}``.
        in_channels: bands C of an image.

    Raises:
        InputError: unknown encoder, unreachable weights, or a file that does not fit the encoder.
    """

    def __init__(
        self,
        encoder: str,
        norm: bool = True,
        weights: str | Path = "none",
        options: dict | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.encoder, self.record = make_encoder(encoder, weights, options, in_channels)
        # SMP also gives the image itself and stride 2, which the method does not use.
        self.channels = tuple(self.encoder.out_channels[-4:])
        norms = (LayerNorm2d(c, eps=1e-6) if norm else nn.Identity() for c in self.channels)
        self.norms = nn.ModuleList(norms)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised (N, C, H, W) -> four (N, C_i, ~H / s, ~W / s) maps, s = 4, 8, 16, 32."""
        levels = self.encoder(images)[-4:]
        return [norm(x) for norm, x in zip(self.norms, levels, strict=True)]
