"""What the page says of one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from markupsafe import Markup

from poisonbench.core.canonical import canonical_json
from poisonbench.core.settings import value_text
from poisonbench.figures.drawing import Panel, Series
from poisonbench.page.groups import Entry, Row
from poisonbench.page.plots import plot
from poisonbench.page.repeat import GIVEN, command_of_run
from poisonbench.results.records import RunRecord

#: Digits of a poison's digest in its anchor.
ANCHOR = 16

#: What differs between runs on one machine.
_OF_RUN = ("plan", "started", "finished")

#: The keys by which the page is filtered.
FILTERS = ("dataset", "attack", "defense", "rho", "scenario", "profile")


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """One run with its place among the others.

    Attributes:
        label: the defense, with its settings.
        row: the poison and defenses that it belongs to.
        trials: the runs of the same row and settings, itself among them.
        rivals: by label, the runs of other defenses with its seed and trial.
        command: makes it again; null where none can.
        environment: anchor of its machine and versions.
        curves: training loss and validation accuracy as pictures, and their numbers as text.
    """

    record: RunRecord
    label: str
    row: Row
    trials: Sequence[RunRecord]
    rivals: Sequence[tuple[str, RunRecord]]
    command: str | None
    environment: str
    curves: tuple[Markup, Markup, str]

    @property
    def filters(self) -> dict[str, str]:
        """Its values of the page's filters."""
        return filters_of(self.row, self.record.spec.method, self.record.labels.variant)

    @property
    def needs_poison(self) -> bool:
        """Whether its command has a stand-in for the poison that it was given."""
        return "poison" in self.record.labels.overrides

    @property
    def stand_in(self) -> str:
        """That word."""
        return GIVEN

    @property
    def settings(self) -> dict[str, str]:
        """What differs from the profile."""
        return {name: shown(value) for name, value in sorted(self.record.labels.overrides.items())}

    @property
    def every_setting(self) -> dict[str, str]:
        """What the run is and every setting of its defense and training, by name."""
        spec = self.record.spec
        about = {"defense": self.label, "data set": self.row.dataset, "network": spec.model}
        about |= {"trained on": self.row.title, "seed": str(spec.seed), "trial": str(spec.trial)}
        parts = {
            spec.method: spec.config,
            "training": spec.training,
            "pretraining": spec.pretraining,
            "targeting": spec.targeting,
        }
        return about | {
            f"{part}.{name}": shown(value)
            for part, values in parts.items()
            if values is not None
            for name, value in sorted(msgspec.to_builtins(values).items())
        }

    @property
    def notes(self) -> str:
        """What the defense noted, a line each."""
        return "\n".join(json.dumps(note, sort_keys=True) for note in self.record.notes)

    @property
    def poison_anchor(self) -> str | None:
        """The anchor of the poison that it was trained on."""
        return poison_anchor(self.record)


def run_pages(rows: Sequence[Row]) -> list[RunPage]:
    """A page for each run, in order of row and defense."""
    return [page for row in rows for entry in row.entries for page in _pages(row, entry)]


def _pages(row: Row, entry: Entry) -> list[RunPage]:
    rivals: dict[tuple[int, int], list[tuple[str, RunRecord]]] = {}
    for other in row.entries:
        for run in other.trials if other is not entry else ():
            rivals.setdefault((run.spec.seed, run.spec.trial), []).append((other.label, run))
    return [
        RunPage(
            record=run,
            label=entry.label,
            row=row,
            trials=entry.runs,
            rivals=rivals.get((run.spec.seed, run.spec.trial), ()),
            command=command_of_run(run),
            environment=environment_anchor(run),
            curves=_curves(run),
        )
        for run in entry.runs
    ]


def filters_of(row: Row, method: str, variant: str = "") -> dict[str, str]:
    """The values of the page's filters; empty ones are none."""
    values = (row.dataset, row.attack or "clean", method, f"{row.rho:g}", row.scenario, variant)
    return {name: value for name, value in zip(FILTERS, values, strict=True) if value}


def poison_anchor(record: RunRecord) -> str | None:
    """The anchor of the poison that a run was trained on; null for clean data."""
    digest = record.spec.poison_digest
    return None if digest is None else f"poison-{digest[:ANCHOR]}"


def environments(records: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
    """Machines and versions by anchor, in the order of their first run."""
    known: dict[str, dict[str, Any]] = {}
    for record in records:
        known.setdefault(environment_anchor(record), _machine(record))
    return known


def environment_anchor(record: RunRecord) -> str:
    """The anchor of a run's machine and versions."""
    return "machine-" + hashlib.sha256(canonical_json(_machine(record)).encode()).hexdigest()[:12]


def shown(value: Any) -> str:
    """A setting out of JSON as text: grey levels as 8/255, lists with commas."""
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return value_text(tuple(value) if isinstance(value, list) else value)


def overlaid(lines: Mapping[str, Sequence[RunRecord]]) -> tuple[Markup, Markup]:
    """Learning curves of several defenses over each other: means over their trials by epoch."""
    loss, accuracy = [], []
    for label, runs in lines.items():
        by_epoch: dict[int, list[tuple[float, float]]] = {}
        for run in runs:
            for point in run.curve:
                by_epoch.setdefault(point.epoch, []).append((point.loss, point.validation_accuracy))
        means = {n: [sum(v) / len(v) for v in zip(*p, strict=True)] for n, p in by_epoch.items()}
        epochs = sorted(means)
        loss.append(Series(label=label, x=epochs, y=[means[n][0] for n in epochs]))
        accuracy.append(Series(label=label, x=epochs, y=[100 * means[n][1] for n in epochs]))
    return (
        plot(Panel(title="Training loss", x_label="epoch", y_label="training loss", series=loss)),
        plot(
            Panel(
                title="Validation accuracy",
                x_label="epoch",
                y_label="validation accuracy, %",
                series=accuracy,
            )
        ),
    )


def _machine(record: RunRecord) -> dict[str, Any]:
    fields = msgspec.to_builtins(record.environment)
    return {name: value for name, value in fields.items() if name not in _OF_RUN}


def _curves(record: RunRecord) -> tuple[Markup, Markup, str]:
    curve = record.curve
    epochs = [point.epoch for point in curve]
    loss = Series(label="loss", x=epochs, y=[point.loss for point in curve])
    right = Series(label="accuracy", x=epochs, y=[100 * p.validation_accuracy for p in curve])
    lines = ["epoch\timages\tloss\tvalidation accuracy"]
    for point in curve:
        images = "-" if point.images is None else str(point.images)
        accuracy = f"{100 * point.validation_accuracy:.2f} %"
        lines.append(f"{point.epoch}\t{images}\t{point.loss:.4g}\t{accuracy}")
    return (
        plot(_panel("Training loss", "training loss", loss), has_markers=False),
        plot(_panel("Validation accuracy", "validation accuracy, %", right), has_markers=False),
        "\n".join(lines) if curve else "",
    )


def _panel(title: str, y_label: str, series: Series) -> Panel:
    return Panel(title=title, x_label="epoch", y_label=y_label, series=[series])
