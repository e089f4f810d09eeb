"""Where runs happen: the results folder, the data, the device, the root seed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from poisonbench.core.errors import AbortedError, UsageError
from poisonbench.core.folders import folder_options
from poisonbench.core.memory import keep_freed_memory
from poisonbench.core.progress import Reporter, mute, silent
from poisonbench.core.seeds import Seeds
from poisonbench.data.artefacts import read_poison
from poisonbench.data.poison import Poison
from poisonbench.data.sources import load_dataset
from poisonbench.data.splits import Dataset
from poisonbench.models import default_network
from poisonbench.results.records import ClaimLabel
from poisonbench.results.store import Store
from poisonbench.training.checkpoint import Checkpoint
from poisonbench.training.recipe import Recipe
from poisonbench.training.trainer import Trainer


@dataclass
class RunContext:
    """The surroundings that several runs share.

    Attributes:
        seed: root of every seed.
        report: told of progress.
        say: told of what happens, a line at a time.
        stopping: set by a signal; runs stop at the next safe point.
        plan: the digest of the sweep's plan that asks for the runs, for their records.
        claims: by id, the declared claims that the plan serves, for the records too.
    """

    store: Store
    data_root: Path
    device: torch.device
    seed: int = 0
    report: Reporter = silent
    say: Callable[[str], None] = mute
    stopping: threading.Event = field(default_factory=threading.Event)
    plan: str | None = None
    claims: Mapping[str, ClaimLabel] = field(default_factory=dict)
    _datasets: dict[tuple[str, int], Dataset] = field(default_factory=dict)
    _artefacts: dict[tuple[Path, str], Poison] = field(default_factory=dict)

    @property
    def folder_options(self) -> list[str]:
        """The options by which a command uses the same folders."""
        return folder_options(self.store.root, self.data_root)

    def dataset(self, name: str) -> Dataset:
        """The data set of that name, read once."""
        key = (name, self.seed)
        if key not in self._datasets:
            self._datasets[key] = load_dataset(name, self.data_root, self.seed, say=self.say)
        return self._datasets[key]

    def artefact(self, path: Path, dataset: Dataset) -> Poison:
        """The poison at a path, read once and checked against its data set.

        Raises:
            ArtefactError: see :func:`poisonbench.data.artefacts.read_poison`.
        """
        key = (path, dataset.digest)
        if key not in self._artefacts:
            self._artefacts[key] = read_poison(path, dataset)
        return self._artefacts[key]

    def seeded(self, seed: int) -> RunContext:
        """The same surroundings under another root seed; what was read is shared."""
        return self if seed == self.seed else replace(self, seed=seed)

    def checkpoint(self, run_id: str) -> Checkpoint:
        """The checkpoint of a run."""
        folder = self.store.checkpoint_path(run_id)
        return Checkpoint(folder, run_id, results=self.store.root)

    def trainer(self, recipe: Recipe, seeds: Seeds, run_id: str, name: str) -> Trainer:
        """What trains here, with the checkpoint of a run; the name is of its progress reports."""
        return Trainer(
            recipe=recipe,
            seeds=seeds,
            device=self.device,
            checkpoint=self.checkpoint(run_id),
            report=self.report,
            should_stop=self.stopping.is_set,
            name=name,
        )

    def abort_if_stopping(self) -> None:
        """Raise AbortedError after a signal, where there is no checkpoint to save."""
        if self.stopping.is_set():
            raise AbortedError("interrupted; nothing was written, run the same command again")


def default_model(dataset: Dataset) -> str:
    """The data set's own network, or that which a paper trains on data of this kind."""
    return dataset.network or default_network(dataset.presets)


def find_device(text: str) -> torch.device:
    """The device that a user means by auto, cpu, cuda or cuda:N.

    A GPU computes float32 in float32, and trains to the same bytes for the same spec. The CPU's
    freed memory stays with the process from here on.

    Raises:
        UsageError: unknown, or not on this machine.
    """
    kind, _, number = text.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and (kind != "cuda" or not number.isdigit())):
        raise UsageError(f"--device: expected auto, cpu, cuda or cuda:N, got {text!r}")
    keep_freed_memory()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cpu" or (kind == "auto" and not count):
        return torch.device("cpu")
    if int(number or 0) >= count:
        raise UsageError(
            f"--device: expected a CUDA device that exists, got {text!r} where there are {count}; "
            "use --device cpu"
        )
    # cuBLAS reads it when it first runs.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda", int(number or 0))
