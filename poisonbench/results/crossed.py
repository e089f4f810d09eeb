"""Difference of two methods' accuracies, from which images each got right. No torch here.

Poisons, seeds and test images are crossed, and each is a sample: a verdict is meant for other
poisons, seeds and images too. The model of a difference (right by the first minus right by the
second) is a sum of random effects: of the poison, the seed, both together, the image, and a rest.
Their variances are estimated from the means of the crossed table and joined by the interval of
``estimates``: Student's t of the poisons' and of the seeds' means, and nearly the normal one of the
images. Of one poison and a fixed set of images this is the paired t-test. A crossed bootstrap
(Owen, Annals of Applied Statistics 1, 2007) is too narrow for so few seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poisonbench.results.estimates import Estimate, Part
from poisonbench.results.verdicts import LEAST_ACCURACY

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Spread:
    """Variances of the random effects in one image's difference.

    They are unbiased, so that one may be under 0 where the effect is small or absent.

    Attributes:
        poison: between poisons.
        seed: between seeds; of one poison, its own.
        both: of poison and seed together.
        image: between images, the same for all poisons and seeds.
        rest: of one image under one poison and seed.
    """

    poison: float
    seed: float
    both: float
    image: float
    rest: float

    def estimate(
        self,
        effect: float,
        *,
        poisons: int,
        seeds: int,
        images: int,
        least: float = LEAST_ACCURACY,
    ) -> Estimate:
        """The estimate that so many poisons, seeds and images give.

        Where a handful of images differ their spread is poorly known, and smallest where by chance
        few did. So the interval allows for what a true difference of ``least`` adds to it, were it
        always on the same images: as many images as make that difference. And it is never narrower
        than if poisons and seeds had no effect: a few trials may agree by chance.

        Args:
            effect: the mean difference.
            poisons: how many.
            seeds: trainings of each poison.
            images: of the test split.
            least: the smallest difference that counts, not 0.

        Raises:
            ValueError: fewer than two trials or images, or a least of 0.
        """
        if poisons * seeds < 2 or images < 2 or least == 0:
            raise ValueError(
                "expected two trials, two images and a smallest difference other than 0, got "
                f"{poisons} x {seeds} trials, {images} images and {least}"
            )
        rest = self.rest / (poisons * seeds * images)
        both = self.both / (poisons * seeds)
        by_poison = max(0.0, self.poison / poisons + both + rest) if poisons > 1 else 0.0
        by_seed = max(0.0, self.seed / seeds + both + rest) if seeds > 1 else 0.0
        by_image = max(0.0, self.image / images)
        parts = [Part(by_image, images - 1), Part(abs(least) / images, math.inf)]
        parts += [Part(by_poison, poisons - 1)] if poisons > 1 else []
        parts += [Part(by_seed, seeds - 1)] if seeds > 1 else []
        # Poisons and seeds each hold what belongs to both, so that the interval errs to the wide.
        shared = min(max(0.0, both + rest), by_poison, by_seed)
        variance = by_image + by_poison + by_seed - shared
        images_alone = by_image + max(0.0, rest) + abs(least) / images
        return Estimate(effect, tuple(parts), variance or abs(least) / images, images_alone)


def spread_of(difference: ArrayLike) -> Spread:
    """Estimate the random effects of a crossed table by the method of moments.

    Args:
        difference: right by the first minus right by the second, (poisons, seeds, images) in
            {-1, 0, 1}; of a single poison or seed, its effect is 0.
    """
    import numpy as np

    table = np.asarray(difference, dtype=float)
    poisons, seeds, images = table.shape
    trials = table.mean(2)
    by_image = table.mean((0, 1))
    mean = trials.mean()

    # Mean squares as variances of one cell, e.g. E(ms_image) = rest + trials * image.
    ms_image = poisons * seeds * by_image.var(ddof=1)
    residuals = table - trials[:, :, None] - by_image + mean
    rest = float((residuals**2).sum() / ((poisons * seeds - 1) * (images - 1)))
    ms_poison = seeds * images * trials.mean(1).var(ddof=1) if poisons > 1 else rest
    ms_seed = poisons * images * trials.mean(0).var(ddof=1) if seeds > 1 else rest
    ms_both = rest
    if poisons > 1 and seeds > 1:
        together = trials - trials.mean(1, keepdims=True) - trials.mean(0) + mean
        ms_both = images * (together**2).sum() / ((poisons - 1) * (seeds - 1))
    return Spread(
        poison=float(ms_poison - ms_both) / (seeds * images),
        seed=float(ms_seed - ms_both) / (poisons * images),
        both=float(ms_both - rest) / images,
        image=float(ms_image - rest) / (poisons * seeds),
        rest=rest,
    )


def accuracy_difference(
    first: ArrayLike, second: ArrayLike, *, least: float = LEAST_ACCURACY
) -> Estimate | None:
    """Mean difference of two methods' accuracies, for other poisons, seeds and test images.

    Args:
        first: right or wrong, (poisons, seeds, images) bool, or (seeds, images) of one poison.
            Where each poison has seeds of its own, these are (poisons, 1, images): the share of
            its seeds that got the image right.
        second: the same poisons, seeds and images under the other method.
        least: the smallest difference that counts, not 0.

    Returns:
        First minus second; null for a single trial.

    Raises:
        ValueError: shapes that differ.
    """
    import numpy as np

    ours, theirs = (np.asarray(right, dtype=float) for right in (first, second))
    if ours.shape != theirs.shape or ours.ndim not in (2, 3):
        raise ValueError(
            "expected two arrays of one shape, (poisons, seeds, images) or (seeds, images), got "
            f"{ours.shape} and {theirs.shape}"
        )
    difference: Any = (ours - theirs).reshape((-1, *ours.shape[-2:]))
    poisons, seeds, images = difference.shape
    if poisons * seeds < 2:
        return None
    return spread_of(difference).estimate(
        float(difference.mean()), poisons=poisons, seeds=seeds, images=images, least=least
    )
