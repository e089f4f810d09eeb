"""Where results and data sets are when nobody says."""

import os
from pathlib import Path

#: The environment variables that name the folders.
RESULTS_VARIABLE = "POISONBENCH_RESULTS"
DATA_VARIABLE = "POISONBENCH_DATA"

#: The folders without them.
DEFAULT_RESULTS = Path("results")
DEFAULT_DATA_ROOT = Path("data")


def results_folder(folder: str | Path | None = None) -> Path:
    """The folder of results: the one named, else that of the environment, else the default."""
    return Path(folder or os.environ.get(RESULTS_VARIABLE) or DEFAULT_RESULTS)


def data_folder(folder: str | Path | None = None) -> Path:
    """The folder of data sets: the one named, else that of the environment, else the default."""
    return Path(folder or os.environ.get(DATA_VARIABLE) or DEFAULT_DATA_ROOT)
