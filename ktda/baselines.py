"""What KTDA is compared with: SMP's architectures on the same encoder; the teacher with a decoder.

The natural control, the student with a UPerNet and no transfer, is `ktda.model.KTDA` without FAM,
neck and FMM.
"""

from collections.abc import Sequence

import segmentation_models_pytorch as smp
import torch.nn.functional as F
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.heads import DecodeHead
from ktda.images import IMAGENET_MEAN, IMAGENET_STD, per_level, resize
from ktda.model import Outputs
from ktda.neck import AUTHORS_SCALES, Neck
from ktda.seeding import seeded
from ktda.teacher import Teacher
from ktda.weights.encoder import make_encoder

BASELINES = {
    "unet": smp.Unet,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "pspnet": smp.PSPNet,
    "segformer": smp.Segformer,
}


class Baseline(nn.Module):
    """One of SMP's own architectures on the same encoder (`BASELINES`), called like `KTDA`.

    Args:
        model: key of `BASELINES`.
        num_classes, encoder, student_weights, encoder_options, seed, in_channels: as in `KTDA`.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        model: str,
        num_classes: int,
        encoder: str,
        *,
        student_weights: str = "none",
        encoder_options: dict | None = None,
        seed: int = 0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        with seeded(seed, "student"):
            pretrained, self.record = make_encoder(
                encoder, student_weights, encoder_options, in_channels
            )
        with seeded(seed, model):
            # a tu- encoder's arguments also reach SMP's own construction, so that the tensors fit
            options = {"in_channels": in_channels, "classes": num_classes}
            options |= encoder_options or {}
            try:
                self.network = BASELINES[model](encoder, encoder_weights=None, **options)
            except (ValueError, NotImplementedError) as error:  # such as one without dilation
                found = f"model={model} does not take encoder {encoder}"
                raise InputError(f"{found}: {' '.join(str(error).split())}") from error
        tensors = pretrained.state_dict()
        own = self.network.encoder
        own.load_state_dict({k: tensors[k] for k in own.state_dict()})  # PSPNet: three stages only

    def forward(
        self, images: Tensor, outputs: bool = False, second_pass: bool = False
    ) -> Tensor | Outputs:
        """Normalised (N, C, H, W) of any size -> logits (N, K, H, W), or `Outputs` with them."""
        h, w = images.shape[-2:]
        # SMP wants multiples of 32: zeros, the mean colour, at right and bottom; the logits are cut
        padded = F.pad(images, (0, -w % 32, 0, -h % 32))
        logits = self.network(padded)[..., :h, :w]
        return Outputs(logits) if outputs else logits


class TeacherSegmenter(nn.Module):
    """The frozen teacher with neck and UPerNet, the paper's "DINOv2 + UPerNet" row.

    Only this model needs the teacher at inference. The teacher is not a submodule: its weights stay
    out of state dicts and checkpoints.

    Args:
        num_classes: classes K.
        teacher: gives one map per level.
        neck_scales: as in `KTDA`, never empty.
        neck_width, decoder, decoder_channels, dropout, seed: as in `KTDA`.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        num_classes: int,
        teacher: Teacher,
        *,
        neck_scales: Sequence[float] = AUTHORS_SCALES,
        neck_width: int = 0,
        decoder: str = "upernet",
        decoder_channels: int = 512,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._teacher = [teacher]  # in a list: a teacher that is a module would not register either
        widths = per_level(neck_width or teacher.dims, len(neck_scales))
        with seeded(seed, "neck"):
            self.neck = Neck(teacher.dims, widths, neck_scales)
        with seeded(seed, "decode_head"):
            self.decode_head = DecodeHead(widths, num_classes, decoder, decoder_channels, dropout)

    def forward(
        self, images: Tensor, outputs: bool = False, second_pass: bool = False
    ) -> Tensor | Outputs:
        """Normalised (N, 3, H, W) -> logits (N, K, H, W), or `Outputs` with nothing to distil."""
        mean = images.new_tensor(self.mean).view(3, 1, 1)
        std = images.new_tensor(self.std).view(3, 1, 1)
        pyramid = self.neck(self._teacher[0](images * std + mean))
        logits = resize(self.decode_head(pyramid), images.shape[-2:])
        return Outputs(logits, pyramid=pyramid) if outputs else logits
