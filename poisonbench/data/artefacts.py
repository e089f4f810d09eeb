"""A poison's files: written, and read again with nothing taken on trust.

``poison.safetensors`` holds ``indices`` (P,) int64, ``images`` (P, C, H, W) uint8 and ``sources``
(P,) uint8, of a dirty-label poison also ``labels`` (P,) int64 and of a learned trigger ``pattern``
(C, H, W) float32, with the whole card as canonical
JSON under the one metadata key ``card``; ``card.json`` repeats the card for people, ``preview.png``
shows eight images. No pickle is ever opened.
"""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from poisonbench.core.canonical import canonical_json
from poisonbench.core.errors import ArtefactError
from poisonbench.core.files import read_shared, retried
from poisonbench.data.budget import budget_fault, levels
from poisonbench.data.poison import SCHEMA, Poison
from poisonbench.data.preview import preview_of
from poisonbench.data.splits import Dataset, digest_tensors
from poisonbench.specs import CraftSpec, Measured, PoisonCard, PoisonedDataset, seal_of
from poisonbench.targeting import SCENARIOS, Goal, Trigger

FILE_NAME = "poison.safetensors"
CARD_NAME = "card.json"
PREVIEW_NAME = "preview.png"

_MAX_CARD_BYTES = 16 * 2**20


def poison_files(poison: Poison, dataset: Dataset) -> dict[str, bytes]:
    """The artefact's files by name; the same poison gives the same bytes."""
    tensors = {"indices": poison.indices, "images": poison.images, "sources": poison.sources}
    if poison.labels is not None:
        tensors["labels"] = poison.labels
    if poison.pattern is not None:
        tensors["pattern"] = poison.pattern
    card = msgspec.to_builtins(poison.card)
    return {
        FILE_NAME: save(tensors, metadata={"card": canonical_json(card)}),
        CARD_NAME: (json.dumps(card, indent=1, sort_keys=True) + "\n").encode(),
        PREVIEW_NAME: preview_of(poison, dataset),
    }


