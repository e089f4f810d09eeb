"""The poison artefact: the poisoned images that an attacker can publish, and a card on them.

``poison.safetensors`` holds ``indices`` (P,) int64, ``images`` (P, C, H, W) uint8 and ``sources``
(P,) uint8, with the whole card as canonical JSON under the one metadata key ``card``; ``card.json``
repeats the card for people, ``preview.png`` shows eight images. No pickle is ever opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from poisonbench import __version__
from poisonbench.canonical import canonical_json
from poisonbench.data.preview import preview_png
from poisonbench.data.splits import Dataset, Split, digest_tensors
from poisonbench.errors import ArtefactError, DivergedError
from poisonbench.files import read_shared, retried
from poisonbench.targeting import UNTARGETED, Goal

SCHEMA = 1
FILE_NAME = "poison.safetensors"
CARD_NAME = "card.json"

_MAX_HEADER_BYTES = 16 * 2**20
# Images at a time: whole splits in wider types would take gigabytes and miss every cache.
_CHUNK = 256
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


@dataclass(frozen=True, eq=False)
class Poison:
    """Poisoned images and where they belong in the training split. Labels stay as they are.

    Attributes:
        indices: (P,) int64, strictly increasing rows of the training split; P may be 0.
        images: (P, C, H, W) uint8.
        sources: (P,) uint8, the position in ``card["attacks"]`` of the attack that made each row.
        card: plain JSON values, see :func:`assemble`.

    Raises:
        ArtefactError: types or shapes that do not fit, rows out of order, an unknown source.
    """

    indices: Tensor
    images: Tensor
    sources: Tensor
    card: dict[str, Any]

    def __post_init__(self) -> None:
        size = len(self.images)
        for name, dtype, shape in (
            ("indices", torch.int64, (size,)),
            ("images", torch.uint8, (size, *self.card["dataset"]["image_shape"])),
            ("sources", torch.uint8, (size,)),
        ):
            tensor = getattr(self, name)
            if tensor.dtype != dtype or tensor.shape != shape:
                raise ArtefactError(
                    f"expected {name} of shape {tuple(shape)} and type {dtype}, "
                    f"got {tuple(tensor.shape)} {tensor.dtype}"
                )
        _check_rows(self.indices, self.card["dataset"]["train_size"])
        if size and int(self.sources.max()) >= len(self.card["attacks"]):
            raise ArtefactError(
                f"expected sources among {len(self.card['attacks'])} attacks, "
                f"got number {int(self.sources.max())}"
            )

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def goal(self) -> Goal | None:
        """The target; None when untargeted."""
        given = dict(self.card["goal"])
        return Goal(**given) if given.pop("kind") == "targeted" else None

    @cached_property
    def digest(self) -> str:
        """sha256 of indices and images: what a victim trains on."""
        return digest_tensors(self.indices, self.images)

    def apply(self, split: Split) -> Split:
        """The training split with these images in their rows, labels untouched, on its device.

        Raises:
            ArtefactError: the split has too few rows or images of another shape.
        """
        self._check_fits(split)
        device = split.images.device
        images = split.images.clone()
        images[self.indices.to(device)] = self.images.to(device)
        return Split(images, split.labels)

    def measure(self, base: Split) -> dict[str, Any]:
        """How far the images are from the training split's, in grey levels of 1/255.

        Returns:
            max_abs_levels (int), mean_abs_levels (over pixels and channels) and changed_pixels
            (share of pixel positions where any channel differs); all 0 without poisons.

        Raises:
            ArtefactError: the split has too few rows or images of another shape.
        """
        self._check_fits(base)
        largest, total, changed = 0, 0, 0
        for indices, images in zip(
            self.indices.split(_CHUNK), self.images.split(_CHUNK), strict=True
        ):
            clean = base.images[indices.to(base.images.device)].cpu()
            delta = (images.short() - clean.short()).abs()
            largest = max(largest, int(delta.max()) if len(delta) else 0)
            total += int(delta.sum())
            changed += int(delta.any(1).sum())
        values = max(self.images.numel(), 1)
        return {
            "max_abs_levels": largest,
            "mean_abs_levels": total / values,
            "changed_pixels": changed / max(values // self.images.shape[1], 1),
        }

    def _check_fits(self, split: Split) -> None:
        rows, shape = self.card["dataset"]["train_size"], tuple(self.images.shape[1:])
        if len(split) != rows or split.images.shape[1:] != shape:
            raise ArtefactError(
                f"expected a training split of {rows} images of shape {shape}, got {len(split)} "
                f"of shape {tuple(split.images.shape[1:])}; use the split it was made for"
            )


def levels(epsilon: float) -> int:
    """The whole grey levels of 1/255 within a budget: 8 for 8/255, 76 for 0.3."""
    return math.floor(255 * epsilon + 1e-6)


def quantise(images: Tensor, base: Tensor, epsilon: float) -> Tensor:
    """Images as uint8, rounded half up and never more than the budget away from the base.

    Args:
        images: (P, C, H, W) float in [0, 1].
        base: (P, C, H, W) uint8, the clean images.
        epsilon: the budget in [0, 1]; a part of a grey level is dropped.

    Raises:
        DivergedError: a pixel is not finite.
    """
    budget = levels(epsilon)
    result = torch.empty(base.shape, dtype=torch.uint8, device=images.device)
    for first in range(0, len(images), _CHUNK):
        rows = slice(first, first + _CHUNK)
        exact, clean = images[rows], base[rows].to(images.device).short()
        if not bool(torch.isfinite(exact).all()):
            raise DivergedError(
                "expected finite pixels from the attack, got NaN or infinity; "
                "check the surrogate's training and lower the step size"
            )
        rounded = torch.floor(255 * exact + 0.5).clamp(0, 255).short()
        near = torch.minimum(torch.maximum(rounded, clean - budget), clean + budget)
        result[rows] = near.clamp(0, 255).to(torch.uint8)
    return result


def make_poison(
    images: Tensor,
    indices: Tensor,
    dataset: Dataset,
    *,
    attack: str,
    epsilon: float,
    spec: dict[str, Any],
    goal: Mapping[str, Any] = UNTARGETED,
) -> Poison:
    """The artefact of one attack.

    Args:
        images: (P, C, H, W) float in [0, 1], what the attack crafted, on any device.
        indices: (P,) int64, strictly increasing rows of the training split.
        dataset: what was attacked.
        attack: its name.
        epsilon: L-infinity budget in [0, 1].
        spec: JSON values, whatever determined the images.
        goal: what the attack is after, see :meth:`poisonbench.targeting.Goal.as_json`.

    Raises:
        ArtefactError: shapes or rows that do not fit the data set.
        DivergedError: a pixel is not finite.
    """
    rows = indices.cpu().contiguous()
    _check_rows(rows, len(dataset.train))
    expected = (len(rows), *dataset.image_shape)
    if images.shape != expected:
        raise ArtefactError(
            f"{attack}: expected images of shape {expected}, got {tuple(images.shape)}"
        )
    poisoned = quantise(images.detach(), dataset.train.images[rows], epsilon).cpu().contiguous()
    return assemble(
        rows,
        poisoned,
        torch.zeros(len(rows), dtype=torch.uint8),
        dataset,
        attacks=(attack,),
        epsilon=epsilon,
        spec=spec,
        goal=goal,
    )


def assemble(
    indices: Tensor,
    images: Tensor,
    sources: Tensor,
    dataset: Dataset,
    *,
    attacks: Sequence[str],
    epsilon: float,
    spec: dict[str, Any],
    goal: Mapping[str, Any] = UNTARGETED,
) -> Poison:
    """Poisoned uint8 images with their card, measured and sealed.

    The card: schema, kind ("poison"), attacks, goal, spec, epsilon, levels, num_poisons, dataset
    {name, digest, train_size, image_shape, num_classes}, measured (:meth:`Poison.measure`),
    versions, digest (of indices and images), sources_digest, seal (sha256 of the card without it).

    Raises:
        ArtefactError: tensors that do not fit together or the data set, or a budget exceeded.
    """
    card: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "poison",
        "attacks": list(attacks),
        "goal": dict(goal),
        "spec": spec,
        "epsilon": float(epsilon),
        "levels": levels(epsilon),
        "num_poisons": len(indices),
        "dataset": {
            "name": dataset.name,
            "digest": dataset.digest,
            "train_size": len(dataset.train),
            "image_shape": list(dataset.image_shape),
            "num_classes": dataset.num_classes,
        },
        "versions": {"poisonbench": __version__, "torch": torch.__version__},
        "sources_digest": digest_tensors(sources),
    }
    draft = Poison(indices, images, sources, card)
    card |= {"measured": draft.measure(dataset.train), "digest": draft.digest}
    _check_budget(card["measured"]["max_abs_levels"], card["levels"])
    card["seal"] = _seal(card)
    # Through JSON, so that a card just made equals the same card read: tuples become lists.
    return Poison(indices, images, sources, json.loads(canonical_json(card)))


def poison_files(poison: Poison, dataset: Dataset) -> dict[str, bytes]:
    """The artefact's files by name; the same poison gives the same bytes."""
    tensors = {"indices": poison.indices, "images": poison.images, "sources": poison.sources}
    shown = torch.linspace(0, len(poison) - 1, min(8, len(poison))).round().long()
    rows, poisoned = poison.indices[shown], poison.images[shown]
    if len(poison) == 0:
        rows, poisoned = torch.tensor([0]), dataset.train.images[:1].cpu()
    clean = dataset.train.images.cpu()[rows]
    return {
        FILE_NAME: save(tensors, metadata={"card": canonical_json(poison.card)}),
        CARD_NAME: (json.dumps(poison.card, indent=1, sort_keys=True) + "\n").encode(),
        "preview.png": preview_png(clean, poisoned, poison.card["levels"]),
    }


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
        poison = Poison(**load(data), card=card)
        _check_digests(poison)
    except ArtefactError as error:
        raise ArtefactError(
            f"{file}: {error}; delete it and craft it again, or use another"
        ) from None
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise ArtefactError(
            f"{file}: expected a poison in safetensors format (a pickle or zip is never opened), "
            f"got {error}; delete it and craft it again, or use another"
        ) from None
    if dataset is not None:
        try:
            _check_dataset(poison, dataset)
        except ArtefactError as error:
            raise ArtefactError(f"{file}: {error}") from None
    return poison


