"""Statistics, tables and figures of runs over seeds (notebooks 06 and 11)."""
