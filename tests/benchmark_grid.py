"""Seconds of one run by `ktda train` and as a grid of one row: ``python tests/benchmark_grid.py [ROUNDS] [STEPS]``.

Each is a process of its own with the same settings, in turn and in turning order; all end with the same score.
"""

import json
import statistics
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


def seconds(*words: str) -> float:
    """Wall seconds of one call of the command line."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ktda", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    ratios = {"serial": [], "Snakemake": []}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "one.yaml"
        table.write_text(TABLE.format(data=DATA, steps=steps))
        train = ("train", DATA, "--preset", "grid", "--set")
        seconds(*train, "steps=1", "--out", f"{folder}/first")  # makes the data, fills the caches
        ways = {"train": (*train, f"steps={steps}"), "serial": ("grid", str(table), "--serial")}
        ways["Snakemake"] = ("grid", str(table), "--jobs", "1")
        for number in range(rounds):
            order = list(ways)[number % 3 :] + list(ways)[: number % 3]
            took = {way: seconds(*ways[way], "--out", f"{folder}/{number}/{way}") for way in order}
            scores = {json.loads(path.read_text())["miou"] for path in Path(folder, str(number)).rglob("metrics.json")}
            if len(scores) > 1:
                sys.exit(f"the runs differ: {scores}")
            for way, found in ratios.items():
                found.append(took[way] / took["train"])
            print(", ".join(f"{way} {took[way]:.1f} s" for way in ways), flush=True)
    for way, found in ratios.items():
        print(f"grid by {way} over ktda train, median of {rounds}: {100 * (statistics.median(found) - 1):+.1f} %")


if __name__ == "__main__":
    main()
