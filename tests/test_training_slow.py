"""Training as processes of its own: killed and resumed, stopped, on two processes, and from an installed wheel."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import SPEC, as_options, make_set, manifest_of, results_of
from tiny_sets import put_mask

from ktda.scores.evaluate import evaluate_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).resolve().parents[1]
# Slow enough to be hit in the middle, 3 batches per epoch; checkpoints after every second step.
LONG = {"steps": 24, "checkpoint_steps": 2, "evaluate_epochs": 5, "student_drop_path": 0.2}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def command(data: Path, out: Path, *more: str, **overrides: object) -> list[str]:
    options = [*as_options(**LONG | overrides), "--out", str(out), *more]
    return [sys.executable, "-m", "ktda", "train", str(data), *options]


def start(words: list[str], cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(words, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(words: list[str], cwd: Path, more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
    environment = ENVIRONMENT | dict(more or {})
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def wait_for(path: Path, process: subprocess.Popen) -> None:
    until = time.monotonic() + 1800
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, f"{path.name} did not appear"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    done = finish(command(tiny_set, folder / "run"), folder)
    said = done.stderr.splitlines()  # no bar in a log: a line an evaluation
    assert [line.partition(":")[0] for line in said] == ["step 15 of 24", "step 24 of 24"]
    return folder / "run"


def test_killed_in_mid_epoch_again_and_again_it_ends_the_same(tiny_set: Path, tmp_path: Path, whole_run: Path) -> None:
    out = tmp_path / "run"
    words = command(tiny_set, out, "--resume")
    for number in range(3):
        process = start(words, tmp_path)
        seen = out / "checkpoint.safetensors"
        wait_for(seen, process)
        before = seen.stat().st_mtime_ns
        until = time.monotonic() + 1800
        while seen.stat().st_mtime_ns == before and process.poll() is None and time.monotonic() < until:
            time.sleep(0.001)  # until this process has itself written one
        time.sleep(0.02 * number)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed: make LONG longer"
        assert manifest_of(out)["status"] == "running"
    finish(words, tmp_path)
    assert results_of(out) == results_of(whole_run)
    assert len(manifest_of(out)["resumed"]) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_says_so_and_can_be_resumed(
    tiny_set: Path, tmp_path: Path, whole_run: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = start(command(tiny_set, out), tmp_path)
    wait_for(out / "checkpoint.safetensors", process)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    manifest = manifest_of(out)
    assert manifest["status"] == "failed"
    assert manifest["end"] is not None
    finish(command(tiny_set, out, "--resume"), tmp_path)
    assert results_of(out) == results_of(whole_run)
    assert manifest_of(out)["status"] == "finished"


def test_two_processes(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set", {"train": 8, "val": 3, "test": 3})  # an odd share for one of the two
    out = tmp_path / "run"
    train = command(data, out, steps=5, evaluate_epochs=1)[3:]
    # `accelerate launch --cpu` leaves several processes to MPI; torch's own launcher needs none.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ktda"]
    finish([*launch, *train], tmp_path, {"ACCELERATE_USE_CPU": "true"})
    manifest, metrics = manifest_of(out), json.loads((out / "metrics.json").read_text())
    assert (manifest["status"], manifest["processes"]) == ("finished", 2)
    with (out / "history.csv").open() as file:
        lines = file.read().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["1", "2"], ["2", "4"], ["3", "5"]]  # 2 x 2 tiles a step
    for split, found in (("test", metrics), ("val", metrics["splits"]["val"])):
        assert found["confusion_matrix"] == evaluate_run(out, split=split)["confusion_matrix"]
        assert sum(map(sum, found["confusion_matrix"])) == 3 * 40 * 40
    # what was scored while training was the model that was kept
    best = max(lines[1:], key=lambda line: float(line.split(",")[-1]))
    assert float(best.split(",")[-1]) == metrics["splits"]["val"]["miou"]


@pytest.mark.parametrize("more", [{"student": "efficientnet-b0"}, {"model": "pspnet"}, {"model": "unet"}], ids=str)
def test_two_processes_with_parameters_that_no_output_depends_on(tmp_path: Path, more: dict) -> None:
    data = make_set(tmp_path / "set", {"train": 8, "val": 3, "test": 3})
    train = command(data, tmp_path / "run", steps=3, evaluate_epochs=9, student_drop_path=0.0, **more)[3:]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ktda"]
    finish([*launch, *train], tmp_path, {"ACCELERATE_USE_CPU": "true"})
    manifest = manifest_of(tmp_path / "run")
    assert (manifest["status"], manifest["processes"]) == ("finished", 2)


STILL = """import sys
from ktda.loop import Trainer
from ktda.__main__ import main

