"""From a trained model and an image of any size to a map, strip by strip."""
