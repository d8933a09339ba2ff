"""Two ways to learn from pictures without labels: dense contrast between two views, and masked autoencoding.

Dense contrast: the token of a place must be more alike to the token of the same place in the other view than to any
other token of the batch (InfoNCE, van den Oord et al., 2018; dense form after Wang et al., CVPR 2021, and PixPro,
Xie et al., CVPR 2021). Half of the tokens of each view are dropped before the transformer, so that a place is
recognised from its surroundings too. Masked autoencoding: He et al., CVPR 2022.
"""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ktda.images import normalise
from ktda_lab.pretraining.views import PairBatch


def info_nce(
    first: Tensor, second: Tensor, first_places: Tensor, second_places: Tensor, temperature: float = 0.1
) -> Tensor:
    """Cross-entropy of finding each place again, mean over both directions.

    Args:
        first, second: (T, D) and (U, D) tokens of the two views, any scale.
        first_places, second_places: (T,) and (U,) place numbers, each at most once per view.
        temperature: of the cosine similarities.

    Raises:
        ValueError: the views share no place.
    """
    same = first_places[:, None] == second_places  # (T, U), at most one per row and column
    rows, columns = same.nonzero(as_tuple=True)
    if not len(rows):
        raise ValueError("the two views share no place; expected overlapping crops")
    similarity = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature  # (T, U)
    return (F.cross_entropy(similarity[rows], columns) + F.cross_entropy(similarity.T[columns], rows)) / 2


class DenseContrast(nn.Module):
    """InfoNCE between the same places of two views.

    Args:
        network: a timm vision transformer, or any module from normalised images to one map (N, D, h, w).
        dim: its channels D.
    """

    DROP = 0.5  # share of the tokens dropped per view (vision transformers only)

    def __init__(self, network: nn.Module, dim: int) -> None:
        super().__init__()
        self.network = network
        self.project = nn.Sequential(nn.Linear(dim, 256), nn.GELU(), nn.Linear(256, 128))

    def forward(self, batch: PairBatch) -> Tensor:
        first, first_places = self._tokens(batch.first, batch.first_places)
        second, second_places = self._tokens(batch.second, batch.second_places)
        return info_nce(first, second, first_places, second_places)

    def _tokens(self, images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Projected tokens (T, 128) and their places (T,)."""
        if isinstance(self.network, VisionTransformer):
            tokens, kept = visible_tokens(self.network, normalise(images), self.DROP)
            places = places.gather(1, kept)
        else:
            tokens = self.network(normalise(images)).flatten(2).transpose(1, 2)  # (N, D, h, w) -> (N, L, D)
        return self.project(tokens).flatten(0, 1), places.flatten()


class MaskedAutoencoder(nn.Module):
    """Reconstruction of dropped patches, each normalised to mean 0 and variance 1; reads the first view only.

    Args:
        network: a timm vision transformer.
        drop: share of dropped tokens.
        width, depth: of the decoder.
    """

    def __init__(self, network: VisionTransformer, drop: float = 0.75, width: int = 96, depth: int = 2) -> None:
        super().__init__()
        self.network, self.drop = network, drop
        self.patch = network.patch_embed.patch_size[0]
        self.enter = nn.Linear(network.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, network.patch_embed.num_patches, width))
        self.blocks = nn.Sequential(*(Block(width, 3, qkv_bias=True) for _ in range(depth)), nn.LayerNorm(width))
        self.leave = nn.Linear(width, 3 * self.patch**2)

    def forward(self, batch: PairBatch) -> Tensor:
        images = normalise(batch.first)
        tokens, kept = visible_tokens(self.network, images, self.drop)
        tokens = self.enter(tokens)  # (N, K, width)
        index = kept[..., None].expand_as(tokens)
        whole = self.mask_token.expand(len(images), self.positions.shape[1], -1).scatter(1, index, tokens)
        predicted = self.leave(self.blocks(whole + self.positions))  # (N, L, 3 p p)
        target = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)  # (N, L, 3 p p)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        dropped = torch.ones_like(target[..., 0]).scatter(1, kept, 0.0)  # (N, L)
        return ((predicted - target).square().mean(-1) * dropped).sum() / dropped.sum()


def visible_tokens(network: VisionTransformer, images: Tensor, drop: float) -> tuple[Tensor, Tensor]:
    """Run a vision transformer on a random part of the patches of each image.

    Args:
        network: of timm, with one class token.
        images: normalised (N, 3, H, W).
        drop: share of the patches left out, drawn from the global generator.

    Returns:
        Final patch tokens (N, K, D), and which patches they are (N, K), row by row.
    """
    tokens = network._pos_embed(network.patch_embed(images))  # (N, 1 + L, D)
    prefix, tokens = tokens[:, : network.num_prefix_tokens], tokens[:, network.num_prefix_tokens :]
    count, length = tokens.shape[:2]
    kept = torch.rand(count, length).argsort(1)[:, : length - int(drop * length)].to(tokens.device)  # (N, K)
    tokens = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
    tokens = network.norm(network.blocks(torch.cat((prefix, tokens), 1)))
    return tokens[:, network.num_prefix_tokens :], kept
