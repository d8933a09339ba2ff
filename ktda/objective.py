"""What one batch is trained on: the weighted terms of segmentation and distillation."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ktda.config import Config
from ktda.images import model_input
from ktda.losses import distillation_loss, segmentation_loss
from ktda.model import Outputs
from ktda.targets import Targets


class Objective:
    """The loss terms of a batch.

    Args:
        accelerator: knows device and precision.
        config: settings of the run.
        ignore_index: label that no segmentation term counts.
        targets: the teacher's maps, or None where nothing is distilled.
    """

    def __init__(
        self, accelerator: Accelerator, config: Config, ignore_index: int, targets: Targets | None
    ) -> None:
        self.accelerator = accelerator
        self.config = config
        self.targets = targets
        device = accelerator.device
        weights = config.class_weights
        self.cross_entropy = {
            "ignore_index": ignore_index,
            "average": config.ce_average,
            "class_weights": torch.tensor(weights, device=device) if weights else None,
        }

    def __call__(
        self, model: nn.Module, images: Tensor, masks: Tensor, share: float | Tensor = 1.0
    ) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is the loss.

        Args:
            model: as prepared for training; called once, or twice with ``student_passes=2``.
            images: (N, bands, H, W) in [0, 1].
            masks: (N, H, W) class indices.
            share: factor on the segmentation terms: how many pixels count in this batch, over the
                mean of those batches that make up a step.
        """
        config = self.config
        device = self.accelerator.device
        second_pass = config.student_passes == 2 and self.targets is not None
        bare = self.accelerator.unwrap_model(model)
        normalised = model_input(bare, images.to(device, non_blocking=True))
        if config.channels_last:
            normalised = normalised.to(memory_format=torch.channels_last)
        if config.segmentation_weight:
            out = model(normalised, outputs=True, second_pass=second_pass)
            weight = config.segmentation_weight * share
            terms = self._segmentation(out, masks.to(device, non_blocking=True), weight)
        else:  # one pass will do: nothing else reads the student
            out = model(normalised, outputs=True, segment=False)
            terms = {}
        if self.targets is not None:
            with self.accelerator.autocast():
                teachers = self.targets(images, device)  # (N, D, h, w) per level, as the students
            distillation = self._distillation(out.aligned, teachers)
            terms["distillation"] = config.distill_weight * distillation
        return terms

    def _segmentation(
        self, out: Outputs, masks: Tensor, weight: float | Tensor
    ) -> dict[str, Tensor]:
        """The weighted terms of both heads, logits (N, K, H, W) against masks (N, H, W)."""
        config = self.config
        more = {"dice": config.dice_weight, "focal": config.focal_weight}
        main = segmentation_loss(out.logits, masks, **self.cross_entropy, **more)
        terms = {"segmentation": weight * main}
        if out.auxiliary_logits is not None:
            auxiliary = segmentation_loss(out.auxiliary_logits, masks, **self.cross_entropy)
            terms["auxiliary"] = weight * config.auxiliary_weight * auxiliary
        return terms

    def _distillation(self, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        """The unweighted loss between maps (N, D, h, w) of the chosen levels, or their sums."""
        config = self.config
        students = [students[level] for level in config.distill_levels]
        teachers = [teachers[level] for level in config.distill_levels]
        if config.distill_sum:
            students = [sum(students)]
            teachers = [sum(teachers)]
        published = (config.alpha, config.temperature, config.kl_axis, config.reduction)
        return distillation_loss(students, teachers, *published, kind=config.distillation)
