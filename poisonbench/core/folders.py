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


def folder_options(results: Path, data_root: Path | None = None) -> list[str]:
    """The options that name a command's folders, but for those that it would use untold."""
    folders = (
        ("--results", results, results_folder()),
        ("--data-root", data_root or data_folder(), data_folder()),
    )
    return [word for flag, path, untold in folders if path != untold for word in (flag, str(path))]
