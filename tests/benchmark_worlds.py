"""Tiles of 128 x 128 pixels a second that `make_world` writes: ``python tests/benchmark_worlds.py [ROUNDS]``."""

import sys
import tempfile
import time
from pathlib import Path

from ktda_lab.worlds import NAMES, make_world

TILES = 96


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name in NAMES:
        wall, processor = [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                started, worked = time.perf_counter(), time.process_time()
                make_world(name, Path(folder) / "set", tiles=TILES, val=0, test=TILES)
                wall.append(time.perf_counter() - started)
                processor.append(time.process_time() - worked)
        tiles = 2 * TILES
        print(
            f"{name}: {tiles / min(wall):.0f} tiles/s (best of {rounds}), "
            f"{1e3 * min(processor) / tiles:.1f} ms of processor time a tile"
        )


if __name__ == "__main__":
    main()
