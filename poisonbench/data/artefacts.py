"""A poison's files: written, and read again with nothing taken on trust.

``poison.safetensors`` holds ``indices`` (P,) int64, ``images`` (P, C, H, W) uint8 and ``sources``
(P,) uint8, with the whole card as canonical JSON under the one metadata key ``card``; ``card.json``
repeats the card for people, ``preview.png`` shows eight images. No pickle is ever opened.
"""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from poisonbench.core.canonical import canonical_json
from poisonbench.core.errors import ArtefactError
from poisonbench.core.files import read_shared, retried
from poisonbench.data.poison import SCHEMA, Poison, check_budget, levels, seal
from poisonbench.data.preview import preview_of
from poisonbench.data.splits import Dataset, digest_tensors
from poisonbench.targeting import SCENARIOS, UNTARGETED, Goal

T = TypeVar("T")

FILE_NAME = "poison.safetensors"
CARD_NAME = "card.json"
PREVIEW_NAME = "preview.png"

_MAX_CARD_BYTES = 16 * 2**20


class _Fields(msgspec.Struct, forbid_unknown_fields=True):
    """Fields of these types and no others."""


class _MadeFor(_Fields):
    name: str
    digest: str
    train_size: int
    image_shape: list[int]
    num_classes: int


class _Measured(_Fields):
    max_abs_levels: int
    mean_abs_levels: float
    changed_pixels: float


class _Card(_Fields):
    schema: int
    kind: str
    attacks: Annotated[list[str], msgspec.Meta(min_length=1)]
    goal: dict[str, Any]
    spec: dict[str, Any]
    epsilon: Annotated[float, msgspec.Meta(ge=0, le=1)]
    levels: int
    num_poisons: int
    dataset: _MadeFor
    measured: _Measured
    versions: dict[str, Any]
    digest: str
    sources_digest: str
    seal: str


def poison_files(poison: Poison, dataset: Dataset) -> dict[str, bytes]:
    """The artefact's files by name; the same poison gives the same bytes."""
    tensors = {"indices": poison.indices, "images": poison.images, "sources": poison.sources}
    return {
        FILE_NAME: save(tensors, metadata={"card": canonical_json(poison.card)}),
        CARD_NAME: (json.dumps(poison.card, indent=1, sort_keys=True) + "\n").encode(),
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
        _check_card(card)
        poison = Poison(**tensors, card=card, path=path)
        _check_digests(poison)
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
        try:
            _check_dataset(poison, dataset)
        except ArtefactError as error:
            raise ArtefactError(f"{file}: {error}") from None
    return poison


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], str]:
    """Read the tensors and the card; the library holds the header against the file before it."""
    names = ["images", "indices", "sources"]
    # Opened twice, as the library's errors do not say which of the system's they were.
    with file.open("rb"), safe_open(file, "pt") as opened:
        metadata = opened.metadata() or {}
        if sorted(opened.keys()) != names or list(metadata) != ["card"]:
            raise ArtefactError(
                f"expected the tensors {', '.join(names)} and a card, "
                f"got {', '.join([*opened.keys(), *metadata]) or 'nothing'}"
            )
        # Copies: the file must not be needed later.
        return {name: opened.get_tensor(name).clone() for name in names}, metadata["card"]


def _read_json(file: Path) -> Any:
    if not file.is_file() or file.stat().st_size > _MAX_CARD_BYTES:
        raise ArtefactError(f"expected a {file.name} beside the tensors, got none or a huge one")
    return json.loads(read_shared(file))


def _check_card(card: Any) -> None:
    if not isinstance(card, dict) or card.get("kind") != "poison" or card.get("schema") != SCHEMA:
        raise ArtefactError(f"expected the card of a poison of schema {SCHEMA}, got another")
    fields = _converted(card, _Card, "card")
    if card["seal"] != seal(card):
        raise ArtefactError("expected the card that was sealed, got an edited one")
    if type(card["epsilon"]) is not float or fields.levels != levels(fields.epsilon):
        raise ArtefactError(
            f"expected an epsilon in [0, 1] and its whole levels, got {card['epsilon']}, "
            f"{fields.levels}"
        )
    if fields.goal == UNTARGETED:
        return
    goal = _converted(fields.goal, Goal, "card's goal")
    classes = (goal.target_class, goal.intended_class, goal.poison_class)
    if (
        goal.scenario not in SCENARIOS
        or goal.target < 0
        or not all(0 <= label < fields.dataset.num_classes for label in classes)
        or goal.intended_class == goal.target_class
    ):
        raise ArtefactError(f"expected a target and its classes, got {fields.goal}")


def _converted(value: dict[str, Any], kind: type[T], owner: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text = f"expected the {owner} to have its own fields, got one amiss: {error}"
        raise ArtefactError(text) from None


def _check_digests(poison: Poison) -> None:
    for name, value in (
        ("num_poisons", len(poison)),
        ("digest", poison.digest),
        ("sources_digest", digest_tensors(poison.sources)),
    ):
        if poison.card[name] != value:
            raise ArtefactError(
                f"expected tensors with {name} {poison.card[name]}, got {value}: they were changed"
            )


def _check_dataset(poison: Poison, dataset: Dataset) -> None:
    made_for = poison.card["dataset"]
    if tuple(made_for["image_shape"]) != dataset.image_shape:
        raise ArtefactError(
            f"expected images of shape {dataset.image_shape} for {dataset.name}, "
            f"got {tuple(made_for['image_shape'])}; use it with --dataset {made_for['name']}"
        )
    if made_for["digest"] != dataset.digest:
        raise ArtefactError(
            f"expected a poison of {dataset.name} with digest {dataset.digest[:16]}, got one made "
            f"for another split, {made_for['name']} {made_for['digest'][:16]}; use it with the "
            "--dataset and --seed that it was crafted with, or craft one for this split"
        )
    goal = poison.goal
    if goal is not None and (
        goal.target >= len(dataset.test)
        or int(dataset.test.labels[goal.target]) != goal.target_class
    ):
        raise ArtefactError(
            f"expected test image {goal.target} of class {goal.target_class} in {dataset.name}, "
            "got another or none; use it with the data set that it was crafted for"
        )
    try:
        check_budget(poison.measure(dataset.train)["max_abs_levels"], poison.card["levels"])
    except ArtefactError as error:
        raise ArtefactError(f"{error}; delete it and craft it again, or use another") from None
