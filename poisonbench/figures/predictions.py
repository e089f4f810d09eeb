"""Figure 2 of the HINT paper: what classifiers trained under each defense say of some test images.

The classifiers are those that ``defend --save-model`` kept. Images are drawn among those on which
the classifiers disagree: a rule that favours none of them. How often each is right, the picture
does not show; its test accuracy stands beside its row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from poisonbench.core.seeds import generator_for
from poisonbench.data.splits import Dataset, Split
from poisonbench.entries import shown_name
from poisonbench.figures.drawing import Figure, Grid, Tile
from poisonbench.figures.images import answer, answer_tile, picture_of, short_name
from poisonbench.figures.runs_shown import is_on, kept_models, named_run
from poisonbench.registry import defenses, find, label_of
from poisonbench.requests import PoisonRequest, RunRequest, command_of
from poisonbench.results import published
from poisonbench.results.records import RunRecord
from poisonbench.runs.context import RunContext
from poisonbench.runs.defend import defend, describe_poison, resolve_run
from poisonbench.runs.poison import resolve_poison
from poisonbench.runs.trained_models import read_model
from poisonbench.training.evaluation import logits_of

Pick = Literal["disagree", "random"]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The classifiers that the figure shows, by what they were trained on."""

    poison: PoisonRequest
    trial: int = 0
    #: The defenses, in order; none shows those with a model, and misses or makes the paper's.
    methods: tuple[str, ...] = ()
    #: Ids of run records instead, of any settings, poison and trial.
    runs: tuple[str, ...] = ()
    #: Train what is missing.
    make: bool = False


def predictions(
    context: RunContext,
    dataset: Dataset,
    choice: ModelChoice,
    *,
    images: int = 5,
    pick: Pick = "disagree",
) -> Figure:
    """Draw test images, and below each the class and confidence that every classifier gives it.

    They are drawn among all ("random"), or those that classifiers disagree on ("disagree").

    Raises:
        UsageError: bad options.
        ArtefactError: a classifier is missing or was trained on other data; the message names the
            command that makes it.
    """
    records, missing = _records(context, dataset, choice)
    test = dataset.test.to(context.device)
    classifiers = []
    for record in records:
        context.abort_if_stopping()
        model = read_model(context, context.store.model_path(record.id), record.spec.model, dataset)
        classifiers.append(logits_of(model, test.images).softmax(1))
    probabilities = torch.stack(classifiers)
    classes = probabilities.argmax(2)
    disagree = (classes != classes[0]).any(0).cpu()
    rows = _choose(disagree, images, pick, context.seed, choice.trial)
    names = _names(records)
    numbers: dict[str, Any] = {
        "figure": "2",
        "dataset": {"name": shown_name(dataset.name), "digest": dataset.digest},
        "seed": context.seed,
        "pick": pick,
        "test_images": len(test),
        "images_with_disagreement": int(disagree.sum()),
        "runs": {
            name: {
                "id": record.id,
                "method": record.spec.method,
                "variant": record.labels.variant,
                "trial": record.spec.trial,
                "poison": msgspec.to_builtins(record.spec.poison),
                "test_accuracy": record.metrics.test_accuracy,
            }
            for name, record in zip(names, records, strict=True)
        },
        "missing": missing,
        "images": [
            {
                "row": row,
                "label": dataset.class_names[int(test.labels[row])],
                "answers": {
                    name: answer(one[row], int(test.labels[row]), dataset.class_names)
                    for name, one in zip(names, probabilities, strict=True)
                },
            }
            for row in rows
        ],
    }
    poisons = dict.fromkeys(describe_poison(record.spec.poison) for record in records)
    return Figure(_grid(numbers, test, rows, "; ".join(poisons)), numbers)


def _records(
    context: RunContext, dataset: Dataset, choice: ModelChoice
) -> tuple[list[RunRecord], dict[str, str]]:
    """The classifiers' records, and by method the commands that make those that are missing."""
    if choice.runs:
        return [named_run(context, dataset, run) for run in choice.runs], {}
    for method in choice.methods:
        find("a defense", defenses(), method)
    expected = choice.methods or tuple(published.METHOD_LABELS)
    requests = {
        method: RunRequest(
            method=method,
            dataset=dataset.name,
            poison=choice.poison,
            seed=context.seed,
            trial=choice.trial,
            save_model=True,
        )
        for method in expected
    }
    if choice.make:
        # What one of them refuses is said before the first is trained.
        resolved = [resolve_run(context, request) for request in requests.values()]
        return [defend(context, run).record for run in resolved], {}
    known = context.store.records(lambda error: context.say(f"warning: left out: {error}"))
    rho = _ratio(context, dataset, next(iter(requests.values())))
    runs = {
        method: [run for run in known if _is_of(run, context, dataset, choice, method, rho)]
        for method in choice.methods or tuple(defenses())
    }
    commands = {
        method: command_of(request, *context.folder_options) for method, request in requests.items()
    }
    where = f" in {context.store.root / 'models'}"
    are_named = bool(choice.methods)
    return kept_models(context, runs, commands, where, " or --make", are_named=are_named)


