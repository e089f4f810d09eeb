"""Submissions: a results folder's records and poison cards in one file, to hand on. No torch.

``NAME.submission.zip`` holds ``submission.json``, ``runs/ID.json`` and ``poisons/ID/card.json``,
the bytes of the folder's own files. The first states who submits, the machines and versions, and
the sha256 of every other file, under a seal. The same folder gives the same bytes. A file of
somebody else's is never unpacked to disk: names, links and sizes are checked, and what was edited
is refused by name. Seals tell of edits, not of lies: ``poisonbench verify`` runs records again.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from poisonbench import __version__
from poisonbench.core.archives import Limits, checked_names, read_part, zip_bytes
from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.core.files import read_shared
from poisonbench.results.merging import MergedRecords
from poisonbench.results.records import RunRecord, parse_record, read_record
from poisonbench.results.store import Store
from poisonbench.specs import PoisonCard, seal_of

SUFFIX = ".submission.zip"
MANIFEST = "submission.json"
SCHEMA = 1

#: More than any honest submission has.
LIMITS = Limits(archive=2**28, part=2**24, total=2**30, files=50_000)

_PARTS = re.compile(r"runs/[0-9a-f]{16}\.json|poisons/[0-9a-f]{16}/card\.json|submission\.json")

#: What of a record's environment is the run's own, and not the machine's.
_OF_RUN = ("plan", "started", "finished")


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a submission says of itself.

    Attributes:
        machines: environments of the records, each once, and how many ``runs`` it has.
        started, finished: of the first and the last run, in UTC.
        files: sha256 of every other file, by its name.
    """

    kind: Literal["submission"] = "submission"
    schema: Literal[1] = 1
    submitter: str
    note: str
    poisonbench: str
    machines: list[dict[str, Any]]
    started: str
    finished: str
    files: dict[str, str]
    seal: str = ""


@dataclass(frozen=True)
class Refusal:
    """A file inside a submission that is refused, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One submission as it was read: what is sound, and what is refused."""

    path: Path
    manifest: Manifest
    records: tuple[RunRecord, ...]
    cards: dict[str, PoisonCard]
    refused: tuple[Refusal, ...]


def pack(store: Store, submitter: str, note: str = "") -> tuple[bytes, Manifest]:
    """The submission of a results folder: its bytes, and what it says of itself.

    Raises:
        ArtefactError: a record or card that cannot be read or was edited; all are named.
        UsageError: no records.
    """
    parts: dict[str, bytes] = {}
    records: list[RunRecord] = []
    faults: list[str] = []
    for path in store.record_paths():
        try:
            records.append(read_record(path))
            parts[f"runs/{path.name}"] = read_shared(path)
        except ArtefactError as error:
            faults.append(str(error))
    for path in store.poison_paths():
        try:
            data = read_shared(path / "card.json")
            read_card(data, path.name)
            parts[f"poisons/{path.name}/card.json"] = data
        except (OSError, ArtefactError) as error:
            faults.append(f"{path / 'card.json'}: {error}")
    if faults:
        raise ArtefactError(f"{len(faults)} file(s) cannot be submitted: " + " | ".join(faults))
    if not records:
        raise UsageError(
            f"expected a results folder with run records, got {store.root} without any; make some "
            "with `poisonbench defend`"
        )
    manifest = Manifest(
        submitter=submitter,
        note=note,
        poisonbench=__version__,
        machines=_machines(records),
        started=min(record.environment.started for record in records),
        finished=max(record.environment.finished for record in records),
        files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(parts.items())},
    )
    fields = msgspec.to_builtins(manifest)
    manifest = msgspec.structs.replace(manifest, seal=seal_of(fields))
    text = json.dumps(msgspec.to_builtins(manifest), indent=1, sort_keys=True) + "\n"
    return zip_bytes([(MANIFEST, text.encode()), *sorted(parts.items())]), manifest


