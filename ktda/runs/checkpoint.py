"""A training checkpoint as one file: safetensors for the tensors, json in its header for the rest.

Nothing is unpickled. The file proves itself by its SHA-256, and the one before it stays beside it,
to go on from where a write was cut off or a disk has damaged the newest. Random draws are keyed by
(seed, step) or (seed, epoch, index), so the step number is the state of every generator; the global
generator's is kept for code of the user's that draws from it.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.files import parse_json
from ktda.weights.tensors import load_strict, read_metadata, read_tensors, save_tensors

NAME = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
_STATE = {
    "batch": int,
    "seconds": float,
    "best": float,
    "best_step": int,
    "sums": dict,
    "history": list,
}


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint to go on from."""
    return (folder / NAME).is_file() or (folder / PREVIOUS).is_file()


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: dict[str, Any],
    extra: dict[str, Tensor],
) -> None:
    """Write model, optimiser and state, and keep the checkpoint before.

    Args:
        folder: of the run.
        model: unwrapped.
        optimiser: one whose state is tensors alone, as AdamW's.
        state: plain values: step, best score, sums of the running epoch.
        extra: further tensors, such as the teacher's channel statistics.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for index, entries in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{name}": value for name, value in entries.items()}
    tensors["generator/torch"] = torch.get_rng_state()
    tensors |= {f"extra/{name}": value for name, value in extra.items()}
    header = {"state": json.dumps(state)}
    save_tensors(folder / NAME, tensors, header, previous=folder / PREVIOUS)


def load_checkpoint(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Put the newest checkpoint that is sound back into model and optimiser.

    Returns:
        The state and the extra tensors as they were saved.

    Raises:
        InputError: no checkpoint, none that is sound, or one of another model.
    """
    path = folder / NAME
    try:
        tensors, state = _read(path)
    except InputError as error:
        path = folder / PREVIOUS
        if not path.is_file():
            raise
        tensors, state = _read(path)
        warnings.warn(f"{error}; going on from {path.name}", stacklevel=2)
    load_strict(model, below("model/", tensors), f"{path} is of another model")

    states: dict[int, dict[str, Tensor]] = {}
    for key, value in below("optimiser/", tensors).items():
        index, _, name = key.partition("/")
        states.setdefault(int(index), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": states, "param_groups": groups})
    torch.set_rng_state(tensors["generator/torch"])
    return state, below("extra/", tensors)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of one file."""
    tensors = read_tensors(path)
    header = read_metadata(path)
    for name, held in (("state", header), ("generator/torch", tensors)):
        if name not in held:
            raise InputError(f"{path} is no training checkpoint (it has no {name})")
    return tensors, parse_json(header["state"], _STATE, f"{path} is damaged: state")


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
