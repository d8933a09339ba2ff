"""Seconds of one run by `ktda train` and as a grid of one row: ``python tests/benchmark_grid.py [PAIRS] [STEPS]``.

Each is a process of its own with the same settings, in turn; both end with a run folder that holds the same score.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATA = "lab_cloud"
TABLE = """question: What does the engine cost?
preset: grid
data: [{data}]
baseline: ktda
settings: {{steps: {steps}}}
rows: [{{name: ktda, group: method}}]
"""


def seconds(*arguments: str) -> float:
    """Wall seconds of one call of the command line."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ktda", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def score(run: Path) -> float:
    """mIoU of a run folder."""
    return json.loads((run / "metrics.json").read_text())["miou"]


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "one.yaml"
        table.write_text(TABLE.format(data=DATA, steps=steps))
        for pair in range(pairs):
            alone, engine = Path(folder) / f"train_{pair}", Path(folder) / f"grid_{pair}"
            train = seconds("train", DATA, "--preset", "grid", "--set", f"steps={steps}", "--out", str(alone))
            grid = seconds("grid", str(table), "--serial", "--out", str(engine))
            (run,) = (path.parent for path in (engine / "runs").glob("*/metrics.json"))
            assert score(run) == score(alone), "the two runs differ"
            ratios.append(grid / train)
            print(
                f"ktda train {train:.1f} s, grid of one run {grid:.1f} s: {100 * (grid / train - 1):+.1f} %", flush=True
            )
    print(f"median overhead of {pairs} pairs: {100 * (sorted(ratios)[pairs // 2] - 1):+.1f} %")


if __name__ == "__main__":
    main()