def read_submission(path: Path) -> Submission:
    """Read a submission; records and cards that were edited or damaged are refused by name.

    Raises:
        ArtefactError: no submission, a hostile archive, or one whose own statement was edited.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = checked_names(archive, path, _PARTS, LIMITS)
            parts = {name: read_part(archive, name, LIMITS.part) for name in names}
        manifest = _manifest(parts.pop(MANIFEST, b""))
    except ArtefactError as error:
        raise _refused(path, str(error)) from None
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _refused(path, f"expected a submission, got {error}") from None
    except RuntimeError as error:
        # Of zipfile: encrypted, or (NotImplementedError, one of these) compressed otherwise.
        raise _refused(path, f"expected a plain zip archive, got {error}") from None
    records: list[RunRecord] = []
    cards: dict[str, PoisonCard] = {}
    refused = []
    for name in sorted({*parts, *manifest.files}):
        try:
            part = _stated(name, parts.get(name), manifest)
            if name.startswith("runs/"):
                record = parse_record(part, path / name)
                if name != f"runs/{record.id}.json":
                    raise ArtefactError(f"expected the record of its name, got {record.id}")
                records.append(record)
            else:
                poison_id = name.split("/")[1]
                cards[poison_id] = read_card(part, poison_id)
        except ArtefactError as error:
            refused.append(Refusal(name, str(error).removeprefix(f"{path / name}: ")))
    return Submission(
        path=path,
        manifest=manifest,
        records=tuple(records),
        cards=cards,
        refused=tuple(refused),
    )


def submissions_in(path: Path) -> list[Path]:
    """The submissions that a path names: itself, or those in a folder, by name."""
    if path.is_dir():
        return sorted(file for file in path.glob(f"*{SUFFIX}") if file.is_file())
    return [path] if path.is_file() else []


def records_at(path: Path, on_error: Callable[[ArtefactError], None]) -> list[RunRecord]:
    """The records of a results folder, a submission or a folder of submissions, each run once.

    What cannot be read goes to ``on_error``, and so does what states other figures of a run.

    Raises:
        ArtefactError: the path is a file that is no submission.
    """
    merged = MergedRecords()
    add_records(merged, path, on_error)
    for contradiction in merged.contradictions:
        on_error(ArtefactError(str(contradiction)))
    return merged.in_order()


def add_records(
    merged: MergedRecords, path: Path, on_error: Callable[[ArtefactError], None]
) -> None:
    """Add the records of a results folder, a submission or a folder of submissions.

    What cannot be read goes to ``on_error``.

    Raises:
        ArtefactError: the path is a file that is no submission.
    """
    store = Store(path)
    for record in [] if path.is_file() else store.records(on_error):
        merged.add(record, store.run_path(record.id))
    for file in submissions_in(path):
        try:
            submission = read_submission(file)
        except ArtefactError as error:
            if path.is_file():
                raise
            on_error(error)
            continue
        for refusal in submission.refused:
            on_error(ArtefactError(f"{file}: {refusal.name}: {refusal.reason}"))
        for record in submission.records:
            merged.add(record, file / "runs" / f"{record.id}.json")


def read_card(data: bytes, poison_id: str) -> PoisonCard:
    """A poison's card, held against its seal and its name in the folder."""
    try:
        fields = json.loads(data)
        card = msgspec.convert(fields, PoisonCard)
        is_whole = card.seal == seal_of(fields)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ArtefactError(f"expected the card of a poison, got a fault: {error}") from None
    if not is_whole:
        raise ArtefactError("expected the card that was sealed, got an edited one")
    if spec_id(card.spec) != poison_id:
        raise ArtefactError(f"expected the card of {poison_id}, got that of {spec_id(card.spec)}")
    return card


def _manifest(data: bytes) -> Manifest:
    try:
        fields = json.loads(data)
        manifest = msgspec.convert(fields, Manifest)
        is_whole = manifest.seal == seal_of(fields)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ArtefactError(f"expected a {MANIFEST} of schema {SCHEMA}, got {error}") from None
    if not is_whole:
        raise ArtefactError(f"expected the {MANIFEST} that was sealed, got an edited one")
    return manifest


def _stated(name: str, data: bytes | None, manifest: Manifest) -> bytes:
    """A part with the digest that the manifest states."""
    stated = manifest.files.get(name)
    if data is None:
        raise ArtefactError("expected it in the archive, as stated, got none: it was taken out")
    if stated is None:
        raise ArtefactError(f"expected only files that {MANIFEST} states, got one added to them")
    if hashlib.sha256(data).hexdigest() != stated:
        raise ArtefactError("expected the file that was submitted, got an edited one")
    return data


def _machines(records: list[RunRecord]) -> list[dict[str, Any]]:
    counts: dict[str, int] = {}
    for record in records:
        fields = msgspec.to_builtins(record.environment)
        text = json.dumps({n: v for n, v in fields.items() if n not in _OF_RUN}, sort_keys=True)
        counts[text] = counts.get(text, 0) + 1
    return [{**json.loads(text), "runs": count} for text, count in sorted(counts.items())]


def _refused(path: Path, reason: str) -> ArtefactError:
    return ArtefactError(f"{path}: {reason}; ask its submitter for the file anew")