def _check_rows(indices: Tensor, train_size: int) -> None:
    if not bool((indices.diff() > 0).all()):
        raise ArtefactError("expected strictly increasing indices, got some out of order")
    if len(indices) and not 0 <= int(indices[0]) <= int(indices[-1]) < train_size:
        raise ArtefactError(
            f"expected indices in 0..{train_size - 1}, got {int(indices[0])}..{int(indices[-1])}"
        )


def _seal(card: dict[str, Any]) -> str:
    unsealed = {name: value for name, value in card.items() if name != "seal"}
    return hashlib.sha256(canonical_json(unsealed).encode()).hexdigest()


def _read_bytes(file: Path) -> tuple[dict[str, Any], bytes]:
    """The header and all bytes; nothing is allocated before header and file size agree."""
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
    """Names, types, shapes and lengths of the tensors, against the bytes that are there."""
    names = sorted(_TENSORS)
    if not isinstance(header, dict) or set(header) != {*names, "__metadata__"}:
        found = sorted(header) if isinstance(header, dict) else type(header).__name__
        raise ArtefactError(f"expected the tensors {', '.join(names)} and a card, got {found}")
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
    if card["seal"] != _seal(card):
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
    for name, found in (
        ("num_poisons", len(poison)),
        ("digest", poison.digest),
        ("sources_digest", digest_tensors(poison.sources)),
    ):
        if poison.card[name] != found:
            raise ArtefactError(
                f"expected tensors with {name} {poison.card[name]}, got {found}: they were changed"
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
        _check_budget(poison.measure(dataset.train)["max_abs_levels"], poison.card["levels"])
    except ArtefactError as error:
        raise ArtefactError(f"{error}; delete it and craft it again, or use another") from None


def _check_budget(largest: int, budget: int) -> None:
    if largest > budget:
        raise ArtefactError(f"expected changes of at most {budget} grey levels, got {largest}")
