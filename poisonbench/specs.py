"""Specs: everything that determines a run, a poison or a trained model, and so its id.

They are checked once, when a record or a card is read. A field that is null by default is absent
from the JSON then, as in files that are older than it; where a file may also say null, the default
is UNSET. No torch here.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from poisonbench.core.canonical import canonical_json, spec_id
from poisonbench.targeting import Goal, Trigger, Untargeted

#: In the text that an id is the hash of, 1 and 1.0 differ.
Number = int | float

#: What a poison's budget bounds: the change of any pixel (linf), of the whole image (l2), or the
#: number of pixels that change (l0). A convolution of the image has no bound, and a mix of attacks
#: of several norms no common one.
Norm = Literal["linf", "l2", "l0", "convolution", "mixed"]


class JsonPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A JSON object of a spec, a card or a record."""


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
    """A :class:`~poisonbench.targeting.Targeting`; null in a poison's spec is the victim's own."""

    scenario: str
    rho: Number
    targets: str
    target: int | None
    intended_class: int | None
    poison_class: int | None
    transfer_share: Number | None = None
    stage_epochs: int | None = None
    norm_drift: bool | None = None


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
    rate_schedule: str | None = None
    cycle_epochs: int | None = None


class RunSpec(JsonPart, frozen=True, kw_only=True, tag_field="kind", tag="defend"):
    """Everything that determines a run's result.

    Attributes:
        loop: number of the training loop.
        poison: null for a clean run.
        method: the defense; version and config are its own.
        trial: seeds initial weights, batches and augmentation.
        targeting: of a targeted attack, or of its clean control.
        goal: the target; null before it is drawn, and without targeting.
        trigger: null before the poison is crafted, and of a poison without one.
        pretraining: on clean data; null from scratch.
        stage: number of the second stage; null from scratch.
    """

    loop: int
    dataset: DatasetRef
    poison: PoisonSpec | None
    method: str
    version: int = msgspec.field(name="recipe_number")
    config: dict[str, Any]
    model: str
    seed: int
    trial: int
    targeting: TargetingSpec | None = None
    goal: Goal | None = None
    pretraining: TrainingSpec | None = None
    stage: int | None = None
    trigger: Trigger | None = None
    training: TrainingSpec

    def setting(self, name: str, default: Any = None) -> Any:
        """One of the defense's settings, by the defense's own names; the default if absent."""
        return self.config.get(name, default)

    @property
    def id(self) -> str:
        """The run's."""
        return spec_id(self)

    @property
    def rho(self) -> float:
        """Poisoned share of the training images; 0 for a clean run."""
        return 0.0 if self.poison is None else self.poison.rho

    @property
    def poison_digest(self) -> str | None:
        """The poison's digest; null for a clean run."""
        return None if self.poison is None else self.poison.digest


class MethodSpec(JsonPart, frozen=True, kw_only=True):
    """A defense that a network was trained under, or that an attacker assumed."""

    method: str
    version: int = msgspec.field(name="recipe_number")
    config: dict[str, Any]


class ModelSpec(JsonPart, frozen=True, kw_only=True):
    """Everything that determines a network that is trained beside the runs.

    Attributes:
        kind: "surrogate", or another purpose with seeds of its own.
        loop: number of the training loop.
        dataset: the digest of its splits.
        model: the network.
        number: of several, which differ in initial weights and batches.
        rows: the digest of the images, where they are not the training split.
        start: the digest of the initial weights, where they are not those of the seed.
        holds_norms: whether batch norm keeps the statistics that it has; null where it does not.
        head: how a new head is trained on the features.
        poison: the digest of the poison in the images; null of clean ones.
        after_epochs: where it is looked at before the end.
    """

    kind: str
    loop: int
    dataset: str
    model: str
    training: TrainingSpec
    seed: int
    trial: int
    number: int = 0
    rows: str | None = None
    start: str | None = None
    holds_norms: bool | None = None
    head: TrainingSpec | None = None
    defense: MethodSpec | None = None
    poison: str | UnsetType | None = UNSET
    after_epochs: list[int] | None = None


class ShareSpec(JsonPart, frozen=True, kw_only=True):
    """How many of the training images an attack with a trigger gets, and how they are drawn."""

    rho: Number
    selection: Literal["stratified", "uniform"]


class CraftSpec(JsonPart, frozen=True, kw_only=True, tag_field="kind", tag="craft"):
    """A poison that one attack crafted; the data set is the digest of its splits.

    ``share`` is null where an attack crafts every training image, or has a target; ``against`` is
    the defense that an adaptive attack had in the loop.
    """

    attack: str
    version: int = msgspec.field(name="recipe_number")
    config: dict[str, Any]
    dataset: str
    surrogate: ModelSpec | None
    seed: int
    trial: int
    targeting: TargetingSpec | None = None
    share: ShareSpec | None = None
    against: MethodSpec | None = None


