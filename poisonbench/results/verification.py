"""A run's record beside that of the same run done again: what agrees, and why the rest may not.

No torch here. Figures are the digests of what was trained on, the metrics, the outcomes of each
test image, the learning curve and the defense's notes; of surroundings the record states seed,
data, code, threads, precision, libraries and hardware.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from poisonbench.results.records import Bits, RunRecord

#: What may explain a difference, the likeliest first, and the fields that tell of it. The last
#: field of a path stands for all below it.
CAUSES: dict[str, tuple[str, ...]] = {
    "seed": ("spec.seed", "spec.trial", "digests.initial_weights", "digests.first_batch"),
    "data": ("spec.dataset", "spec.poison", "spec.goal", "spec.trigger", "labels.sizes"),
    "code": ("spec", "environment.poisonbench", "environment.commit", "labels.source"),
    "threads": ("environment.threads",),
    "precision": ("environment.precision",),
    "libraries": ("environment.torch", "environment.numpy", "environment.python"),
    "hardware": (
        *("environment.device", "environment.processor", "environment.cuda"),
        "environment.platform",
    ),
}

#: Parts of a record that another run of the same bytes repeats.
FIGURES = ("metrics", "outcomes", "curve", "notes", "digests")


@dataclass(frozen=True)
class Difference:
    """A field by its path in the record, as it was recorded and as it came out again."""

    field: str
    recorded: Any
    repeated: Any


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two records of the same run.

    Attributes:
        figures: those that differ, the weights' digest among them where both are known.
        images: test images that were classified right in one run and not in the other; null where
            the record does not say which were. ``triggered`` of those with a trigger.
        causes: by name of :data:`CAUSES`, the differing surroundings.
    """

    recorded: RunRecord
    repeated: RunRecord
    figures: tuple[Difference, ...]
    images: int | None
    triggered: int | None
    causes: dict[str, tuple[Difference, ...]]

    @property
    def is_same(self) -> bool:
        """Whether all figures agree to the last digit."""
        return not self.figures

    def is_within(self, images: int) -> bool:
        """Whether at most so many test images came out otherwise, and the target as before.

        Of none every other figure must be the same too.
        """
        if self.is_same or not images:
            return self.is_same
        recorded, repeated = self.recorded.metrics, self.repeated.metrics
        return (
            self.images is not None
            and max(self.images, self.triggered or 0) <= images
            and recorded.attack_success == repeated.attack_success
        )

    @property
    def verdict(self) -> str:
        """``same to the last digit``, or by how many images it differs."""
        if self.is_same:
            return "same to the last digit"
        recorded, repeated = self.recorded.metrics, self.repeated.metrics
        before, after = 100 * recorded.test_accuracy, 100 * repeated.test_accuracy
        parts = [f"test accuracy {before:.2f} -> {after:.2f} %"]
        count = self.recorded.labels.sizes.test
        if self.images is not None:
            parts.insert(0, f"within {self.images:,} of {count:,} test images")
        else:
            least = round(abs(after - before) / 100 * count)
            parts.insert(0, f"by {least:,} of {count:,} test images or more")
        if self.triggered:
            parts.append(f"{self.triggered:,} images with the trigger come out otherwise")
        if recorded.attack_success != repeated.attack_success:
            hits = [recorded.attack_success, repeated.attack_success]
            words = ["hit" if hit else "missed" for hit in hits]
            parts.append(f"target {words[0]} -> {words[1]}")
        return "differs " + ", ".join(parts)

    @property
    def causes_text(self) -> str:
        """The differing surroundings in words; empty where there are none."""
        return "; ".join(
            f"{cause}: "
            + ", ".join(
                f"{one.field.partition('.')[2]} {_short(one.recorded)} -> {_short(one.repeated)}"
                for one in differences
            )
            for cause, differences in self.causes.items()
        )


def compare(
    recorded: RunRecord, repeated: RunRecord, weights: tuple[str, str] | None = None
) -> Comparison:
    """Compare a record with that of the same run done again.

    Figures that the older record lacks are passed over.

    Args:
        recorded: what somebody states.
        repeated: what came out again.
        weights: the digests of the trained weights of both, where they are known.
    """
    before, after = msgspec.to_builtins(recorded), msgspec.to_builtins(repeated)
    figures = [one for part in FIGURES for one in _differences(part, before[part], after[part])]
    figures += _differences("spec.poison", before["spec"]["poison"], after["spec"]["poison"])
    # A schema without outcomes, and figures of later versions, were never stated.
    figures = [one for one in figures if one.recorded is not None or one.repeated is None]
    if weights is not None:
        figures += _differences("weights", *weights)
    return Comparison(
        recorded=recorded,
        repeated=repeated,
        figures=tuple(figures),
        images=_flips(recorded.outcomes.test, repeated.outcomes.test),
        triggered=_flips(recorded.outcomes.triggered, repeated.outcomes.triggered),
        causes=dict(_causes(before, after)),
    )


def _causes(before: Any, after: Any) -> Iterator[tuple[str, tuple[Difference, ...]]]:
    known: set[str] = set()
    for cause, paths in CAUSES.items():
        differences = {
            one.field: one
            for path in paths
            for one in _differences(path, _part(before, path), _part(after, path))
            # A record from before there were sources states none.
            if one.field not in known | {"labels.source"}
        }
        known |= differences.keys()
        if differences:
            yield cause, tuple(differences.values())


def _part(fields: Any, path: str) -> Any:
    for name in path.split("."):
        fields = None if fields is None else fields.get(name)
    return fields


def _differences(path: str, before: Any, after: Any) -> Iterable[Difference]:
    """The leaves that differ; lists of one length are compared item by item."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted({*before, *after}):
            yield from _differences(f"{path}.{name}", before.get(name), after.get(name))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from _differences(f"{path}.{number}", *pair)
    elif before != after:
        yield Difference(path, before, after)


def _flips(before: Bits | None, after: Bits | None) -> int | None:
    """How many of the images came out otherwise."""
    if before is None or after is None or before.count != after.count:
        return None
    return int((before.unpack() != after.unpack()).sum())


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text
