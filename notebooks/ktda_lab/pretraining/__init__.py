"""How the shipped teacher and student learned, without labels (notebook 10)."""
