"""Importing: from a published poison set to an artefact in the store."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from msgspec import structs

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.data.artefacts import check_dataset, check_made_for
from poisonbench.data.exchange import Exchange, published_labels, read_exchange, read_exchange_card
from poisonbench.data.poison import assemble, make_poison
from poisonbench.data.poison_sets import (
    UNTARGETED_FORMATS,
    Format,
    Ids,
    Std,
    files_of,
    read_poison_set,
)
from poisonbench.data.splits import Dataset
from poisonbench.registry import attacks
from poisonbench.runs.context import RunContext
from poisonbench.runs.method_settings import read_settings
from poisonbench.runs.poison import Crafted, publish
from poisonbench.runs.released_generator import perturbed_images
from poisonbench.specs import ImportSpec

#: Raised by hand when the same files would give another poison.
VERSION = 1


def import_poison(
    context: RunContext,
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
        context: where.
        path: a folder or a file, see :mod:`poisonbench.data.poison_sets`.
        form: the format.
        dataset: what it was made for.
        std: in whose units deltas are.
        ids: what a file's numbers count.
        attack: what made it, for cards and records; by default the format's name.
        scenario: how its victims are trained.
        epsilon: L-infinity budget in [0, 1] to hold it to; by default what is measured, and of a
            generator DC's own for the data set.

    Raises:
        UsageError: options that do not fit the format.
        ArtefactError: unreadable, unsafe, made for something else, or over the budget.
    """
    if form != "gradient-matching" and std is not None:
        raise UsageError(f"--std: expected --format gradient-matching, got {form}; leave it out")
    if epsilon is not None and not 0 <= epsilon <= 1:
        raise UsageError(f"--epsilon: expected a number in [0, 1], got {epsilon:g}")
    if form in UNTARGETED_FORMATS and scenario != "scratch":
        raise UsageError(f"--scenario: expected scratch with --format {form}, got {scenario}")
    if form == "dc-generator":
        return _import_generator(context, path, dataset, attack or "dc", epsilon)
    published = read_poison_set(path, form, dataset, std=std, ids=ids)
    if published.num_left_out:
        context.say(
            f"warning: left out {published.num_left_out} of "
            f"{published.num_left_out + len(published.rows)} poisons, whose base images are not in "
            "the training split (most are held out for validation)"
        )
    clean = dataset.train.images[published.rows].short()
    measured = int((published.images.short() - clean).abs().max()) / 255
    spec = structs.replace(
        _spec(path, form, dataset, attack or form, epsilon),
        std=std,
        ids=ids if form == "gradient-matching" else None,
        scenario=scenario,
    )
    goal = published.goal and structs.replace(published.goal, scenario=scenario)
    try:
        poison = assemble(
            published.rows,
            published.images,
            torch.zeros(len(published.rows), dtype=torch.uint8),
            dataset,
            attacks=(attack or form,),
            epsilon=measured if epsilon is None else epsilon,
            spec=spec,
            goal=goal,
        )
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}; raise --epsilon or leave it out") from None
    context.store.check_writable()
    return publish(context, poison, dataset)


def import_exchange(
    context: RunContext, path: Path, form: Exchange, dataset: str | None = None
) -> Crafted:
    """What was exported, as the artefact that it was: the same id, images, labels and card.

    The data set is by default the one that the card names.

    Raises:
        ArtefactError: unreadable, unsafe, edited, over its budget, or of another data set; or there
            is one of its id with other images.
    """
    card = read_exchange_card(path, form)
    data = context.dataset(dataset or card.dataset.name)
    # Before the images: a few bytes may stand for many, of any size that a card states.
    check_made_for(card.dataset, data, path)
    poison, labels = read_exchange(path, form, card)
    poison = replace(poison, path=path)
    check_dataset(poison, data)
    own = published_labels(poison, data)
    if not torch.equal(labels, own):
        row = int(poison.indices[int((labels != own).nonzero()[0])])
        raise ArtefactError(
            f"{path}: expected the labels of the data set's own images, got another for row {row}; "
            "export the poison anew"
        )
    context.store.check_writable()
    kept = publish(context, poison, data)
    if kept.poison.digest != poison.digest:
        raise ArtefactError(
            f"{path}: expected the poison {poison.id} that {context.store.root} has, got other "
            "images of the same settings, as another processor crafts them; import it into "
            "another folder by --results"
        )
    return kept


def _import_generator(
    context: RunContext, path: Path, dataset: Dataset, attack: str, epsilon: float | None
) -> Crafted:
    """DC's poison of every training image, by a generator that was trained elsewhere."""
    if epsilon is None:
        epsilon = float(read_settings(attacks()["dc"], dataset, "paper", {}).config.epsilon)
    (file,) = files_of(path, "dc-generator")
    images = perturbed_images(file, dataset, epsilon)
    spec = _spec(path, "dc-generator", dataset, attack, epsilon)
    rows = torch.arange(len(dataset.train))
    poison = make_poison(images, rows, dataset, attack=attack, epsilon=epsilon, spec=spec)
    context.store.check_writable()
    return publish(context, poison, dataset)


def _spec(
    path: Path, form: Format, dataset: Dataset, attack: str, epsilon: float | None
) -> ImportSpec:
    """What a set is by its files: a file's own name does not matter, a folder's do."""
    files = {
        file.name if form == "benchmark" else "file": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files_of(path, form)
    }
    return ImportSpec(
        format=form,
        version=VERSION,
        files=files,
        attack=attack,
        epsilon=epsilon,
        dataset=dataset.digest,
    )
