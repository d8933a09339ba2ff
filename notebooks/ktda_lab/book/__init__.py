"""The report as a book: its pages as text, and Sphinx over them and the executed notebooks."""
