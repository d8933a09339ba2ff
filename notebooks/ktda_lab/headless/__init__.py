"""Notebooks without a browser: parameters, kernel, one run, all of them."""
