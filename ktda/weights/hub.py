"""One file of a hub repository: put there by hand, from the local cache, or downloaded.

The hub is asked once, briefly, before anything is downloaded, so that a machine without network
gets its answer in seconds: one line that names the file to fetch elsewhere and where to put it.
"""

import http.client
import threading
import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub

from ktda.errors import InputError
from ktda.files import data_root

PROBE_SECONDS = 2.0


def hub_file(repo_id: str, filename: str = "model.safetensors", revision: str | None = None) -> Path:
    """Path of one file of a repository such as ``timm/vit_base_patch14_dinov2.lvd142m``.

    By hand (in the folder ``weights`` under that of the data sets), from the cache, or downloaded.

    Raises:
        InputError: not here and the hub does not answer within `PROBE_SECONDS`, or lacks it.
    """
    by_hand = data_root() / "weights" / repo_id.split("/")[-1] / filename
    if by_hand.is_file():
        return by_hand
    try:
        cached = huggingface_hub.try_to_load_from_cache(repo_id, filename, revision=revision)
    except huggingface_hub.errors.HFValidationError as error:
        message = f"{repo_id!r} is neither a file here nor a hub id such as timm/NAME"
        raise InputError(message) from error
    if isinstance(cached, str):
        return Path(cached)
    cure = f"fetch {filename} of {repo_id} on a machine with network and put it at {by_hand}"
    hub = huggingface_hub.constants
    if hub.HF_HUB_OFFLINE or not _answers(hub.ENDPOINT):
        message = f"weights {repo_id} are not on this machine and the hub does not answer; {cure}"
        raise InputError(message)
    try:
        return Path(huggingface_hub.hf_hub_download(repo_id, filename, revision=revision))
    except Exception as error:  # the hub's client raises its own kinds, and those of its transport
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        message = f"the hub did not give {filename} of {repo_id} ({reason}); {cure}"
        raise InputError(message) from error


def _answers(endpoint: str) -> bool:
    """Whether the hub answers one short request; any HTTP status is an answer."""
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

    # a request's own time limit covers neither the name's resolution nor trying further addresses
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()