class MixSpec(JsonPart, frozen=True, kw_only=True, tag_field="kind", tag="mix"):
    """Shares of several attacks' poisons, which are named by their digests."""

    version: int = msgspec.field(name="recipe_number")
    pools: dict[str, str]
    order: list[str]
    rho: Number
    selection: str
    seed: int


class ImportSpec(JsonPart, frozen=True, kw_only=True, tag_field="kind", tag="import"):
    """A published poison set, by the sha256 of its files; of a generator three are absent."""

    format: str
    version: int = msgspec.field(name="recipe_number")
    files: dict[str, str]
    std: str | UnsetType | None = UNSET
    ids: str | UnsetType | None = UNSET
    attack: str
    scenario: str | UnsetType = UNSET
    epsilon: Number | None
    dataset: str


#: Where a poison's images came from.
PoisonOrigin = CraftSpec | MixSpec | ImportSpec


class CodeSource(JsonPart, frozen=True, kw_only=True):
    """A distribution and its version, or a file and its sha256."""

    distribution: str | None = None
    version: str | None = None
    file: str | None = None
    sha256: str | None = None


class PoisonedDataset(DatasetRef, frozen=True, kw_only=True):
    """The data set that a poison was made for."""

    train_size: int
    image_shape: tuple[int, int, int]
    num_classes: int


class Measured(JsonPart, frozen=True, kw_only=True):
    """How far poisons are from their bases, in grey levels of 1/255; all 0 without poisons.

    The mean is over pixels and channels; ``changed_pixels`` is the share of pixel positions where
    any channel differs. The rest is null of L-infinity: of an image's L2 distances, in pixels of
    [0, 1], the mean and the largest, and the most pixels that differ in one image.
    """

    max_abs_levels: int
    mean_abs_levels: float
    changed_pixels: float
    mean_l2: float | None = None
    max_l2: float | None = None
    max_changed_pixels: int | None = None


class PoisonCard(JsonPart, frozen=True, kw_only=True, tag_field="kind", tag="poison"):
    """What a poison says of itself.

    Attributes:
        attacks: names in the order of their shares.
        spec: all that determined the images.
        norm: of the budget.
        epsilon: the budget: in pixels of [0, 1] for linf and l2, a number of pixels for l0; null
            where there is none.
        levels: the whole grey levels of 1/255 in it; null but for linf.
        changed_labels: how many poisons have another label than their image's own.
        code: where the code of attacks that are not our own came from, by their names; null in
            older cards.
        digest: of indices and images, and of the labels where the artefact states them.
        seal: :func:`seal_of` all this.
    """

    schema: int
    attacks: Annotated[list[str], msgspec.Meta(min_length=1)]
    goal: Goal | Untargeted | Trigger
    spec: PoisonOrigin
    norm: Norm = "linf"
    epsilon: Annotated[float, msgspec.Meta(ge=0)] | None = None
    levels: int | None = None
    num_poisons: int
    dataset: PoisonedDataset
    measured: Measured
    versions: dict[str, str]
    digest: str
    sources_digest: str
    changed_labels: int = 0
    code: dict[str, CodeSource] | None = None
    seal: str

    @property
    def budget_text(self) -> str:
        """``8/255 in each pixel (L-infinity)``."""
        if self.norm == "linf":
            return f"{self.levels}/255 in each pixel (L-infinity)"
        if self.norm == "l2":
            return f"{self.epsilon:.4g} of the whole image (L2)"
        if self.norm == "l0":
            return f"{self.epsilon:g} pixel(s) of any value (L0)"
        return "none (a convolution)" if self.norm == "convolution" else "none in common (mixed)"

    @property
    def measured_text(self) -> str:
        """The largest change by the norm of the budget, ``3/255``; all that is known without."""
        measured = self.measured
        change = f"{measured.max_abs_levels}/255"
        if self.norm == "linf":
            return change
        if self.norm == "l0":
            return f"{measured.max_changed_pixels} pixel(s)"
        distances = f"L2 {measured.max_l2:.4g} (mean {measured.mean_l2:.4g})"
        return distances if self.norm == "l2" else f"{change}, {distances}"

    @property
    def change_text(self) -> str:
        """``largest change 3/255 of 8/255 allowed``."""
        if self.norm == "linf":
            return f"largest change {self.measured_text} of {self.levels}/255 allowed"
        return f"largest change {self.measured_text}, budget {self.budget_text}"

    @property
    def largest_levels(self) -> int:
        """The grey levels that no pixel changes by more than: the budget's, or else measured."""
        return self.measured.max_abs_levels if self.levels is None else self.levels


def seal_of(fields: Mapping[str, Any]) -> str:
    """sha256 of a card's or record's JSON but for its seal: a bit that flips on a disk shows.

    Raises:
        ValueError: a number is not finite.
    """
    unsealed = {name: value for name, value in fields.items() if name != "seal"}
    return hashlib.sha256(canonical_json(unsealed).encode()).hexdigest()
