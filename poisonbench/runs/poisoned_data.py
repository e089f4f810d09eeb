"""What a run trains on: poisoned images, and the poisons' rows, which no defense sees."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from poisonbench.data.splits import Dataset, Split
from poisonbench.results.records import Origin, PoolLabel
from poisonbench.runs.context import RunContext
from poisonbench.runs.craft import craft_mix
from poisonbench.runs.craft_targeted import craft_targeted, draw_target
from poisonbench.runs.poison import ResolvedPoison
from poisonbench.runs.trigger import rebuilt_test
from poisonbench.runs.victim import stage_rows
from poisonbench.specs import CodeSource
from poisonbench.targeting import Goal, Trigger


@dataclass(frozen=True)
class PoisonedData:
    """What a run trains on: the N images that the defense gets, poisons among them.

    ``is_poison`` is (N,) bool, ``rows`` (N,) says which of the training split the images are. The
    digest is the poison's, the origin is for the record's labels, and so is where the code came
    from that crafted it, by attack, as far as its card says it. ``triggered`` are the test images
    that the trigger is judged by.
    """

    train: Split
    is_poison: Tensor
    rows: Tensor
    digest: str | None
    origin: Origin | None
    goal: Goal | None = None
    trigger: Trigger | None = None
    triggered: Split | None = None
    code: Mapping[str, CodeSource] = field(default_factory=dict)


def prepare(
    context: RunContext, dataset: Dataset, resolved: ResolvedPoison, trial: int
) -> PoisonedData:
    """Craft or find the poison of a run's trial, and put it into the training images.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`.
    """
    poison, origin = resolved.artefact, None
    if poison is not None:
        origin = Origin(id=None, made_by=poison.card.spec)
    elif resolved.rho != 0:
        if resolved.targeting is None:
            poison = craft_mix(context, dataset, resolved).poison
        else:
            poison = craft_targeted(context, dataset, [resolved])[0].poison
        pools = {n: PoolLabel(id=pool.id, spec=pool.spec) for n, pool in resolved.pools.items()}
        origin = Origin(id=poison.id, pools=pools)
    train, digest, goal, trigger, triggered = dataset.train, None, None, None, None
    code: Mapping[str, CodeSource] = {}
    is_poison = torch.zeros(len(train), dtype=torch.bool)
    rows = torch.arange(len(train))
    if poison is not None:
        train, digest, goal = poison.apply(train), poison.digest, poison.goal
        trigger, triggered = poison.trigger, rebuilt_test(dataset, poison)
        code = poison.card.code or {}
        is_poison[poison.indices] = True
    if resolved.targeting is not None:
        if poison is not None and goal is not None:
            poisoned = poison.indices
        else:
            goal, poisoned = draw_target(context, dataset, resolved, trial)
        rows = stage_rows(context, dataset, resolved.targeting, poisoned, trial)
        if len(rows) < len(train):
            train, is_poison = train.rows(rows), is_poison[rows]
    return PoisonedData(train, is_poison, rows, digest, origin, goal, trigger, triggered, code)
