"""The modules step by step (notebooks 03 and 04)."""
