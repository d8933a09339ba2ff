"""A table of ablations as runs: planned, run, collected."""
