"""Two methods on the same poisons, seeds and test images, by outcomes of images or without."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator
from scipy import stats

from poisonbench.results.crossed import Spread, accuracy_difference, spread_of
from poisonbench.results.estimates import (
    Estimate,
    Part,
    paired_difference,
    unshared_errors,
)
from poisonbench.results.statistics import (
    Verdict,
)
from poisonbench.results.verdicts import (
    LEAST_ACCURACY,
    ClaimRule,
)
from simulations.lines import BETTER, REPORTS, Lines, power, said, share

#: Tables that the bootstrap is tried on.
RESAMPLED = 500

NOT_WORSE = ClaimRule(-LEAST_ACCURACY, -LEAST_ACCURACY)


@dataclass(frozen=True)
class Outcomes:
    """Two methods on the same images.

    Attributes:
        name: of the population.
        poisons: how many.
        seeds: of each.
        images: of the test split.
        always: share of images that one method always gets right and the other wrong, either way.
        churn: share of images on which they differ by chance, in each trial anew.
        trial: standard deviation of the difference between poisons, and between seeds.
        draws: of the poison, which the seeds share out in turn; 0 where poisons and seeds are
            crossed.
    """

    name: str
    poisons: int
    seeds: int
    images: int
    always: float
    churn: float
    trial: float
    draws: int = 0

    def draw(self, gain: float, generator: Generator) -> np.ndarray:
        """The first's outcomes minus the second's, (poisons, seeds, images)."""
        shape = self.poisons, self.seeds, self.images
        uniform = generator.random(self.images, dtype=np.float32)
        # Without chance a gain is on the images that the methods always differ on.
        moved = 0.0 if self.churn else gain
        fixed = (uniform < (self.always + moved) / 2).astype(np.int8)
        fixed -= uniform > 1 - (self.always - moved) / 2
        shift = (gain - moved) / (1 - self.always)
        shift = shift + generator.normal(0, self.trial, (1, self.seeds, 1))
        if self.poisons > 1:
            shift = shift + generator.normal(0, self.trial, (self.poisons, 1, 1))
        if self.draws:
            by_draw = generator.normal(0, self.trial, self.draws)
            shift = shift + np.resize(by_draw, (1, self.seeds, 1))
        either = np.maximum(self.churn, np.abs(shift))
        uniform = generator.random(shape, dtype=np.float32)
        anew = (uniform < (either + shift) / 2).astype(np.int8)
        anew -= uniform > 1 - (either - shift) / 2
        return np.where(fixed != 0, fixed, anew)

    def by_draw(self, table: np.ndarray) -> np.ndarray:
        """A table of trials as a report has it: each draw once, by the mean of its seeds."""
        if not self.draws:
            return table
        return np.array(
            [table[0, d :: self.draws].mean(0, keepdims=True) for d in range(self.draws)]
        )

    @property
    def sample(self) -> dict[str, int]:
        """How many poisons, seeds of each and images the estimate counts."""
        trials = (self.draws, 1) if self.draws else (self.poisons, self.seeds)
        return {"poisons": trials[0], "seeds": trials[1], "images": self.images}

    @property
    def design(self) -> str:
        """In words."""
        trials = f"{self.poisons} x {self.seeds} poisons x seeds"
        trials = f"{self.seeds} seeds" if self.poisons == 1 else trials
        trials += f" on {self.draws} draws of the poison" if self.draws else ""
        return f"{trials}, {self.images} images, {self.name}"


#: name, share always, churn, standard deviation between trials.
POPULATIONS = (
    ("chance alone", 0.0, 0.02, 0.0),
    ("the same images", 0.01, 0.01, 0.0),
    ("trials apart", 0.005, 0.01, 0.003),
    ("trials far apart", 0.0, 0.02, 0.02),
)

#: Poisons, seeds, images, and the draws of the poison that seeds share out; by part.
DESIGNS = {
    "images-2000": ((1, 3, 2000, 0), (1, 5, 2000, 0)),
    "images-10000": ((1, 3, 10_000, 0), (1, 5, 10_000, 0)),
    "ten-seeds": ((1, 10, 2000, 0), (1, 10, 10_000, 0)),
    "poisons": ((5, 5, 2000, 0), (1, 5, 2000, 5), (1, 10, 2000, 5)),
}

#: Of which claims of "at least as good" are judged too, and records without outcomes.
FEW_DESIGNS = ((1, 5, 2000, 0), (1, 5, 10_000, 0), (1, 10, 2000, 5))


def accuracy(part: str, lines: Lines, tables: int, generator: Generator) -> None:
    """Accuracies of two methods, from their outcomes by image, in the designs of a part."""
    for poisons, seeds, images, draws in DESIGNS[part]:
        for name, always, churn, trial in POPULATIONS:
            if name not in lines.populations:
                continue
            population = Outcomes(name, poisons, seeds, images, always, churn, trial, draws)
            resampled = weights(population, generator)
            equal, paired, bootstrap = [], [], []
            for number in range(tables):
                table = population.draw(0.0, generator)
                equal.append(estimate(population, table))
                paired.append(paired_t_finds(table))
                if number < RESAMPLED:
                    bootstrap.append(bootstrap_finds(population.by_draw(table), resampled))
            lines.error(
                Verdict.REPRODUCED,
                population.design,
                "equal",
                said(equal, BETTER, Verdict.REPRODUCED),
                f"paired t {100 * share(paired):.1f}, bootstrap {100 * share(bootstrap):.1f}",
            )
            draw = partial(estimates, population, tables, generator)
            lines.error(
                Verdict.REFUTED,
                population.design,
                "0.1 % better, which counts",
                said(draw(LEAST_ACCURACY), BETTER, Verdict.REFUTED),
            )
            truth = true_spread(population, generator).estimate(0.0, **population.sample)
            power(lines, population.design, truth, BETTER, draw)
            if (poisons, seeds, images, draws) not in FEW_DESIGNS:
                continue
            design = f"{population.design}, margin 0.1 %"
            worse = draw(-LEAST_ACCURACY)
            for word in (Verdict.REPRODUCED, Verdict.REFUTED):
                lines.error(word, design, "0.1 % worse", said(worse, NOT_WORSE, word))
            power(lines, design, truth, NOT_WORSE, draw)


def estimates(
    population: Outcomes, tables: int, generator: Generator, gain: float
) -> list[Estimate]:
    """Of drawn tables."""
    return [estimate(population, population.draw(gain, generator)) for _ in range(tables)]


def estimate(population: Outcomes, table: np.ndarray) -> Estimate:
    """As a report makes it, from what each method got right."""
    return accuracy_difference(population.by_draw(table >= 0), population.by_draw(table <= 0))


def true_spread(population: Outcomes, generator: Generator) -> Spread:
    """The spread of a population: of trials as it is drawn, of images the mean of unbiased ones."""
    drawn = (population.by_draw(population.draw(0.0, generator)) for _ in range(REPORTS))
    spreads = [spread_of(table) for table in drawn]
    trial = ((1 - population.always) * population.trial) ** 2
    poison = trial * (1 + population.draws / population.seeds) if population.draws else trial
    return Spread(
        poison=poison if population.sample["poisons"] > 1 else 0.0,
        seed=0.0 if population.draws else trial,
        both=0.0,
        image=float(np.mean([one.image for one in spreads])),
        rest=float(np.mean([one.rest for one in spreads])),
    )


def without(lines: Lines, tables: int, generator: Generator) -> None:
    """Accuracies of two methods, from records that do not say which images are right."""
    # The first is as far apart as images can set two methods: none is wrong by both.
    populations = (("no image wrong by both", 0.02, 0.0, 0.001), *POPULATIONS[1:3])
    for poisons, seeds, images, draws in FEW_DESIGNS:
        for name, always, churn, trial in populations:
            population = Outcomes(name, poisons, seeds, images, always, churn, trial, draws)
            design = f"{population.design}, no outcomes kept"
            draw = partial(unkept, population, tables, generator)
            for word, gain in ((Verdict.REPRODUCED, 0.0), (Verdict.REFUTED, LEAST_ACCURACY)):
                shown = "0.1 % better, which counts" if gain else "equal"
                lines.error(word, design, shown, said(draw(gain), BETTER, word))
            if churn:
                continue
            # A trial's chance is of the few images that its own shift sets apart.
            one = (1 - always) * (trial**2 + trial * (2 / np.pi) ** 0.5 / images)
            trials = one * (1 / draws + 1 / seeds) if draws else one / seeds
            image_variance = unshared_errors(1 - always / 2, 1 - always / 2, images)
            parts = Part(trials, (draws or seeds) - 1), Part(image_variance, math.inf)
            truth = Estimate(0.0, parts, trials + image_variance)
            power(lines, design, truth, BETTER, draw)


def unkept(
    population: Outcomes, tables: int, generator: Generator, gain: float
) -> list[Estimate | None]:
    """As a report makes them from accuracies, were 1 % of the images wrong by both methods.

    Of a population in which one method's errors are never the other's, none is.
    """
    both = 0.01 if population.churn else 0.0
    evidence = []
    for _ in range(tables):
        table = population.draw(gain, generator)
        first, second = (1 - both - (sign * table > 0).mean() for sign in (-1, 1))
        gains = population.by_draw(table).mean(2).ravel().tolist()
        variance = unshared_errors(first, second, population.images)
        evidence.append(paired_difference(gains, variance))
    return evidence


def weights(population: Outcomes, generator: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Counts of a crossed bootstrap's 200 resamples, of trials and of images."""

    def counts(size: int) -> np.ndarray:
        return generator.multinomial(size, np.full(size, 1 / size), 200)

    poisons, seeds, images = population.sample.values()
    trials = counts(poisons)[:, :, None] * counts(seeds)[:, None, :]
    return trials.reshape(200, -1), counts(images).astype(np.float32)


