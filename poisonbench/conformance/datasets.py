"""The promises of a data set."""

from pathlib import Path
from types import ModuleType
from typing import Any

from poisonbench.conformance.check import expect
from poisonbench.conformance.problem import global_generators_kept
from poisonbench.core.errors import UsageError
from poisonbench.entries import DatasetEntry


class DatasetChecks:
    """A data set: the same images each time, and labels of its classes."""

    def __init__(self, entry: DatasetEntry, module: ModuleType) -> None:
        self._entry, self._module = entry, module

    def _load(self) -> Any:
        from poisonbench.core.folders import data_folder

        if self._entry.takes_path:
            raise UsageError(
                f"expected a data set without a path, got {self._entry.pattern}; look at it by "
                f"`poisonbench data show {self._entry.pattern}`"
            )
        return self._module.load(self._entry.name, Path(), data_folder())

    def determinism(self) -> None:
        """Two calls give the same images, and no global generator is used."""
        with global_generators_kept():
            first, second = self._load(), self._load()
        same = first.train.digest() == second.train.digest()
        expect(same, "the same images from a second call", "others", "draw by a fixed seed")

    def labels(self) -> None:
        """Every class has images in both splits."""
        raw = self._load()
        count = len(raw.class_names)
        for split in (raw.train, raw.test):
            present = sorted(set(split.labels.tolist()))
            expect(
                present == list(range(count)), f"labels 0..{count - 1}", present, "mend class_names"
            )
