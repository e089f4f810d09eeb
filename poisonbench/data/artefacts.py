"""A poison's files: written, and read again with nothing taken on trust.

``poison.safetensors`` holds ``indices`` (P,) int64, ``images`` (P, C, H, W) uint8 and ``sources``
(P,) uint8, with the whole card as canonical JSON under the one metadata key ``card``; ``card.json``
repeats the card for people, ``preview.png`` shows eight images. No pickle is ever opened.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from poisonbench.core.canonical import canonical_json
from poisonbench.core.errors import ArtefactError
from poisonbench.core.files import read_shared, retried
from poisonbench.data.poison import SCHEMA, Poison, check_budget, levels, seal
from poisonbench.data.preview import preview_png
from poisonbench.data.splits import Dataset, digest_tensors
from poisonbench.targeting import SCENARIOS, UNTARGETED

FILE_NAME = "poison.safetensors"
CARD_NAME = "card.json"
PREVIEW_NAME = "preview.png"

_MAX_HEADER_BYTES = 16 * 2**20
_TENSORS = {"indices": ("I64", 8, 1), "images": ("U8", 1, 4), "sources": ("U8", 1, 1)}
_CARD_FIELDS: dict[str, type] = {
    "schema": int,
    "kind": str,
    "attacks": list,
    "goal": dict,
    "spec": dict,
    "epsilon": float,
    "levels": int,
    "num_poisons": int,
    "dataset": dict,
    "measured": dict,
    "versions": dict,
    "digest": str,
    "sources_digest": str,
    "seal": str,
}
_DATASET_FIELDS: dict[str, type] = {
    "name": str,
    "digest": str,
    "train_size": int,
    "image_shape": list,
    "num_classes": int,
}
_GOAL_FIELDS: dict[str, type] = {
    "kind": str,
    "target": int,
    "target_class": int,
    "intended_class": int,
    "poison_class": int,
    "scenario": str,
    "targets": str,
}
_MEASURED_FIELDS: dict[str, type] = {
    "max_abs_levels": int,
    "mean_abs_levels": float,
    "changed_pixels": float,
}


def poison_files(poison: Poison, dataset: Dataset) -> dict[str, bytes]:
    """The artefact's files by name; the same poison gives the same bytes."""
    tensors = {"indices": poison.indices, "images": poison.images, "sources": poison.sources}
    return {
        FILE_NAME: save(tensors, metadata={"card": canonical_json(poison.card)}),
        CARD_NAME: (json.dumps(poison.card, indent=1, sort_keys=True) + "\n").encode(),
        PREVIEW_NAME: preview_of(poison, dataset),
    }


def preview_of(poison: Poison, dataset: Dataset) -> bytes:
    """A PNG of up to eight images: clean, poisoned, difference, after a targeted one's target."""
    sample = torch.linspace(0, len(poison) - 1, min(8, len(poison))).round().long()
    rows, poisoned = poison.indices[sample], poison.images[sample]
    if len(poison) == 0:
        rows, poisoned = torch.tensor([0]), dataset.train.images[:1].cpu()
    clean = dataset.train.images.cpu()[rows]
    target = None if poison.goal is None else dataset.test.images[poison.goal.target].cpu()
    return preview_png(clean, poisoned, poison.card["levels"], target)


