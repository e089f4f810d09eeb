"""The poison artefact: the poisoned images that an attacker can publish, and a card on them.

How it lies in a folder, and how it is read again: ``poisonbench.data.artefacts``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import torch
from msgspec import structs
from torch import Tensor

from poisonbench import __version__
from poisonbench.core.canonical import canonical_json, spec_id
from poisonbench.core.errors import ArtefactError
from poisonbench.data.budget import budget_fault, levels, quantise
from poisonbench.data.splits import Dataset, Split, digest_tensors
from poisonbench.specs import (
    CodeSource,
    Measured,
    Norm,
    PoisonCard,
    PoisonedDataset,
    PoisonOrigin,
    seal_of,
)
from poisonbench.targeting import Goal, Trigger, Untargeted

SCHEMA = 1
# Images at a time: whole splits in wider types would take gigabytes and miss every cache.
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class Poison:
    """Poisoned images and where they belong in the training split.

    Attributes:
        indices: (P,) int64, strictly increasing rows of the training split; P may be 0.
        images: (P, C, H, W) uint8.
        sources: (P,) uint8, the position in ``card.attacks`` of the attack that made each row.
        card: what it says of itself.
        path: where it lies; None before it is kept.
        labels: (P,) int64, the labels that the poisons are published with; None where each keeps
            its image's own (clean-label).
        pattern: (C, H, W) float32, a trigger that was learned; None of others, and without one.
            Test images with it have the digest that the card states.

    Raises:
        ArtefactError: types or shapes that do not fit, rows out of order, an unknown source or
            label.
    """

    indices: Tensor
    images: Tensor
    sources: Tensor
    card: PoisonCard
    path: Path | None = None
    labels: Tensor | None = None
    pattern: Tensor | None = None

    def __post_init__(self) -> None:
        card = self.card
        # Of tensors without a size there is none, which fits no images.
        size = tuple(self.images.shape[:1])
        for name, dtype, shape in (
            ("indices", torch.int64, size),
            ("images", torch.uint8, (*size, *card.dataset.image_shape)),
            ("sources", torch.uint8, size),
            ("labels", torch.int64, size),
            ("pattern", torch.float32, card.dataset.image_shape),
        ):
            tensor = getattr(self, name)
            if tensor is None:
                continue
            if tensor.dtype != dtype or tensor.shape != shape:
                raise ArtefactError(
                    f"expected {name} of shape {shape} and type {dtype}, "
                    f"got {tuple(tensor.shape)} {tensor.dtype}"
                )
        _check_rows(self.indices, card.dataset.train_size)
        if len(self) and int(self.sources.max()) >= len(card.attacks):
            raise ArtefactError(
                f"expected sources among {len(card.attacks)} attacks, "
                f"got number {int(self.sources.max())}"
            )
        _check_labels(self.labels, card)
        if self.pattern is not None and (
            not isinstance(card.goal, Trigger) or not bool(self.pattern.isfinite().all())
        ):
            raise ArtefactError("expected a pattern of finite values of a trigger, got another")

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        card, made_for = self.card, self.card.dataset
        return (
            f"Poison {self.id}: {len(self):,} of {made_for.train_size:,} images of {made_for.name} "
            f"by {'+'.join(card.attacks)}\n{card.change_text.removesuffix(' allowed')}\n"
            f"{self.path or 'not kept'}"
        )

    @property
    def id(self) -> str:
        """Its name in the store, of all that determined it."""
        return spec_id(self.card.spec)

    @property
    def goal(self) -> Goal | None:
        """The target; None of a poison without one."""
        return self.card.goal if isinstance(self.card.goal, Goal) else None

    @property
    def trigger(self) -> Trigger | None:
        """What the trigger shall do; None of a poison without one."""
        return self.card.goal if isinstance(self.card.goal, Trigger) else None

    @cached_property
    def digest(self) -> str:
        """sha256 of indices, images and labels that are stated: what a victim trains on."""
        stated = () if self.labels is None else (self.labels,)
        return digest_tensors(self.indices, self.images, *stated)

    def apply(self, split: Split) -> Split:
        """Put these images, and the labels where stated, into their rows of a training split.

        It stays on its device.

        Raises:
            ArtefactError: the split has too few rows or images of another shape.
        """
        self._check_fits(split)
        device = split.images.device
        images = split.images.clone()
        images[self.indices.to(device)] = self.images.to(device)
        labels = split.labels
        if self.labels is not None:
            labels = labels.clone()
            labels[self.indices.to(labels.device)] = self.labels.to(labels.device)
        return Split(images, labels)

    def count_changed_labels(self, base: Split) -> int:
        """How many poisons have another label than their image has in the training split."""
        if self.labels is None:
            return 0
        own = base.labels[self.indices.to(base.labels.device)].cpu()
        return int((self.labels != own).sum())

    def measure(self, base: Split) -> Measured:
        """Measure how far the images are from the training split's, by the norm of the card.

        Raises:
            ArtefactError: the split has too few rows or images of another shape.
        """
        self._check_fits(base)
        largest, total, changed = 0, 0, 0
        squares, pixels = [torch.zeros(0)], [torch.zeros(0)]
        for indices, images in zip(
            self.indices.split(_CHUNK), self.images.split(_CHUNK), strict=True
        ):
            clean = base.images[indices.to(base.images.device)].cpu()
            delta = (images.short() - clean.short()).abs()
            largest = max(largest, int(delta.max()) if len(delta) else 0)
            total += int(delta.sum())
            differs = delta.any(1)
            changed += int(differs.sum())
            if self.card.norm != "linf":
                squares.append((delta.double() / 255).square().sum((1, 2, 3)))
                pixels.append(differs.sum((1, 2)))
        l2, counts = torch.cat(squares).sqrt(), torch.cat(pixels)
        has_more = len(l2) > 0
        values = max(self.images.numel(), 1)
        return Measured(
            max_abs_levels=largest,
            mean_abs_levels=total / values,
            changed_pixels=changed / max(values // self.images.shape[1], 1),
            mean_l2=float(l2.mean()) if has_more else None,
            max_l2=float(l2.max()) if has_more else None,
            max_changed_pixels=int(counts.max()) if has_more else None,
        )

    def _check_fits(self, split: Split) -> None:
        rows, shape = self.card.dataset.train_size, tuple(self.images.shape[1:])
        if len(split) != rows or split.images.shape[1:] != shape:
            raise ArtefactError(
                f"expected a training split of {rows} images of shape {shape}, got {len(split)} "
                f"of shape {tuple(split.images.shape[1:])}; use the split it was made for"
            )


def make_poison(
    images: Tensor,
    indices: Tensor,
    dataset: Dataset,
    *,
    attack: str,
    epsilon: float | None,
    spec: PoisonOrigin,
    norm: Norm = "linf",
    goal: Goal | Trigger | None = None,
    labels: Tensor | None = None,
    code: Mapping[str, CodeSource] | None = None,
) -> Poison:
    """Round what one attack crafted, and make it an artefact.

    Parameters: what the card states, by name.

    Args:
        images: (P, C, H, W) float in [0, 1], on any device.
        indices: (P,) int64, strictly increasing rows of the training split.
        dataset: what was attacked.
        attack: its name.
        epsilon: the budget, in the norm's unit; None where there is none.
        spec: all that determined the images.
        norm: of the budget.
        goal: the target or trigger; None when untargeted.
        labels: (P,) int64, those of the poisons; None where they keep their own.
        code: where that of an attack that is not our own came from, by its name.

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
    base = dataset.train.images[rows]
    rounded = quantise(images.detach(), base, epsilon, norm).cpu().contiguous()
    sources, made_by = torch.zeros(len(rows), dtype=torch.uint8), (attack,)
    return assemble(
        rows,
        rounded,
        sources,
        dataset,
        attacks=made_by,
        epsilon=epsilon,
        spec=spec,
        norm=norm,
        goal=goal,
        labels=labels,
        code=code,
    )


