"""From the folders that people have to the authors' layout: ``ktda data import``."""
