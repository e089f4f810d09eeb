"""Drawing targets, poisons and transfer sets. Rows are those of the data set's own splits."""

import math
from dataclasses import replace

import torch
from msgspec import structs
from torch import Tensor

from poisonbench.core.errors import UsageError
from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Dataset, rounded_up
from poisonbench.targeting import Goal, Targeting

#: Of the test images that every clean model gets right, in order of their mean margin, the easy
#: targets are these shares.
EASY = (0.01, 0.05)


def draw_goal(
    dataset: Dataset,
    targeting: Targeting,
    generator: torch.Generator,
    probabilities: Tensor | None = None,
) -> Goal:
    """Draw what is not given of a target, its intended class and the class of the poisons.

    Random, as in Geiping et al.'s benchmark: the target's class, then another class as intended,
    then one of the class's test images. Easy: one of the test images with a small clean margin
    (:data:`EASY`), intended as the class that clean models hold for the next likely: that needs
    ``probabilities`` (M, N, K) of M clean models on the N test images. Where the intended class is
    given, the target is drawn from the others.

    Raises:
        UsageError: a given target or class that does not exist, or an intended class that is the
            target's own.
    """
    labels, num_classes = dataset.test.labels, dataset.num_classes
    for name in ("intended_class", "poison_class"):
        value = getattr(targeting, name)
        if value is not None and value >= num_classes:
            raise UsageError(
                f"--{name.replace('_', '-')}: expected a class in 0..{num_classes - 1}, got {value}"
            )
    drawn_class = int(torch.randint(num_classes, (), generator=generator))
    step = 1 + int(torch.randint(num_classes - 1, (), generator=generator))
    # Those that may be drawn.
    others = labels != (-1 if targeting.intended_class is None else targeting.intended_class)
    if not bool(others.any()):
        raise UsageError(
            f"--intended-class: expected test images of other classes than "
            f"{targeting.intended_class}, got none"
        )
    if drawn_class == targeting.intended_class:
        drawn_class = (drawn_class + step) % num_classes
    position = float(torch.rand((), generator=generator))
    if targeting.target is not None:
        target, how = targeting.target, "given"
        if target >= len(labels):
            raise UsageError(
                f"--target: expected a row of the test split in 0..{len(labels) - 1}, got {target}"
            )
    elif targeting.targets == "easy":
        if probabilities is None:
            raise ValueError("expected probabilities of clean models for easy targets, got none")
        target, how = _easy_target(probabilities, labels, others, position), "easy"
    else:
        members = (labels == drawn_class).nonzero().flatten()
        if len(members) == 0:
            members = others.nonzero().flatten()
        target, how = int(members[int(position * len(members))]), "random"
    own = int(labels[target])
    if targeting.intended_class is not None:
        intended = targeting.intended_class
    elif how == "easy" and probabilities is not None:
        # The likeliest class but its own.
        likely = probabilities[:, target].mean(0)
        likely[own] = -1
        intended = int(likely.argmax())
    else:
        intended = (own + step) % num_classes
    if intended == own:
        raise UsageError(
            f"--intended-class: expected another class than the target's own, got {intended}, "
            f"which is the class of test image {target}"
        )
    return Goal(
        target=target,
        target_class=own,
        intended_class=intended,
        poison_class=intended if targeting.poison_class is None else targeting.poison_class,
        scenario=targeting.scenario,
        targets=how,
    )


def check_target(dataset: Dataset, targeting: Targeting, seeds: Seeds) -> None:
    """Find a bad target, or a class too small for its poisons, before any model is trained.

    Raises:
        UsageError: what was given does not exist or does not fit, or too few images to poison.
    """
    goal = draw_goal(dataset, replace(targeting, targets="random"), seeds.generator("target"))
    given = (targeting.target, targeting.intended_class, targeting.poison_class)
    goals = [goal]
    if targeting.targets == "easy" and given == (None, None, None):
        # Which class an easy target's poisons are of, clean models will say: one must have room.
        goals = [structs.replace(goal, poison_class=k) for k in range(dataset.num_classes)]
    reasons = []
    for goal in goals:
        try:
            generator = seeds.generator("poison rows")
            draw_poison_rows(dataset.train.labels, goal, targeting, generator)
            return
        except UsageError as error:
            reasons.append(error)
    raise reasons[0]


def draw_poison_rows(
    labels: Tensor, goal: Goal, targeting: Targeting, generator: torch.Generator
) -> Tensor:
    """Increasing rows (P,) of the poison class, P = ceil(rho n); fewer are the first of more.

    Raises:
        UsageError: the class, or its share of the transfer set, has too few images.
    """
    count = rounded_up(targeting.rho, len(labels))
    members = (labels == goal.poison_class).nonzero().flatten()
    room, where = len(members), "training images"
    if goal.scenario == "transfer":
        share = transfer_counts(labels, targeting.transfer_share)[goal.poison_class]
        room, where = min(room, int(share)), "places in the transfer set"
    if count > room:
        raise UsageError(
            f"--rho: expected at most {room} poisons, as class {goal.poison_class} has {room} "
            f"{where}, got {count}; lower --rho"
        )
    order = torch.randperm(len(members), generator=generator)
    return members[order[:count]].sort().values


def draw_transfer_rows(
    labels: Tensor,
    poison_rows: Tensor,
    transfer_share: float,
    generator: torch.Generator,
) -> Tensor:
    """Increasing rows of the transfer set: all poisons, and clean images up to each class's share.

    With HINT's numbers (490 poisons, a tenth of 49,000 images, 10 classes) the poison class is
    poison throughout; with fewer poisons its share is filled with clean images. The other classes'
    images are the same whatever the poisons are. ``labels`` (n,) are the training split's,
    ``poison_rows`` (P,) increase.

    Raises:
        UsageError: a class has more poisons than places.
    """
    is_poison = torch.zeros(len(labels), dtype=torch.bool)
    is_poison[poison_rows] = True
    rows = [poison_rows]
    for label, count in enumerate(transfer_counts(labels, transfer_share).tolist()):
        members = (labels == label).nonzero().flatten()
        order = members[torch.randperm(len(members), generator=generator)]
        clean = order[~is_poison[order]]
        num_poisons = len(order) - len(clean)
        if num_poisons > count:
            raise UsageError(
                f"--transfer-share: expected places for {num_poisons} poisons of class {label}, "
                f"got {count} at {transfer_share:g}; raise it"
            )
        rows.append(clean[: count - num_poisons])
    return torch.cat(rows).sort().values


def transfer_counts(labels: Tensor, transfer_share: float) -> Tensor:
    """(K,) images of each class in the transfer set: that share of each, rounded."""
    return (torch.bincount(labels) * transfer_share + 0.5).long()


def _easy_target(probabilities: Tensor, labels: Tensor, others: Tensor, position: float) -> int:
    right = (probabilities.argmax(2) == labels).all(0) & others
    top = probabilities.mean(0).topk(2, dim=1).values
    margin = torch.where(right, top[:, 0] - top[:, 1], math.inf)
    order = margin.argsort(stable=True)[: int(right.sum())]
    if len(order) == 0:
        raise UsageError(
            "expected a test image of another class that every clean model gets right, got none; "
            "train longer or take --targets random"
        )
    first, last = (int(share * len(order)) for share in EASY)
    window = order[first : max(last, first + 1)]
    return int(window[int(position * len(window))])