def read_poison(path: Path, dataset: Dataset | None = None) -> Poison:
    """Read and check an artefact: a folder, or the safetensors file alone.

    Without a data set nothing is checked against images.

    Raises:
        ArtefactError: missing, damaged, edited, made for another split, or over its budget.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise ArtefactError(
            f"{file}: expected a poison's folder or safetensors file, got no such file; "
            "check the path or craft it again"
        )
    try:
        tensors, text = retried(file, lambda: _read_tensors(file))
        card = json.loads(text)
        if path.is_dir() and _read_json(path / CARD_NAME) != card:
            raise ArtefactError(
                f"expected {CARD_NAME} to repeat the card inside {FILE_NAME}, got another"
            )
        poison = Poison(**tensors, card=checked_card(card), path=path)
        check_digests(poison)
    except ArtefactError as error:
        raise ArtefactError(
            f"{file}: {error}; delete it and craft it again, or use another"
        ) from None
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise ArtefactError(
            f"{file}: expected a poison in safetensors format (a pickle or zip is never opened), "
            f"got {error}; use another; if this was a poison and is damaged, delete it and craft "
            "it again"
        ) from None
    if dataset is not None:
        check_dataset(poison, dataset)
    return poison


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], str]:
    """Read the tensors and the card; the library holds the header against the file before it."""
    names = ["images", "indices", "sources"]
    # Opened twice, as the library's errors do not say which of the system's they were.
    with file.open("rb"), safe_open(file, "pt") as opened:
        metadata = opened.metadata() or {}
        if sorted({*opened.keys()} - {"labels", "pattern"}) != names or list(metadata) != ["card"]:
            raise ArtefactError(
                f"expected the tensors {', '.join(names)} and a card, "
                f"got {', '.join([*opened.keys(), *metadata]) or 'nothing'}"
            )
        # Copies: the file must not be needed later.
        return {name: opened.get_tensor(name).clone() for name in opened.keys()}, metadata["card"]


def _read_json(file: Path) -> Any:
    if not file.is_file() or file.stat().st_size > _MAX_CARD_BYTES:
        raise ArtefactError(f"expected a {file.name} beside the tensors, got none or a huge one")
    return json.loads(read_shared(file))


def checked_card(raw: Any) -> PoisonCard:
    """A poison's card out of JSON, held against its seal and for sense.

    Raises:
        ArtefactError: it was edited, or says what no card may say.
    """
    if not isinstance(raw, dict) or (raw.get("kind"), raw.get("schema")) != ("poison", SCHEMA):
        raise ArtefactError(f"expected the card of a poison of schema {SCHEMA}, got another")
    try:
        card = msgspec.convert(raw, PoisonCard)
    except msgspec.ValidationError as error:
        text = f"expected the card to have its own fields, got one amiss: {error}"
        raise ArtefactError(text) from None
    if card.seal != seal_of(msgspec.to_builtins(card)):
        raise ArtefactError("expected the card that was sealed, got an edited one")
    if not 0 <= card.num_poisons <= card.dataset.train_size:
        raise ArtefactError(
            f"expected no more poisons than the {card.dataset.train_size} training images, got "
            f"{card.num_poisons}"
        )
    bounded, epsilon = card.norm in ("linf", "l2", "l0"), card.epsilon
    if bounded != (epsilon is not None):
        raise ArtefactError(f"expected a budget that fits its norm, got {card.norm}, {epsilon}")
    is_linf = card.norm == "linf"
    whole = levels(epsilon) if is_linf and epsilon is not None and epsilon <= 1 else None
    if card.levels != whole or is_linf == (whole is None):
        raise ArtefactError(
            f"expected an epsilon in [0, 1] and its whole levels, got {epsilon}, {card.levels}"
        )
    goal = card.goal
    if isinstance(goal, Goal) and (
        goal.scenario not in SCENARIOS
        or goal.target < 0
        or not all(0 <= label < card.dataset.num_classes for label in goal.classes)
        or goal.intended_class == goal.target_class
    ):
        raise ArtefactError(f"expected a target and its classes, got {goal}")
    if isinstance(goal, Trigger) and not (
        0 <= goal.target_class < card.dataset.num_classes and isinstance(card.spec, CraftSpec)
    ):
        raise ArtefactError(f"expected a trigger of an attack, and its target class, got {goal}")
    return card


def check_digests(poison: Poison) -> None:
    """Raise ArtefactError unless the tensors are those that the card states."""
    for name, value in (
        ("num_poisons", len(poison)),
        ("digest", poison.digest),
        ("sources_digest", digest_tensors(poison.sources)),
    ):
        expected = getattr(poison.card, name)
        if expected != value:
            raise ArtefactError(
                f"expected tensors with {name} {expected}, got {value}: they were changed"
            )


def check_made_for(made_for: PoisonedDataset, dataset: Dataset, path: Path | None) -> None:
    """Check the data set that the card of a poison at a path states; its images may be unread.

    Raises:
        ArtefactError: made for another split.
    """
    if made_for.image_shape != dataset.image_shape:
        raise ArtefactError(
            f"{path}: expected images of shape {dataset.image_shape} for {dataset.name}, "
            f"got {made_for.image_shape}; use it with --dataset {made_for.name}"
        )
    if made_for.digest != dataset.digest:
        raise ArtefactError(
            f"{path}: expected a poison of {dataset.name} with digest {dataset.digest[:16]}, got "
            f"one made for another split, {made_for.name} {made_for.digest[:16]}; use it with the "
            "--dataset and --seed that it was crafted with, or craft one for this split"
        )
    size, classes = len(dataset.train), dataset.num_classes
    if (made_for.train_size, made_for.num_classes) != (size, classes):
        raise ArtefactError(
            f"{path}: expected a poison of {classes} classes and {size} training images, which "
            f"{dataset.name} of that digest has, got one of {made_for.num_classes} classes and "
            f"{made_for.train_size}; delete it and craft it again"
        )


def check_dataset(poison: Poison, dataset: Dataset) -> Measured:
    """Check a kept poison against its data set's images, and measure it on them.

    Raises:
        ArtefactError: made for another split, or over its budget.
    """
    check_made_for(poison.card.dataset, dataset, poison.path)
    goal = poison.goal
    try:
        if goal is not None and (
            goal.target >= len(dataset.test)
            or int(dataset.test.labels[goal.target]) != goal.target_class
        ):
            raise ArtefactError(
                f"expected test image {goal.target} of class {goal.target_class} in "
                f"{dataset.name}, got another or none; use it with the data set that it was "
                "crafted for"
            )
        own_labels = dataset.train.labels[poison.indices]
        trigger, card = poison.trigger, poison.card
        if poison.count_changed_labels(dataset.train) != card.changed_labels or (
            trigger is not None
            and trigger.labels == "clean"
            and bool((own_labels != trigger.target_class).any())
        ):
            raise ArtefactError(
                f"expected {card.changed_labels} changed labels among the poisons"
                f"{f' of a trigger of {trigger.text}' if trigger else ''}, got others; "
                "craft it again"
            )
        measured = poison.measure(dataset.train)
        values = math.prod(dataset.image_shape)
        if fault := budget_fault(card.norm, card.epsilon, measured, values):
            raise ArtefactError(f"{fault}; delete it and craft it again, or use another")
        if not _agree(card.measured, measured):
            raise ArtefactError(
                f"expected the changes that were measured, {structs.asdict(measured)}, got a card "
                f"that says {structs.asdict(card.measured)}; delete it and craft it again"
            )
        return measured
    except ArtefactError as error:
        raise ArtefactError(f"{poison.path}: {error}") from None


def _agree(stated: Measured, measured: Measured) -> bool:
    """Whether they are the same but for how another machine adds and solves."""
    pairs = zip(structs.astuple(stated), structs.astuple(measured), strict=True)
    return all(
        one == other or (None not in (one, other) and math.isclose(one, other, rel_tol=1e-3))
        for one, other in pairs
    )
