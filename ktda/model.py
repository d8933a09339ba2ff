"""KTDA assembled: student -> FAM -> neck -> FMM -> decode head, and an auxiliary head.

At inference there is no teacher. Each part can be left out; without FAM, neck and FMM what remains
is the natural control, the student with a UPerNet. Every part starts from a generator of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ktda.errors import check_choice
from ktda.fam import FeatureAlignment
from ktda.fmm import FeatureModulation
from ktda.heads import AuxiliaryHead, DecodeHead
from ktda.images import IMAGENET_MEAN, IMAGENET_STD, patch_grid, per_level, resize
from ktda.neck import AUTHORS_SCALES, Neck
from ktda.seeding import seeded
from ktda.student import Student

AUXILIARY_PLACES = ("fmm", "fam", "none")
FAM_PATHS = ("through", "beside")
AUXILIARY_LEVEL = 2


class Outputs(NamedTuple):
    """What a training step reads off one forward pass; None what there is not."""

    logits: Tensor | None  # (N, K, H, W) at image size
    auxiliary_logits: Tensor | None = None  # (N, K, H, W)
    aligned: list[Tensor] | None = None  # FAM's maps (N, D, h, w) per level: what is distilled
    pyramid: list[Tensor] | None = None  # what the decode head read


class KTDA(nn.Module):
    """The segmenter; ``mean`` and ``std`` are the normalisation of its images.

    What is not described here is the setting of the same name (`ktda.settings.Config`).

    Args:
        num_classes: classes K.
        encoder: SMP encoder name of the student.
        width: the teacher's width D, channels of FAM, neck and FMM; or one per level.
        patch: the teacher's pixels per place, or one per level; FAM's grid is ceil(image / patch).
        encoder_options, in_channels: see `Student`.
        fam_path: "through": the heads read the student through FAM, as published; "beside": FAM
            gives the maps to distil and nothing else, and neck, FMM and heads work on the student's
            own levels at strides 4 to 32. A prediction then needs no FAM.
        neck_scales: None or empty leaves the neck out.
        fmm_hidden: width inside a block of the FMM, 0: the authors'.
        auxiliary: where the auxiliary head reads level 2: "fmm" (the released code), "fam" (the
            paper's figure; the student's own map where there is no FAM), "none".
        seed: of the parts' random start.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        num_classes: int,
        encoder: str = "tu-convnext_base",
        *,
        width: int | Sequence[int] = 768,
        patch: int | Sequence[int] = 14,
        student_norm: bool = True,
        student_weights: str = "none",
        encoder_options: dict | None = None,
        fam: bool = True,
        fam_path: str = "through",
        neck_scales: Sequence[float] | None = AUTHORS_SCALES,
        neck_width: int = 0,
        fmm: str = "vit",
        fmm_depth: int = 4,
        fmm_heads: int = 8,
        fmm_hidden: int = 0,
        decoder: str = "upernet",
        decoder_channels: int = 512,
        auxiliary: str = "fmm",
        auxiliary_channels: int = 256,
        dropout: float = 0.1,
        seed: int = 0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_choice("auxiliary", auxiliary, AUXILIARY_PLACES)
        check_choice("fam_path", fam_path, FAM_PATHS)
        self.through = fam and fam_path == "through"
        # parts that no prediction needs: not in the weights that are kept for it
        self.training_only = ("fam",) if fam and not self.through else ()
        self.auxiliary = auxiliary
        with seeded(seed, "student"):
            self.student = Student(
                encoder, student_norm, student_weights, encoder_options, in_channels
            )
        self.fam = self.neck = self.fmm = self.auxiliary_head = None
        channels = self.student.channels  # per level, from here to the heads
        widths = per_level(width, len(channels))
        self.patches = per_level(patch, len(channels))
        if fam:
            with seeded(seed, "fam"):
                self.fam = FeatureAlignment(channels, widths)
        if self.through:
            channels = widths
        read_channels = channels
        if neck_scales:
            neck_widths = per_level(neck_width or widths, len(channels))
            with seeded(seed, "neck"):
                self.neck = Neck(channels, neck_widths, neck_scales)
            channels = neck_widths
        if fmm != "none":
            with seeded(seed, "fmm"):
                self.fmm = FeatureModulation(channels, fmm, fmm_depth, fmm_heads, fmm_hidden)
        with seeded(seed, "decode_head"):
            self.decode_head = DecodeHead(channels, num_classes, decoder, decoder_channels, dropout)
        if auxiliary != "none":
            read = (channels if auxiliary == "fmm" else read_channels)[AUXILIARY_LEVEL]
            with seeded(seed, "auxiliary_head"):
                self.auxiliary_head = AuxiliaryHead(read, num_classes, auxiliary_channels, dropout)

    def forward(
        self,
        images: Tensor,
        outputs: bool = False,
        second_pass: bool = False,
        segment: bool = True,
    ) -> Tensor | Outputs:
        """Logits (N, K, H, W), or `Outputs`.

        Args:
            images: normalised (N, C, H, W).
            outputs: return `Outputs` for a training step instead of the logits alone.
            second_pass: take the distilled maps from a second run of the student, with drop-path
                samples of its own, as the authors' code does.
            segment: False stops at the maps to distil.
        """
        size = images.shape[-2:]
        maps = self.student(images)
        aligned = None
        if self.fam is not None and (self.through or outputs):
            aligned = self.fam(maps, self.grids(*size))
        if not segment:
            return Outputs(None, aligned=aligned)
        if self.through:
            maps = aligned
        pyramid = self.modulate(maps)
        logits = resize(self.decode_head(pyramid), size)
        if not outputs:
            return logits
        auxiliary_logits = None
        if self.auxiliary_head is not None:
            read = pyramid if self.auxiliary == "fmm" else maps
            auxiliary_logits = resize(self.auxiliary_head(read[AUXILIARY_LEVEL]), size)
        if second_pass and aligned is not None:
            aligned = self.align(images)
        return Outputs(logits, auxiliary_logits, aligned, pyramid)

    def align(self, images: Tensor) -> list[Tensor]:
        """Student and, if there, FAM: normalised images -> one (N, D, h, w) map per level."""
        maps = self.student(images)
        return maps if self.fam is None else self.fam(maps, self.grids(*images.shape[-2:]))

    def grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """The (h, w) of each level that FAM gives for an image."""
        return [patch_grid(height, width, patch) for patch in self.patches]

    def modulate(self, maps: list[Tensor]) -> list[Tensor]:
        """Neck and FMM: FAM's maps, or the student's -> the pyramid that the decode head reads."""
        if self.neck is not None:
            maps = self.neck(maps)
        return maps if self.fmm is None else self.fmm(maps)
