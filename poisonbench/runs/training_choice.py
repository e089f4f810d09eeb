"""How large a network and how long a training suit a data set, by its validation images alone.

Each candidate is trained plainly on the clean training images, from a few initial weights where
validation images are few. Taken is the one of the highest mean validation accuracy, of equals the
cheapest. Its networks are those that attacks take as surrogates, so that they are not trained
twice. No test image is looked at.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean

import msgspec
import torch

from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import ArtefactError
from poisonbench.core.files import read_shared, write_text
from poisonbench.core.quick_names import quick_name
from poisonbench.data.quick import lengths, networks_for
from poisonbench.data.splits import Dataset
from poisonbench.models import build_model
from poisonbench.registry import defenses
from poisonbench.runs.context import RunContext
from poisonbench.runs.method_settings import read_settings
from poisonbench.runs.pass_costs import count_pass
from poisonbench.runs.trained_models import model_spec, trained_models
from poisonbench.training.evaluation import accuracy

#: Trainings of each candidate, of data with fewer validation images than this and of other data.
_REPEATS, _FEW, _ONCE = 3, 300, 1


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A network and a length of training.

    Attributes:
        cost: floating-point operations of its training, up to a factor that all share.
        accuracy: on the validation images, the mean of its trainings; null before them.
    """

    network: str
    epochs: int
    cost: float
    accuracy: float | None = None


class TrainingChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was tried on a data set, and what was taken.

    Attributes:
        dataset: digest of the data set.
        seed: root seed.
        validation: number of images.
        trainings: of each candidate.
        candidates: in order of cost.
        chosen: index into them.
    """

    dataset: str
    seed: int
    validation: int
    trainings: int
    candidates: list[Candidate]
    chosen: int

    @property
    def taken(self) -> Candidate:
        """The candidate that was taken."""
        return self.candidates[self.chosen]

    def in_words(self) -> str:
        """What was chosen, from what, by which rule."""
        own, count = self.taken, len(self.candidates)
        trainings = f", the mean of {self.trainings} trainings" if self.trainings > 1 else ""
        right = 100 * (own.accuracy or 0.0)
        return (
            f"chosen: network {own.network}, {own.epochs} epochs, with {right:.1f} % of the "
            f"{self.validation:,} validation images right{trainings}, the best of {count} "
            "candidates; no test image was looked at"
        )


def candidates_for(dataset: Dataset) -> list[Candidate]:
    """The candidates for a data set, cheapest first.

    Raises:
        UsageError: the images are too small for the networks.
    """
    shape, images = dataset.image_shape, len(dataset.train)

    def operations(network: str) -> float:
        def build() -> torch.nn.Module:
            statistics = dataset.mean, dataset.std
            generator = torch.Generator()
            return build_model(network, shape, dataset.num_classes, *statistics, generator)

        return count_pass("training", build, shape, 2).flops

    costs = {network: operations(network) for network in networks_for(shape[0])}
    every = [
        Candidate(network=network, epochs=epochs, cost=costs[network] * epochs)
        for network, epochs in product(costs, lengths(images))
    ]
    return sorted(every, key=lambda candidate: candidate.cost)


def trainings_for(dataset: Dataset) -> int:
    """How many trainings each candidate has."""
    return _REPEATS if len(dataset.validation) < _FEW else _ONCE


def choice_path(context: RunContext, dataset: Dataset) -> Path:
    """The file of a data set's choice in the results folder."""
    name = spec_id({"kind": "training-choice", "dataset": dataset.digest, "seed": context.seed})
    return context.store.root / "assessments" / f"{name}.json"


def read_choice(context: RunContext, dataset: Dataset) -> TrainingChoice | None:
    """The choice that was made before; null where there is none.

    Raises:
        ArtefactError: its file is damaged.
    """
    path = choice_path(context, dataset)
    if not path.exists():
        return None
    try:
        choice = msgspec.json.decode(read_shared(path), type=TrainingChoice)
        if not 0 <= choice.chosen < len(choice.candidates):
            raise ValueError(f"candidate {choice.chosen} of {len(choice.candidates)}")
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{path}: expected the choice of a network and epochs, got {error}; delete it to "
            "choose again"
        ) from None
    return choice


def choose_training(context: RunContext, name: str) -> TrainingChoice:
    """Train the candidates for a data set and keep the choice, or find it.

    Args:
        context: where; a training that was done before an interruption is not done again.
        name: the data set's.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`.
    """
    dataset = context.dataset(name)
    if (kept := read_choice(context, dataset)) is not None:
        return kept
    context.store.check_writable()
    candidates, trainings = candidates_for(dataset), trainings_for(dataset)
    judged = []
    for number, candidate in enumerate(candidates, 1):
        context.say(
            f"trying {candidate.network} for {candidate.epochs} epochs on clean data "
            f"({number} of {len(candidates)})"
        )
        share = _validation_accuracy(context, name, candidate, trainings)
        judged.append(msgspec.structs.replace(candidate, accuracy=share))
    choice = TrainingChoice(
        dataset=dataset.digest,
        seed=context.seed,
        validation=len(dataset.validation),
        trainings=trainings,
        candidates=judged,
        chosen=best_candidate(judged),
    )
    write_text(choice_path(context, dataset), msgspec.json.encode(choice).decode() + "\n")
    return choice


def best_candidate(candidates: Sequence[Candidate]) -> int:
    """The index of the highest validation accuracy, of equals the first, which is the cheapest."""
    accuracies = [candidate.accuracy or 0.0 for candidate in candidates]
    return accuracies.index(max(accuracies))


def _validation_accuracy(
    context: RunContext, name: str, candidate: Candidate, trainings: int
) -> float:
    """The share of the validation images that a candidate's trainings get right, on average."""
    dataset = context.dataset(quick_name(name, candidate.network, candidate.epochs))
    recipe = read_settings(defenses()["none"], dataset, "paper", {}).recipe
    validation, accuracies = dataset.validation.to(context.device), []
    for trial in range(trainings):
        spec = model_spec(context, dataset, recipe, "surrogate", trial, None)
        (model,) = trained_models(context, dataset, recipe, spec)
        accuracies.append(accuracy(model, validation))
    return fmean(accuracies)
