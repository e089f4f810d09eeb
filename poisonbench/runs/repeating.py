"""Repeating: a run that a record tells of, done again in a folder of its own."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.core.files import publish_folder
from poisonbench.data.artefacts import CARD_NAME
from poisonbench.data.splits import digest_tensors
from poisonbench.requests import RunRequest
from poisonbench.results.records import RunRecord
from poisonbench.results.store import Store
from poisonbench.results.verification import Comparison, compare
from poisonbench.runs.context import RunContext
from poisonbench.runs.defend import defend, resolve_run
from poisonbench.runs.kept_models import DAMAGED, read_weights
from poisonbench.specs import ImportSpec, MixSpec


def repeat(
    context: RunContext,
    record: RunRecord,
    request: RunRequest,
    kept: Sequence[Store],
    homes: Sequence[Store],
    *,
    takes_kept: bool = False,
) -> Comparison:
    """Do a recorded run again, with as many threads as it had, and compare.

    Args:
        context: its results folder is the one that repetitions go to.
        record: of the run.
        request: what was asked for; its poison's path is looked up here.
        kept: results folders with poisons of the recorded run.
        homes: those of them whose kept model is the one that the record tells of.
        takes_kept: train on the poison that is kept there instead of crafting it again.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`; the poison cannot be made again and is
            not kept, or the run asks for something that is not here.
    """
    if request.poison.path is not None:
        request = replace(request, poison=replace(request.poison, path=_given_poison(record, kept)))
    elif takes_kept and record.labels.poison is not None:
        _take_kept(context.store, record, kept)
    models = [path for store in homes if (path := store.model_path(record.id)).is_file()]
    threads = torch.get_num_threads()
    torch.set_num_threads(record.environment.threads)
    try:
        run = resolve_run(context, replace(request, save_model=bool(models)))
        if run.spec.dataset.digest != record.spec.dataset.digest:
            raise ArtefactError(
                f"expected {run.dataset.name} with digest {record.spec.dataset.digest[:16]}, as "
                f"recorded, got {run.spec.dataset.digest[:16]}: these are other images or splits; "
                "put the recorded data there"
            )
        repeated = defend(context, run).record
    finally:
        torch.set_num_threads(threads)
    weights = None
    if models:
        weights = _weights_digest(models[0]), _weights_digest(context.store.model_path(repeated.id))
    return compare(record, repeated, weights)


def _given_poison(record: RunRecord, kept: Sequence[Store]) -> Path:
    """The artefact that a run was given, by its digest: nothing else says where it was."""
    digest, origin = record.spec.poison_digest, record.labels.poison
    for store in kept:
        for path in store.poison_paths():
            try:
                card = json.loads((path / CARD_NAME).read_bytes())
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(card, dict) and card.get("digest") == digest:
                return path
    made_by = None if origin is None else origin.made_by
    kind = "a given artefact"
    if isinstance(made_by, ImportSpec):
        kind = f"an import of {made_by.format} files"
    elif isinstance(made_by, MixSpec):
        kind = "a given mix of " + ", ".join(made_by.order)
    elif made_by is not None:
        kind = f"a given artefact of {made_by.attack}"
    raise ArtefactError(
        f"its poison was {kind} and cannot be made again from the record; expected it in "
        f"{_names(kept)}, got none with digest {str(digest)[:16]}; put its folder there"
    )


def _take_kept(scratch: Store, record: RunRecord, kept: Sequence[Store]) -> None:
    """Copy the poisons that a run was made of to the folder of repetitions."""
    origin = record.labels.poison
    assert origin is not None
    ids = dict.fromkeys([*(pool.id for pool in origin.pools.values()), origin.id])
    for poison_id in filter(None, ids):
        folders = [path for store in kept if (path := store.poison_path(poison_id)).is_dir()]
        if not folders:
            raise UsageError(
                f"--poison kept: expected poison {poison_id} in {_names(kept)}, got none; leave "
                "--poison out to craft it again"
            )
        if not scratch.poison_path(poison_id).exists():
            files = {file.name: file.read_bytes() for file in folders[0].iterdir()}
            publish_folder(scratch.poison_path(poison_id), files)


def _names(kept: Sequence[Store]) -> str:
    return " or ".join(str(store.root / "poisons") for store in kept) or "a results folder"


def _weights_digest(path: Path) -> str:
    """sha256 of a kept model's tensors, in order of their names."""
    try:
        tensors = read_weights(path)
    except (OSError, *DAMAGED) as error:
        raise ArtefactError(f"{path}: expected a trained model, got {error}; delete it") from None
    return digest_tensors(*(tensors[name] for name in sorted(tensors)))
