"""The verdicts' errors and power over simulated tables, beside what the functions report.

    python benchmarks/verdicts.py --markdown
    python benchmarks/verdicts.py --parts poisons --tables 500

means     a mean against a published one: seeds, two spreads. Another test: Welch's.
printed   accuracies against published ones, which are printed to 0.01 %.
images-2000, images-10000, ten-seeds, poisons
          two methods on the same poisons, seeds and test images, by outcomes of images. Other
          tests: the paired t-test over trials, and a crossed bootstrap (percentiles; of the
          first 500 tables).
without   the same, of records without outcomes by image.
shares    successes of trials against published ones. Another test: Fisher's.
targets   attack success under two defenses. Another test: Fisher's of the pooled counts.
trend     accuracies of six levels that fall at each step. Another test: Page's.
others    a method against four others at once.
seconds   of two methods, five trials.
family    60 values that all equal the published ones. Another way: without Holm's correction.
refuted   a claim that something is better, where it is worse: accuracies, success and seconds.
small     a gain under the smallest that counts: accuracies on 50,000 images, and seconds.
collapse  a method that is better but fails one training in five, as good on average.

Each line is a truth, from which 2,000 tables are drawn and judged as a report would judge them. An
error is a word that the truth does not bear out. Power is the share of tables with the right word
at a difference for which the functions, told the true spread, report about 80 %. A report has to
estimate the spread from its own trials: the last column has what it would say, 10th to 90th
percentile.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import gamma

import numpy as np
import torch
from common import parser, show
from numpy.random import Generator
from scipy import stats

from poisonbench.results.crossed import Spread, accuracy_difference, spread_of
from poisonbench.results.estimates import (
    Estimate,
    Part,
    as_printed,
    mean_difference,
    paired_difference,
    printed_difference,
    unshared_errors,
)
from poisonbench.results.proportions import ShareDifference
from poisonbench.results.statistics import (
    Proportion,
    Summary,
    Verdict,
    summarise,
)
from poisonbench.results.target_success import TargetDifference, target_difference
from poisonbench.results.verdicts import (
    LEAST_ACCURACY,
    LEAST_SUCCESS,
    POWER,
    ClaimRule,
    EquivalenceRule,
    Evidence,
    Rule,
    detectable,
    halve,
    holm,
    joint_word,
)

HEADINGS = ["word", "design", "truth", "said, %", "another test, %"]
POWER_HEADINGS = ["word", "design", "true difference", "said, %", "reported, %", "by one table, %"]
#: Tables of which their own report is asked, and of which the true spread is taken.
REPORTS = 200
#: Tables that the bootstrap is tried on.
RESAMPLED = 500
LEVELS = 6
#: With a delta that nothing reaches, equivalence takes nothing from "differs".
STRICT = EquivalenceRule(1e-9)


@dataclass
class Lines:
    """The rows of the two tables, and which populations of test images they shall be of."""

    errors: list[list[str]]
    power: list[list[str]]
    populations: Sequence[str]

    def error(self, word: Verdict, design: str, truth: str, said: float, other: str = "") -> None:
        """Add a line of a word that is wrong."""
        self.errors.append([word.value, design, truth, f"{100 * said:.1f}", other])

    def found(
        self,
        word: Verdict,
        design: str,
        difference: str,
        said: float,
        reported: float | None,
        reports: Sequence[float] = (),
    ) -> None:
        """Add a line of a word that is right; null where no function reports its power."""
        ends = 100 * np.percentile(reports, [10, 90]) if len(reports) else None
        shown = "" if reported is None else f"{100 * reported:.1f}"
        row = [word.value, design, difference, f"{100 * said:.1f}", shown]
        self.power.append([*row, "" if ends is None else f"{ends[0]:.0f} to {ends[1]:.0f}"])


def share(flags: Sequence[bool]) -> float:
    """How many are true, of all."""
    return float(np.mean(flags))


def said(evidence: Sequence[Evidence | None], rule: Rule, word: Verdict) -> float:
    """Share of the tables that get a word; one without any spread gets none."""
    return share([one is not None and rule.verdict(one) is word for one in evidence])


def reports(
    evidence: Sequence[Evidence | None], rule: Rule, word: Verdict, effect: float
) -> list[float]:
    """The power that the first tables report for a difference."""
    return [one.chances(rule, effect)[word] for one in evidence[:REPORTS] if one is not None]


def means(lines: Lines, tables: int, generator: Generator) -> None:
    """Measured means against published ones."""
    for ours, theirs, spread in ((5, 5, 1), (5, 5, 5), (3, 5, 5), (2, 5, 5), (10, 5, 0.2)):
        parts = Part(spread**2 / ours, ours - 1), Part(1 / theirs, theirs - 1)
        truth = Estimate(0.0, parts, parts[0].variance + parts[1].variance)
        delta = 4 * truth.variance**0.5
        rule = EquivalenceRule(delta)
        design = f"{ours} seeds against {theirs}, spreads {spread} to 1"
        found = detectable(truth, STRICT)
        draw = partial(samples, tables, (ours, theirs), spread, generator)
        for word, held, wrong, right in (
            (Verdict.DIFFERS, STRICT, 0.0, found),
            (Verdict.EQUIVALENT, rule, delta, 0.0),
        ):
            pairs = draw(wrong)
            other = share([welch_says(word, *pair, delta) for pair in pairs])
            lines.error(
                word,
                design,
                f"{wrong:.2f} spreads apart" if wrong else "equal",
                said([mean_difference(*pair) for pair in pairs], held, word),
                f"Welch {100 * other:.1f}",
            )
            evidence = [mean_difference(*pair) for pair in draw(right)]
            lines.found(
                word,
                design,
                f"{right:.2f} spreads" if right else f"none, delta {delta:.2f} spreads",
                said(evidence, held, word),
                truth.chances(held, right)[word],
                reports(evidence, held, word, right),
            )


def printed(lines: Lines, tables: int, generator: Generator) -> None:
    """Accuracies of five seeds against published ones of five, in percent of test images."""
    rule = EquivalenceRule(LEAST_ACCURACY)
    for ours, theirs in ((0.0004, 0.0002), (0.0002, 0.0005), (0.002, 0.002)):
        design = f"5 seeds against 5 printed, spreads {100 * ours:g} and {100 * theirs:g} %"

        def draw(
            difference: float, ours: float = ours, theirs: float = theirs
        ) -> list[Estimate | None]:
            pairs = [
                generator.normal((difference, 0), (ours, theirs), (5, 2)) for _ in range(tables)
            ]
            return [
                printed_difference(
                    summarise(pair[:, 0].tolist()),
                    Summary(round(pair[:, 1].mean(), 4), round(pair[:, 1].std(), 4), 5),
                    0.0001,
                )
                for pair in pairs
            ]

        # Of NumPy's standard deviation, divisor n, as it is printed on average.
        std = theirs * (2 / 5) ** 0.5 * gamma(5 / 2) / gamma(2)
        widest = as_printed(Summary(0.0, std, 5), 0.0001)
        widest_variance = widest.std**2 / 5 + theirs**2 / 5 - std**2 / 4
        parts = Part(ours**2 / 5, 4), Part(widest_variance, 4)
        truth = Estimate(0.0, parts, (ours**2 + theirs**2) / 5 + 0.0001**2 / 12)
        for word, wrong, right in (
            (Verdict.DIFFERS, 0.0, detectable(truth, rule)),
            (Verdict.EQUIVALENT, rule.delta, 0.0),
        ):
            shown = f"{100 * wrong:g} % apart" if wrong else "equal"
            lines.error(word, design, shown, said(draw(wrong), rule, word))
            evidence = draw(right)
            lines.found(
                word,
                design,
                f"{100 * right:.3f} %" if right else "none, delta 0.1 %",
                said(evidence, rule, word),
                truth.chances(rule, right)[word],
                reports(evidence, rule, word, right),
            )


def samples(
    tables: int,
    sizes: tuple[int, int],
    spread: float,
    generator: Generator,
    difference: float,
) -> list[tuple[Summary, Summary]]:
    """Ours and the published ones, whose standard deviation is 1."""
    return [
        (
            summarise(generator.normal(difference, spread, sizes[0]).tolist()),
            summarise(generator.normal(0, 1, sizes[1]).tolist()),
        )
        for _ in range(tables)
    ]


def welch_says(word: Verdict, first: Summary, second: Summary, delta: float) -> bool:
    """Whether Welch's test, or two of them one-sided, give a word."""
    numbers = (first.mean, first.std, first.n, second.mean, second.std, second.n)
    if word is Verdict.DIFFERS:
        return stats.ttest_ind_from_stats(*numbers, equal_var=False).pvalue < 0.05
    return all(
        stats.ttest_ind_from_stats(
            first.mean + shift, *numbers[1:], equal_var=False, alternative=side
        ).pvalue
        < 0.05
        for shift, side in ((delta, "greater"), (-delta, "less"))
    )


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
BETTER = ClaimRule(0.0, LEAST_ACCURACY)
FASTER = ClaimRule(0.0, 1.0)
NOT_WORSE = ClaimRule(-LEAST_ACCURACY, -LEAST_ACCURACY)


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


