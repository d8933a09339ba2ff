"""From predictions to confusion matrices to scores."""
