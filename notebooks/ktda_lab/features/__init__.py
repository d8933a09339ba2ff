"""What a teacher sees (notebooks 02 and 04)."""
