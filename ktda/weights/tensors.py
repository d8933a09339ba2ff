"""Pretrained weights: from a local file, from the hub's local cache, or from the hub; and where they came from.

The hub is asked once, briefly, before anything is downloaded, so that a machine without network gets its answer
in seconds: one line that names the file to fetch elsewhere and where to put it.
"""

import http.client
import threading
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.files import data_root

PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class WeightsRecord:
    """Provenance of loaded weights, as it stands in a run's manifest.

    Attributes:
        source: hub id, file name, or "seed N" for random weights.
        sha256: of the file; None for random weights.
        licence: as the library's model card states it; None where unknown.
        kind: "pretrained", "file", "random" or "callable".
    """

    source: str
    sha256: str | None = None
    licence: str | None = None
    kind: str = "pretrained"

    def as_dict(self) -> dict:
        return asdict(self)


def hub_file(repo_id: str, filename: str = "model.safetensors", revision: str | None = None) -> Path:
    """Path of one file of a hub repository: by hand, from the cache, or downloaded, in this order.

    By hand: in the folder ``weights`` under that of the data sets.

    Args:
        repo_id: such as ``timm/vit_base_patch14_dinov2.lvd142m``.
        filename: inside the repository.
        revision: commit or branch; None is the main branch.

    Raises:
        InputError: not here and the hub does not answer within `PROBE_SECONDS`, or does not have it.
    """
    import huggingface_hub

    by_hand = data_root() / "weights" / repo_id.split("/")[-1] / filename
    if by_hand.is_file():
        return by_hand
    try:
        cached = huggingface_hub.try_to_load_from_cache(repo_id, filename, revision=revision)
    except huggingface_hub.errors.HFValidationError as error:
        raise InputError(f"{repo_id!r} is neither a file here nor a hub id such as timm/NAME") from error
    if isinstance(cached, str):
        return Path(cached)
    cure = f"fetch {filename} of {repo_id} on a machine with network and put it at {by_hand}"
    endpoint = huggingface_hub.constants.ENDPOINT
    if huggingface_hub.constants.HF_HUB_OFFLINE or not _answers(endpoint):
        raise InputError(f"weights {repo_id} are not on this machine and the hub does not answer; {cure}")
    try:
        return Path(huggingface_hub.hf_hub_download(repo_id, filename, revision=revision))
    except Exception as error:  # the hub's client raises its own kinds, and those of its transport
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the hub did not give {filename} of {repo_id} ({reason}); {cure}") from error


def _answers(endpoint: str) -> bool:
    """Whether the hub answers one short request; any HTTP status is an answer.

    In a thread, because a request's own time limit covers neither the name's resolution nor the trial of one
    address after the other.
    """
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(endpoint, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, http.client.HTTPException, ValueError):
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a PyTorch file read with ``weights_only=True``.

    A PyTorch file may hold the tensors directly or under "state_dict" or "model".

    Raises:
        InputError: no such file, or not readable as one of the two.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path} is not a readable safetensors file ({error})") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} does not open with torch.load(weights_only=True): {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path} holds no dictionary of tensors")
    return content


def load_strict(model: nn.Module, tensors: dict[str, Tensor], says: str) -> None:
    """Put tensors into a model, all of them and no other.

    Args:
        model: changed in place, also partly where tensors do not fit.
        tensors: by name.
        says: begin of the error's line; names the source.

    Raises:
        InputError: a tensor is missing, unknown or of another shape.
    """
    try:  # the model has the last word: SMP's encoders pass over a classifier, BatchNorm does without its counter
        model.load_state_dict(tensors)
    except RuntimeError as error:
        own = model.state_dict()
        missing, unknown = [k for k in own if k not in tensors], [k for k in tensors if k not in own]
        wrong = [k for k in own if k in tensors and tensors[k].shape != own[k].shape][:1]
        names = [f"{len(m)} {what} (first {m[0]})" for m, what in ((missing, "missing"), (unknown, "unknown")) if m]
        names += [f"{k} has shape {tuple(tensors[k].shape)}, expected {tuple(own[k].shape)}" for k in wrong]
        raise InputError(f"{says}: {'; '.join(names) or ' '.join(str(error).split())}") from error


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file beside its name, then put it there in one step, with ordinary permissions."""
    partial = path.with_name(path.name + ".partial")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, metadata)
    partial.chmod(0o644)  # the library writes for the owner alone
    partial.replace(path)


def read_metadata(path: Path | str) -> dict[str, str]:
    """The json metadata in the header of a safetensors file; {} for another kind of file or for none."""
    path = Path(path)
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}
