"""Looking into features and predictions: what the figures and the two explorers of the notebooks show."""
