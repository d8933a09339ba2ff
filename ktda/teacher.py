"""Teacher: a frozen backbone that gives one map of features per chosen block.

It is held by training, never a submodule of the segmenter, so it cannot reach a checkpoint, an
optimiser or ``model.train()``. The authors' teacher is DINOv2 ViT-B/14 (Oquab et al., TMLR 2024),
blocks 2, 5, 8 and 11: raw residual streams but for the last, which passes the final norm; class
(and register) tokens are dropped. How other kinds of backbone are read stands in `ktda.extractors`.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ktda.errors import InputError, check_choice
from ktda.extractors import Function, make_extractor
from ktda.images import IMAGENET_MEAN, IMAGENET_STD, normalise, patch_grid
from ktda.weights.tensors import WeightsRecord
from ktda.weights.vision_transformer import load_vision_transformer

NORMS = ("last", "all")
RESAMPLES = ("timm", "authors")
LEVELS = 4
_AUTHORS_BLOCKS = {12: (2, 5, 8, 11), 24: (7, 11, 15, 23)}  # by depth


class Teacher:
    """A frozen feature extractor, called on RGB images in [0, 1].

    Args:
        name: a timm model that gives features (``vit_base_patch14_dinov2.lvd142m``,
            ``convnext_tiny.dinov3_lvd1689m``), a hub id (``timm/...``), a local ``.safetensors``
            file, "random" (a tiny seeded vision transformer), a timm module, or a plain callable
            (N, 3, H, W) -> one map or a list of maps (N, D, h, w).
        blocks: 0-based blocks, or stages of a hierarchy, whose output is returned, rising. None
            takes the authors' four, or the last block of each quarter for another depth; of a
            hierarchy the last four stages, of a callable all its maps.
        pretrained: False starts a named model from `seed` instead of its weights.
        norm: "last" applies the final norm to the last map only (the authors' form), "all" to each.
        resample: how a position embedding is brought to another grid: "timm" (bicubic, antialiased)
            or "authors" (bicubic without antialiasing).
        seed: of random weights.

    Attributes:
        dims, patches: width D and pixels per place of each map; in a plain transformer all alike.
        dim, patch: those of the last map.

    Raises:
        InputError: unknown name, no such block, unreachable weights, or a file that does not fit.
    """

    def __init__(
        self,
        name: str | Path | nn.Module | Callable[[Tensor], Tensor | Sequence[Tensor]],
        blocks: Sequence[int] | None = None,
        pretrained: bool = True,
        *,
        norm: str = "last",
        resample: str = "timm",
        seed: int = 0,
    ) -> None:
        check_choice("teacher norm", norm, NORMS)
        check_choice("teacher resample", resample, RESAMPLES)
        self.norm = norm
        self.resample = resample
        if callable(name):  # a module is callable too
            self.name = getattr(name, "__name__", type(name).__name__)
            self.record = WeightsRecord(self.name, kind="callable")
            source = name
        else:
            self.name = str(name)
            source, self.record = load_vision_transformer(self.name, pretrained, seed)
        self._module = source if isinstance(source, nn.Module) else None
        if self._module is not None:
            self._module.eval().requires_grad_(False)
        self._extract = make_extractor(self.name, source, norm, resample == "timm")
        # A timm module is normalised for, anything else is called as it is.
        self._model = None if isinstance(self._extract, Function) else source
        cfg = getattr(source, "pretrained_cfg", None) or {}
        self.mean = tuple(cfg.get("mean", IMAGENET_MEAN))
        self.std = tuple(cfg.get("std", IMAGENET_STD))
        self.blocks = self._choose(blocks)
        self.dims = tuple(self._extract.dims[b] for b in self.blocks)
        self.patches = tuple(self._extract.patches[b] for b in self.blocks)
        self.dim: int = self.dims[-1]
        self.patch: int = self.patches[-1]

    def _choose(self, blocks: Sequence[int] | None) -> tuple[int, ...]:
        """The blocks asked for, or the default ones."""
        count = len(self._extract.dims)
        if blocks is None:
            if self._model is None:
                return tuple(range(count))
            if len(set(self._extract.patches)) > 1 and count >= LEVELS:
                return tuple(range(count - LEVELS, count))
            return default_blocks(count)
        blocks = tuple(blocks)
        known = blocks and all(0 <= b < count for b in blocks)
        # A backbone is read from front to back; the maps of a callable may come in any order.
        rising = self._model is None or list(blocks) == sorted(set(blocks))
        if not known or not rising:
            has = f"{self.name} has 0 to {count - 1}, give them rising"
            raise InputError(f"teacher blocks {blocks}; {has}")
        return blocks

    @torch.no_grad()  # not inference mode: the MSE saves its target for the backward pass
    def __call__(self, images: Tensor) -> list[Tensor]:
        """RGB (N, 3, H, W) in [0, 1], any size -> one (N, D, h, w) map per block, h, w by `grids`.

        The maps are on the images' device.
        """
        if self._module is not None:
            weight = next(self._module.parameters(), images)
            if weight.device != images.device:
                self.to(images.device)
            if self._module.training:  # a module handed over may have been switched by its owner
                self._module.eval()
        if self._model is not None:
            images = normalise(images, self.mean, self.std)
        return self._extract(images, self.blocks)

    def grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """The (h, w) of each map for an image."""
        return [patch_grid(height, width, patch) for patch in self.patches]

    def to(self, device: torch.device | str) -> "Teacher":
        """Move the weights; a call moves them to its images by itself."""
        if self._module is not None:
            self._module.to(device)
        return self

    @property
    def parameters(self) -> int:
        """Number of frozen parameters, 0 for a callable."""
        return 0 if self._model is None else sum(p.numel() for p in self._model.parameters())

    def __repr__(self) -> str:
        levels = f"blocks={self.blocks}, dims={self.dims}, patches={self.patches}"
        return f"Teacher({self.name}, {levels})"


def default_blocks(depth: int) -> tuple[int, ...]:
    """The authors' blocks for depth 12 and 24, else the last of each quarter (6 -> 1, 2, 4, 5)."""
    if depth < LEVELS:
        what = f"a teacher of {depth} blocks cannot give {LEVELS} maps"
        raise InputError(f"{what}; choose its blocks by hand")
    quarters = (math.ceil(depth * k / LEVELS) - 1 for k in range(1, LEVELS + 1))
    return _AUTHORS_BLOCKS.get(depth, tuple(quarters))