def paired_t_finds(table: np.ndarray) -> bool:
    """Whether the one-sided paired t-test over all trials finds a gain."""
    gains = table.mean(2).ravel()
    if gains.std() < 1e-9:
        return bool(gains[0] > 0)
    return bool(stats.ttest_1samp(gains, 0, alternative="greater").pvalue < 0.05)


def bootstrap_finds(table: np.ndarray, resampled: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether the one-sided 95 % percentile interval of a crossed bootstrap is over 0."""
    trials, images = resampled
    by_trial = images @ table.reshape(-1, table.shape[2]).T.astype(np.float32)
    return bool(np.percentile((trials * by_trial).sum(1), 5) > 0)


def collapse(lines: Lines, tables: int, generator: Generator) -> None:
    """A method that gains 2 % but loses 8 % in one training of five; images differ by chance."""
    seeds, images, gain, rate = 5, 10_000, 0.02, 0.2
    population = Outcomes("", 1, seeds, images, 0.0, 0.1, 0.0)
    words, paired = [], []
    for _ in range(tables):
        fails = generator.random((1, seeds, 1)) < rate
        means = np.where(fails, -gain * (1 - rate) / rate, gain)
        uniform = generator.random((1, seeds, images), dtype=np.float32)
        table = (uniform < (population.churn + means) / 2).astype(np.int8)
        table -= uniform > 1 - (population.churn - means) / 2
        words.append(estimate(population, table))
        paired.append(paired_t_finds(table))
    lines.error(
        Verdict.REPRODUCED,
        f"{seeds} seeds, {images} images, one training in five collapses",
        "equal on average: 2 % better, or 8 % worse",
        said(words, BETTER, Verdict.REPRODUCED),
        f"paired t {100 * share(paired):.1f}",
    )
