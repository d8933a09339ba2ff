"""What a run keeps while it goes: history, best weights, checkpoint; and at its end the scores."""

import csv
import io
import math
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ktda.build import inference_tensors
from ktda.config import Config
from ktda.data.folder import Pair, TileSet
from ktda.data.protocol import Splits
from ktda.errors import InputError
from ktda.files import write_beside, write_json
from ktda.optimisation import learning_rate
from ktda.runs.checkpoint import (
    PREVIOUS,
    below,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from ktda.scores.evaluate import confusions, save_confusions
from ktda.scores.large import describe_evaluation, training_tile
from ktda.scores.metrics import scores
from ktda.weights.tensors import read_tensors, save_tensors


@dataclass
class Progress:
    """State of a run and its files; only the main process writes.

    Attributes:
        model: unwrapped.
        batch: batches seen, of all epochs.
        seconds: spent so far, also before a resume.
        sums: of the running epoch's losses.
        statistics: the teacher's channel statistics, one (2, D) tensor per map; empty without.
        finite: batches since `finite_from` up to which the sum of each loss was a finite number.
        stems_of: gives the names of a batch's tiles.
        averaged: the model of averaged weights; None without.
        tile: side in pixels of what the model sees in training.
    """

    accelerator: Accelerator
    config: Config
    model: nn.Module
    optimiser: torch.optim.Optimizer
    tile_set: TileSet
    splits: Splits
    out: Path
    batch: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_step: int = 0
    sums: dict[str, Tensor | float] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    statistics: list[Tensor] = field(default_factory=list)
    averaged: AveragedModel | None = None
    tile: int = 0
    finite: dict[str, Tensor] = field(default_factory=dict)
    finite_from: int = 0
    stems_of: Callable[[int], list[str]] = lambda batch: []

    def __post_init__(self) -> None:
        self.tile = training_tile(self.config, self.tile_set, self.splits.train)
        if self.config.ema:
            average = get_ema_multi_avg_fn(self.config.ema)
            self.averaged = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)

    @property
    def scored(self) -> nn.Module:
        """The model that is scored and kept: of averaged weights, or the trained one."""
        return self.averaged.module if self.averaged else self.model

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add a batch's losses to the epoch's sums, on the device: nothing waits for it."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
            self.finite[name] = self.finite.get(name, 0) + self.sums[name].isfinite()
        self.batch += 1
        if self.averaged and self.batch % self.config.accumulate == 0:
            self.averaged.update_parameters(self.model)

    def end_epoch(self, epoch: int, step: int, batches: int, evaluated: bool) -> None:
        """Add a line to ``history.csv``; score the selection tiles, and keep weights that lead."""
        self._check_finite()
        losses = {f"loss_{name}": total / batches for name, total in self._sums().items()}
        self.sums = {}
        self.finite, self.finite_from = {}, self.batch
        row = {
            "epoch": epoch,
            "step": step,
            "learning_rate": learning_rate(step - 1, self.config),
            **losses,
            "seconds": round(self.seconds, 2),
            "select_miou": self._select(step) if evaluated else None,
        }
        self.history.append(row)
        if self.accelerator.is_main_process:
            text = io.StringIO()
            writer = csv.DictWriter(text, row, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.history)
            write_beside(self.out / "history.csv", text.getvalue())

    def _sums(self) -> dict[str, float]:
        """The running sums of the loss terms, their mean over all processes."""
        reduce = self.accelerator.reduce
        device = self.accelerator.device
        sums = {name: torch.as_tensor(total, device=device) for name, total in self.sums.items()}
        return {name: float(reduce(total, "mean")) for name, total in sums.items()}

    def _check_finite(self) -> None:
        """Raise `InputError` where a loss is no number any more: nothing of it shall be kept."""
        for name, total in self.sums.items():
            if not math.isfinite(float(total)):
                batch = self.finite_from + int(self.finite[name])
                where = f"at step {batch // self.config.accumulate + 1}"
                tiles = f"tiles {', '.join(self.stems_of(batch)[:8])}"
                cure = "lower learning_rate or distill_weight; what was kept is from before it"
                raise InputError(f"the {name} loss is not finite {where} ({tiles}); {cure}")

    def _select(self, step: int) -> float | None:
        """The mean IoU on the selection tiles; the weights are kept where it leads.

        Where nothing learns to segment there is none, and the last weights are kept.
        """
        miou = scores(self._confusions(self.splits.select).sum(0))["miou"]
        if (miou or 0.0) > self.best or not self.config.segmentation_weight:
            self.best = miou or 0.0
            self.best_step = step
            if self.accelerator.is_main_process:
                save_tensors(self.out / "model.safetensors", inference_tensors(self.scored))
        return miou

    def report(self) -> dict:
        """Score the kept weights, once: ``metrics.json`` and ``confusions.npz``."""
        self.accelerator.wait_for_everyone()  # the main process may still be writing them
        kept = read_tensors(self.out / "model.safetensors")
        self.scored.load_state_dict(self.scored.state_dict() | kept)
        tiles = self.splits
        splits = {tiles.select_name: tiles.select, tiles.report_name: tiles.report}
        matrices = {name: self._confusions(pairs) for name, pairs in splits.items()}
        results = {
            name: {"images": len(splits[name]), **scores(matrix.sum(0))}
            for name, matrix in matrices.items()
        }
        reported = results.pop(tiles.report_name)
        scored = self.config.segmentation_weight
        metrics = {
            "split": tiles.report_name,
            "protocol": self.config.protocol,
            "evaluation": describe_evaluation(self.tile_set, tiles.report, self._tile_scored),
            "selected_on": tiles.select_name if scored else "nothing: the last weights",
            **reported,
            "splits": results,
            "best_step": self.best_step,
            "seconds": round(self.seconds, 2),
            "peak_memory_bytes": _peak_memory(),
        }
        if self.accelerator.is_main_process:
            stems = {name: [pair.stem for pair in pairs] for name, pairs in splits.items()}
            save_confusions(self.out / "confusions.npz", matrices, stems)
            write_json(self.out / "metrics.json", metrics)
            (self.out / PREVIOUS).unlink(missing_ok=True)  # nothing goes on from here
        return metrics

    def save(self) -> None:
        """Write the checkpoint."""
        self._check_finite()
        sums = self._sums()
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        plain = ("batch", "seconds", "best", "best_step", "history")
        state: dict[str, Any] = {name: getattr(self, name) for name in plain}
        state["sums"] = sums
        state["scaler"] = scaler.state_dict() if scaler else None
        extra = {f"statistics/{i}": s for i, s in enumerate(self.statistics)}
        if self.averaged:
            extra |= {f"ema/{name}": t for name, t in self.averaged.state_dict().items()}
        save_checkpoint(self.out, self.model, self.optimiser, state, extra)

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not has_checkpoint(self.out):
            return
        state, extra = load_checkpoint(self.out, self.model, self.optimiser)
        scaler = state.pop("scaler", None)
        if scaler and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(scaler)
        for name, value in state.items():
            setattr(self, name, value)
        self.finite_from = self.batch
        if self.averaged:
            self.averaged.load_state_dict(below("ema/", extra))
        maps = below("statistics/", extra)
        device = self.accelerator.device
        self.statistics = [maps[str(level)].to(device) for level in range(len(maps))]

    def _confusions(self, pairs: Sequence[Pair]) -> Tensor:
        """The confusion matrix of every image, (images, K, K); empty where nothing segments."""
        if not self.config.segmentation_weight:
            classes = self.tile_set.num_classes
            return torch.zeros(len(pairs), classes, classes, dtype=torch.int64)
        a = self.accelerator
        if a.num_processes > 1:  # each has BatchNorm statistics of its own; the first's are kept
            for buffer in self.scored.buffers():
                broadcast(buffer)
        rank, world = a.process_index, a.num_processes
        tile = self._tile_scored
        return confusions(self.scored, self.tile_set, pairs, a.device, rank, world, tile)

    @property
    def _tile_scored(self) -> int:
        """The tile that large images are scored by; the authors score every image whole."""
        return 0 if self.config.protocol == "paper" else self.tile


def _peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
