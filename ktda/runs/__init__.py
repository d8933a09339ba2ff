"""What a run leaves behind: manifest, checkpoint, weights, executed notebooks, report."""
