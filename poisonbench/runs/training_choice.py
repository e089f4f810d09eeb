"""How large a network and how long a training suit a data set, by its validation images alone.

Each candidate is trained plainly on the clean training images, from a few initial weights where
validation images are few. Taken is the cheapest candidate whose validation accuracy lies within
one standard error of the best one's, by the differences on the same images (the rule of Breiman et
al., Classification and Regression Trees, 1984): among equals a longer training is only slower. The
networks are those that attacks take as surrogates, so that the chosen one's are not trained twice.
No test image is looked at.
"""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

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
from poisonbench.training.evaluation import right_answers

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
        best = max(candidate.accuracy or 0.0 for candidate in self.candidates)
        own, count = self.taken, len(self.candidates)
        trainings = f", {self.trainings} trainings each" if self.trainings > 1 else ""
        return (
            f"network {own.network}, {own.epochs} epochs: {100 * (own.accuracy or 0.0):.1f} % of "
            f"the {self.validation:,} validation images right, of {count} candidates{trainings} "
            f"the cheapest within a standard error of the best ({100 * best:.1f} %); no test image "
            "was looked at"
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
    shares = []
    for number, candidate in enumerate(candidates, 1):
        context.say(
            f"trying {candidate.network} for {candidate.epochs} epochs on clean data "
            f"({number} of {len(candidates)})"
        )
        shares.append(_right_shares(context, name, candidate, trainings))
    choice = TrainingChoice(
        dataset=dataset.digest,
        seed=context.seed,
        validation=len(dataset.validation),
        trainings=trainings,
        candidates=[
            msgspec.structs.replace(candidate, accuracy=fmean(share))
            for candidate, share in zip(candidates, shares, strict=True)
        ],
        chosen=cheapest_of_the_best(shares),
    )
    write_text(choice_path(context, dataset), msgspec.json.encode(choice).decode() + "\n")
    return choice


def cheapest_of_the_best(shares: Sequence[Sequence[float]]) -> int:
    """The first candidate that is within a standard error of the best.

    Args:
        shares: of each candidate, cheapest first, by validation image the share of its trainings
            that got it right.

    Returns:
        The index of the first whose mean difference from the best, image by image, is at most the
        standard error of that difference.
    """
    best = max(shares, key=fmean)
    for index, own in enumerate(shares):
        gains = [one - other for one, other in zip(best, own, strict=True)]
        error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
        if fmean(gains) <= error:
            return index
    raise AssertionError("the best is within an error of itself")


def _right_shares(
    context: RunContext, name: str, candidate: Candidate, trainings: int
) -> list[float]:
    """By validation image, the share of a candidate's trainings that got it right."""
    dataset = context.dataset(quick_name(name, candidate.network, candidate.epochs))
    recipe = read_settings(defenses()["none"], dataset, "paper", {}).recipe
    rights = []
    for trial in range(trainings):
        spec = model_spec(context, dataset, recipe, "surrogate", trial, None)
        (model,) = trained_models(context, dataset, recipe, spec)
        rights.append(right_answers(model, dataset.validation.to(context.device)).double())
    shares: list[float] = torch.stack(rights).mean(0).tolist()
    return shares
