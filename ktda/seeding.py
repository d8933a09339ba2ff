"""Randomness by key: the same (seed, name, epoch, index) gives the same draws, always."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key such as ``(seed, "fmm")``, the same on every machine and version."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def training_seed(seed: int, repeat: int) -> int:
    """Of all that is random in a run but its draw of tiles: the seed, or one of the repeat."""
    return derive_seed(seed, "repeat", repeat) if repeat else seed


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator of its own, seeded by the key."""
    return torch.Generator().manual_seed(derive_seed(*key))


@contextlib.contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Run a block on the global CPU generator seeded by the key, and put it back afterwards.

    Libraries initialise their layers from the global generator. With one block per module, keyed by
    (seed, module name), leaving one module out does not change how the others start.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*key))
        yield
