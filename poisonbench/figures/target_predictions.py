"""Figures 3 and 4 of the HINT paper: what each defense's classifier says of the attacks' targets.

All but the images comes from run records. Targets are taken in the order of their trials, those
that every defense shown has a run of first: a rule that no outcome enters.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from poisonbench.data.splits import Dataset
from poisonbench.entries import shown_name
from poisonbench.figures.drawing import Figure, Grid, Tile
from poisonbench.figures.images import answer_tile, picture_of, short_name
from poisonbench.registry import attacks, label_of
from poisonbench.results.records import RunRecord


class _Target(NamedTuple):
    """What the runs of one column share."""

    seed: int
    trial: int
    row: int
    own_class: int
    intended_class: int


def target_predictions(
    number: str,
    dataset: Dataset,
    attack: str,
    scenario: str,
    runs: Mapping[str, Sequence[RunRecord]],
    *,
    images: int = 5,
) -> Figure:
    """Draw targets, and below each the answer of a victim under each defense.

    The number is the figure's in the paper, the scenario in words. Runs are by defense, at least
    one; one for each (seed, trial), all on this data set.
    """
    answers = {m: {_target_of(run): run for run in group} for m, group in runs.items()}
    targets = sorted(
        {target for group in answers.values() for target in group},
        key=lambda t: (-sum(t in group for group in answers.values()), t.seed, t.trial, t.row),
    )[:images]
    names = {method: label_of(method, group[0].spec.setting) for method, group in runs.items()}
    numbers: dict[str, Any] = {
        "figure": number,
        "dataset": {"name": dataset.name, "digest": dataset.digest},
        "attack": attack,
        "scenario": scenario,
        "defenses": {
            names[method]: {
                "method": method,
                "hits": sum(bool(run.metrics.attack_success) for run in group),
                "trials": len(group),
            }
            for method, group in runs.items()
        },
        "targets": [
            {
                "seed": target.seed,
                "trial": target.trial,
                "row": target.row,
                "class": dataset.class_names[target.own_class],
                "intended": dataset.class_names[target.intended_class],
                "answers": {
                    names[method]: _answer(group[target], dataset.class_names)
                    for method, group in answers.items()
                    if target in group
                },
            }
            for target in targets
        ],
    }
    return Figure(_grid(numbers, dataset), numbers)


def _target_of(record: RunRecord) -> _Target:
    spec, (goal, _) = record.spec, record.on_target
    return _Target(spec.seed, spec.trial, goal.target, goal.target_class, goal.intended_class)


def _answer(record: RunRecord, class_names: Sequence[str]) -> dict[str, Any]:
    """The prediction; its confidence is null where an older record has it for other classes."""
    goal, answer = record.on_target
    own, intended = answer.confidence_of_own_class, answer.confidence_of_intended_class
    known = {goal.target_class: own, goal.intended_class: intended}
    if answer.confidence is not None:
        known[answer.prediction] = answer.confidence
    return {
        "run": record.id,
        "class": class_names[answer.prediction],
        "confidence": known.get(answer.prediction),
        "own_confidence": own,
        "intended_confidence": intended,
        "is_hit": answer.success,
    }


def _grid(numbers: Mapping[str, Any], dataset: Dataset) -> Grid:
    targets, table = numbers["targets"], attacks()
    label = table[numbers["attack"]].title if numbers["attack"] in table else numbers["attack"]
    pictures = [
        Tile(
            pixels=picture_of(dataset.test.images[target["row"]]),
            text=f"A: {short_name(target['class'])}\nI: {short_name(target['intended'])}",
        )
        for target in targets
    ]
    answers = [
        [
            answer_tile(answer, not answer["is_hit"]) if answer else Tile(text="no run")
            for answer in (target["answers"].get(name) for target in targets)
        ]
        for name in numbers["defenses"]
    ]
    counts = [f"{name}\n({d['hits']}/{d['trials']} hit)" for name, d in numbers["defenses"].items()]
    return Grid(
        title=f"Targets of {label}: {shown_name(dataset.name)}, {numbers['scenario']}",
        columns=[f"trial {target['trial']}" for target in targets],
        rows=["", *counts],
        tiles=[pictures, *answers],
        caption=f"After Figure {numbers['figure']} of the HINT paper. A: the target's actual "
        "class; I: the class that the attack intends. Below: class and probability by a "
        "classifier trained on the poisons under each defense; marked as wrong where it is the "
        "intended class, and as right where it is any other, as in the paper. In brackets: targets "
        "hit, of all trials run. Shown are the first of the trials that most of them have.",
    )
