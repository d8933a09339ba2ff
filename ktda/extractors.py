"""What a frozen backbone gives, one class per kind of backbone.

Each is called with images and block numbers and returns maps (N, D, h, w). `dims` and `patches`
tell width and pixels per place of every block. `ktda.teacher.Teacher` chooses the blocks.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d, resample_abs_pos_embed
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.images import patch_grid

PROBE = 224  # side of the image on which a callable shows what it returns
# What `PlainTransformer` reads off a model.
_PLAIN = ("blocks", "patch_embed", "norm", "embed_dim", "num_prefix_tokens")


def is_plain(model: nn.Module) -> bool:
    """Whether a timm model is a plain transformer of any image size, without convolutional stem."""
    if not all(hasattr(model, attribute) for attribute in _PLAIN):
        return False
    embed = model.patch_embed
    any_size = hasattr(embed, "grid_size") and getattr(model, "dynamic_img_size", False)
    return any_size and not hasattr(embed, "backbone")


def _through_norm(maps: list[Tensor], norm: Callable, which: str) -> list[Tensor]:
    """The "last" map through a norm, or "all"."""
    if which == "all":
        return [norm(m) for m in maps]
    return [*maps[:-1], norm(maps[-1])]


class PlainTransformer:
    """A timm vision transformer: patches of one size, one width, a position embedding or none.

    Args:
        model: see `is_plain`.
        norm: "last" applies the final norm to the last map only (the authors' form), "all" to each.
        antialias: whether the position embedding is resampled with antialiasing.
    """

    def __init__(self, model: nn.Module, norm: str, antialias: bool) -> None:
        self.model = model
        self.norm = norm
        self.antialias = antialias
        self.patch: int = model.patch_embed.patch_size[0]
        depth = len(model.blocks)
        self.dims = (model.embed_dim,) * depth
        self.patches = (self.patch,) * depth
        self._stored_grid = tuple(model.patch_embed.grid_size)
        # resampled position embeddings, one per grid and device
        self._embeddings: dict[tuple, nn.Parameter] = {}

    def __call__(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Normalised (N, 3, H, W) -> one (N, D, ceil(H / patch), ceil(W / patch)) per block."""
        height, width = images.shape[-2:]
        grid = patch_grid(height, width, self.patch)
        # Normalised first, then padded with zeros at right and bottom, as the authors do.
        right = grid[1] * self.patch - width
        bottom = grid[0] * self.patch - height
        x = F.pad(images, (0, right, 0, bottom))
        maps = self._forward(x, blocks, grid)  # (N, h * w, D) each
        maps = _through_norm(maps, self.model.norm, self.norm)
        # (N, h * w, D) -> (N, D, h, w), contiguous: the losses read it row by row
        return [m.transpose(1, 2).unflatten(2, grid).contiguous() for m in maps]

    def _forward(self, x: Tensor, blocks: Sequence[int], grid: tuple[int, int]) -> list[Tensor]:
        """Raw tokens of the blocks, class and register tokens dropped."""
        model = self.model
        stored = getattr(model, "pos_embed", None)  # rotary models have none
        try:
            if stored is not None:
                # Told that the embedding is made for this grid, timm does not resample it.
                model.pos_embed = self._embedding(stored, grid)
                model.patch_embed.grid_size = grid
            return model.forward_intermediates(
                x,
                indices=list(blocks),
                norm=False,
                stop_early=True,
                output_fmt="NLC",
                intermediates_only=True,
            )
        finally:  # a module handed over stays as its owner made it
            if stored is not None:
                model.pos_embed = stored
                model.patch_embed.grid_size = self._stored_grid

    def _embedding(self, stored: nn.Parameter, grid: tuple[int, int]) -> nn.Parameter:
        """The position embedding at a grid, resampled once per size from the stored one."""
        key = (grid, stored.device)
        if key not in self._embeddings:
            prefix = 0 if self.model.no_embed_class else self.model.num_prefix_tokens
            table = resample_abs_pos_embed(
                stored.data,
                new_size=list(grid),
                old_size=list(self._stored_grid),
                num_prefix_tokens=prefix,
                antialias=self.antialias,
            )  # (1, prefix + h * w, D)
            self._embeddings[key] = nn.Parameter(table, requires_grad=False)
        return self._embeddings[key]


class Backbone:
    """Any other timm model that gives maps: Swin, ConvNeXt, EfficientNet, hybrid transformers.

    An image is padded with zeros at right and bottom to whole places of the coarsest stage, and
    what lies beyond it is cut off each map: ceil(image / patch) places are left. Maps are the raw
    outputs of the stages; the model's last LayerNorm, where it has one of that width, is applied
    to the last map chosen, or to all. Stages, widths and patches are read off one small image.

    Args:
        model: with timm's ``forward_intermediates`` and ``feature_info``.
        norm: "last" or "all".
    """

    def __init__(self, name: str, model: nn.Module, norm: str) -> None:
        self.model = model
        self.norm = norm
        self.unit = max(int(stage["reduction"]) for stage in model.feature_info)
        height, width = 2 * self.unit, 3 * self.unit
        probe = next(model.parameters()).new_zeros(1, 3, height, width)
        try:
            with torch.no_grad():
                maps = self._forward(probe, None)
        except Exception as error:  # whatever a model of one size raises on another
            reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
            cure = "choose one with dynamic_img_size=True, or a callable that resizes"
            what = f"teacher {name} does not take images of any size ({reason})"
            raise InputError(f"{what}; {cure}") from error
        self.dims = tuple(m.shape[1] for m in maps)
        self.patches = tuple(height // m.shape[2] for m in maps)
        for m, patch in zip(maps, self.patches, strict=True):
            if (m.shape[2] * patch, m.shape[3] * patch) != (height, width):
                grid = f"{m.shape[2]}x{m.shape[3]} places for {height}x{width} pixels"
                raise InputError(f"teacher {name} gives {grid}; expected a whole patch size")
        if norm == "all" and len(set(self.dims)) > 1:
            widths = ", ".join(map(str, self.dims))
            raise InputError(f"teacher_norm=all, but teacher {name} has widths {widths}; use last")

    def _forward(self, images: Tensor, blocks: list[int] | None) -> list[Tensor]:
        """Maps (N, D_i, h_i, w_i) of some stages, or of all."""
        return self.model.forward_intermediates(
            images,
            indices=blocks,
            norm=False,
            stop_early=True,
            intermediates_only=True,
        )

    def __call__(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Normalised (N, 3, H, W) -> one (N, D_i, ceil(H / p_i), ceil(W / p_i)) per block."""
        height, width = images.shape[-2:]
        x = F.pad(images, (0, -width % self.unit, 0, -height % self.unit))
        maps = self._forward(x, list(blocks))
        maps = _through_norm(maps, self._last_norm, self.norm)
        grids = [patch_grid(height, width, self.patches[block]) for block in blocks]
        return [m[..., :h, :w].contiguous() for m, (h, w) in zip(maps, grids, strict=True)]

    def _last_norm(self, m: Tensor) -> Tensor:
        norm = getattr(self.model, "norm", None)
        by_channel = isinstance(norm, nn.LayerNorm) and not isinstance(norm, LayerNorm2d)
        if not by_channel or tuple(norm.normalized_shape) != (m.shape[1],):
            return m
        return norm(m.movedim(1, -1)).movedim(-1, 1)  # (N, D, h, w) -> (N, h, w, D) and back


class Function:
    """A plain callable (N, 3, H, W) in [0, 1] -> one map or a list of maps (N, D, h, w).

    Widths, patches and the number of maps are read off one image of 224 pixels.
    """

    def __init__(self, name: str, function: Callable[[Tensor], Tensor | Sequence[Tensor]]) -> None:
        self.function = function
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, PROBE, PROBE))
        if any(m.ndim != 4 for m in maps):
            shapes = [tuple(m.shape) for m in maps]
            raise InputError(f"teacher {name} must return maps (N, D, h, w); got {shapes}")
        for rows in (m.shape[2] for m in maps):
            if PROBE % rows:
                given = f"teacher {name} gives {rows} rows for {PROBE} pixels"
                raise InputError(f"{given}; expected a whole patch size")
        self.dims = tuple(m.shape[1] for m in maps)
        self.patches = tuple(PROBE // m.shape[2] for m in maps)

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps = self.function(images)
        return [maps] if isinstance(maps, Tensor) else list(maps)

    def __call__(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        maps = self._maps(images)
        # A tensor made in inference mode cannot be the target of a loss.
        return [maps[b].clone() if maps[b].is_inference() else maps[b] for b in blocks]


def make_extractor(
    name: str, source: Callable, norm: str, antialias: bool
) -> PlainTransformer | Backbone | Function:
    """The class for a timm module, or for any other callable; arguments as theirs."""
    if not (hasattr(source, "forward_intermediates") and hasattr(source, "feature_info")):
        return Function(name, source)
    if is_plain(source):
        return PlainTransformer(source, norm, antialias)
    return Backbone(name, source, norm)
