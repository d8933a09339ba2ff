"""A training checkpoint as one file: safetensors for the tensors, json in its header for the rest.

Nothing is unpickled. It is written beside its name and renamed, so that an interrupted write leaves the last one.
Random draws are keyed by (seed, step) or (seed, epoch, index), so the step number is the state of every generator;
the global generator's state is kept all the same, for code of the user's that draws from it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.weights.tensors import load_strict, read_metadata, read_tensors, save_tensors

NAME = "checkpoint.safetensors"


def save_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any], extra: dict[str, Tensor]
) -> None:
    """Write model, optimiser and state.

    Args:
        path: final name.
        model: unwrapped.
        optimiser: torch's, its tensors are stored per parameter index.
        state: plain values: step, best score, sums of the running epoch.
        extra: further tensors, such as the teacher's channel statistics.
    """
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in optimiser.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser/{index}/{name}"] = value
            else:
                numbers.setdefault(str(index), {})[name] = value
    tensors["generator/torch"] = torch.get_rng_state()
    tensors |= {f"extra/{k}": v for k, v in extra.items()}
    save_tensors(path, tensors, {"state": json.dumps(state), "optimiser": json.dumps(numbers)})


def load_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Put a checkpoint back into model and optimiser.

    Returns:
        The state and the extra tensors as they were saved.

    Raises:
        InputError: the file is not a checkpoint, or of another model.
    """
    tensors = read_tensors(path)
    metadata = read_metadata(path)
    if "state" not in metadata:
        raise InputError(f"{path} is no training checkpoint (its header has no state)")
    held = {k[6:]: v for k, v in tensors.items() if k.startswith("model/")}
    load_strict(model, held, f"{path} is of another model")
    states: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in json.loads(metadata["optimiser"]).items()}
    for key, value in tensors.items():
        if key.startswith("optimiser/"):
            _, index, name = key.split("/")
            states.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["generator/torch"])
    return json.loads(metadata["state"]), {k[6:]: v for k, v in tensors.items() if k.startswith("extra/")}
