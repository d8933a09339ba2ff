"""Teacher: a frozen vision transformer that gives one map of patch features per chosen block.

It is held by training, never a submodule of the segmenter, so it cannot reach a checkpoint, an optimiser or
``model.train()``. The authors' teacher is DINOv2 ViT-B/14 (Oquab et al., TMLR 2024), blocks 2, 5, 8 and 11: raw
residual streams but for the last, which passes the final norm; class (and register) tokens are dropped.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.images import IMAGENET_MEAN, IMAGENET_STD, patch_grid
from ktda.weights.tensors import WeightsRecord
from ktda.weights.vision_transformer import check_plain, load_vision_transformer

NORMS = ("last", "all")
RESAMPLES = ("timm", "authors")
_LEVELS = 4
# The authors' blocks; another depth takes the last block of each quarter.
_AUTHORS_BLOCKS = {12: (2, 5, 8, 11), 24: (7, 11, 15, 23)}


class Teacher:
    """A frozen feature extractor, called on RGB images in [0, 1].

    Args:
        name: a timm vision transformer (``vit_base_patch14_dinov2.lvd142m``), a hub id (``timm/...``), a local
            ``.safetensors`` file, "random" (a tiny seeded vision transformer), a timm module, or a plain
            callable (N, 3, H, W) -> one map or a list of maps (N, D, h, w).
        blocks: 0-based blocks whose output is returned, rising; None takes the authors' four, or the last
            block of each quarter for another depth.
        pretrained: False starts a named model from `seed` instead of its weights.
        norm: "last" applies the final norm to the last map only (the authors' form), "all" to every map.
        resample: how a position embedding is brought to another grid: "timm" (bicubic, antialiased) or
            "authors" (bicubic without antialiasing).
        seed: of random weights.

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
        if norm not in NORMS:
            raise InputError(f"teacher norm {norm!r}; expected one of {', '.join(NORMS)}")
        if resample not in RESAMPLES:
            raise InputError(f"teacher resample {resample!r}; expected one of {', '.join(RESAMPLES)}")
        self.norm, self.resample = norm, resample
        if hasattr(name, "forward_intermediates"):
            self.name, self._model = type(name).__name__, name
            check_plain(self.name, name)
            self.record = WeightsRecord(self.name, kind="callable")
        elif callable(name):
            self._wrap(name, blocks)
            return
        else:
            self.name = str(name)
            self._model, self.record = load_vision_transformer(self.name, pretrained, seed)
        self._model.eval().requires_grad_(False)
        depth = len(self._model.blocks)
        self.blocks = default_blocks(depth) if blocks is None else tuple(blocks)
        rising = all(a < b for a, b in zip(self.blocks, self.blocks[1:], strict=False))
        if not self.blocks or not rising or self.blocks[0] < 0 or self.blocks[-1] >= depth:
            raise InputError(f"teacher blocks {self.blocks}; {self.name} has 0 to {depth - 1}, give them rising")
        if not getattr(self._model, "dynamic_img_size", False):
            raise InputError(f"teacher {self.name} serves one image size; make it with dynamic_img_size=True")
        self.dim: int = self._model.embed_dim
        self.patch: int = self._model.patch_embed.patch_size[0]
        cfg = getattr(self._model, "pretrained_cfg", None) or {}
        self.mean, self.std = tuple(cfg.get("mean", IMAGENET_MEAN)), tuple(cfg.get("std", IMAGENET_STD))
        # The stored position embedding (None with rotary ones) stays as it is; each grid's resampled copy is kept.
        self._stored = getattr(self._model, "pos_embed", None)
        self._stored_grid = tuple(self._model.patch_embed.grid_size)
        self._embeddings: dict[tuple[int, int], nn.Parameter] = {}

    def _wrap(self, function: Callable, blocks: Sequence[int] | None) -> None:
        """Hold a plain callable; width, patch and number of maps are read off one 224-pixel image."""
        self._model, self.name = None, getattr(function, "__name__", type(function).__name__)
        self.record = WeightsRecord(self.name, kind="callable")
        self._function = function.eval().requires_grad_(False) if isinstance(function, nn.Module) else function
        with torch.no_grad():
            maps = _as_list(self._function(torch.zeros(1, 3, 224, 224)))
        if any(m.ndim != 4 for m in maps):
            raise InputError(f"teacher {self.name} must return maps (N, D, h, w); got {[tuple(m.shape) for m in maps]}")
        self.blocks = tuple(range(len(maps))) if blocks is None else tuple(blocks)
        if not all(0 <= b < len(maps) for b in self.blocks):
            raise InputError(f"teacher blocks {self.blocks}, but {self.name} returns {len(maps)} maps")
        self.dim, h = maps[0].shape[1], maps[0].shape[2]
        if 224 % h:
            raise InputError(f"teacher {self.name} gives {h} rows for 224 pixels; expected a whole patch size")
        self.patch = 224 // h

    @torch.no_grad()  # not inference mode: the MSE saves its target for the backward pass
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Maps of the chosen blocks.

        Args:
            images: RGB in [0, 1], (N, 3, H, W), any size; the result is on the images' device.

        Returns:
            One (N, D, ceil(H / patch), ceil(W / patch)) map per block.
        """
        if self._model is None:
            if isinstance(self._function, nn.Module):
                self._function.eval().to(images.device)
            maps = _as_list(self._function(images))
            return [maps[b].clone() if maps[b].is_inference() else maps[b] for b in self.blocks]
        model = self._model
        if next(model.parameters()).device != images.device:
            self.to(images.device)
        if model.training:  # a module handed over may have been switched by its owner
            model.eval()
        grid = patch_grid(*images.shape[-2:], self.patch)
        x = (images - images.new_tensor(self.mean).view(3, 1, 1)) / images.new_tensor(self.std).view(3, 1, 1)
        # Normalised first, then padded with zeros at right and bottom, as the authors do.
        x = F.pad(x, (0, grid[1] * self.patch - x.shape[-1], 0, grid[0] * self.patch - x.shape[-2]))
        if self._stored is not None:  # told that the embedding is made for this grid, timm does not resample it
            model.pos_embed, model.patch_embed.grid_size = self._embedding(grid), grid
        maps = model.forward_intermediates(
            x,
            indices=list(self.blocks),
            norm=False,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )  # (N, h * w, D) each, class and register tokens dropped
        if self._stored is not None:  # a module handed over stays as its owner made it
            model.pos_embed, model.patch_embed.grid_size = self._stored, self._stored_grid
        last = len(maps) - 1
        maps = [model.norm(m) if self.norm == "all" or i == last else m for i, m in enumerate(maps)]
        # (N, h * w, D) -> (N, D, h, w), contiguous: the losses read it row by row
        return [m.transpose(1, 2).unflatten(2, grid).contiguous() for m in maps]

    def to(self, device: torch.device | str) -> "Teacher":
        """Move the weights; a call moves them to its images by itself."""
        if self._model is not None:
            self._model.to(device)
            self._stored = getattr(self._model, "pos_embed", None)
            self._embeddings.clear()
        return self

    def _embedding(self, grid: tuple[int, int]) -> nn.Parameter:
        """The position embedding at a grid, resampled once per size from the stored one."""
        if grid not in self._embeddings:
            prefix = 0 if self._model.no_embed_class else self._model.num_prefix_tokens
            table = resample_abs_pos_embed(
                self._stored.data,
                new_size=list(grid),
                old_size=list(self._stored_grid),
                num_prefix_tokens=prefix,
                antialias=self.resample == "timm",
            )  # (1, prefix + h * w, D)
            self._embeddings[grid] = nn.Parameter(table, requires_grad=False)
        return self._embeddings[grid]

    @property
    def parameters(self) -> int:
        """Number of frozen parameters."""
        return 0 if self._model is None else sum(p.numel() for p in self._model.parameters())

    def __repr__(self) -> str:
        return f"Teacher({self.name}, blocks={self.blocks}, dim={self.dim}, patch={self.patch})"


def default_blocks(depth: int) -> tuple[int, ...]:
    """The authors' blocks for depth 12 and 24, else the last block of each quarter (6 -> 1, 2, 4, 5)."""
    if depth < _LEVELS:
        raise InputError(f"a teacher of {depth} blocks cannot give {_LEVELS} maps; choose its blocks by hand")
    return _AUTHORS_BLOCKS.get(depth, tuple(math.ceil(depth * k / _LEVELS) - 1 for k in range(1, _LEVELS + 1)))


def _as_list(maps: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [maps] if isinstance(maps, Tensor) else list(maps)
