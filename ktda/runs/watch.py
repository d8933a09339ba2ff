"""What a run shows while it goes: a bar on a terminal, elsewhere a line per evaluation; trackers.

Only the main process shows anything. The trackers are Accelerate's, named by ``log_with``.
"""

import sys
import time
from typing import Any, Self

from torch import Tensor
from tqdm import tqdm

from ktda.runs.progress import Progress

LOOK_SECONDS = 0.5  # between two looks at the loss: on a GPU each one waits for its step


class Watch:
    """Shows the steps and evaluations of a run, from where `progress` stands."""

    def __init__(self, progress: Progress) -> None:
        config = progress.config
        self.accelerator = progress.accelerator
        self.selected_on = progress.splits.select_name
        scored = [row["select_miou"] for row in progress.history if row["select_miou"] is not None]
        self.miou = scored[-1] if scored else None
        self.looked = 0.0
        self.bar = tqdm(
            total=config.steps,
            initial=progress.batch // config.accumulate,
            unit="step",
            dynamic_ncols=True,
            # None: shown where there is a terminal
            disable=None if self.accelerator.is_main_process else True,
        )
        if config.log_with != "none":
            # trackers take no lists
            settings = {k: str(v) if type(v) is tuple else v for k, v in config.as_dict().items()}
            self.accelerator.init_trackers("ktda", settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def step(self, terms: dict[str, Tensor]) -> None:
        """Move the bar on by a step; now and then show the loss of the step's last batch."""
        if not self.bar.disable and time.perf_counter() - self.looked > LOOK_SECONDS:
            self._show(float(sum(terms.values()).detach()))
            self.looked = time.perf_counter()
        self.bar.update()

    def evaluated(self, row: dict[str, Any]) -> None:
        """Tell of an evaluation, a row of ``history.csv``: bar or line, and trackers."""
        terms = {name: value for name, value in row.items() if name.startswith("loss_")}
        loss = sum(terms.values())
        self.miou = row["select_miou"]
        values = terms | {"learning_rate": row["learning_rate"]}
        if self.miou is not None:
            values["select_miou"] = self.miou
        self.accelerator.log(values, step=row["step"])
        if not self.bar.disable:
            self._show(loss)
        elif self.accelerator.is_main_process:
            score = "" if self.miou is None else f", {self._score()} on {self.selected_on}"
            line = f"step {row['step']} of {self.bar.total}: loss {loss:.3g}{score}"
            tqdm.write(f"{line}, {row['seconds']:.0f} s", file=sys.stderr)

    def _show(self, loss: float) -> None:
        score = "" if self.miou is None else f", {self._score()}"
        self.bar.set_postfix_str(f"loss {loss:.3g}{score}")

    def _score(self) -> str:
        return f"mIoU {100 * self.miou:.1f} %"
