"""What results folders hold, read once: records, what is damaged, and what failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from poisonbench.core.errors import ArtefactError
from poisonbench.core.files import read_shared
from poisonbench.results.merging import MergedRecords, PassedOver
from poisonbench.results.records import RunRecord
from poisonbench.results.store import Store
from poisonbench.results.submissions import Submission, read_submission, submissions_in

#: More than any failure or figure's numbers that are written here.
_MAX_BYTES = 2**25


@dataclass(frozen=True)
class Trouble:
    """A file that is damaged, or of a run that failed, and what is wrong in a sentence."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Folders:
    """The content of results folders.

    Attributes:
        stores: the folders.
        records: each run once, in order of id.
        damaged: files that cannot be read; nothing of theirs is shown.
        failed: runs that ended without a record.
        drawn: numbers of figures that were drawn, by the name of their file.
        submissions: files of records from others.
        passed_over: sound files that are not shown: other figures of a run that is, and copies of a
            submission.
    """

    stores: tuple[Store, ...]
    records: tuple[RunRecord, ...]
    damaged: tuple[Trouble, ...]
    failed: tuple[Trouble, ...]
    drawn: tuple[tuple[str, dict[str, Any]], ...]
    submissions: tuple[Submission, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()


def read_folders(paths: Sequence[Path]) -> Folders:
    """Read results folders and submissions; a run that several have is taken from the first."""
    stores = tuple(Store(path) for path in paths if not path.is_file())
    merged = MergedRecords()
    damaged: list[Trouble] = []
    failed: list[Trouble] = []
    drawn: list[tuple[str, dict[str, Any]]] = []
    for store in stores:

        def note(error: ArtefactError, root: Path = store.root) -> None:
            # Messages begin with the file, whose folder is no business of the page's readers.
            path, _, reason = str(error).partition(".json: ")
            damaged.append(Trouble(_shown(Path(f"{path}.json"), root), reason))

        for record in store.records(note):
            merged.add(record, store.run_path(record.id))
        for path in store.failures():
            failed.append(Trouble(_shown(path, store.root), _reason(path)))
        for path in sorted((store.root / "figures").glob("*.json")):
            numbers = _json(path)
            if isinstance(numbers, dict):
                drawn.append((path.stem, numbers))
            else:
                damaged.append(Trouble(_shown(path, store.root), "expected a figure's numbers"))
    submissions: list[Submission] = []
    copies: list[PassedOver] = []
    for path in paths:
        for file in submissions_in(path):
            try:
                submission = read_submission(file)
            except ArtefactError as error:
                damaged.append(Trouble(file.name, str(error).removeprefix(f"{file}: ")))
                continue
            # Whoever hands the same in twice confirms nothing by it.
            same = [one.path for one in submissions if replace(submission, path=one.path) == one]
            if same:
                remark = ", and counts once"
                copies.append(PassedOver(file, same[0], "is the same submission as", remark))
            else:
                submissions.append(submission)
    for submission in submissions:
        for record in submission.records:
            merged.add(record, submission.path / "runs" / f"{record.id}.json")
        for refusal in submission.refused:
            damaged.append(Trouble(f"{submission.path.name}: {refusal.name}", refusal.reason))
    return Folders(
        stores=stores,
        records=tuple(merged.in_order()),
        damaged=tuple(damaged),
        failed=tuple(failed),
        drawn=tuple(drawn),
        submissions=tuple(submissions),
        passed_over=(*merged.contradictions, *copies),
    )


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _json(path: Path) -> Any:
    try:
        return json.loads(read_shared(path)[:_MAX_BYTES])
    except (OSError, ValueError, RecursionError):
        return None


def _reason(path: Path) -> str:
    failure = _json(path)
    reason = failure.get("reason") if isinstance(failure, dict) else None
    return str(reason) if reason else "expected the reason why it failed, got a damaged file"
