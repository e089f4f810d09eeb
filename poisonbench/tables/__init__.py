"""The papers' tables: which runs make which cell."""
