"""What a run keeps while it goes: history, the best weights, the checkpoint, and at the end the report."""

import csv
import io
import math
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from ktda.config import Config
from ktda.data.folder import Pair, TileSet
from ktda.data.protocol import Splits
from ktda.errors import InputError
from ktda.files import write_beside, write_json
from ktda.optimisation import learning_rate
from ktda.runs.checkpoint import NAME as CHECKPOINT
from ktda.runs.checkpoint import load_checkpoint, save_checkpoint
from ktda.scores.evaluate import confusions, save_confusions
from ktda.scores.metrics import scores
from ktda.weights.tensors import read_tensors, save_tensors


class Progress:
    """State of a run and its files; only the main process writes.

    Attributes:
        batch: batches seen, of all epochs.
        seconds: spent so far, also before a resume.
        statistics: the teacher's channel statistics, one (2, D) tensor per map; empty without.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: Config,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        tile_set: TileSet,
        splits: Splits,
        out: Path,
    ) -> None:
        self.accelerator, self.config, self.model, self.optimiser = accelerator, config, model, optimiser
        self.tile_set, self.splits, self.out = tile_set, splits, out
        self.batch, self.seconds, self.best, self.best_step = 0, 0.0, -1.0, 0
        self.sums: dict[str, Tensor | float] = {}
        self.history: list[dict] = []
        self.statistics: list[Tensor] = []

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add a batch's losses to the epoch's sums, on the device: nothing waits for it."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.batch += 1

    def end_epoch(self, epoch: int, step: int, batches: int, evaluated: bool) -> None:
        """Add a line to ``history.csv``; score the selection tiles, and keep the weights if they lead."""
        row = {"epoch": epoch, "step": step, "learning_rate": learning_rate(step - 1, self.config)}
        row |= {f"loss_{name}": float(total) / batches for name, total in self.sums.items()}
        row |= {"seconds": round(self.seconds, 2), "select_miou": None}
        broken = [name for name, total in self.sums.items() if not math.isfinite(float(total))]
        if broken:
            raise InputError(
                f"the {broken[0]} loss is no longer finite in epoch {epoch}; lower learning_rate or distill_weight"
            )
        self.sums = {}
        if evaluated:
            row["select_miou"] = scores(self._confusions(self.splits.select).sum(0))["miou"]
            if (row["select_miou"] or 0.0) > self.best:
                self.best, self.best_step = row["select_miou"] or 0.0, step
                if self.accelerator.is_main_process:
                    save_tensors(self.out / "model.safetensors", self.model.state_dict())
        self.history.append(row)
        if self.accelerator.is_main_process:
            text = io.StringIO()
            writer = csv.DictWriter(text, row, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.history)
            write_beside(self.out / "history.csv", text.getvalue())

    def report(self) -> dict:
        """Score the kept weights once on the reported split, and write ``metrics.json`` and ``confusions.npz``."""
        self.accelerator.wait_for_everyone()  # the main process may still be writing them
        self.model.load_state_dict(read_tensors(self.out / "model.safetensors"))
        splits = {self.splits.select_name: self.splits.select, self.splits.report_name: self.splits.report}
        matrices = {name: self._confusions(pairs) for name, pairs in splits.items()}
        results = {name: {"images": len(splits[name]), **scores(m.sum(0))} for name, m in matrices.items()}
        reported = results.pop(self.splits.report_name)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        metrics = {
            "split": self.splits.report_name,
            "protocol": self.config.protocol,
            "selected_on": self.splits.select_name,
            **reported,
            "splits": results,
            "best_step": self.best_step,
            "seconds": round(self.seconds, 2),
            "peak_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory,
        }
        if self.accelerator.is_main_process:
            save_confusions(self.out / "confusions.npz", matrices, {n: [p.stem for p in s] for n, s in splits.items()})
            write_json(self.out / "metrics.json", metrics)
        return metrics

    def save(self) -> None:
        """Write the checkpoint."""
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "batch": self.batch,
            "seconds": self.seconds,
            "best": self.best,
            "best_step": self.best_step,
            "sums": {k: float(v) for k, v in self.sums.items()},
            "history": self.history,
            "scaler": scaler.state_dict() if scaler else None,
        }
        extra = {f"statistics/{i}": s for i, s in enumerate(self.statistics)}
        save_checkpoint(self.out / CHECKPOINT, self.model, self.optimiser, state, extra)

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not (self.out / CHECKPOINT).is_file():
            return
        state, extra = load_checkpoint(self.out / CHECKPOINT, self.model, self.optimiser)
        scaler = state.pop("scaler")
        if scaler and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(scaler)
        for name, value in state.items():
            setattr(self, name, value)
        device = self.accelerator.device
        self.statistics = [extra[f"statistics/{i}"].to(device) for i in range(len(extra))]

    def _confusions(self, pairs: Sequence[Pair]) -> Tensor:
        a = self.accelerator
        if a.num_processes > 1:  # each process has BatchNorm statistics of its own; those of the first are kept
            for buffer in self.model.buffers():
                broadcast(buffer)
        return confusions(self.model, self.tile_set, pairs, a.device, a.process_index, a.num_processes)
