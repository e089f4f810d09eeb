"""The results folder: where everything lies, and how a file appears there whole or not at all.

results/runs/<id>.json            run records; existence means done
results/runs/<id>.failed.json     why a run could not finish (never averaged into a table)
results/poisons/<id>/             poison.safetensors, card.json, preview.png
results/crafting/<id>.json        what crafting a poison, or training a shared copy, took
results/models/<id>.safetensors   trained surrogates and, on request, victims
results/checkpoints/<id>/         state of runs in progress
results/sweep/leases/<id>.lease   who is at work on a job of a plan
results/sweep/failed/<id>.json    why a job of a plan failed
results/sweep/logs/<id>.log       what a job of a plan printed
results/sweep/slurm/<digest>      a plan that SLURM may have tasks of
"""

import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from poisonbench.core.errors import ArtefactError
from poisonbench.core.files import store_errors, write_text
from poisonbench.results.records import RunRecord, read_record
from poisonbench.specs import RunSpec

#: How what a shared copy took is told from what an attack took, by the end of its name.
COPY = "-copy"


class CraftingCost(msgspec.Struct, frozen=True):
    """What crafting some poisons in one go took, or training a copy that runs share."""

    dataset: str
    attack: str
    poisons: int
    seconds: float


class Store:
    """A results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run_path(self, run_id: str) -> Path:
        """The file of a run's record."""
        return self.root / "runs" / f"{run_id}.json"

    def failure_path(self, run_id: str) -> Path:
        """The file of the reason why a run failed."""
        return self.root / "runs" / f"{run_id}.failed.json"

    def poison_path(self, poison_id: str) -> Path:
        """The folder of a poison artefact."""
        return self.root / "poisons" / poison_id

    def crafting_path(self, poison_id: str) -> Path:
        """The file of what crafting a poison, or several together, took."""
        return self.root / "crafting" / f"{poison_id}.json"

    def model_path(self, model_id: str) -> Path:
        """The file of a trained model."""
        return self.root / "models" / f"{model_id}.safetensors"

    def checkpoint_path(self, run_id: str) -> Path:
        """The folder of a run's checkpoint."""
        return self.root / "checkpoints" / run_id

    @property
    def sweep(self) -> Path:
        """The folder of what sweeps remember: leases, failures, logs, plans."""
        return self.root / "sweep"

    @property
    def plans(self) -> Path:
        """The folder of copies of the plans that sweeps ran."""
        return self.sweep / "plans"

    def check_writable(self) -> None:
        """Create, write, rename and delete a small file in the folder and in those inside it.

        So that a run finds out before its long work, not after it.

        Raises:
            StoreError: any of these fails.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        inner = [self.root / name for name in ("runs", "poisons", "models", "checkpoints")]
        for folder in (self.root, *(path for path in inner if os.path.lexists(path))):
            with store_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / probe
                path.write_bytes(b"probe")
                path.replace(folder / f"{probe}.done")
                (folder / f"{probe}.done").unlink()

    def write_record(self, record: RunRecord) -> Path:
        """Publish a record; its existence is the commit. Clears an earlier failure."""
        path = self.run_path(record.id)
        write_text(path, record.to_json())
        self.failure_path(record.id).unlink(missing_ok=True)
        return path

    def write_failure(
        self, run_id: str, spec: RunSpec, reason: str, epoch: int | None = None
    ) -> Path:
        """Record why a run failed, and in which epoch, from 1; it stays to be run."""
        path = self.failure_path(run_id)
        failure = {"id": run_id, "state": "failed", "epoch": epoch, "reason": reason}
        failure["spec"] = msgspec.to_builtins(spec)
        write_text(path, json.dumps(failure, indent=1) + "\n")
        return path

    def poison_paths(self) -> list[Path]:
        """The folders of all poisons, in order of id."""
        return sorted((self.root / "poisons").glob("[!.]*"))

    def record_paths(self) -> list[Path]:
        """The files of all records, in order of id."""
        paths = sorted((self.root / "runs").glob("[!.]*.json"))
        return [path for path in paths if not path.name.endswith(".failed.json")]

    def failures(self) -> list[Path]:
        """The files of the reasons of runs that failed and have not been done since."""
        return sorted((self.root / "runs").glob("*.failed.json"))

    def crafting(self) -> list[CraftingCost]:
        """What crafting took, as far as it is known; no result depends on it."""
        paths = sorted((self.root / "crafting").glob("[!.]*.json"))
        costs = (self.crafting_cost(path.stem) for path in paths)
        return [cost for cost in costs if cost is not None]

    def crafting_cost(self, made_id: str) -> CraftingCost | None:
        """What crafting a poison or training a copy took; null if that is not known."""
        with suppress(OSError, ValueError):
            return msgspec.json.decode(self.crafting_path(made_id).read_bytes(), type=CraftingCost)
        return None

    def write_crafting_cost(self, made_id: str, cost: CraftingCost) -> None:
        """Keep what crafting a poison or training a copy took."""
        write_text(self.crafting_path(made_id), msgspec.json.encode(cost).decode() + "\n")

    def records(self, on_error: Callable[[ArtefactError], None]) -> list[RunRecord]:
        """Read every record, in order of id; unreadable ones go to ``on_error``."""
        records = []
        for path in self.record_paths():
            try:
                records.append(read_record(path))
            except ArtefactError as error:
                on_error(error)
        return records
