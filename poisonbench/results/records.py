"""Run records: one JSON file a run, whose existence means done. No torch here.

A record holds all that a table needs and all that a reader needs to trust it. It is checked once,
when it is read. A field that is null by default is absent from the file then, as in records that
are older than it; where a file may also say null, the default is UNSET.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType, structs

from poisonbench.core.errors import ArtefactError
from poisonbench.core.files import read_shared
from poisonbench.specs import CodeSource, CraftSpec, JsonPart, PoisonOrigin, RunSpec, seal_of
from poisonbench.targeting import Goal

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

#: 2: has ``outcomes`` and ``metrics.batch_statistics_accuracy``.
SCHEMA = 2


class PoolLabel(JsonPart, frozen=True, kw_only=True):
    """A crafted poison: its id, and the spec in its card."""

    id: str
    spec: CraftSpec


class Origin(JsonPart, frozen=True, kw_only=True):
    """Where a poison came from: crafted pools by attack, or a given artefact without an id."""

    id: str | None
    pools: dict[str, PoolLabel] = msgspec.field(default_factory=dict)
    made_by: PoisonOrigin | None = None


class Sources(JsonPart, frozen=True, kw_only=True):
    """Where the code of a run came from; null where it is not known."""

    method: CodeSource | None
    attacks: dict[str, CodeSource]
    model: CodeSource | None
    dataset: CodeSource | None


class Sizes(JsonPart, frozen=True, kw_only=True):
    """Images in each split."""

    train: int
    validation: int
    test: int


class ClaimLabel(JsonPart, frozen=True, kw_only=True):
    """A claim that a run was planned for: its declaration's digest, and how many trials."""

    digest: str
    trials: int


class Labels(JsonPart, frozen=True, kw_only=True):
    """What a table groups by and the spec does not say.

    Attributes:
        variant: the profile where every setting is its for this data set, else "custom".
        overrides: settings that are not the profile's, by option.
        poison: null for a clean run.
        presets: the data set's, most general first.
        is_paper_dataset: whether it is a paper's data set, and the whole of it.
        dataset: its name as the user wrote it.
        claims: by id, those that the run's sweep was planned for; null where it was for none.
    """

    variant: str
    profile: str
    overrides: dict[str, Any]
    poison: Origin | None
    presets: list[str]
    is_paper_dataset: bool
    dataset: str
    sizes: Sizes
    source: Sources | None = None
    claims: dict[str, ClaimLabel] | None = None


class RemovalCounts(JsonPart, frozen=True, kw_only=True):
    """Images that a defense dropped, of those that there were."""

    poisons_removed: int
    num_poisons: int
    clean_removed: int
    num_clean: int


