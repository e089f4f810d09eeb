"""Where results and data sets are when nobody says."""

from __future__ import annotations

import os
from pathlib import Path

#: The environment variables that name the folders.
RESULTS_VARIABLE = "POISONBENCH_RESULTS"
DATA_VARIABLE = "POISONBENCH_DATA"

#: The folders without them.
DEFAULT_RESULTS = Path("results")
DEFAULT_DATA_ROOT = Path("data")


def results_folder() -> Path:
    """The folder of results that is used untold."""
    return Path(os.environ.get(RESULTS_VARIABLE) or DEFAULT_RESULTS)


def data_folder() -> Path:
    """The folder of data sets that is used untold."""
    return Path(os.environ.get(DATA_VARIABLE) or DEFAULT_DATA_ROOT)
