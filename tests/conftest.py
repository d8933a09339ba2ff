"""Shared fixtures: the shared folder (absent in a plain clone), the golden numbers, tiny models."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import make_set, tiny
from torch import Tensor, nn

from ktda import training
from ktda.model import KTDA
from ktda.objective import Objective
from ktda.teacher import Teacher
from ktda.training import train

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("KTDA_SHARED", ROOT.parent / "shared"))
PARITY_SETS = ("vit_blocks", "resized_grid")

# Tensors here are tiny: a second thread only waits for the first, and where cores are shared it waits 50 times longer.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for kernels and commands that a test starts


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


def unchanged(folder: Path) -> Iterator[Path]:
    """A folder that all tests share: whoever wrote to it, even through a hard link, fails the last of them."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield folder
    assert [path for path, content in before.items() if path.read_bytes() != content] == [], "a test has changed it"


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A set of 6 training, 3 val and 2 test tiles of 40 px; not to be changed."""
    yield from unchanged(make_set(tmp_path_factory.mktemp("data") / "tiny"))


@pytest.fixture(scope="session")
def finished_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a finished run on it; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    train(str(tiny_set), tiny(), out)
    yield from unchanged(out)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The teachers and models that training makes, in order."""
    found: list = []
    for name in ("build", "make_teacher"):
        make = getattr(training, name)
        monkeypatch.setattr(training, name, lambda *a, make=make: (found.append(make(*a)), found[-1])[1])
    return found


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Images and masks of every batch that training sees."""
    found: list = []
    losses = Objective.__call__

    def seeing(self: Objective, model: nn.Module, *batch: Tensor) -> dict[str, Tensor]:
        found.append(batch[:2])  # images and masks
        return losses(self, model, *batch)

    monkeypatch.setattr(Objective, "__call__", seeing)
    return found


@pytest.fixture
def quiet(capfd: pytest.CaptureFixture) -> Iterator[None]:
    """Nothing is printed where there is no terminal: no bar, no warning."""
    yield
    assert capfd.readouterr().out == ""