class FilterScores(RemovalCounts, frozen=True, kw_only=True):
    """How well a defense that drops images found the poisons; null where a denominator is 0.

    Precision: poisons among the removed; recall: removed among the poisons; F1: their harmonic
    mean; per_class: in order of the labels.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    per_class: list[RemovalCounts]


class TargetAnswer(JsonPart, frozen=True, kw_only=True):
    """What the classifier says of the target."""

    prediction: int
    confidence: float | None = None
    success: bool
    confidence_of_own_class: float
    confidence_of_intended_class: float


class TriggerAnswer(JsonPart, frozen=True, kw_only=True):
    """Triggered test images of the other classes, and how many were given the target class."""

    successes: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.count or not self.count:
            raise ValueError(f"expected successes among images, got {self.successes}/{self.count}")

    @property
    def rate(self) -> float:
        """The attack success rate, a fraction."""
        return self.successes / self.count


class PoisonShare(JsonPart, frozen=True, kw_only=True):
    """Poisons among the images trained on, and among those that the defense chose, if it does."""

    count: int
    share: float
    share_of_selected: float | None = None


class Metrics(JsonPart, frozen=True, kw_only=True):
    """What was measured after the last epoch; accuracies are fractions.

    Attributes:
        batch_statistics_accuracy: a diagnostic beside the test accuracy: the same weights with
            batch norm's statistics of each (class-balanced) test batch; null without batch norm.
        peak_accuracy: test accuracy of the weights after the epoch of the highest validation
            accuracy, the first of equals: what stopping early by clean images would have given. Of
            a recipe that recalibrates batch norm, after the last epoch, it is in no table: the
            weights of an earlier one are as they were trained.
        per_class_accuracy: of the test split, in order of the labels.
        attack_success: whether the target was hit; null without one, as is target.
        trigger: null of a poison without one.
        poison: what the defense, which never saw them, did with the poisons; null without any.
        filter: null unless the defense drops images.
    """

    test_accuracy: float
    batch_statistics_accuracy: float | UnsetType | None = UNSET
    peak_accuracy: float | UnsetType = UNSET
    per_class_accuracy: list[float]
    validation_accuracy: float
    attack_success: bool | None
    target: TargetAnswer | None
    trigger: TriggerAnswer | None = None
    poison: PoisonShare | None
    filter: FilterScores | None

    def __post_init__(self) -> None:
        if not 0 <= self.test_accuracy <= 1:
            raise ValueError(f"expected test_accuracy in [0, 1], got {self.test_accuracy}")


class Bits(JsonPart, frozen=True, kw_only=True):
    """Truth values: their number, and bits, first one highest, as base64."""

    count: int
    bits: str

    def __post_init__(self) -> None:
        size = len(base64.b64decode(self.bits, validate=True))
        if size != -(-self.count // 8):
            raise ValueError(f"expected the bits of {self.count} values, got {size} bytes")

    @classmethod
    def pack(cls, values: Sequence[bool]) -> Bits:
        """Pack truth values."""
        import numpy

        packed = numpy.packbits(numpy.asarray(values, dtype=bool)).tobytes()
        return cls(count=len(values), bits=base64.b64encode(packed).decode())

    def unpack(self) -> NDArray[numpy.bool_]:
        """The values, (count,) bool."""
        import numpy

        data = numpy.frombuffer(base64.b64decode(self.bits), numpy.uint8)
        return numpy.unpackbits(data, count=self.count).astype(bool)


class Outcomes(JsonPart, frozen=True, kw_only=True):
    """Which test images were classified right, behind the two accuracies.

    ``triggered``: which of those with a trigger, in the order of the test split without the target
    class, were given the target class.
    """

    test: Bits | None = None
    test_by_batch_statistics: Bits | UnsetType | None = UNSET
    triggered: Bits | None = None


class Epoch(JsonPart, frozen=True, kw_only=True):
    """A row of the curve: the epoch from 1, the images that it trained on, their mean loss."""

    epoch: int
    images: int | None = None
    loss: float
    validation_accuracy: float


class Digests(JsonPart, frozen=True, kw_only=True):
    """What the runs of a trial share."""

    initial_weights: str
    first_batch: str


class Seconds(JsonPart, frozen=True, kw_only=True):
    """All sessions' seconds: a defense's work on a batch is training, between epochs defense."""

    training: float
    defense: float
    validation: float
    test: float
    total: float


class Cost(JsonPart, frozen=True, kw_only=True):
    """What a run took.

    ``session_seconds`` are those of the session that finished it, and of a shared copy it read.
    """

    seconds: Seconds
    session_seconds: float
    images_per_second: float
    peak_memory_bytes: int
    interruptions: int


class Environment(JsonPart, frozen=True, kw_only=True):
    """Versions, machine, and times in UTC; the plan is the digest of a sweep's."""

    poisonbench: str
    python: str
    torch: str
    numpy: str
    cuda: str | None
    platform: str
    processor: str
    device: str
    threads: int
    precision: str
    commit: str | None
    plan: str | None
    started: str
    finished: str


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """One finished training run.

    Attributes:
        id: the spec's.
        notes: the defense's figures, e.g. HINT's update rounds.
        warnings: sentences.

    Raises:
        ValueError: some of what a targeted run or one on a trigger has, but not all of it.
    """

    schema: int = SCHEMA
    id: str
    spec: RunSpec
    labels: Labels
    metrics: Metrics
    outcomes: Outcomes
    curve: list[Epoch]
    notes: list[dict[str, Any]]
    digests: Digests
    cost: Cost
    environment: Environment
    warnings: list[str]

    #: Where it lies, which is no part of it; None before it is kept.
    path: ClassVar[Path | None] = None

    def __post_init__(self) -> None:
        spec, metrics = self.spec, self.metrics
        parts = (spec.targeting, spec.goal, metrics.target, metrics.attack_success)
        if len({part is None for part in parts}) > 1:
            raise ValueError("expected all or none of targeting, goal, target and attack_success")
        if len({part is None for part in (spec.trigger, metrics.trigger)}) > 1:
            raise ValueError("expected both or none of the spec's trigger and the metrics'")

    @property
    def on_target(self) -> tuple[Goal, TargetAnswer]:
        """A targeted run's goal, and what the classifier says of its target.

        Raises:
            ValueError: the run is untargeted.
        """
        if self.spec.goal is None or self.metrics.target is None:
            raise ValueError(f"expected a targeted run, got {self.id}")
        return self.spec.goal, self.metrics.target

    def __repr__(self) -> str:
        metrics = self.metrics
        return (
            f"RunRecord {self.id}: {self.spec.method} on {self.labels.dataset}, trial "
            f"{self.spec.trial}\ntest accuracy {metrics.test_accuracy}, attack success "
            f"{metrics.attack_success}\n{self.path or 'not kept'}"
        )

    def kept_at(self, path: Path) -> RunRecord:
        """The same record, which knows where it lies.

        The path is no part of the JSON, so msgspec can set it only past the frozen struct's guard;
        the copy is nobody else's yet.
        """
        record = structs.replace(self)
        structs.force_setattr(record, "path", path)
        return record

    def to_json(self) -> str:
        """Readable JSON, sealed; a number that is not finite is the caller's bug, a ValueError."""
        fields = msgspec.to_builtins(self)
        sealed = {**fields, "seal": seal_of(fields)}
        return json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False) + "\n"


