"""Scores from one confusion matrix, evaluation of a run, and figures."""
