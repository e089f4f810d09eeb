"""Runs: everything around an algorithm, from its options to its artefact or record."""
