"""The forms that are timed, and what each needs to take steps: random tiles, random weights, the trainer's loop."""

import copy
import itertools
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from torch import Tensor

from ktda.build import build, describe, make_teacher
from ktda.config import make_config
from ktda.data.folder import open_data
from ktda.data.protocol import choose_splits
from ktda.data.unlabelled import Unlabelled, folder_images, smallest_tile
from ktda.files import content_hash
from ktda.images import normalise
from ktda.loop import Trainer
from ktda.settings import Config
from ktda.training import make_accelerator

CLASSES = 4
# No form may need a network: weights are random, which costs a step nothing.
_EVERY = {"student_weights": "none", "teacher_pretrained": False, "student_passes": 1, "tiles": 0, "scenes": 0}
_EVERY |= {"class_tiles": 0, "holdout": 0.5, "steps": 10**6, "checkpoint_steps": 0}
_BESIDE = {"fam_path": "beside"}
# Settings on the preset; "fast" stands for what `fast` chooses, "unlabelled" for as many as there are labelled.
FORMS: dict[str, dict[str, Any]] = {
    "as released": {"student_passes": 2},
    "as published": {},
    "published, checkpointed": {"checkpoint_activations": True},
    "published, fast": {"fast": True},
    "published, fast, checkpointed": {"fast": True, "checkpoint_activations": True},
    "beside, no FMM": _BESIDE | {"fmm": "none"},
    "beside, no FMM, fast": _BESIDE | {"fmm": "none", "fast": True},
    "beside, no FMM, fast, unlabelled": _BESIDE | {"fmm": "none", "fast": True, "unlabelled": True},
    "beside, ViT": _BESIDE | {"fmm": "vit"},
    "beside, ViT, fast": _BESIDE | {"fmm": "vit", "fast": True},
    "beside, ViT, fast, unlabelled": _BESIDE | {"fmm": "vit", "fast": True, "unlabelled": True},
    "published, TF32": {"tf32": True},
    "published, fast, compiled": {"fast": True, "compile": True},
    "UPerNet": {"model": "upernet"},
}
PLAIN = {"UPerNet, plain PyTorch": "UPerNet", "UPerNet of SMP, plain PyTorch": "UPerNet"}


class Wish(NamedTuple):
    """What is measured: preset, side of the tiles in pixels, labelled tiles a batch, device, settings besides."""

    preset: str
    size: int
    batch: int
    device: str
    more: tuple[str, ...] = ()


def fast(device: str) -> dict[str, Any]:
    """The settings of execution that pay on a device: half precision where it computes in it."""
    if device == "cuda":
        return {"precision": "bf16", "channels_last": True}
    halves = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return {"precision": "bf16"} if halves else {"channels_last": True}


def settings(form: str, wish: Wish) -> Config:
    """All settings of a form."""
    values = dict(FORMS[form])
    if values.pop("fast", False):
        values |= fast(wish.device)
    if values.pop("unlabelled", False):
        values["unlabelled"] = wish.batch
    values = _EVERY | {"batch_size": wish.batch, "crop": 0, "workers": 4 if wish.device == "cuda" else 0} | values
    base = make_config(wish.preset, list(wish.more)).as_dict()
    return make_config(wish.preset, base | values)


