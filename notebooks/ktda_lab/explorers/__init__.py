"""Widgets to turn by hand (notebooks 00 and 02)."""
