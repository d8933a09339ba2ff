"""A trained model as one module, raw values in and probabilities out, and as a folder to share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import Tensor, nn

from ktda.build import check_content, inference_tensors
from ktda.errors import InputError
from ktda.files import write_json
from ktda.images import normalise
from ktda.share.card import model_card
from ktda.trained import open_model
from ktda.weights.tensors import save_tensors


class Segmenter(nn.Module, ModelHubMixin):
    """A trained model with all that it needs to know of an image.

    ``save_pretrained`` writes a model folder with a card, ``push_to_hub`` uploads one.

    Args:
        network: normalised images -> logits.
        content: its ``config.json``.
        run: folder of its run, which the card reads; None where there is none.
    """

    def __init__(self, network: nn.Module, content: dict, run: Path | None = None) -> None:
        super().__init__()
        self.network = network
        self.content = content
        self.run = run
        limits = content["normalisation"].get("stretch")
        limits = limits or [(0, 255)] * len(content["normalisation"]["mean"])
        self.register_buffer("limits", torch.tensor(limits, dtype=torch.float32))  # (C, 2)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Raw values (N, C, H, W) -> probabilities (N, K, H, W).

        Raw are floats as a file stores them, of the bands that the model reads, in its order: bytes
        0 to 255, or what the training's stretch was made for.
        """
        low, high = self.limits.view(-1, 2, 1, 1).unbind(1)  # (C, 1, 1) each
        scaled = ((images - low) / (high - low)).clamp(0, 1)
        scaled = torch.round(scaled * 255) / 255  # in 256 steps, as in training
        return self.network(normalise(scaled, self.network.mean, self.network.std)).softmax(1)

    @classmethod
    def from_pretrained(cls, name: Path | str, *, revision: str | None = None) -> "Segmenter":
        """A trained model by a name that `open_model` takes, which says what is refused."""
        network, content = open_model(f"{name}@{revision}" if revision else name)
        return cls(network, content, Path(name) if Path(name).is_dir() else None)

    def _save_pretrained(self, folder: Path) -> None:
        check_content(self.content, Path("config.json"))
        save_tensors(folder / "model.safetensors", inference_tensors(self.network))
        write_json(folder / "config.json", self.content)

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        return model_card(self.content, self.run)

    def name_classes(self, names: Sequence[str], palette: Sequence | None = None) -> None:
        """Name the classes, in their order, and give them colours.

        Raises:
            InputError: another number of names.
        """
        have = self.content["classes"]
        if len(names) != len(have):
            given = f"{len(names)} are named ({', '.join(names)})"
            raise InputError(f"the model has {len(have)} classes, {given}")
        palette = palette or self.content["palette"]
        self.content |= {"classes": list(names), "palette": [list(c) for c in palette]}