def power(
    lines: Lines,
    design: str,
    truth: Estimate,
    rule: ClaimRule,
    draw: Callable[[float], list[Estimate]],
) -> None:
    """Add the line of how often a gain is found that is reported to be, four times of five."""
    gain = detectable(truth, rule)
    evidence = draw(gain)
    lines.found(
        Verdict.REPRODUCED,
        design,
        f"{100 * gain:.2f} %",
        said(evidence, rule, Verdict.REPRODUCED),
        truth.chances(rule, gain)[Verdict.REPRODUCED],
        reports(evidence, rule, Verdict.REPRODUCED, gain),
    )


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


def shares(lines: Lines, tables: int, generator: Generator) -> None:
    """Successes of independent trials against published ones."""
    for ours, theirs, delta in (
        (5, 5, LEAST_SUCCESS),
        (5, 5, 0.5),
        (10, 5, 0.5),
        (50, 5, 0.5),
        (50, 50, LEAST_SUCCESS),
        (50, 50, 0.3),
    ):
        rule = EquivalenceRule(delta)
        design = f"{ours} targets against {theirs}, delta {100 * delta:g} %"
        draw = partial(counts, tables, (ours, theirs), generator)
        for rate in (0.2, 0.5, 0.9):
            equal = draw(rate, rate)
            other = share(
                [
                    fisher((one.first.successes, ours), (one.second.successes, theirs)) < 0.05
                    for one in equal
                ]
            )
            lines.error(
                Verdict.DIFFERS,
                design,
                f"both {rate:g}",
                words_of(equal, rule, Verdict.DIFFERS),
                f"Fisher {100 * other:.1f}",
            )
        lines.error(
            Verdict.EQUIVALENT,
            design,
            f"{0.4 + delta:g} and 0.4",
            words_of(draw(0.4 + delta, 0.4), rule, Verdict.EQUIVALENT),
        )
        truth = ShareDifference(Proportion(0, ours), Proportion(theirs, theirs))
        for word, gap in ((Verdict.DIFFERS, detectable(truth, rule)), (Verdict.EQUIVALENT, 0.0)):
            if gap is not None and (reported := truth.chances(rule, gap)[word]) > 0:
                found = words_of(draw(1 + gap, 1.0), rule, word)
                lines.found(word, design, f"{1 + gap:.2f} against 1", found, reported)


