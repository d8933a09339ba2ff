"""Start a model from trained weights: a run, a weights file, or a checkpoint of the authors."""

from pathlib import Path

from torch import Tensor, nn

from ktda.official import load_checkpoint
from ktda.weights.tensors import load_strict, read_tensors

_CLASSIFIERS = ("classifier", "segmentation_head")  # ours, SMP's


def initialise(model: nn.Module, source: str) -> list[str]:
    """Take over all weights; classifiers of another class count keep their fresh start.

    Args:
        model: changed in place.
        source: run folder, safetensors file, or a checkpoint of the authors (``.pth``).

    Returns:
        Names of the tensors that were *not* taken over.

    Raises:
        InputError: nothing there, or a tensor other than a classifier's does not fit.
    """
    tensors = read_segmenter(source)
    own = model.state_dict()
    heads = [k for k in own if any(part in k for part in _CLASSIFIERS)]
    fresh = [k for k in heads if k in tensors and tensors[k].shape != own[k].shape]
    tensors |= {k: own[k] for k in fresh}
    load_strict(model, tensors, f"weights of {source} do not fit this model")
    return fresh


def read_segmenter(source: str) -> dict[str, Tensor]:
    """A segmenter's tensors by our names; arguments as `initialise`'s."""
    path = Path(source)
    if path.suffix in (".pth", ".pt"):
        return load_checkpoint(path).state_dict()
    tensors = read_tensors(path / "model.safetensors" if path.is_dir() else path)
    # a training checkpoint holds the model's tensors under a prefix, beside the optimiser's
    held = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
    return held or tensors
