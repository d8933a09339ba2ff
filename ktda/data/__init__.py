"""Data sets in the authors' layout: reading, checking, fetching, augmenting and simulating them."""
