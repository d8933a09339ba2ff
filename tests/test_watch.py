"""What a run shows: a bar on a terminal, a line per evaluation elsewhere, the same numbers to a tracker."""

import csv
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from tiny_runs import as_options, tiny

from ktda.config import Config
from ktda.errors import InputError
from ktda.settings import allowed
from ktda.training import train

LINE = r"step (\d+) of 4: loss \d\.?\d*, mIoU (\d+\.\d) % on val, \d+ s"


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "ktda", "train", *map(str, words)]


def history_of(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_off_a_terminal_each_evaluation_is_a_line_and_nothing_else(tiny_set: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(tiny_set, *as_options(), "--out", tmp_path / "run"), capture_output=True, text=True, check=True
    )
    found = [re.fullmatch(LINE, line) for line in done.stderr.splitlines()]
    assert all(found), done.stderr
    told = [(step, miou) for step, miou in (match.groups() for match in found)]
    rows = history_of(tmp_path / "run")
    assert told == [(row["step"], f"{100 * float(row['select_miou']):.1f}") for row in rows]
    assert len(told) == 2  # 3 batches an epoch, 4 steps
    assert "run folder:" in done.stdout


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar_also_while_scoring(tiny_set: Path, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 120))
    run = subprocess.Popen(
        command(tiny_set, *as_options(), "--out", tmp_path / "run"), stdout=subprocess.DEVNULL, stderr=follower
    )
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 65_536):
            shown += part
    except OSError:  # how a terminal says on Linux that nobody writes to it any more
        pass
    os.close(leader)
    assert run.wait() == 0
    text = shown.decode()
    last = history_of(tmp_path / "run")[-1]
    loss = sum(float(value) for name, value in last.items() if name.startswith("loss_"))
    score = f"loss {loss:.3g}, mIoU {100 * float(last['select_miou']):.1f} %"
    assert re.search(r"4/4 \[.*" + re.escape(score), text)
    assert "scoring:" in text
    assert not re.search(LINE, text)
    assert "Warning" not in text


class Kept(GeneralTracker):
    """Keeps in memory what a tracker is told."""

    name = "kept"
    requires_logging_directory = False
    tracker = None

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, dict]] = []
        self.settings: dict = {}
        self.finished = False

    def store_init_configuration(self, values: dict) -> None:
        self.settings = values

    def log(self, values: dict, step: int, **more: object) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_a_tracker_hears_of_each_evaluation(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    monkeypatch.setattr("ktda.training.get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    monkeypatch.setattr(
        "ktda.training.Accelerator", lambda log_with, **more: Accelerator(**more, log_with=log_with and kept)
    )
    train(str(tiny_set), tiny(log_with="tensorboard"), tmp_path / "run")
    rows = history_of(tmp_path / "run")
    assert [step for step, _ in kept.told] == [int(row["step"]) for row in rows]
    for (_, values), row in zip(kept.told, rows, strict=True):
        named = {name for name in row if name.startswith("loss_")} | {"learning_rate", "select_miou"}
        assert values == {name: float(row[name]) for name in named}
    assert kept.settings["alpha"] == 0.5
    assert kept.finished


def test_a_missing_tracker_is_one_line_before_anything_is_written(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktda.training.get_available_trackers", lambda: [LoggerType.WANDB])
    with pytest.raises(InputError, match="log_with=tensorboard needs its library: pip install tensorboard"):
        train(str(tiny_set), tiny(log_with="tensorboard"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_watching_tells_no_runs_apart() -> None:
    assert Config(log_with="wandb").config_hash == Config().config_hash
    offered = allowed("log_with").removeprefix("one of ").split(", ")
    assert set(offered) == {"none", *LoggerType.list()} - {"all"}


def test_tensorboard_writes_into_the_run(tiny_set: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(str(tiny_set), tiny(log_with="tensorboard"), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "logs" / "ktda")).Reload()
    steps = [event.step for event in events.Scalars("select_miou")]
    assert steps == [int(row["step"]) for row in history_of(tmp_path / "run")]
