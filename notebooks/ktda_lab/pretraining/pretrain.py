"""Pretrain a teacher, or a student, on the source worlds; what comes out is one safetensors file that says what it is.

The curve is a linear probe on held-out source scenes: labels are read there and nowhere else, and only to choose
between recipes. The target world is never seen.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ktda.config import PRESETS
from ktda.errors import InputError
from ktda.images import IMAGENET_MEAN, IMAGENET_STD, normalise
from ktda.optimisation import parameter_groups
from ktda.seeding import derive_seed, seeded
from ktda.student import Student
from ktda.teacher import Teacher
from ktda.weights.tensors import save_tensors
from ktda.weights.vision_transformer import METADATA_KEY, TINY
from ktda_lab.features.probe import linear_probe
from ktda_lab.pretraining.views import ViewPool, draw_pairs
from ktda_lab.worlds import NAMES, Scene, render_scene

CLASSES = {name: len(world.CLASSES) for name, world in NAMES.items()}
PROBE_SCENES = {"train": 200_000, "test": 300_000}  # in neither the pool nor any written set
SIDE = 64  # crops, pixels


def new_transformer(seed: int = 0) -> VisionTransformer:
    """The demo teacher's architecture from scratch: depth 6, width 192, patch 8, made for 64 px."""
    with seeded(seed, "teacher"):
        return VisionTransformer(**TINY | {"img_size": SIDE}, dynamic_img_size=True)


class JoinedLevels(nn.Module):
    """A student as one map on the grid of its stride of 8, so that one objective reaches all of its levels.

    Args:
        student: any.

    Attributes:
        dim: channels D, the sum over the levels.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student, self.dim = student, sum(student.channels)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised (N, 3, H, W) -> (N, D, H / 8, W / 8)."""
        levels = self.student(images)  # strides 4, 8, 16 and 32
        grid = levels[1].shape[-2:]
        return torch.cat([F.interpolate(x, grid, mode="bilinear", align_corners=False) for x in levels], 1)


def new_student(seed: int = 0) -> JoinedLevels:
    """The laboratory's student (preset grid) from scratch."""
    with seeded(seed, "student"):
        return JoinedLevels(Student(PRESETS["grid"]["student"]))


def pretrain(
    objective: nn.Module,
    pool: ViewPool,
    steps: int,
    *,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    patch: int = 8,
    seed: int = 0,
    device: str = "cpu",
    probe: Callable[[nn.Module], dict[str, float]] | None = None,
    probe_every: int = 500,
) -> list[dict]:
    """Train an objective's network in place: AdamW, a tenth of the steps to warm up, then half a cosine to 0.

    Args:
        objective: `DenseContrast` or `MaskedAutoencoder`.
        pool: pairs of views.
        steps, batch_size, learning_rate: of the optimiser.
        patch: token side in pixels.
        seed: of pairs and dropped tokens.
        device: where to train.
        probe: given the network, scores to add to the curve each `probe_every` steps and at the end.

    Returns:
        The curve: one dict per probe with step, loss (mean since the last), seconds, and the probe's scores.

    Raises:
        InputError: the loss is not finite.
    """
    rng = np.random.default_rng(derive_seed(seed, "pretraining"))
    objective.to(device).train()
    optimiser = torch.optim.AdamW(parameter_groups(objective, 0.05), lr=learning_rate, betas=(0.9, 0.95))
    warm, begun, curve, losses = max(1, steps // 10), time.perf_counter(), [], []
    for step in range(steps):
        factor = (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (steps - warm))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * factor
        pairs = draw_pairs(pool, batch_size, SIDE, patch, rng)
        with seeded(seed, "drop", step):
            loss = objective(type(pairs)(*(getattr(pairs, f).to(device) for f in pairs.__dataclass_fields__)))
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 3.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.detach())
        if step + 1 == steps or (step + 1) % probe_every == 0:
            mean = float(torch.stack(losses).mean())
            if not math.isfinite(mean):
                raise InputError(f"the loss is no longer finite at step {step + 1}; lower learning_rate")
            row = {"step": step + 1, "loss": mean, "seconds": round(time.perf_counter() - begun, 1)}
            objective.eval()
            curve.append(row | (probe(objective.network) if probe else {}))
            objective.train()
            losses = []
    objective.eval()
    return curve


class SourceProbe:
    """Linear probe on held-out source scenes, rendered once: features -> mIoU in [0, 1] by name of the world.

    Args:
        scenes: per world, to fit on, and as many others to score on; each gives nine tiles of 64 px.
        seed: of the source worlds.
    """

    def __init__(self, scenes: int = 24, seed: int = 0) -> None:
        self.tiles = {
            (name, part): _tiles([render_scene(name, "source", seed, first + i, 3 * SIDE) for i in range(scenes)])
            for name in CLASSES
            for part, first in PROBE_SCENES.items()
        }

    def __call__(self, features: Callable[[Tensor], Tensor]) -> dict[str, float]:
        return {
            name: linear_probe(features, self.tiles[name, "train"], self.tiles[name, "test"], classes)["miou"]
            for name, classes in CLASSES.items()
        }


def _tiles(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Scenes cut into images (N, 3, 64, 64) in [0, 1] and masks (N, 64, 64)."""
    images = torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2).float() / 255
    masks = torch.from_numpy(np.stack([s.mask for s in scenes])).long()
    images = images.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE).permute(0, 2, 3, 1, 4, 5)  # (S, 3, 3, 3, 64, 64)
    masks = masks.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE)  # (S, 3, 3, 64, 64)
    return images.flatten(0, 2), masks.flatten(0, 2)


def last_map(network: VisionTransformer) -> Callable[[Tensor], Tensor]:
    """A frozen copy of a transformer as features for `SourceProbe`: images in [0, 1] -> the teacher's last map."""
    teacher = Teacher(copy.deepcopy(network))
    return lambda images: teacher(images)[-1]


def joined_map(network: JoinedLevels) -> Callable[[Tensor], Tensor]:
    """A frozen copy of a student as features for `SourceProbe`: images in [0, 1] -> its joined map."""
    frozen = copy.deepcopy(network).eval()
    return lambda images: frozen(normalise(images))


def save_student(network: JoinedLevels, path: Path, **about: str | int | float) -> None:
    """Write a pretrained student as a file that ``student_weights`` takes; `about` as in `save_teacher`."""
    save_tensors(path, network.student.state_dict(), {"pretraining": json.dumps(about)})


def save_teacher(network: VisionTransformer, path: Path, **about: str | int | float) -> None:
    """Write a pretrained transformer as a file that ``Teacher(path)`` takes.

    Args:
        network: made by `new_transformer`.
        path: ``*.safetensors``.
        **about: recorded in the header (recipe, seconds, machine).
    """
    description = {
        "vision_transformer": TINY | {"img_size": SIDE},
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "pretraining": about,
    }
    save_tensors(path, network.state_dict(), {METADATA_KEY: json.dumps(description)})
