"""Importing: from a published poison set to an artefact in the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.data.poison import assemble
from poisonbench.data.poison_sets import Format, Ids, Std, files_of, read_poison_set
from poisonbench.data.splits import Dataset
from poisonbench.runs.poison import Crafted, publish
from poisonbench.runs.workspace import Bench
from poisonbench.targeting import Goal

#: Raised by hand when the same files would give another poison.
VERSION = 1


def import_poison(
    bench: Bench,
    path: Path,
    form: Format,
    dataset: Dataset,
    *,
    std: Std | None = None,
    ids: Ids = "hint",
    attack: str | None = None,
    scenario: str = "scratch",
    epsilon: float | None = None,
) -> Crafted:
    """A published poison set as an artefact; how many poisons our split lacks is said.

    Parameters: what files do not say of themselves, each an option of the command.

    Args:
        bench: where.
        path: a folder or a file, see :mod:`poisonbench.data.poison_sets`.
        form: the format.
        dataset: what it was made for.
        std: in whose units deltas are.
        ids: what a file's numbers count.
        attack: what made it, for cards and records; by default the format's name.
        scenario: how its victims are trained.
        epsilon: L-infinity budget in [0, 1] to hold it to; by default what is measured.

    Raises:
        UsageError: options that do not fit the format.
        ArtefactError: unreadable, unsafe, made for something else, or over the budget.
    """
    if form != "gradient-matching" and std is not None:
        raise UsageError(f"--std: expected --format gradient-matching, got {form}; leave it out")
    if epsilon is not None and not 0 <= epsilon <= 1:
        raise UsageError(f"--epsilon: expected a number in [0, 1], got {epsilon:g}")
    found = read_poison_set(path, form, dataset, std=std, ids=ids)
    if found.num_left_out:
        bench.say(
            f"warning: left out {found.num_left_out} of {found.num_left_out + len(found.rows)} "
            "poisons, whose base images are not in the training split (most are held out for "
            "validation)"
        )
    clean = dataset.train.images[found.rows].short()
    measured = int((found.images.short() - clean).abs().max()) / 255
    goal = Goal(*found.aim, scenario=scenario, targets="given")
    spec = {
        "kind": "import",
        "format": form,
        "recipe_number": VERSION,
        "files": {
            file.name if form == "benchmark" else "file": hashlib.sha256(
                file.read_bytes()
            ).hexdigest()
            for file in files_of(path, form)
        },
        "std": std,
        "ids": ids if form == "gradient-matching" else None,
        "attack": attack or form,
        "scenario": scenario,
        "epsilon": epsilon,
        "dataset": dataset.digest,
    }
    try:
        poison = assemble(
            found.rows,
            found.images,
            torch.zeros(len(found.rows), dtype=torch.uint8),
            dataset,
            attacks=(attack or form,),
            epsilon=measured if epsilon is None else epsilon,
            spec=spec,
            goal=goal.as_json(),
        )
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}; raise --epsilon or leave it out") from None
    bench.store.check_writable()
    return publish(bench, poison, dataset)
