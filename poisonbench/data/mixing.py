"""Mix several attacks' poisons into one training split at a poison ratio rho.

n training images, A attacks. HINT (arXiv 2309.08549), section VI-A2: four attacks in equal shares,
49,000 images at rho = 0.4 give 4 x 4,900 poisons. Each attack is crafted once for all images; a
mix is a gather.
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.core.seeds import generator_for
from poisonbench.data.poison import Poison, assemble
from poisonbench.data.splits import Dataset
from poisonbench.specs import MixSpec

#: Raised by hand when the draw of the shares changes.
VERSION = 1

Selection = Literal["stratified", "uniform"]


def mix(
    pools: Mapping[str, Poison],
    dataset: Dataset,
    *,
    rho: float,
    seed: int,
    selection: Selection = "stratified",
) -> Poison:
    """Equal disjoint shares of the pools' poisons; the rest of the split stays clean.

    Args:
        pools: attack -> its poisons of every training image, in the order of the shares.
        dataset: the one that the pools were made for.
        rho: share of training images that are poisoned, in [0, 1].
        seed: of the draw.
        selection: see :func:`assign`.

    Raises:
        ArtefactError: a pool was made for other data, is itself a mix, or misses images.
        UsageError: no pools, rho outside [0, 1], or of less than an image.
    """
    for name, pool in pools.items():
        _check_pool(name, pool, dataset)
    owners = assign(dataset.train.labels.cpu(), len(pools), rho, seed, selection)
    indices = (owners >= 0).nonzero().flatten()
    if rho and not len(indices):
        raise UsageError(
            f"expected a poison ratio rho of at least {len(pools) / len(owners):.3g}, an image for "
            f"each attack among {len(owners):,}, got {rho:g}; give more, or 0 for none"
        )
    sources = owners[indices].to(torch.uint8)
    cards = [pool.card for pool in pools.values()]
    norms, budgets = {card.norm for card in cards}, [card.epsilon for card in cards]
    bounds = [budget for budget in budgets if budget is not None]
    images = torch.empty((len(indices), *dataset.image_shape), dtype=torch.uint8)
    for position, pool in enumerate(pools.values()):
        own = sources == position
        images[own] = pool.images[indices[own]]
    return assemble(
        indices,
        images,
        sources,
        dataset,
        attacks=list(pools),
        norm=cards[0].norm if len(norms) == 1 else "mixed",
        epsilon=max(bounds) if len(norms) == 1 and bounds else None,
        spec=MixSpec(
            version=VERSION,
            pools={name: pool.digest for name, pool in pools.items()},
            order=list(pools),
            rho=float(rho),
            selection=selection,
            seed=seed,
        ),
        code={name: source for card in cards for name, source in (card.code or {}).items()},
    )


def assign(
    labels: Tensor, num_attacks: int, rho: float, seed: int, selection: Selection = "stratified"
) -> Tensor:
    """The position of an attack for each of n images, (n,) int64; -1 for one that stays clean.

    Each of A attacks gets floor(rho n / A) images. The draw does not depend on rho: an attack's
    images at one rho are among its images at a larger one, so curves over rho are paired.

    The training images are dealt to A equal parts, one an attack, and each part is put in an order
    of which the attack takes a beginning. "uniform": at random. "stratified": a class's images are
    spread evenly over parts and over each part, so every beginning has the classes' proportions,
    to within one image when classes are of about equal size.

    Raises:
        UsageError: no attack, rho outside [0, 1], or an unknown selection.
    """
    if num_attacks < 1:
        raise UsageError("expected at least one attack to mix, got none; name one")
    if not 0 <= rho <= 1:
        raise UsageError(f"expected a poison ratio rho in [0, 1], got {rho}")
    if selection not in get_args(Selection):
        raise UsageError(
            f"expected a selection among {', '.join(get_args(Selection))}, got {selection!r}"
        )
    generator = generator_for(seed, "mix", selection)
    size = len(labels)
    share = math.floor(rho * size / num_attacks + 1e-9)
    shuffled = torch.randperm(size, generator=generator)
    if selection == "stratified":
        # A stable sort by class of a random order: every class's images, each in random order.
        shuffled = shuffled[labels[shuffled].argsort(stable=True)]
    shares = torch.bincount(labels).double() / num_attacks
    owners = torch.full((size,), -1)
    for attack in range(num_attacks):
        part = shuffled[attack::num_attacks]
        if selection == "stratified":
            part = part[_interleave(labels[part], shares)]
        owners[part[:share]] = attack
    return owners


def draw_share(
    labels: Tensor,
    rho: float,
    seed: int,
    selection: Selection = "stratified",
    only: int | None = None,
) -> Tensor:
    """Increasing rows of floor(rho n) of n images, (P,) int64, nested in rho as :func:`assign`'s.

    Args:
        labels: (n,) int64.
        rho: their share of all n images.
        seed: of the draw.
        selection: how they are spread over the classes.
        only: the one class that they are drawn from; all by default.

    Raises:
        UsageError: rho outside [0, 1], or more than the class has.
    """
    rows = torch.arange(len(labels)) if only is None else (labels == only).nonzero().flatten()
    count = math.floor(rho * len(labels) + 1e-9)
    if count > len(rows):
        raise UsageError(
            f"--rho: expected at most {len(rows)} poisons, as class {only} has {len(rows)} "
            f"training images, got {count}; lower --rho"
        )
    return rows[assign(labels[rows], 1, count / max(len(rows), 1), seed, selection) >= 0]


def _interleave(labels: Tensor, shares: Tensor) -> Tensor:
    """The order (M,) of a part's rows, grouped by class, in which each class comes evenly spread.

    The r-th row of a class that has s rows a part on average comes at (r + 0.5) / s of the way;
    ties go by class.
    """
    _, inverse, counts = torch.unique_consecutive(labels, return_inverse=True, return_counts=True)
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[inverse]
    order: Tensor = ((rank + 0.5) / shares[labels]).argsort(stable=True)
    return order


def _check_pool(name: str, pool: Poison, dataset: Dataset) -> None:
    if pool.card.dataset.digest != dataset.digest:
        raise ArtefactError(
            f"{name}: expected poisons of {dataset.name}, got some made for another split "
            f"({pool.card.dataset.name}); craft them for this one"
        )
    if pool.card.attacks != [name]:
        raise ArtefactError(
            f"{name}: expected poisons of this attack alone, "
            f"got {', '.join(pool.card.attacks)}; craft it by itself"
        )
    if len(pool) != len(dataset.train):
        raise ArtefactError(
            f"{name}: expected poisons of all {len(dataset.train)} training images, "
            f"got {len(pool)}; craft it for the whole split"
        )
