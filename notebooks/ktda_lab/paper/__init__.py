"""The paper's tables, read with care (notebook 08)."""