def read_poison(path: Path, dataset: Dataset | None = None) -> Poison:
    """Read and check an artefact.

    Args:
        path: its folder, or the safetensors file alone.
        dataset: the data set to use it with; without one nothing is checked against images.

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
        header, data = retried(file, lambda: _read_bytes(file))
        card = _parse_card(header["__metadata__"]["card"])
        if path.is_dir() and _read_json(path / CARD_NAME) != card:
            raise ArtefactError(
                f"expected {CARD_NAME} to repeat the card inside {FILE_NAME}, got another"
            )
        _check_card(card)
        poison = Poison(**load(data), card=card, path=path)
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


def _read_bytes(file: Path) -> tuple[dict[str, Any], bytes]:
    """Read the header and all bytes; allocate nothing before header and file size agree."""
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"{size} bytes that announce a header of {length}")
        header = json.loads(stream.read(length))
        _check_header(header, size - 8 - length)
        stream.seek(0)
        data = stream.read(size)
    if len(data) != size:
        raise ValueError(f"{len(data)} of {size} bytes")
    return header, data


def _check_header(header: Any, payload: int) -> None:
    """Check names, types, shapes and lengths of the tensors against the bytes that are there."""
    names = sorted(_TENSORS)
    if not isinstance(header, dict) or set(header) != {*names, "__metadata__"}:
        content = sorted(header) if isinstance(header, dict) else type(header).__name__
        raise ArtefactError(f"expected the tensors {', '.join(names)} and a card, got {content}")
    metadata = header["__metadata__"]
    if (
        not isinstance(metadata, dict)
        or set(metadata) != {"card"}
        or not isinstance(metadata["card"], str)
    ):
        raise ArtefactError("expected one metadata entry, the card, got something else")
    total = 0
    for name, (dtype, width, num_dims) in _TENSORS.items():
        entry = header[name]
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if (
            not isinstance(shape, list)
            or len(shape) != num_dims
            or not all(type(side) is int and side >= 0 for side in shape)
            or entry.get("dtype") != dtype
        ):
            raise ArtefactError(
                f"expected {name} of type {dtype} with {num_dims} dimensions, got {entry}"
            )
        total += width * math.prod(shape)
    if total != payload:
        raise ArtefactError(f"expected {total} bytes of tensors, got {payload}")


def _read_json(file: Path) -> Any:
    if not file.is_file() or file.stat().st_size > _MAX_HEADER_BYTES:
        raise ArtefactError(f"expected a {file.name} beside the tensors, got none or a huge one")
    return json.loads(read_shared(file))


def _parse_card(text: str) -> dict[str, Any]:
    card = json.loads(text)
    if not isinstance(card, dict) or card.get("kind") != "poison" or card.get("schema") != SCHEMA:
        raise ArtefactError(f"expected the card of a poison of schema {SCHEMA}, got another")
    return card


def _check_card(card: dict[str, Any]) -> None:
    _check_fields(card, _CARD_FIELDS, "card")
    if card["seal"] != seal(card):
        raise ArtefactError("expected the card that was sealed, got an edited one")
    _check_fields(card["dataset"], _DATASET_FIELDS, "card's dataset")
    _check_fields(card["measured"], _MEASURED_FIELDS, "card's measured")
    _check_goal(card["goal"], card["dataset"]["num_classes"])
    if not card["attacks"] or not all(isinstance(name, str) for name in card["attacks"]):
        raise ArtefactError(f"expected names of attacks, got {card['attacks']}")
    epsilon = card["epsilon"]
    if not 0 <= epsilon <= 1 or card["levels"] != levels(epsilon):
        raise ArtefactError(
            f"expected an epsilon in [0, 1] and its whole levels, got {epsilon}, {card['levels']}"
        )


def _check_goal(goal: dict[str, Any], num_classes: int) -> None:
    if goal == UNTARGETED:
        return
    _check_fields(goal, _GOAL_FIELDS, "card's goal")
    classes = [goal[name] for name in ("target_class", "intended_class", "poison_class")]
    if (
        goal["kind"] != "targeted"
        or goal["scenario"] not in SCENARIOS
        or goal["target"] < 0
        or not all(0 <= label < num_classes for label in classes)
        or goal["intended_class"] == goal["target_class"]
    ):
        raise ArtefactError(f"expected a target and its classes, got {goal}")


def _check_fields(value: dict[str, Any], fields: dict[str, type], owner: str) -> None:
    if set(value) != set(fields):
        wrong = sorted(set(value) ^ set(fields))[0]
        raise ArtefactError(f"expected the {owner} to have its own fields, got {wrong!r} amiss")
    for name, kind in fields.items():
        if type(value[name]) is not kind:
            raise ArtefactError(
                f"expected the {owner}'s {name} to be of type {kind.__name__}, "
                f"got {type(value[name]).__name__}"
            )


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
