"""Records of several folders and submissions, each run once; what is passed over is named."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from poisonbench.results.records import RunRecord
from poisonbench.results.verification import compare


@dataclass(frozen=True)
class PassedOver:
    """A sound file that is not taken, and the one in whose favour.

    Attributes:
        relation: what stands between their names in a sentence.
        remark: what follows them.
        run: the id, of two records of one run.
    """

    file: Path
    taken: Path
    relation: str
    remark: str
    run: str = ""

    def __str__(self) -> str:
        return f"{self.file} {self.relation} {self.taken}{self.remark}"

    @property
    def without_folders(self) -> str:
        """The sentence with no more of the paths than tells them apart."""
        paths = [Path(os.path.abspath(path)) for path in (self.file, self.taken)]
        top = os.path.commonpath([path.parent for path in paths])
        file, taken = (path.relative_to(top) for path in paths)
        return f"{file} {self.relation} {taken}{self.remark}"


class MergedRecords:
    """Each run once: the record that was added first, which others must agree with.

    Attributes:
        contradictions: those that state other figures of the same run.
    """

    def __init__(self) -> None:
        self.contradictions: list[PassedOver] = []
        self._statements: dict[str, list[tuple[RunRecord, Path]]] = {}

    def add(self, record: RunRecord, file: Path) -> None:
        """Take a record that lies at a path, or hold it against the one that was taken."""
        statements = self._statements.setdefault(record.id, [(record, file)])
        taken, place = statements[0]
        if taken != record and not (comparison := compare(taken, record)).is_same:
            if all(not compare(other, record).is_same for other, _ in statements[1:]):
                statements.append((record, file))
            relation = "has other figures of the same run than"
            remark = f", which is taken: {comparison.verdict}; `poisonbench verify` does it again"
            self.contradictions.append(PassedOver(file, place, relation, remark, record.id))

    def in_order(self) -> list[RunRecord]:
        """The records that were taken, in order of id."""
        return [statements[0][0] for _, statements in sorted(self._statements.items())]

    def statements(self, run_id: str) -> list[tuple[RunRecord, Path]]:
        """The record of a run that was taken and those of other figures, and where each lies."""
        return list(self._statements[run_id])
