"""Tables and a stand-in for 05_training that ends in a second, well or in one of the ways in which runs end badly."""

import os
import subprocess
import sys
from pathlib import Path

from tiny_runs import TINY

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "notebooks")])}

# How a run behaves hangs on the number of steps in its settings; where a file "mended" lies, every run ends well.
FINE, DEAD, HANG, CHATTY, FULL, ORPHAN, FLAKY = range(1, 8)
PARAMETERS = """DATA: str = ""
PRESET: str = "smoke"
SEED: int = 0
OUT: str = ""
OVERRIDES: list[str] = []"""
BODY = f"""
import os, resource, signal, time
from pathlib import Path

from ktda.config import make_config
from ktda.data.folder import data_hash, open_data
from ktda.runs.record import Manifest
from ktda.files import write_json

out, config = Path(OUT), make_config(PRESET, [*OVERRIDES, f"seed={{SEED}}"], DATA)
out.mkdir(exist_ok=True)
with open("started", "a") as file:
    gpu, threads = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")
    print(out.name, os.getpid(), gpu, threads, file=file)
kind = {FINE} if Path("mended").exists() else config.steps
if kind == {DEAD}:
    os.kill(os.getpid(), signal.SIGKILL)
if kind == {HANG}:
    time.sleep(600)
if kind == {CHATTY}:
    for i in range(20_000):
        print("a line of a cell that says too much", i)
if kind == {FULL}:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    (out / "weights").write_bytes(bytes(100_000))
if kind == {ORPHAN}:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
if kind == {FLAKY} and not Path("tried").exists():
    Path("tried").touch()
    raise RuntimeError("only the first time")
time.sleep(1)
scores = dict(split="test", miou=0.5, overall_accuracy=0.5, mean_f1=0.5, best_step=1, seconds=1.0, iou=[0.5, None, 0.5])
write_json(out / "metrics.json", scores | dict(splits={{}}, peak_memory_bytes=1))
Manifest(
    out / "manifest.json",
    config=config.as_dict(),
    config_hash=config.config_hash,
    data={{"hash": data_hash(open_data(DATA)), "classes": ["a", "b", "c"]}},
    machine={{"device": "cpu", "name": ""}},
    parameters={{"trained": 1, "inference": 1, "teacher": 0}},
    inference_gflops=1.0,
).end("finished")
"""


def write_table(path: Path, data: Path | str, rows: dict[str, dict], head: str = "", **settings: object) -> Path:
    """A table with a baseline ``full`` and `rows`: name -> overrides, "gpu" among them for one that needs a GPU."""
    lines = ["question: does it run?", "preset: smoke", f"data: ['{data}']", "baseline: full"]
    lines += [head] if head else []
    lines += [f"settings: {TINY | settings}", "rows:"]
    for name, overrides in {"full": {}, **rows}.items():
        needs = ", needs: gpu" if "gpu" in overrides else ""
        given = {key: value for key, value in overrides.items() if key != "gpu"}
        lines.append(f"  - {{name: {name}, group: tests{f', set: {given}' if given else ''}{needs}}}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_stand_in(path: Path) -> Path:
    """The stand-in notebook."""
    from nbformat import write
    from nbformat.v4 import new_code_cell, new_notebook

    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    write(new_notebook(cells=[parameters, new_code_cell(BODY)]), path)
    return path


def start_grid(
    table: Path, *words: str, notebook: Path | None = None, prefix: str = "", **environment: str
) -> subprocess.Popen:
    """``ktda grid TABLE WORDS...`` in the table's folder, with a stand-in notebook."""
    patch = f"import ktda_lab.grid.engine as e; e.run_grid.__kwdefaults__['notebook'] = {str(notebook)!r}; "
    code = f"import sys; {patch if notebook else ''}from ktda.cli.main import main; main()"
    command = [sys.executable, "-c", code, "grid", str(table), *words]
    if prefix:
        command = ["bash", "-c", f'{prefix}; exec "$@"', "bash", *command]
    return subprocess.Popen(
        command,
        cwd=table.parent,
        env=ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
