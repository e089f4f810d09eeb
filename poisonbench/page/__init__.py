"""The offline page of results folders: one file, made in Python, readable without scripts."""