# BatchNorm's statistics and dropout are those of one process, not of the batch: let both rest
Trainer._set_modes = lambda self: self.model.eval()
sys.exit(main())
"""


def test_a_global_batch_is_the_same_on_one_process_and_on_two(tmp_path: Path) -> None:
    data = make_set(tmp_path / "set", {"train": 8, "val": 3, "test": 3}, spec=SPEC.replace(", c", ""))
    with (data / "dataset.yaml").open("a") as file:
        file.write("ignore_index: 2\n")
    for number, path in enumerate(sorted((data / "ann_dir" / "train").iterdir())):
        mask = np.asarray(Image.open(path)).copy()
        mask[:, : 5 * number] = 2  # the last tile has nearly no pixel that counts
        put_mask(path, mask)
    (tmp_path / "still.py").write_text(STILL)
    distributed = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ways = {  # of a step of four tiles
        "one": ([], {"batch_size": 4}),
        "accumulated": ([], {"batch_size": 2, "accumulate": 2}),
        "two": (distributed, {"batch_size": 2}),
    }
    found = {}
    for name, (launcher, overrides) in ways.items():
        options = as_options(steps=6, evaluate_epochs=1, student_drop_path=0.0, ce_average="valid", **overrides)
        words = ["train", str(data), *options, "--out", str(tmp_path / name)]
        finish([sys.executable, *launcher, "still.py", *words], tmp_path, {"ACCELERATE_USE_CPU": "true"})
        found[name] = results_of(tmp_path / name) | {"weights": load_file(tmp_path / name / "model.safetensors")}
    one = found.pop("one")
    for name, other in found.items():
        assert [line["step"] for line in other["history"]] == [line["step"] for line in one["history"]], name
        for mine, theirs in zip(one["history"], other["history"], strict=True):
            for term in (key for key in mine if "loss" in key or key in ("miou", "select_miou")):
                assert float(theirs[term]) == pytest.approx(float(mine[term]), rel=1e-4), (name, term)
        for key, value in one["weights"].items():
            torch.testing.assert_close(other["weights"][key], value, rtol=1e-3, atol=1e-5, msg=f"{name}: {key}")
        assert other["metrics"]["miou"] == pytest.approx(one["metrics"]["miou"], abs=2e-3)


def test_an_installed_wheel_without_a_checkout(tiny_set: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("ktda-*.whl")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    away = tmp_path / "away"
    away.mkdir()
    environment = ENVIRONMENT | {"PYTHONPATH": str(target)}

    def run(*words: str) -> subprocess.CompletedProcess:
        python = [sys.executable, *words]
        return subprocess.run(python, cwd=away, env=environment, capture_output=True, text=True)

    where = run("-c", "import ktda; print(ktda.__file__)")
    assert where.stdout.strip().startswith(str(target)), where.stderr
    listed = run("-m", "ktda", "data", "list")
    assert "demo_cloud" in listed.stdout, listed.stderr  # the sets' descriptions are in the wheel
    for words in (("notebook", "00_quickstart.ipynb"), ("report",)):
        done = run("-m", "ktda", *words)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "notebook" in done.stderr
        assert "clone" in done.stderr
    trained = run("-m", "ktda", "train", str(tiny_set), *as_options(steps=1), "--out", "run")
    assert trained.returncode == 0, trained.stderr
    assert manifest_of(away / "run")["commit"] is None
