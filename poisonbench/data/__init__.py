"""Data sets, poisons and how they mix."""