def counts(
    tables: int, trials: tuple[int, int], generator: Generator, first: float, second: float
) -> list[ShareDifference]:
    """Successes of ours and of the published ones, by their rates."""
    drawn = generator.binomial(trials, (first, second), (tables, 2)).tolist()
    return [ShareDifference(Proportion(x, trials[0]), Proportion(y, trials[1])) for x, y in drawn]


def words_of(evidence: Sequence[Evidence], rule: Rule, word: Verdict) -> float:
    """Share of tables with a word; tables of the same counts are judged once."""
    words = {one: rule.verdict(one) for one in set(evidence)}
    return share([words[one] is word for one in evidence])


def targets(lines: Lines, tables: int, generator: Generator) -> None:
    """Attack success under two defenses, targets under several attacks."""
    rule = ClaimRule(0.0, LEAST_SUCCESS)
    for count in (5, 8, 14, 16, 36):
        for truth, sums in skewed(tables, count, generator):
            evidence = [TargetDifference(tuple(row), 4, 0.15) for row in np.sort(sums).tolist()]
            lines.error(
                Verdict.REPRODUCED,
                f"{count} targets, 4 attacks",
                truth,
                words_of(evidence, rule, Verdict.REPRODUCED),
                f"signs alone {100 * share(signs_find(sums, generator)):.1f}",
            )
    for count, attacks, alike in (
        (5, 4, 1.0),
        (8, 4, 1.0),
        (10, 4, 0.5),
        (10, 1, 1.0),
        (16, 1, 1.0),
        (30, 2, 0.0),
        (30, 4, 0.5),
        (36, 4, 1.0),
    ):
        design = f"{count} targets, {attacks} attacks, alike on {100 * alike:g} %"
        design = design if attacks > 1 else f"{count} targets, 1 attack"
        draw = partial(hits, tables, (count, attacks, alike), generator)
        for spread in ("targets equal", "targets easy or hard"):
            equal = draw((0.5, 0.5), spread)
            other = share([pooled_fisher(*pair) for pair in equal])
            lines.error(
                Verdict.REPRODUCED,
                design,
                f"both 0.5, {spread}",
                words_of(differences(equal), rule, Verdict.REPRODUCED),
                f"Fisher {100 * other:.1f}",
            )
        lines.error(
            Verdict.REFUTED,
            design,
            "0.5 and 0.4, which counts",
            words_of(differences(draw((0.5, 0.4))), rule, Verdict.REFUTED),
        )
        truth = TargetDifference((0,) * count, attacks, 0.1, alike)
        gap = detectable(truth, rule)
        if gap is not None:
            rates = min(1.0, 0.1 + gap), min(0.1, 1 - gap)
            evidence = differences(draw(rates))
            lines.found(
                Verdict.REPRODUCED,
                design,
                f"{rates[0]:.2f} against {rates[1]:.2f}",
                words_of(evidence, rule, Verdict.REPRODUCED),
                truth.chances(rule, gap)[Verdict.REPRODUCED],
                reports(evidence, rule, Verdict.REPRODUCED, gap),
            )


