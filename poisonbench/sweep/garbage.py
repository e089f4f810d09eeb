"""What killed processes leave behind: temporary files, dead leases, checkpoints of what is done."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from poisonbench.core.errors import StoreError
from poisonbench.core.files import size_of
from poisonbench.results.store import Store
from poisonbench.sweep.lease import Leases

#: Seconds after which a temporary file cannot be in use: a write lasts seconds.
STALE = 3600.0

_FOLDERS = (
    *("", "runs", "poisons", "models", "checkpoints"),
    *("sweep", "sweep/leases", "sweep/failed", "sweep/slurm"),
)


@dataclass(frozen=True)
class Garbage:
    """A file or folder that nothing needs, and why."""

    path: Path
    why: str
    size: int


def find_garbage(store: Store, stale: float = STALE) -> list[Garbage]:
    """Everything in a results folder that can be deleted without losing work.

    Args:
        store: the folder.
        stale: seconds without a change after which a temporary file is nobody's.
    """
    garbage = [
        Garbage(path, why, size_of(path))
        for path, why in (
            *_temporary(store, time.time() - stale),
            *_dead_leases(store),
            *_orphan_checkpoints(store),
        )
    ]
    return sorted(garbage, key=lambda item: item.path)


def unfinished_checkpoints(store: Store) -> list[Garbage]:
    """The checkpoints of runs that were interrupted, or are under way; they are to be kept."""
    return [
        Garbage(path, "checkpoint of an unfinished run: kept, its command continues", size_of(path))
        for path in _entries(store.root / "checkpoints")
        if not path.name.startswith(".") and not _why_orphan(store, path.name)
    ]


def delete(garbage: Garbage) -> None:
    """Delete one; gone already is well.

    Raises:
        StoreError: it cannot be deleted.
    """
    try:
        if garbage.path.is_dir():
            shutil.rmtree(garbage.path)
        else:
            garbage.path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"expected to delete {garbage.path}, got {error.strerror}") from None


def _temporary(store: Store, before: float) -> Iterator[tuple[Path, str]]:
    checkpoints = [path for path in (store.root / "checkpoints").rglob("*") if path.is_dir()]
    for folder in (*(store.root / name for name in _FOLDERS), *checkpoints):
        for path in _entries(folder):
            if path.name.startswith(".") and (path.suffix == ".tmp" or ".probe-" in path.name):
                with suppress(OSError):
                    if path.stat().st_mtime < before:
                        yield path, "temporary file of a process that was killed"


def _dead_leases(store: Store) -> Iterator[tuple[Path, str]]:
    leases = Leases(store.sweep / "leases")
    for path in _entries(leases.folder):
        if path.suffix == ".lease" and not path.name.startswith("."):
            lease = leases.read(path.stem)
            if lease is not None and not lease.is_alive(leases.me):
                yield path, "lease of a process that is gone"


def _orphan_checkpoints(store: Store) -> Iterator[tuple[Path, str]]:
    for path in _entries(store.root / "checkpoints"):
        if reason := _why_orphan(store, path.name):
            yield path, reason


def _why_orphan(store: Store, job_id: str) -> str:
    """Why nothing will continue from the checkpoint of a job; empty while something may."""
    results = (store.run_path(job_id), store.model_path(job_id), store.poison_path(job_id))
    if any(path.exists() for path in results):
        return "checkpoint of what is done"
    return "checkpoint of a run that diverged" if store.failure_path(job_id).exists() else ""


def _entries(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in sorted(os.listdir(folder))]
    except OSError:
        return []
