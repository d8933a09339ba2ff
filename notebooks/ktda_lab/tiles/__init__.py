"""What is in a data set (notebook 01)."""