def signs_find(sums: np.ndarray, generator: Generator) -> np.ndarray:
    """Whether the permutation of signs alone finds a gain, by 2,000 draws of them."""
    signs = generator.choice([-1, 1], (2000, sums.shape[1]))
    return (sums @ signs.T >= sums.sum(1, keepdims=True)).mean(1) < 0.05


def differences(pairs: Sequence[Sequence[list[list[bool]]]]) -> list[TargetDifference]:
    """Of hits under two defenses; which target has which does not matter."""
    evidence = [target_difference(*pair) for pair in pairs]
    return [replace(one, sums=tuple(sorted(one.sums))) for one in evidence]


def skewed(tables: int, count: int, generator: Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Sums of four attacks' hits under one defense minus another's, at equal rates but skewed."""
    shape = tables, count
    drawn = generator.random(shape)
    yield "sums +1 on 80 %, -4 on 20 %", np.where(drawn < 0.8, 1, -4)
    yield "sums +3 on 57 %, -4 on 43 %", np.where(drawn < 4 / 7, 3, -4)
    once, all_four = (generator.random(shape) < rate for rate in (0.6, 0.15))
    yield "one attack on 60 %, all on 15 %", once - 4 * all_four


def hits(
    tables: int,
    size: tuple[int, int, float],
    generator: Generator,
    rates: tuple[float, float],
    spread: str = "targets equal",
) -> list[list[list[list[bool]]]]:
    """Hits under two defenses, each a row a target.

    Args:
        tables: how many.
        size: targets, attacks, and the share of targets on which all attacks go alike.
        generator: of the draws.
        rates: of success under the two defenses.
        spread: whether targets are equal, or easy and hard.
    """
    count, attacks, alike = size
    drawn = []
    for _ in range(tables):
        together = generator.random((count, 1)) < alike
        # A target that is easy is so under both.
        ease = generator.choice([-0.4, 0.4], (count, 1)) if spread != "targets equal" else 0.0
        drawn.append(
            [
                np.where(
                    together,
                    generator.random((count, 1)) < rate + ease,
                    generator.random((count, attacks)) < rate + ease,
                ).tolist()
                for rate in rates
            ]
        )
    return drawn


def pooled_fisher(first: list[list[bool]], second: list[list[bool]]) -> bool:
    """Whether Fisher's one-sided test of all attacks on all targets finds more hits."""
    counts = [(sum(map(sum, rows)), sum(map(len, rows))) for rows in (first, second)]
    return fisher(*counts, "greater") < 0.05


def fisher(first: tuple[int, int], second: tuple[int, int], side: str = "two-sided") -> float:
    """p-value of Fisher's exact test of two counts, each (successes, trials)."""
    table = [[successes, trials - successes] for successes, trials in (first, second)]
    return float(stats.fisher_exact(table, alternative=side).pvalue)


def trend(lines: Lines, tables: int, generator: Generator) -> None:
    """Accuracies that fall at each of five steps, five seeds or five poisons a level."""
    # Seeds that share a poison have a spread of 0.2 %; of poisons with their own 10,000 images'
    # share of errors, 2 %, chance among images comes to it.
    spread, errors, images = 0.002, 0.02, 10_000
    variance, image_variance = spread**2 / 5, unshared_errors(1 - errors, 1 - errors, images)
    paired = Estimate(0.0, (Part(2 * variance, 4),), 2 * variance)
    parts = Part(variance, 4), Part(variance, 4), Part(image_variance, math.inf)
    unpaired = Estimate(0.0, parts, 2 * variance + image_variance)
    for design, step, image in (
        (f"5 seeds, {LEVELS} levels, paired", paired, 0.0),
        (f"5 poisons of each of {LEVELS} levels", unpaired, (image_variance / 2) ** 0.5),
    ):
        gap = detectable(step, BETTER, 1 - 0.2 / (LEVELS - 1))
        truths = {
            "flat": [0.0] * LEVELS,
            "one drop of 0.2": [0.0] * (LEVELS - 1) + [-0.2],
            "a rise of 0.01, then drops of 0.05": [0, 0.01, -0.04, -0.09, -0.14, -0.19],
            "drops of 0.05, of 0.001 the last": [0, -0.05, -0.1, -0.15, -0.2, -0.201],
            f"drops of {gap:.4f}": [-gap * level for level in range(LEVELS)],
        }
        for truth, levels in truths.items():
            words, page = [], []
            for _ in range(tables):
                of_levels = np.array(levels) + generator.normal(0, image, LEVELS)
                blocks = of_levels + generator.normal(0, spread, (5, LEVELS))
                words.append(claim_word(falls(blocks, image_variance if image else 0.0)))
                page.append(stats.page_trend_test(-blocks).pvalue < 0.05)
            if levels[-1] == -gap * (LEVELS - 1):
                found = share([word is Verdict.REPRODUCED for word in words])
                lines.found(Verdict.REPRODUCED, design, f"{gap:.4f} a step", found, 0.8)
                continue
            word = Verdict.REFUTED if truth.startswith("drops") else Verdict.REPRODUCED
            other = f"Page {100 * share(page):.1f}" if word is Verdict.REPRODUCED else ""
            lines.error(word, design, truth, share([one is word for one in words]), other)


def falls(blocks: np.ndarray, image_variance: float) -> list[Estimate]:
    """Of each step, from accuracies (5, levels): of paired seeds where images count for nothing."""
    if not image_variance:
        return [paired_difference(column.tolist()) for column in -np.diff(blocks).T]
    levels = [summarise(column.tolist()) for column in blocks.T]
    return [mean_difference(a, b, image_variance) for a, b in pairwise(levels)]


def others(lines: Lines, tables: int, generator: Generator) -> None:
    """A method that is said to beat each of four others, five seeds."""
    spread, count, far = 0.002, 4, 0.1
    design = f"5 seeds against each of {count} other methods"
    variance = 2 * spread**2 / 5
    one = Estimate(0.0, (Part(variance, 4),), variance)
    gap = detectable(one, BETTER, 1 - 0.2 / count)

    def words(gains: Sequence[float]) -> list[Verdict]:
        drawn = generator.normal(0, spread, (tables, 5, count + 1))
        tables_of_gains = np.array(gains) + drawn[:, :, :1] - drawn[:, :, 1:]
        return [
            claim_word([paired_difference(column.tolist()) for column in table.T])
            for table in tables_of_gains
        ]

    for word, truth, gains in (
        (Verdict.REPRODUCED, "equal to one, far over the others", [0.0] + [far] * (count - 1)),
        (Verdict.REPRODUCED, "all equal", [0.0] * count),
        (Verdict.REFUTED, "0.1 % over each, which counts", [LEAST_ACCURACY] * count),
    ):
        lines.error(word, design, truth, share([one is word for one in words(gains)]))
    found = share([word is Verdict.REPRODUCED for word in words([gap] * count)])
    lines.found(Verdict.REPRODUCED, design, f"{100 * gap:.2f} % over each", found, 0.8)


def claim_word(comparisons: Sequence[Estimate]) -> Verdict:
    """The word of a claim that something is better; too small a gain refutes it."""
    word = joint_word([(one, BETTER) for one in comparisons])
    return Verdict.REFUTED if word is Verdict.TOO_SMALL else word


def seconds(lines: Lines, tables: int, generator: Generator) -> None:
    """Seconds of two methods on one machine, five trials, of which one counts."""
    spread = 2.0
    truth = Estimate(0.0, (Part(spread**2 / 5, 4),), spread**2 / 5)
    design = f"5 trials, spread {spread:g} s"
    draw = partial(timings, tables, generator, spread)
    for word, gain in ((Verdict.REPRODUCED, 0.0), (Verdict.REFUTED, 1.0)):
        lines.error(word, design, f"{gain:g} s faster", said(draw(gain), FASTER, word))
    gap = detectable(truth, FASTER)
    lines.found(
        Verdict.REPRODUCED,
        design,
        f"{gap:.1f} s",
        said(draw(gap), FASTER, Verdict.REPRODUCED),
        truth.chances(FASTER, gap)[Verdict.REPRODUCED],
    )


def timings(tables: int, generator: Generator, spread: float, gain: float) -> list[Estimate]:
    """Of drawn seconds saved in five trials."""
    drawn = generator.normal(gain, spread, (tables, 5)).tolist()
    return [paired_difference(gains) for gains in drawn]


def family(lines: Lines, tables: int, generator: Generator) -> None:
    """Whether any of 60 equal values is said to differ."""
    raw, corrected = [], []
    for _ in range(tables):
        p_values = [
            STRICT.p_value(mean_difference(*(summarise(row.tolist()) for row in pair)))
            for pair in generator.normal(size=(60, 2, 5))
        ]
        raw.append(min(p_values) < 0.05)
        corrected.append(min(holm(p_values)) < 0.05)
    lines.error(
        Verdict.DIFFERS,
        "any of 60 values, 5 seeds against 5, Holm",
        "all equal",
        share(corrected),
        f"without Holm {100 * share(raw):.1f}",
    )


def refuted(lines: Lines, tables: int, generator: Generator) -> None:
    """How often a claim is refuted where that is reported to be so four times of five."""
    for poisons, seeds, images, draws in FEW_DESIGNS:
        for name, always, churn, trial in POPULATIONS:
            if name in lines.populations:
                population = Outcomes(name, poisons, seeds, images, always, churn, trial, draws)
                truth = true_spread(population, generator).estimate(0.0, **population.sample)
                draw = partial(estimates, population, tables, generator)
                refutation(lines, population.design, truth, BETTER, draw)
    spread = 2.0
    timed = Estimate(0.0, (Part(spread**2 / 5, 4),), spread**2 / 5)
    draw = partial(timings, tables, generator, spread)
    refutation(lines, f"5 trials, spread {spread:g} s", timed, FASTER, draw)
    for count, attacks, alike in ((10, 1, 1.0), (16, 1, 1.0), (36, 4, 1.0)):
        design = f"{count} targets, {attacks} attacks, alike on {100 * alike:g} %"
        hit = TargetDifference((0,) * count, attacks, 0.5, alike)

        def drawn(
            gain: float, size: tuple[int, int, float] = (count, attacks, alike)
        ) -> list[TargetDifference]:
            second = max(0.5, -gain)
            return differences(hits(tables, size, generator, (max(0.0, second + gain), second)))

        rule = ClaimRule(0.0, LEAST_SUCCESS)
        design = design if attacks > 1 else f"{count} targets, 1 attack"
        refutation(lines, design, hit, rule, drawn)


def refutation(
    lines: Lines,
    design: str,
    truth: Evidence,
    rule: ClaimRule,
    draw: Callable[[float], Sequence[Evidence]],
) -> None:
    """Add the line of how often a claim is refuted, where the first is by so much worse."""

    def is_missed(gain: float) -> bool:
        return truth.chances(rule, gain)[Verdict.REFUTED] < POWER

    lowest = -1.0
    while math.isinf(truth.farthest) and is_missed(lowest):
        lowest *= 2
    gain = halve(rule.least, lowest, is_missed, 30)[1]
    evidence = draw(gain)
    shown = f"{gain:.1f} s" if rule is FASTER else f"{100 * gain:.2f} %"
    lines.found(
        Verdict.REFUTED,
        design,
        shown,
        words_of(evidence, rule, Verdict.REFUTED),
        truth.chances(rule, gain)[Verdict.REFUTED],
        reports(evidence, rule, Verdict.REFUTED, gain),
    )


def small(lines: Lines, tables: int, generator: Generator) -> None:
    """Gains under what counts: of all that counts, of nothing, and of half of it."""
    population = Outcomes("0.1 % the same", 1, 5, 50_000, 0.001, 0.001, 0.0)
    images = partial(estimates, population, tables, generator)
    timed = partial(timings, tables, generator, 0.3)
    for design, rule, draw, unit in (
        (population.design, BETTER, images, "%"),
        ("5 trials, spread 0.3 s", FASTER, timed, "s"),
    ):
        factor = 100 if unit == "%" else 1
        for part in (0.0, 1.0, 0.5):
            gain = part * rule.least
            words = [joint_word([(one, rule)]) is Verdict.TOO_SMALL for one in draw(gain)]
            if part == 0.5:
                difference = f"{factor * gain:g} {unit}"
                lines.found(Verdict.TOO_SMALL, design, difference, share(words), None)
            else:
                truth = f"{factor * gain:g} {unit} better, which counts" if gain else "equal"
                lines.error(Verdict.TOO_SMALL, design, truth, share(words))


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


PARTS: dict[str, Callable[[Lines, int, Generator], None]] = {
    "means": means,
    "printed": printed,
    **{part: partial(accuracy, part) for part in DESIGNS},
    "without": without,
    "shares": shares,
    "targets": targets,
    "trend": trend,
    "others": others,
    "seconds": seconds,
    "family": family,
    "refuted": refuted,
    "small": small,
    "collapse": collapse,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    lines = Lines([], [], options.populations)
    for index, (name, part) in enumerate(PARTS.items()):
        if name in options.parts:
            part(lines, options.tables, np.random.default_rng([options.seed, index]))
    for title, headings, rows, rate in (
        ("Words that are wrong", HEADINGS, lines.errors, 0.05),
        ("Words that are right", POWER_HEADINGS, lines.power, 0.8),
    ):
        error = (rate * (1 - rate) / options.tables) ** 0.5
        note = (
            f"{options.tables} simulated tables a line, so that the standard error of "
            f"{100 * rate:g} % is {100 * error:.1f}."
        )
        if rows:
            show(title, headings, rows, [note], torch.device("cpu"), markdown=options.markdown)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__, data=False, device=False)
    made.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    names = [name for name, *_ in POPULATIONS]
    made.add_argument("--populations", nargs="+", choices=names, default=names)
    made.add_argument("--tables", type=int, default=2000, help="simulated for each line")
    made.add_argument("--seed", type=int, default=0)
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
