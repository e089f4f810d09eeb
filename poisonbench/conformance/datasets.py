"""The promises of a data set."""

from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from poisonbench.conformance.check import expect
from poisonbench.conformance.problem import global_generators_kept
from poisonbench.core.errors import UsageError
from poisonbench.core.folders import data_folder
from poisonbench.data.sources import checked
from poisonbench.data.splits import RawData, Split
from poisonbench.entries import DatasetEntry


class DatasetChecks:
    """A data set: the same images each time, and labels of its classes."""

    def __init__(self, entry: DatasetEntry, module: ModuleType, path: str) -> None:
        if entry.takes_path != bool(path):
            expected = entry.pattern if entry.takes_path else f"{entry.name} without a path"
            raise UsageError(
                f"expected {expected}, got {f'the path {path}' if path else 'no path'}; write it "
                "behind a colon, of a file as FILE.py:PATH, where the data set takes one"
            )
        self._entry, self._module, self._path = entry, module, path

    def _load(self) -> RawData:
        arguments = (self._entry.name, Path(self._path).expanduser(), data_folder())
        # Without a size, as the name has none.
        more = (None,) if self._entry.takes_size else ()
        raw = self._module.load(*arguments, *more)
        expect(isinstance(raw, RawData), "RawData of load", type(raw).__name__, "return RawData")
        return checked(self._entry.name, self._entry, raw)

    def determinism(self) -> None:
        """Two calls give the same splits, names, mean and std, and use no global generator."""
        with global_generators_kept():
            first, second = _parts(self._load()), _parts(self._load())
        others = [name for name in first if first[name] != second[name]]
        expect(
            not others,
            "the same data from a second call",
            f"another {', '.join(others)}",
            "draw by a fixed seed",
        )

    def labels(self) -> None:
        """Every class has images in both splits."""
        raw = self._load()
        names = raw.class_names
        count = len(names) if names else int(raw.train.labels.max()) + 1
        for split in (raw.train, raw.test):
            present = sorted(set(split.labels.tolist()))
            expect(
                present == list(range(count)), f"labels 0..{count - 1}", present, "mend class_names"
            )


def _parts(raw: RawData) -> dict[str, Any]:
    """What a data set is of, by name, as values that can be compared."""
    values = {field.name: getattr(raw, field.name) for field in fields(raw)}
    return {
        name: value.digest() if isinstance(value, Split) else value
        for name, value in values.items()
    }