def _ratio(context: RunContext, dataset: Dataset, request: RunRequest) -> float:
    """The poisoned share of the training images that the figure is of."""
    mix = request.poison
    if mix.rho is not None:
        return float(mix.rho)
    if mix.has_trigger:
        return mix.trigger_rho
    # A targeted attack's own depends on the data set.
    return resolve_poison(context, dataset, request).rho or 0.0


def _is_of(
    record: RunRecord,
    context: RunContext,
    dataset: Dataset,
    choice: ModelChoice,
    method: str,
    rho: float,
) -> bool:
    """Whether a run is of this method, trial and poison, by the draw that tables take."""
    spec, poison, mix = record.spec, record.spec.poison, choice.poison
    if (
        not is_on(record, dataset)
        or (spec.method, spec.seed, spec.trial) != (method, context.seed, choice.trial)
        or record.labels.variant != "paper"
    ):
        return False
    if poison is None or rho == 0:
        return poison is None and rho == 0
    # A targeted poison is its trial's own; trials share one of the others.
    draw = (0, "stratified") if mix.targeted is None else (choice.trial, None)
    return (
        poison.attacks == list(mix.attacks)
        and math.isclose(poison.rho, rho, rel_tol=1e-6)
        and (poison.trial, poison.selection) == draw
    )


def _choose(disagree: Tensor, count: int, pick: Pick, seed: int, trial: int) -> list[int]:
    """Rows of the test split in random order; with "disagree" those of disagreement first."""
    order = torch.randperm(len(disagree), generator=generator_for(seed, "figure 2", trial))
    if pick == "disagree":
        order = order[(~disagree[order]).int().argsort(stable=True)]
    return order[:count].tolist()


def _names(records: Sequence[RunRecord]) -> list[str]:
    """The methods' labels; with the run's id where two are of one method."""
    labels = [label_of(record.spec.method, record.spec.setting) for record in records]
    return [
        label if labels.count(label) == 1 else f"{label} {record.id}"
        for label, record in zip(labels, records, strict=True)
    ]


def _grid(numbers: dict[str, Any], test: Split, rows: Sequence[int], poisons: str) -> Grid:
    runs, images = numbers["runs"], numbers["images"]
    pictures = [
        Tile(pixels=picture_of(test.images[row]), text=f"is {short_name(image['label'])}")
        for row, image in zip(rows, images, strict=True)
    ]
    answers = [
        [
            answer_tile(image["answers"][name], image["answers"][name]["is_right"])
            for image in images
        ]
        for name in runs
    ]
    labels = [
        f"{name}\n({100 * run['test_accuracy']:.2f} %)".replace(f" {run['id']}", f"\n{run['id']}")
        for name, run in runs.items()
    ]
    trials = ", ".join(str(trial) for trial in dict.fromkeys(r["trial"] for r in runs.values()))
    return Grid(
        title=f"Predictions of each defense: {numbers['dataset']['name']}, {poisons}",
        columns=[f"test image {row}" for row in rows],
        rows=["", *labels],
        tiles=[pictures, *answers],
        caption=_caption(numbers, trials),
    )


def _caption(numbers: dict[str, Any], trials: str) -> str:
    total, apart = numbers["test_images"], numbers["images_with_disagreement"]
    first = "those first" if numbers["pick"] == "disagree" else "all"
    text = (
        "After Figure 2 of the HINT paper. Class and probability by a classifier trained under "
        f"each defense on the data of the title, trial {trials}; marked as right or wrong. In "
        f"brackets: accuracy on all {total:,} test images. The classifiers disagree on {apart:,} "
        f"of them ({100 * apart / total:.1f} %), the images drawn at random from {first}."
    )
    if numbers["missing"]:
        text += f" Without a model, left out: {', '.join(numbers['missing'])}."
    others = [name for name, run in numbers["runs"].items() if run["variant"] != "paper"]
    if others:
        text += f" Other settings than the paper's: {', '.join(others)}."
    return text
