"""The results folder: where everything lies, and how a file appears there whole or not at all.

results/runs/<id>.json            run records; existence means done
results/runs/<id>.failed.json     why a run could not finish (never averaged into a table)
results/poisons/<id>/             poison.safetensors, card.json, preview.png
results/models/<id>.safetensors   trained surrogates and, on request, victims
results/checkpoints/<id>/         state of runs in progress
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poisonbench.errors import ArtefactError, StoreError
from poisonbench.results.records import RunRecord, read_record


class Store:
    """A results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run_path(self, run_id: str) -> Path:
        """Where a run's record lies or will lie."""
        return self.root / "runs" / f"{run_id}.json"

    def failure_path(self, run_id: str) -> Path:
        """Where the reason lies why a run failed."""
        return self.root / "runs" / f"{run_id}.failed.json"

    def poison_path(self, poison_id: str) -> Path:
        """The folder of a poison artefact."""
        return self.root / "poisons" / poison_id

    def model_path(self, model_id: str) -> Path:
        """The file of a trained model."""
        return self.root / "models" / f"{model_id}.safetensors"

    def checkpoint_path(self, run_id: str) -> Path:
        """The folder of a run's checkpoint."""
        return self.root / "checkpoints" / run_id

    def check_writable(self) -> None:
        """Create, write, rename and delete a small file: found before the long run, not after it.

        Raises:
            StoreError: any of these fails.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        with store_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            path = self.root / probe
            path.write_bytes(b"probe")
            path.replace(self.root / f"{probe}.done")
            (self.root / f"{probe}.done").unlink()

    def write_record(self, record: RunRecord) -> Path:
        """Publish a record; its existence is the commit. Clears an earlier failure."""
        path = self.run_path(record.id)
        write_text(path, record.to_json())
        self.failure_path(record.id).unlink(missing_ok=True)
        return path

    def write_failure(self, run_id: str, spec: dict[str, Any], reason: str) -> Path:
        """Record why a run failed; it stays to be run."""
        path = self.failure_path(run_id)
        write_text(
            path, json.dumps({"id": run_id, "spec": spec, "reason": reason}, indent=1) + "\n"
        )
        return path

    def records(self, on_error: Callable[[ArtefactError], None]) -> list[RunRecord]:
        """Every readable record, in order of id; unreadable ones go to ``on_error``."""
        found = []
        for path in sorted((self.root / "runs").glob("*.json")):
            if path.name.endswith(".failed.json"):
                continue
            try:
                found.append(read_record(path))
            except ArtefactError as error:
                on_error(error)
        return found


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn an operating-system error on writing into a StoreError that names the folder."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write to {path}: {error.strerror or error}; "
            "choose another folder with --results or make room in this one"
        ) from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all.

    A temporary file in the same folder is flushed to disk and renamed over the target.

    Raises:
        StoreError: the folder cannot be written or is full.
    """
    with store_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        )
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` for text, in UTF-8."""
    write_bytes(path, text.encode())


def publish_folder(target: Path, files: dict[str, bytes]) -> None:
    """Make a folder of files appear whole or not at all; one already there wins.

    Raises:
        StoreError: the folder cannot be written or is full.
    """
    with store_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(
            tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        )
        try:
            for name, data in files.items():
                write_bytes(staging / name, data)
            os.chmod(staging, 0o755)
            try:
                staging.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
            _sync_folder(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
