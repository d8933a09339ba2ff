"""What the notebooks share: figures, statistics, simulated worlds, grids, headless runs and the report."""
