"""The spec of a run: everything that determines its result, and so its id. No torch here.

A field that is null by default is absent from the JSON then.
"""

from typing import Any

import msgspec

from poisonbench.core.canonical import spec_id
from poisonbench.targeting import Goal

#: In the text that an id is the hash of, 1 and 1.0 differ.
Number = int | float


class JsonPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A JSON object of a spec or record."""


class DatasetRef(JsonPart, frozen=True, kw_only=True):
    """The data set's name without a path, and the digest of its splits."""

    name: str
    digest: str


class PoisonSpec(JsonPart, frozen=True, kw_only=True):
    """The poison that a run trains on.

    Attributes:
        attacks: names in the order of their shares.
        rho: share of the training images.
        selection: how the shares were drawn; null for a targeted poison or a given artefact.
        trial: the draw; null for a given artefact.
        profile: a targeted attack's, unless it is "paper".
        digest: the artefact's; null before it is crafted.
    """

    attacks: list[str]
    rho: Number
    selection: str | None
    trial: int | None
    profile: str | None = None
    digest: str | None = None


class TargetingSpec(JsonPart, frozen=True, kw_only=True):
    """A :class:`~poisonbench.targeting.Targeting`."""

    scenario: str
    rho: Number
    targets: str
    target: int | None
    intended_class: int | None
    poison_class: int | None
    transfer_share: Number
    stage_epochs: int | None = None
    norm_drift: bool


class TrainingSpec(JsonPart, frozen=True, kw_only=True):
    """A ``Recipe`` of :mod:`poisonbench.training.recipe`."""

    epochs: int
    batch_size: int
    learning_rate: Number
    momentum: Number
    weight_decay: Number
    milestones: list[int]
    augment: str
    precision: str
    recalibrate: Number | None = None


class RunSpec(JsonPart, frozen=True, kw_only=True, tag_field="kind", tag="defend"):
    """Everything that determines a run's result.

    Attributes:
        loop: number of the training loop.
        poison: null for a clean run.
        method: the defense; recipe_number and config are its own.
        trial: seeds initial weights, batches and augmentation.
        targeting: of a targeted attack, or of its clean control.
        goal: the target; null before it is drawn, and without targeting.
        pretraining: on clean data; null from scratch.
        stage: number of the second stage; null from scratch.
    """

    loop: int
    dataset: DatasetRef
    poison: PoisonSpec | None
    method: str
    recipe_number: int
    config: dict[str, Any]
    model: str
    seed: int
    trial: int
    targeting: TargetingSpec | None = None
    goal: Goal | None = None
    pretraining: TrainingSpec | None = None
    stage: int | None = None
    training: TrainingSpec

    @property
    def id(self) -> str:
        """The run's."""
        return spec_id(msgspec.to_builtins(self))

    @property
    def rho(self) -> float:
        """Poisoned share of the training images; 0 for a clean run."""
        return 0.0 if self.poison is None else self.poison.rho

    @property
    def poison_digest(self) -> str | None:
        """The poison's digest; null for a clean run."""
        return None if self.poison is None else self.poison.digest
