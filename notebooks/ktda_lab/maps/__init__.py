"""Maps of scenes: where one comes from, what blending does at the borders of tiles, and pictures (notebook 07)."""