def read_record(path: Path) -> RunRecord:
    """Read and check one record.

    Raises:
        ArtefactError: unreadable, another schema, a field that is missing, unknown or of another
            type or range, an id that is not the spec's or the file's name (a copy) or a seal that
            is not the record's (an edited file). A record from before there were seals has none.
    """
    try:
        data = read_shared(path)
    except OSError as error:
        raise _refused(path, f"a run record in JSON, got {error};") from None
    record = parse_record(data, path)
    if path.stem != record.id:
        raise ArtefactError(
            f"{path}: expected the name {record.id}.json, as its run is called, got {path.name}; "
            "delete it if that file is there, else rename it"
        )
    return record


def parse_record(data: bytes, path: Path) -> RunRecord:
    """Check the bytes of one record, which lie at a path; as :func:`read_record`."""
    try:
        raw = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"a run record in JSON, got {error};") from None
    if not isinstance(raw, dict) or raw.get("schema") not in range(1, SCHEMA + 1):
        schema = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        is_newer = isinstance(schema, int) and schema > SCHEMA
        remedy = (
            "upgrade poisonbench, a newer one made it" if is_newer else "delete it and run again"
        )
        raise ArtefactError(
            f"{path}: expected a run record of schema {SCHEMA}, got {schema}; {remedy}"
        )
    seal = raw.pop("seal", None)
    try:
        upgrade = {"schema": SCHEMA, "outcomes": {}} if raw["schema"] == 1 else {}
        record = msgspec.convert(raw | upgrade, RunRecord)
        spec_id = record.spec.id
        is_whole = seal in (None, seal_of(raw))
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise _refused(path, f"a sound run record, got a fault: {error};") from None
    if record.id != spec_id:
        got = f"got {record.id}; the file was edited,"
        raise _refused(path, f"id {spec_id} for its spec, {got}")
    if not is_whole:
        raise _refused(path, "the record that was sealed, got an edited one;")
    return record.kept_at(path)


def _refused(path: Path, expected: str) -> ArtefactError:
    return ArtefactError(f"{path}: expected {expected} delete it and run again")
