"""What a model needs of memory, found out before any is taken: by building it of shapes alone."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.weights.tensors import load_strict

BYTES = 4  # of a number in fp32


def of_shapes(make: Callable[[], nn.Module]) -> nn.Module | None:
    """A model without numbers, which takes no memory; None of one that cannot be built so."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weights that are read for it have nowhere to go
            return make()
    except (RuntimeError, NotImplementedError):  # it wants to read a number while it is built
        return None


def check_fit(make: Callable[[], nn.Module], tensors: dict[str, Tensor], message: str) -> None:
    """Raise `InputError`, which begins with `message`, if tensors do not fit what would be built.

    A description of a few bytes can ask for more memory than a machine has; tensors that fit it
    are as large as the file that was read.
    """
    model = of_shapes(make)
    if model is not None:
        load_strict(model, {k: v.to("meta") for k, v in tensors.items()}, message)


def check_memory(
    make: Callable[[], nn.Module],
    images: tuple[int, ...],
    device: torch.device,
    copies: int = 4,
    frozen: int = 0,
    kept: float = 1.0,
) -> None:
    """Refuse a training that cannot fit into the memory of the machine, or of its GPU.

    Counted, in fp32: the weights with gradient and both moments of AdamW, and what the layers give
    for one batch, which the backward pass needs.

    Args:
        make: builds the model.
        images: shape (N, C, H, W) of a batch.
        device: to train on.
        copies: of a weight: itself, its gradient, the moments, an average.
        frozen: parameters of the teacher.
        kept: share of what the layers give that is kept, as bytes in fp32.

    Raises:
        InputError: with what is needed and what there is.
    """
    model = of_shapes(make)
    if model is None:
        return
    weights = sum(p.numel() for p in model.parameters())
    given = _given_by_layers(model, images) if kept else 0
    need = BYTES * (copies * weights + frozen) + kept * given
    has = _memory(device)
    if need > has:
        what = f"training this model ({weights / 1e6:,.0f} M parameters, batches of {images})"
        cure = "lower batch_size or crop, or take a smaller model"
        found = f"needs at least {need / 1e9:,.1f} GB and {device} has {has / 1e9:,.1f} GB"
        raise InputError(f"{what} {found}; {cure}")


def _given_by_layers(model: nn.Module, images: tuple[int, ...]) -> int:
    """Bytes that the layers of a model without numbers give, each storage once; 0 if it fails."""
    given: dict[int, torch.UntypedStorage] = {}  # by address; held, so that no two share one

    def count(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        if isinstance(output, Tensor):
            storage = output.untyped_storage()
            given[storage._cdata] = storage

    for layer in model.modules():
        if not any(layer.children()):
            layer.register_forward_hook(count)
    try:
        with torch.no_grad():
            model(torch.zeros(images, device="meta"), outputs=True)
    except Exception:  # a layer that computes with numbers; what cannot run is told where it runs
        return 0
    return sum(storage.nbytes() for storage in given.values())


def _memory(device: torch.device) -> int:
    """Bytes of the GPU, or of the machine as far as its control group lets us have them."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [machine]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(path).read_text().strip() if Path(path).is_file() else "max"
        limits += [int(text)] if text.isdigit() else []
    return min(limits)
