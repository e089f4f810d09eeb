"""The simulations of ``verdicts.py``, by what a table compares."""
