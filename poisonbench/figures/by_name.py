"""The figures by the names that ``poisonbench figure`` has for them, for Python code."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.figures.drawing import Figure
from poisonbench.figures.feature_projection import feature_projection
from poisonbench.figures.filter_curve import filter_curve
from poisonbench.figures.healthy_noise import healthy_noise
from poisonbench.figures.predictions import ModelChoice, predictions
from poisonbench.figures.runs_shown import models_of_row, named_run, runs_of_row
from poisonbench.figures.sensitivity_curves import sensitivity
from poisonbench.figures.target_predictions import target_predictions
from poisonbench.requests import PoisonRequest, RunRequest
from poisonbench.results.records import RunRecord
from poisonbench.runs.context import RunContext
from poisonbench.tables.paper_table import dataset_labels
from poisonbench.tables.table3 import find_row

#: The attack of each figure of targets where none is said.
TARGETED = {"3": "mp", "4": "bp", "features": "bp"}
FIGURES = ("1", "2", "3", "4", "features", "sensitivity", "filter-k")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a figure shows; see the options of ``poisonbench figure NAME``.

    Attributes:
        attack: of a figure of targets; None is its own.
        poison: of figures 1 and 2.
        images: how many; None is the figure's own number.
        methods: names of defenses; none shows all that have runs.
        runs: ids of runs instead.
    """

    attack: str | None
    poison: PoisonRequest
    trial: int = 0
    images: int | None = None
    methods: Sequence[str] = ()
    runs: Sequence[str] = ()
    wrong_label: bool = False
    pick: Literal["disagree", "random"] = "disagree"


def figure_by_name(
    name: str, context: RunContext, dataset: str, records: Sequence[RunRecord], choice: Choice
) -> Figure:
    """The figure of that name.

    Args:
        name: one of :data:`FIGURES`.
        context: where models and poisons are.
        dataset: a data set's name.
        records: all runs.
        choice: what it shows.

    Raises:
        UsageError: no such figure, or a paper's table lacks the data set that the figure needs.
        ArtefactError: runs or models that it shows are missing.
    """
    if name not in FIGURES:
        raise UsageError(
            f"figure: expected one of {', '.join(FIGURES)}, got {name!r}"
            f"{did_you_mean(name, FIGURES)}"
        )
    number = {} if choice.images is None else {"images": choice.images}
    if name == "1":
        request = RunRequest(method="hint", poison=choice.poison, trial=choice.trial)
        data = context.dataset(dataset)
        return healthy_noise(context, data, request, wrong_label=choice.wrong_label, **number)
    if name == "2":
        models = ModelChoice(
            poison=choice.poison,
            trial=choice.trial,
            methods=tuple(choice.methods),
            runs=tuple(choice.runs),
        )
        return predictions(context, context.dataset(dataset), models, pick=choice.pick, **number)
    if name == "features" and choice.runs:
        data = context.dataset(dataset)
        return feature_projection(context, data, [named_run(context, data, r) for r in choice.runs])
    if dataset not in dataset_labels():
        raise UsageError(
            f"figure {name}: expected a data set of the papers' tables, "
            f"{', '.join(dataset_labels())}, got {dataset!r}; figures 1, 2 and, with runs=, "
            "features are of any"
        )
    if name in ("sensitivity", "filter-k"):
        return (sensitivity if name == "sensitivity" else filter_curve)(records, dataset)
    row = find_row(dataset, choice.attack or TARGETED[name])
    data = context.dataset(dataset)
    if name == "features":
        shown = models_of_row(context, records, data, row, choice.methods, choice.trial)
        return feature_projection(context, data, shown)
    runs = runs_of_row(context, records, data, row, choice.methods)
    return target_predictions(name, data, row.attack, row.training, runs, **number)
