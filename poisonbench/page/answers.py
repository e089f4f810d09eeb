"""Figures of what classifiers say of images: a table of pictures and answers, by defense."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from poisonbench.page.groups import Row
from poisonbench.page.poison_pictures import DataSets, TestImages, read_test_images
from poisonbench.results.records import RunRecord

#: Images side by side.
_MOST = 10


@dataclass(frozen=True)
class Answer:
    """One defense's answer; right or wrong in the sense of the figure, or neither."""

    text: str
    is_right: bool | None = None
    run: str = ""


@dataclass(frozen=True, kw_only=True)
class AnswerFigure:
    """Images across, defenses down.

    Attributes:
        columns: what each image is, and its picture as a data address, empty where there is none.
        rows: by defense, an answer an image.
        size: width of a picture.
    """

    id: str
    title: str
    dataset: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[Answer, ...]], ...]
    size: int
    caption: str


def target_figures(rows: Sequence[Row], sets: DataSets) -> list[AnswerFigure]:
    """For each targeted poison what the victims of its first trials say of their targets."""
    return [_of_targets(row, sets) for row in rows if row.is_targeted]


class _Target(NamedTuple):
    """What the runs of one column share: of one trial defenses may have had different targets."""

    seed: int
    trial: int
    row: int
    own_class: int
    intended_class: int


def _target_of(run: RunRecord) -> _Target:
    spec, (goal, _) = run.spec, run.on_target
    return _Target(spec.seed, spec.trial, goal.target, goal.target_class, goal.intended_class)


def _of_targets(row: Row, sets: DataSets) -> AnswerFigure:
    by_entry = [
        (entry.label, {_target_of(run): run for run in entry.trials}) for entry in row.entries
    ]
    targets = sorted({target for _, runs in by_entry for target in runs})[:_MOST]
    seed, shown = row.runs[0].spec.seed, [target.row for target in targets]
    images = read_test_images(row.dataset, row.digest, seed, sets, shown)
    columns = []
    for target in targets:
        own, intended = images.name(target.own_class), images.name(target.intended_class)
        caption = f"trial {target.trial}, test image {target.row}: is {own}, shall be {intended}"
        columns.append((caption, images.addresses.get(target.row, "")))
    return AnswerFigure(
        id=f"targets-{row.id}",
        title=f"Targets: {row.dataset}, {row.title}",
        dataset=row.dataset,
        columns=tuple(columns),
        rows=tuple(
            (label, tuple(_target_answer(runs.get(target), images) for target in targets))
            for label, runs in by_entry
        ),
        size=images.size,
        caption="After Figures 3 and 4 of the HINT paper, of the first trials: class and "
        "probability by a classifier trained on the poisons under each defense; wrong where it is "
        "the intended class, and right where it is any other, as in the paper.",
    )


def _target_answer(run: RunRecord | None, images: TestImages) -> Answer:
    if run is None:
        return Answer("no run")
    _, answer = run.on_target
    sure = "" if answer.confidence is None else f", {100 * answer.confidence:.1f} %"
    return Answer(images.name(answer.prediction) + sure, not answer.success, run.id)


def drawn_predictions(
    numbers: Mapping[str, Any], records: Sequence[RunRecord], sets: DataSets
) -> AnswerFigure:
    """HINT's Figure 2 from the numbers that ``poisonbench figure 2`` wrote.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: they are not such numbers.
    """
    images, runs, data = numbers["images"][:_MOST], numbers["runs"], numbers["dataset"]
    digest = str(data["digest"])
    own = next((record for record in records if record.spec.dataset.digest == digest), None)
    name = str(data["name"]) if own is None else own.labels.dataset
    rows = [int(image["row"]) for image in images]
    pictures = read_test_images(name, digest, int(numbers["seed"]), sets, rows)
    known = {record.id for record in records}
    lines = []
    for label, run in runs.items():
        answers = [image["answers"][label] for image in images]
        run_id = str(run["id"]) if run["id"] in known else ""
        lines.append(
            (
                f"{label} ({100 * float(run['test_accuracy']):.2f} %)",
                tuple(
                    Answer(
                        f"{answer['class']}, {100 * float(answer['confidence']):.1f} %",
                        bool(answer["is_right"]),
                        run_id,
                    )
                    for answer in answers
                ),
            )
        )
    total, apart = int(numbers["test_images"]), int(numbers["images_with_disagreement"])
    return AnswerFigure(
        id="figure-2-" + hashlib.sha256(repr(sorted(runs)).encode()).hexdigest()[:8],
        title=f"Predictions of each defense: {name}",
        dataset=name,
        columns=tuple(
            (f"test image {row}: is {image['label']}", pictures.addresses.get(row, ""))
            for row, image in zip(rows, images, strict=True)
        ),
        rows=tuple(lines),
        size=pictures.size,
        caption="After Figure 2 of the HINT paper: class and probability by a classifier trained "
        "under each defense. In brackets: accuracy on all test images. The classifiers disagree on "
        f"{apart:,} of {total:,}.",
    )
