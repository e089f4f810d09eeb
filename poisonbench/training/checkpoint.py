"""Saving a run in progress, so that a killed one continues to the same bytes.

Everything random is derived from (seed, trial, epoch, step), so a checkpoint is the model, the
momentum, the defense's memory, the position and, when a defense has edited the training set, its
edits. Edits are large and change rarely: they get a file of their own, written once a change.
"""

import hashlib
import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from poisonbench.core.files import size_of, write_bytes
from poisonbench.data.splits import digest_tensors
from poisonbench.training.state import TrainingSet

_STATE = "state.safetensors"
_UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError)


@dataclass
class Snapshot:
    """A run between two batches."""

    #: JSON values by any name but "edits", "edits_digest" and "run".
    position: dict[str, Any]
    tensors: dict[str, Tensor]
    #: The epoch's training set, or None when it is the original.
    train: TrainingSet | None


class Checkpoint:
    """A folder that holds the last snapshot of one run, made on the first save.

    A snapshot of another run's id is ignored. ``every`` are the seconds between snapshots;
    ``results`` is the results folder that it lies in, if it is in one.
    """

    def __init__(
        self, folder: Path, run_id: str, every: float = 60.0, results: Path | None = None
    ) -> None:
        self.folder, self.run_id, self.every, self.results = folder, run_id, every, results
        self._train: TrainingSet | None = None
        self._edits: dict[str, str | None] = {"edits": None, "edits_digest": None}

    def part(self, name: str) -> "Checkpoint":
        """A checkpoint inside this one, for a training run that belongs to the run."""
        return Checkpoint(self.folder / name, f"{self.run_id}: {name}", self.every, self.results)

    def save(self, snapshot: Snapshot, original: TrainingSet) -> None:
        """Write a snapshot; the old one stays until the new one is whole."""
        train = snapshot.train
        if train is not self._train:
            name = digest = None
            if train is not None:
                edits = _edits(train, original)
                name = f"edits-{snapshot.position['epoch']}.safetensors"
                write_bytes(self.folder / name, save(edits))
                digest = _digest(edits)
            self._train, self._edits = train, {"edits": name, "edits_digest": digest}
        self.write({**snapshot.position, **self._edits}, snapshot.tensors)
        for stale in self.folder.glob("edits-*.safetensors"):
            if stale.name != self._edits["edits"]:
                stale.unlink(missing_ok=True)

    def load(self, original: TrainingSet) -> Snapshot | None:
        """The last snapshot, or None when none of this run can be read."""
        state = self.read()
        if state is None:
            return None
        position, tensors = state
        train = None
        try:
            names = {key: position.pop(key) for key in self._edits}
            if names["edits"] is not None:
                edits = load_file(self.folder / names["edits"])
                if names["edits_digest"] != _digest(edits):
                    return None
                train = _apply(edits, original)
        except _UNREADABLE:
            return None
        self._train, self._edits = train, names
        return Snapshot(position, tensors, train)

    def write(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write tensors and JSON values; what was written before stays until these are whole."""
        # Copies, because safetensors refuses tensors that share memory, as a defense's may.
        copies = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        header = json.dumps({**position, "run": self.run_id})
        metadata = {"position": header, "seal": seal_of_tensors(header, copies)}
        write_bytes(self.folder / _STATE, save(copies, metadata))

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What :meth:`write` wrote last, or None when nothing of this run can be read."""
        path = self.folder / _STATE
        try:
            with safe_open(path, framework="pt") as stream:
                metadata = stream.metadata()
            position = json.loads(metadata["position"])
            tensors = load_file(path)
            is_whole = metadata["seal"] == seal_of_tensors(metadata["position"], tensors)
            return (position, tensors) if position.pop("run") == self.run_id and is_whole else None
        except _UNREADABLE:
            return None

    def exists(self) -> bool:
        """Whether something was saved, readable or not."""
        return (self.folder / _STATE).exists()

    def where(self) -> str:
        """Where it lies and how large it is, for the message of the run that leaves it."""
        text = f"{self.folder}, {size_of(self.folder) / 1e6:.1f} MB"
        if self.results is None:
            return text
        command = shlex.join(["poisonbench", "sweep", "gc", "--results", str(self.results)])
        return f"{text}, which `{command}` lists"

    def discard(self) -> None:
        """Remove the folder; the record has taken its place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def seal_of_tensors(text: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 of a text and of tensors with their names: a bit that flips must not go unseen."""
    return hashlib.sha256(f"{text} {_digest(tensors)}".encode()).hexdigest()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    names = sorted(tensors)
    return f"{json.dumps(names)} {digest_tensors(*(tensors[name] for name in names))}"


def _edits(train: TrainingSet, original: TrainingSet) -> dict[str, Tensor]:
    """The rows that differ from the original, with their pixels, and the mask of kept rows."""
    tensors: dict[str, Tensor] = {}
    if train.images is not original.images:
        changed = [
            (train.pixels(part) != original.pixels(part)).flatten(1).any(1)
            for part in torch.arange(len(train), device=train.labels.device).split(4096)
        ]
        rows = torch.cat(changed).nonzero().flatten()
        tensors = {"rows": rows.cpu(), "pixels": train.images[rows].cpu().contiguous()}
    if train.keep is not None:
        tensors["keep"] = train.keep.cpu()
    return tensors


def _apply(edits: dict[str, Tensor], original: TrainingSet) -> TrainingSet:
    device, train = original.labels.device, original
    if "rows" in edits:
        pixels, images = edits["pixels"].to(device), original.images
        images = images.clone() if pixels.dtype == torch.uint8 else images.float().div_(255)
        images[edits["rows"].to(device)] = pixels
        train = train.with_images(images)
    return train.with_keep(edits["keep"].to(device)) if "keep" in edits else train


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with names that begin with the prefix and a dot."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the tensors that :func:`under` gave such names, by their own."""
    start = f"{prefix}."
    return {n.removeprefix(start): tensor for n, tensor in tensors.items() if n.startswith(start)}
