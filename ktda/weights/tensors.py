"""Tensors in files: read without running anything, checked against their hash, put into models.

A file of `save_tensors` holds in its header the SHA-256 of all that it holds, so that one flipped
bit is found when it is read. Files without one (from elsewhere, or older) are read as they are.
"""

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.files import replacing
from ktda.seeding import seeded

HASH = "ktda_sha256"


@dataclass(frozen=True)
class WeightsRecord:
    """Provenance of loaded weights, as it stands in a run's manifest."""

    source: str  # hub id, file name, or "seed N" for random weights
    sha256: str | None = None  # of the file
    licence: str | None = None  # as the library's model card states it; None where unknown
    kind: str = "pretrained"  # or "file", "random", "callable"


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a PyTorch file read with ``weights_only=True``.

    A PyTorch file may hold the tensors directly or under "state_dict" or "model".

    Raises:
        InputError: no such file, not readable as one of the two, or not what was written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return find_tensors(open_torch(path), path)
    _check_is_file(path)
    metadata = read_metadata(path)
    tensors = load_file(path)
    if metadata.pop(HASH, None) not in (None, _digest(tensors, metadata)):
        cure = "copy it anew, or write it again"
        raise InputError(f"{path} is damaged: it is not what its SHA-256 was taken of; {cure}")
    return tensors


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"no weights file at {path}")
    path.open("rb").close()  # safetensors says of what may not be read that it is not there


def open_torch(path: Path | str) -> Any:
    """All that a PyTorch file holds, opened with ``weights_only=True``; errors as `read_tensors`."""
    _check_is_file(Path(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that torch takes for those of old versions
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        # Not torch's reason: it advises to open the file without this protection.
        message = f"{path} does not open with torch.load(weights_only=True)"
        raise InputError(f"{message}: it is damaged, or holds more than tensors") from error


def find_tensors(content: Any, path: Path | str) -> dict[str, Tensor]:
    """The tensors in what a PyTorch file holds; `path` is named where there are none."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path} holds no dictionary of tensors")
    return content


def read_metadata(path: Path | str) -> dict[str, str]:
    """The header's metadata of a safetensors file; {} for another kind of file or for none."""
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is not a readable safetensors file ({error})") from error


def save_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    previous: Path | None = None,
) -> None:
    """Write a safetensors file with its SHA-256, in one step; `previous`: as in `replacing`."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = dict(metadata or {})
    with replacing(path, previous) as partial:
        try:
            save_file(tensors, partial, metadata | {HASH: _digest(tensors, metadata)})
        except SafetensorError as error:  # which the library makes of a full disk, too
            full = f"os error {errno.ENOSPC}" in str(error)
            number = errno.ENOSPC if full else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 over the metadata, and over name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_strict(model: nn.Module, tensors: dict[str, Tensor], message: str) -> None:
    """Put tensors into a model, all of them and no other; partly where they do not fit.

    Raises:
        InputError: one is missing, unknown or of another shape; `message` begins the line.
    """
    try:
        # The model has the last word: SMP's encoders pass over a classifier, BatchNorm goes without
        # its counter.
        model.load_state_dict(tensors)
    except RuntimeError as error:
        own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        got = {name: tuple(value.shape) for name, value in tensors.items()}
        missing = [name for name in own if name not in got]
        unknown = [name for name in got if name not in own]
        wrong = [name for name in own if got.get(name, own[name]) != own[name]]
        faults = [f"{len(missing)} missing (first {missing[0]})"] if missing else []
        faults += [f"{len(unknown)} unknown (first {unknown[0]})"] if unknown else []
        faults += [f"{name} has shape {got[name]}, expected {own[name]}" for name in wrong[:1]]
        reason = "; ".join(faults) or " ".join(str(error).split())
        raise InputError(f"{message}: {reason}") from error


def load_by_timm(build: Callable[..., nn.Module], path: Path | str, name: str) -> nn.Module:
    """A model with the weights of a file in timm's own layout, which timm renames and filters.

    Args:
        build: takes ``pretrained`` and ``pretrained_cfg_overlay`` as `timm.create_model` does.
        path: the file.
        name: what is built, for the error's line where a tensor is missing or of another shape.
    """
    tensors = read_tensors(path)  # also refuses what timm must not open
    try:
        with seeded("fit"):
            model = build(pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path} does not fit {name}: {reason}") from error
    renamed = {key: value for key, value in model.state_dict().items() if key not in tensors}
    if renamed:
        with seeded("fit"):
            start = build().state_dict()
        # timm passes over what a file lacks: a matrix with its random start was not in it.
        for key, value in renamed.items():
            if value.ndim > 1 and torch.equal(value, start[key]):
                raise InputError(f"{path} does not fit {name}: tensor {key} is missing")
    return model
