"""A trained model for others: a folder with a card, a hub entry, a file without Python."""
