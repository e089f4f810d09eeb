"""What killed processes leave behind: temporary files, dead leases, checkpoints of what is done.

And copies of networks that filters share, which only save time and take room.
"""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from poisonbench.core.errors import StoreError
from poisonbench.core.files import size_of
from poisonbench.results.store import COPY, Store
from poisonbench.sweep.lease import Leases

#: Seconds after which a temporary file cannot be in use: a write lasts seconds.
STALE = 3600.0

_FOLDERS = (
    *("", "runs", "poisons", "crafting", "models", "checkpoints"),
    *("sweep", "sweep/leases", "sweep/failed", "sweep/slurm", "sweep/plans"),
)


@dataclass(frozen=True)
class Garbage:
    """A file or folder that nothing needs, and why."""

    path: Path
    why: str
    size: int


def find_garbage(store: Store, stale: float = STALE) -> list[Garbage]:
    """Everything in a results folder that can be deleted without losing work.

    ``stale`` seconds without a change make a temporary file nobody's.
    """
    before = time.time() - stale
    leases = Leases(store.sweep / "leases")
    folders = [store.root / name for name in _FOLDERS]
    folders += [path for path in (store.root / "checkpoints").rglob("*") if path.is_dir()]
    reasons = {path: why for path, why in _checkpoints(store).items() if why} | _copies(store)
    for path in chain.from_iterable(map(_entries, folders)):
        is_hidden = path.name.startswith(".")
        if is_hidden and (path.suffix == ".tmp" or ".probe-" in path.name):
            with suppress(OSError):
                if path.stat().st_mtime < before:
                    reasons[path] = "temporary file of a process that was killed"
        elif not is_hidden and path == leases.path(path.stem):
            lease = leases.read(path.stem)
            if lease is not None and not lease.is_alive(leases.me):
                reasons[path] = "lease of a process that is gone"
    return [Garbage(path, why, size_of(path)) for path, why in sorted(reasons.items())]


def unfinished_checkpoints(store: Store) -> list[Garbage]:
    """The checkpoints of runs that were interrupted, or are under way; they are to be kept."""
    return [
        Garbage(path, "checkpoint of an unfinished run: kept, its command continues", size_of(path))
        for path, why in _checkpoints(store).items()
        if not why and not path.name.startswith(".")
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
            garbage.path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"expected to delete {garbage.path}, got {error.strerror}") from None


def _checkpoints(store: Store) -> dict[Path, str]:
    """Why nothing will continue from each checkpoint; empty where something may."""
    reasons = {}
    for path in _entries(store.root / "checkpoints"):
        results = (store.model_path, store.poison_path)
        is_done = any(path_of(path.name).exists() for path_of in results)
        if is_done or _is_older(path, store.run_path(path.name)):
            reasons[path] = "checkpoint of what is done"
        else:
            has_failed = store.failure_path(path.name).exists()
            reasons[path] = "checkpoint of a run that diverged" if has_failed else ""
    return reasons


def _is_older(checkpoint: Path, record: Path) -> bool:
    """Whether it is of the training that made the record, and not of one for its weights since."""
    with suppress(OSError):
        latest = max((path.stat().st_mtime for path in checkpoint.rglob("*")), default=0.0)
        return latest <= record.stat().st_mtime
    return False


def _copies(store: Store) -> dict[Path, str]:
    """The copies that filters share, and the files of what they took."""
    reasons: dict[Path, str] = {}
    for path in _entries(store.root / "crafting"):
        cost = store.crafting_cost(path.stem)
        if cost is not None and cost.attack.endswith(COPY):
            model = store.model_path(path.stem)
            why = "copy of a network that filters share: the next one trains it again"
            reasons |= {one: why for one in (path, model) if one.exists()}
    return reasons


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