def write_tiles(folder: Path, size: int, count: int) -> Path:
    """A data set of smooth random tiles: `count` with labels to train on, as many without, and two to score."""
    draw = np.random.default_rng(0)
    for split, tiles in {"train": count, "unlabelled": count, "val": 2, "test": 2}.items():
        for number in range(tiles):
            coarse = draw.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
            labels = draw.integers(0, CLASSES, (size // 8, size // 8), dtype=np.uint8)
            mask = Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST)
            for kind, picture in {"img_dir": image, "ann_dir": mask}.items():
                if (kind, split) != ("ann_dir", "unlabelled"):
                    path = folder / kind / split / f"{number:03}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(path)
    names = ", ".join(f"class_{number}" for number in range(CLASSES))
    (folder / "dataset.yaml").write_text(f"classes: [{names}]\n")
    return folder


@contextmanager
def tiles(wish: Wish) -> Iterator[Path]:
    """A temporary folder with such a data set under ``data``."""
    with tempfile.TemporaryDirectory() as folder:
        write_tiles(Path(folder) / "data", wish.size, 8 * wish.batch)
        yield Path(folder)


class Form:
    """A form that takes steps through the trainer's own loop, loader and bookkeeping.

    Attributes:
        spent: seconds by part, summed over the steps that were taken apart.
    """

    def __init__(self, name: str, wish: Wish, folder: Path, shared: dict[str, Any] | None = None) -> None:
        self.name = name
        self.config = settings(name, wish)
        self.device = torch.device(wish.device)
        self.spent: Counter[str] = Counter()
        self.trainer = make_trainer(self.config, folder, shared)
        self._states = [dict(s._shared_state) for s in (AcceleratorState, GradientState)]
        self._batches = self.trainer.batches(self.trainer.stream())
        self._apart = False
        for holder, attribute, part in (
            (self.trainer, "objective", "forward and loss"),
            (self.trainer.objective, "targets", "teacher"),
            (self.trainer.accelerator, "backward", "backward"),
            (self.trainer.optimiser, "step", "optimiser"),
            (self, "load", "waiting for tiles"),
        ):
            if getattr(holder, attribute) is not None:
                setattr(holder, attribute, self._clocked(getattr(holder, attribute), part))

    def load(self) -> list[dict[str, Tensor]]:
        """The batches of one step."""
        return list(itertools.islice(self._batches, self.config.accumulate))

    def step(self) -> None:
        """One step; on a GPU it may go on when this returns."""
        # These settings are one for the process: each form brings its own
        torch.set_float32_matmul_precision("high" if self.config.tf32 else "highest")
        for cls, state in zip((AcceleratorState, GradientState), self._states, strict=True):
            cls._shared_state.clear()
            cls._shared_state.update(state)
        together = self.load()
        shares = self.trainer.shares([batch["mask"] for batch in together])
        for batch, share in zip(together, shares, strict=True):
            self.trainer.train(batch, share)

    def step_apart(self) -> None:
        """One step, its parts on the clock; slower on a GPU, which is waited for after each."""
        self._apart = True
        begun = time.perf_counter()
        self.step()
        wait(self.device)
        self.spent["step"] += time.perf_counter() - begun
        self._apart = False

    def _clocked(self, call: Callable, part: str) -> Callable:
        def clocked(*arguments: Any, **named: Any) -> Any:
            if not self._apart:
                return call(*arguments, **named)
            wait(self.device)
            begun = time.perf_counter()
            result = call(*arguments, **named)
            wait(self.device)
            self.spent[part] += time.perf_counter() - begun
            return result

        return clocked


class PlainForm:
    """A peer: the same batch in memory, forth and back, cross-entropy, AdamW, and nothing else."""

    def __init__(self, name: str, wish: Wish, folder: Path) -> None:
        self.name = name
        self.config = settings(PLAIN[name], wish)
        self.device = torch.device(wish.device)
        self.spent: Counter[str] = Counter()
        if "SMP" in name:
            drop_path = self.config.student_drop_path
            options = {"drop_path_rate": drop_path} if drop_path else {}
            width = self.config.decoder_channels
            model = smp.UPerNet(
                self.config.student, encoder_weights=None, classes=CLASSES, decoder_channels=width, **options
            )
        else:
            model = build(describe(self.config, CLASSES, make_teacher(self.config)))
        self.model = model.to(self.device).train()
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
        images = torch.rand(wish.batch, 3, wish.size, wish.size)
        self.images = normalise(images).to(self.device)
        self.masks = torch.randint(0, CLASSES, (wish.batch, wish.size, wish.size)).to(self.device)

    def step(self) -> None:
        """One step; both heads' losses where there are two."""
        torch.set_float32_matmul_precision("highest")
        if "SMP" in self.name:
            loss = F.cross_entropy(self.model(self.images), self.masks)
        else:
            out = self.model(self.images, outputs=True)
            loss = F.cross_entropy(out.logits, self.masks) + 0.4 * F.cross_entropy(out.auxiliary_logits, self.masks)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()


def make_form(name: str, wish: Wish, folder: Path, shared: dict[str, Any] | None = None) -> Form | PlainForm:
    """The form of a name; forms that are given one dictionary share weights, where they have the same."""
    return PlainForm(name, wish, folder) if name in PLAIN else Form(name, wish, folder, shared)


def make_trainer(config: Config, folder: Path, shared: dict[str, Any] | None) -> Trainer:
    """A trainer on the data set in a folder.

    In ``shared`` are by description the teacher, the model and AdamW's state: forms that take turns need them once.
    """
    tile_set = open_data(str(folder / "data"))
    splits = choose_splits(tile_set, config.protocol, config.holdout)
    images = None
    if config.unlabelled:
        images = Unlabelled(tile_set, folder_images(tile_set), smallest_tile(tile_set, splits.train))
    accelerator = make_accelerator(config, folder)
    shared = {} if shared is None else shared
    teacher = shared.setdefault("teacher", None) or make_teacher(config)
    shared["teacher"] = teacher
    description = describe(config, CLASSES, teacher)
    key = content_hash([description, config.channels_last])
    if key not in shared:
        shared[key] = build(description), defaultdict(dict)
    model, state = shared[key]
    model = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    trainer = Trainer(accelerator, config, model, teacher, tile_set, splits, folder, images)
    trainer.optimiser.optimizer.state = state
    trainer.measure_teacher()
    return trainer


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