def assemble(
    indices: Tensor,
    images: Tensor,
    sources: Tensor,
    dataset: Dataset,
    *,
    attacks: Sequence[str],
    epsilon: float | None,
    spec: PoisonOrigin,
    norm: Norm = "linf",
    goal: Goal | Trigger | None = None,
    labels: Tensor | None = None,
    code: Mapping[str, CodeSource] | None = None,
) -> Poison:
    """Put poisoned uint8 images together with their card, measured and sealed.

    Parameters: what the card states, by name.

    Raises:
        ArtefactError: tensors that do not fit together or the data set, or a budget exceeded.
    """
    unmeasured = PoisonCard(
        schema=SCHEMA,
        attacks=list(attacks),
        goal=goal or Untargeted(),
        spec=spec,
        norm=norm,
        epsilon=None if epsilon is None else float(epsilon),
        levels=levels(epsilon) if norm == "linf" and epsilon is not None else None,
        num_poisons=len(indices),
        dataset=PoisonedDataset(
            name=dataset.name,
            digest=dataset.digest,
            train_size=len(dataset.train),
            image_shape=dataset.image_shape,
            num_classes=dataset.num_classes,
        ),
        measured=Measured(max_abs_levels=0, mean_abs_levels=0.0, changed_pixels=0.0),
        versions={"poisonbench": __version__, "torch": str(torch.__version__)},
        digest="",
        sources_digest=digest_tensors(sources),
        code=dict(code) if code else None,
        seal="",
    )
    poison = Poison(indices, images, sources, unmeasured, labels=labels)
    measured = poison.measure(dataset.train)
    if fault := budget_fault(norm, epsilon, measured, images[0].numel() if len(images) else 0):
        raise ArtefactError(fault)
    card = structs.replace(
        unmeasured,
        measured=measured,
        digest=poison.digest,
        changed_labels=poison.count_changed_labels(dataset.train),
    )
    fields = msgspec.to_builtins(card)
    # Through JSON, so that a card just made equals the same card read: tuples become lists.
    sealed = json.loads(canonical_json(fields | {"seal": seal_of(fields)}))
    return replace(poison, card=msgspec.convert(sealed, PoisonCard))


def _check_rows(indices: Tensor, train_size: int) -> None:
    if not bool((indices.diff() > 0).all()):
        raise ArtefactError("expected strictly increasing indices, got some out of order")
    if len(indices) and not 0 <= int(indices[0]) <= int(indices[-1]) < train_size:
        raise ArtefactError(
            f"expected indices in 0..{train_size - 1}, got {int(indices[0])}..{int(indices[-1])}"
        )


def _check_labels(labels: Tensor | None, card: PoisonCard) -> None:
    """Labels are stated of dirty-label poisons and of no others, and are the target class."""
    trigger = card.goal if isinstance(card.goal, Trigger) else None
    is_dirty = trigger is not None and trigger.labels == "dirty"
    if is_dirty != (labels is not None):
        raise ArtefactError(
            f"expected labels {'' if is_dirty else 'nowhere but '}in a dirty-label poison, got "
            f"{'some' if labels is not None else 'none'}"
        )
    if trigger is None or labels is None:
        return
    if not bool((labels == trigger.target_class).all()):
        raise ArtefactError(
            f"expected the label {trigger.target_class} of every poison, got "
            f"{', '.join(map(str, labels.unique().tolist()))}"
        )
