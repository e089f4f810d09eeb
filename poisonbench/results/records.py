"""Run records: one JSON file a run, whose existence means done. No torch here.

A record holds all that a table needs and all that a reader needs to trust it: the whole spec, the
seeds' digests, metrics, curve, cost and environment.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poisonbench.core.canonical import canonical_json as canonical_json
from poisonbench.core.canonical import spec_id as spec_id
from poisonbench.core.errors import ArtefactError
from poisonbench.core.files import read_shared

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

#: 2: has ``outcomes``.
SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished training run.

    Attributes:
        schema: version of this format.
        id: :func:`spec_id` of ``spec``.
        spec: everything that determines the result: kind ("defend"), seed, trial, dataset
            {name, digest}, poison (null for a clean run, else {attacks, rho, selection, trial,
            digest}), method, recipe_number, config, model, training.
        labels: what a table groups by and the spec does not say: variant ("paper" when every
            setting is the paper's for this data set, else "custom"), profile, overrides
            {option: value}, presets, is_paper_dataset, dataset (as the user wrote it), sizes
            {train, validation, test: images}, poison (null, or the artefact's id and what made it).
        metrics: test_accuracy (fraction, last epoch), per_class_accuracy, validation_accuracy,
            attack_success (null when untargeted), target (null, or the prediction, its confidence
            and those of the target's own and intended class), poison (share of poisons etc., never
            shown to the defense), filter (null unless the defense drops images: poisons_removed,
            num_poisons, clean_removed, num_clean, precision, recall, f1, per_class).
            batch_statistics_accuracy is a diagnostic beside test_accuracy: the same weights with
            batch norm's statistics of each (class-balanced) test batch; null without batch norm.
        outcomes: which test images were classified right, as :func:`pack_bits` writes them: test,
            and test_by_batch_statistics (null without batch norm). Empty in records of schema 1.
        curve: one row an epoch: epoch, images, loss, validation_accuracy.
        notes: the defense's figures, e.g. HINT's update rounds.
        digests: initial_weights, first_batch.
        cost: seconds {training, defense, validation, test, total} over all sessions, where what a
            defense does to a batch is training and what it does between epochs is defense,
            session_seconds of the one that finished, images_per_second,
            peak_memory_bytes, interruptions.
        environment: versions, device, processor, threads, precision, commit, plan (the
            digest of the sweep's plan, or null), started, finished.
        warnings: sentences.
        path: where it lies; no part of it, and None before it is kept.
    """

    schema: int = SCHEMA
    id: str
    spec: dict[str, Any]
    labels: dict[str, Any]
    metrics: dict[str, Any]
    outcomes: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    path: Path | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return (
            f"RunRecord {self.id}: {self.spec.get('method')} on {self.labels.get('dataset')}, "
            f"trial {self.spec.get('trial')}\n"
            f"test accuracy {self.metrics.get('test_accuracy')}, "
            f"attack success {self.metrics.get('attack_success')}\n{self.path or 'not kept'}"
        )

    def to_json(self) -> str:
        """Readable JSON, sealed; a number that is not finite is the caller's bug, a ValueError."""
        fields = asdict(self)
        del fields["path"]
        sealed = {**fields, "seal": _seal(fields)}
        return json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _seal(fields: Mapping[str, Any]) -> str:
    """sha256 of a record's fields: a bit that flips on a disk must not become an accuracy."""
    return hashlib.sha256(canonical_json(fields).encode()).hexdigest()


def read_record(path: Path) -> RunRecord:
    """Read and check one record.

    Raises:
        ArtefactError: unreadable, another schema, missing or mistyped fields, an id that is not
            the spec's or a seal that is not the record's (an edited file), or an accuracy outside
            [0, 1]. A record from before there were seals has none.
    """
    try:
        raw = json.loads(read_shared(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(
            f"{path}: expected a run record in JSON, got {error}; delete it and run again"
        ) from None
    if not isinstance(raw, dict) or raw.get("schema") not in range(1, SCHEMA + 1):
        found = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        raise ArtefactError(f"{path}: expected a run record of schema {SCHEMA}, got {found}")
    seal = raw.pop("seal", None)
    is_whole = seal is None or seal == _seal_or_none(raw)
    raw = _upgraded(raw)
    known = {f.name: f for f in fields(RunRecord) if f.compare}
    kinds = {"dict": dict, "list": list, "str": str, "int": int}
    for name, declared in known.items():
        kind = kinds[str(declared.type).split("[")[0]]
        if not isinstance(raw.get(name), kind):
            raise ArtefactError(
                f"{path}: expected field {name!r} of type {kind.__name__}, "
                f"got {type(raw.get(name)).__name__}"
            )
    if extra := sorted(set(raw) - set(known)):
        raise ArtefactError(f"{path}: expected no fields but the record's own, got {extra[0]!r}")
    if raw["id"] != spec_id(raw["spec"]):
        raise ArtefactError(
            f"{path}: expected id {spec_id(raw['spec'])} for its spec, got {raw['id']}; "
            "the file was edited, delete it and run again"
        )
    accuracy = raw["metrics"].get("test_accuracy")
    if (
        not isinstance(accuracy, int | float)
        or not math.isfinite(accuracy)
        or not 0 <= accuracy <= 1
    ):
        raise ArtefactError(f"{path}: expected test_accuracy in [0, 1], got {accuracy}")
    if not is_whole:
        raise ArtefactError(
            f"{path}: expected the record that was sealed, got an edited one; "
            "delete it and run again"
        )
    return RunRecord(**raw, path=path)


def _upgraded(raw: dict[str, Any]) -> dict[str, Any]:
    """A record's fields as those of today's schema."""
    if raw["schema"] == 1:
        raw = {**raw, "schema": SCHEMA, "outcomes": {}}
    return raw


def pack_bits(values: Sequence[bool]) -> dict[str, Any]:
    """Truth values as JSON: their number, and bits, first one highest, as base64."""
    import numpy

    packed = numpy.packbits(numpy.asarray(values, dtype=bool)).tobytes()
    return {"count": len(values), "bits": base64.b64encode(packed).decode()}


def unpack_bits(packed: Mapping[str, Any]) -> NDArray[numpy.bool_]:
    """What :func:`pack_bits` packed, (count,) bool.

    Raises:
        ArtefactError: not that.
    """
    import numpy

    try:
        data = base64.b64decode(packed["bits"], validate=True)
        count = packed["count"]
        if not isinstance(count, int) or len(data) != -(-count // 8):
            raise ValueError(f"{len(data)} bytes for {count!r} values")
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"expected packed bits with their count, got {error}") from None
    return numpy.unpackbits(numpy.frombuffer(data, numpy.uint8), count=count).astype(bool)


def _seal_or_none(fields: Mapping[str, Any]) -> str | None:
    """:func:`_seal`, or None where a number is not finite."""
    try:
        return _seal(fields)
    except (ValueError, RecursionError):
        return None
