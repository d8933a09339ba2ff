"""Shared fixtures: the shared folder (absent in a plain clone), the golden numbers, tiny models."""

import os
from pathlib import Path

import pytest
import torch

from ktda.model import KTDA
from ktda.teacher import Teacher

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("KTDA_SHARED", ROOT.parent / "shared"))
PARITY_SETS = ("vit_blocks", "resized_grid")

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder (``KTDA_SHARED``, or ``shared`` beside the project); skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared folder at {SHARED.name} beside the project; set KTDA_SHARED")
    return SHARED


@pytest.fixture(scope="session", params=PARITY_SETS)
def parity(request: pytest.FixtureRequest, shared: Path) -> Path:
    """Folder of one set of golden numbers."""
    return shared / "parity" / request.param


@pytest.fixture
def tiny_arguments() -> dict:
    """Arguments of a `KTDA` with every part, small enough for a forward pass in milliseconds."""
    return {
        "num_classes": 3,
        "encoder": "tu-convnext_atto",
        "encoder_options": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        "width": 16,
        "patch": 8,
        "neck_scales": (2.0, 1.0, 0.5, 0.25),
        "fmm_depth": 1,
        "fmm_heads": 2,
        "decoder_channels": 8,
        "auxiliary_channels": 8,
    }


@pytest.fixture
def tiny_model(tiny_arguments: dict) -> KTDA:
    return KTDA(**tiny_arguments)


@pytest.fixture
def random_teacher() -> Teacher:
    """The tiny seeded vision transformer."""
    return Teacher("random")
