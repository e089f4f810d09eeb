"""The verdicts' errors and power over simulated tables, beside what the functions report.

    python benchmarks/verdicts.py --markdown
    python benchmarks/verdicts.py --parts accuracy --tables 500

means     a mean against a published one: seeds, two spreads. Another test: Welch's.
accuracy  two methods on the same poisons, seeds and test images, by outcomes of images. Other
          tests: the paired t-test over trials, and a crossed bootstrap (percentiles).
shares    successes of trials against published ones. Another test: Fisher's.
targets   attack success under two defenses. Another test: Fisher's of the pooled counts.
trend     accuracies of six levels that fall at each step. Another test: Page's.
family    60 values that all equal the published ones. Another way: without Holm's correction.

Each line is a truth, from which 2,000 tables are drawn and judged as a report would judge them. An
error is a word that the truth does not bear out. Power is the share of tables with the right word
at a difference for which the functions, told the true spread, report about 80 %. A report has to
estimate the spread from its own trials: the last column has what it would say, 10th to 90th
percentile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from common import parser, show
from numpy.random import Generator
from scipy import stats

from poisonbench.results.crossed import Spread, accuracy_difference, spread_of
from poisonbench.results.estimates import Estimate, Part, mean_difference, paired_difference
from poisonbench.results.proportions import ShareDifference
from poisonbench.results.statistics import (
    Proportion,
    Summary,
    Verdict,
    summarise,
)
from poisonbench.results.target_success import TargetDifference, target_difference
from poisonbench.results.verdicts import (
    LEAST_SUCCESS,
    ClaimRule,
    EquivalenceRule,
    Evidence,
    Rule,
    detectable,
    holm,
)

HEADINGS = ["word", "design", "truth", "said, %", "another test, %"]
POWER_HEADINGS = ["word", "design", "true difference", "said, %", "reported, %", "by one table, %"]
#: Tables of which their own report is asked, and of which the true spread is taken.
REPORTS = 200
LEVELS = 6
#: With a delta that nothing reaches, equivalence takes nothing from "differs".
STRICT = EquivalenceRule(1e-9)


@dataclass
class Lines:
    """The rows of the two tables."""

    errors: list[list[str]]
    power: list[list[str]]

    def error(self, word: Verdict, design: str, truth: str, said: float, other: str = "") -> None:
        """Add a line of a word that is wrong."""
        self.errors.append([word.value, design, truth, f"{100 * said:.1f}", other])

    def found(
        self,
        word: Verdict,
        design: str,
        difference: str,
        said: float,
        reported: float,
        reports: Sequence[float] = (),
    ) -> None:
        """Add a line of a word that is right."""
        ends = 100 * np.percentile(reports, [10, 90]) if len(reports) else None
        row = [word.value, design, difference, f"{100 * said:.1f}", f"{100 * reported:.1f}"]
        self.power.append([*row, "" if ends is None else f"{ends[0]:.0f} to {ends[1]:.0f}"])


def share(flags: Sequence[bool]) -> float:
    """How many are true, of all."""
    return float(np.mean(flags))


def said(evidence: Sequence[Evidence], rule: Rule, word: Verdict) -> float:
    """Share of the tables that get a word."""
    return share([rule.verdict(one) is word for one in evidence])


def reports(evidence: Sequence[Evidence], rule: Rule, word: Verdict, effect: float) -> list[float]:
    """The power that the first tables report for a difference."""
    return [one.chances(rule, effect)[word] for one in evidence[:REPORTS]]


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
    """

    name: str
    poisons: int
    seeds: int
    images: int
    always: float
    churn: float
    trial: float

    def draw(self, gain: float, generator: Generator) -> np.ndarray:
        """The first's outcomes minus the second's, (poisons, seeds, images)."""
        shape = self.poisons, self.seeds, self.images
        uniform = generator.random(self.images, dtype=np.float32)
        fixed = (uniform < self.always / 2).astype(np.int8) - (uniform > 1 - self.always / 2)
        shift = gain / (1 - self.always) + generator.normal(0, self.trial, (1, self.seeds, 1))
        if self.poisons > 1:
            shift = shift + generator.normal(0, self.trial, (self.poisons, 1, 1))
        either = np.maximum(self.churn, np.abs(shift))
        uniform = generator.random(shape, dtype=np.float32)
        anew = (uniform < (either + shift) / 2).astype(np.int8)
        anew -= uniform > 1 - (either - shift) / 2
        return np.where(fixed != 0, fixed, anew)

    @property
    def design(self) -> str:
        """In words."""
        trials = f"{self.poisons} x {self.seeds} poisons x seeds"
        trials = f"{self.seeds} seeds" if self.poisons == 1 else trials
        return f"{trials}, {self.images} images, {self.name}"


#: name, share always, churn, standard deviation between trials.
POPULATIONS = (
    ("chance alone", 0.0, 0.02, 0.0),
    ("the same images", 0.01, 0.01, 0.0),
    ("trials apart", 0.005, 0.01, 0.003),
    ("trials far apart", 0.0, 0.02, 0.02),
)
DESIGNS = ((1, 3, 2000), (1, 5, 2000), (1, 5, 10_000), (5, 5, 2000))


def accuracy(lines: Lines, tables: int, generator: Generator) -> None:
    """Accuracies of two methods, from their outcomes by image."""
    for poisons, seeds, images in DESIGNS:
        # Of 2,000 images 0.1 % are two, which nothing can exclude.
        least = 0.001 if images >= 10_000 else 0.005
        rule = ClaimRule(0.0, least)
        resampled = weights(poisons, seeds, images, generator)
        for name, always, churn, trial in POPULATIONS:
            population = Outcomes(name, poisons, seeds, images, always, churn, trial)
            judge = partial(estimate, least=least)
            equal, others = [], []
            for _ in range(tables):
                table = population.draw(0.0, generator)
                equal.append(judge(table))
                others.append((paired_t_finds(table), bootstrap_finds(table, resampled)))
            paired, bootstrap = (100 * share(flags) for flags in zip(*others, strict=True))
            lines.error(
                Verdict.REPRODUCED,
                population.design,
                "equal",
                said(equal, rule, Verdict.REPRODUCED),
                f"paired t {paired:.1f}, bootstrap {bootstrap:.1f}",
            )
            at_least = [judge(population.draw(least, generator)) for _ in range(tables)]
            lines.error(
                Verdict.REFUTED,
                population.design,
                f"{100 * least:g} % better, which counts",
                said(at_least, rule, Verdict.REFUTED),
            )
            truth = true_spread(population, generator).estimate(
                0.0, poisons=poisons, seeds=seeds, images=images, least=least
            )
            gain = detectable(truth, rule)
            better = [judge(population.draw(gain, generator)) for _ in range(tables)]
            lines.found(
                Verdict.REPRODUCED,
                population.design,
                f"{100 * gain:.2f} %",
                said(better, rule, Verdict.REPRODUCED),
                truth.chances(rule, gain)[Verdict.REPRODUCED],
                reports(better, rule, Verdict.REPRODUCED, gain),
            )


def estimate(table: np.ndarray, least: float) -> Estimate:
    """As a report makes it, from what each method got right."""
    return accuracy_difference(table >= 0, table <= 0, least=least)


def true_spread(population: Outcomes, generator: Generator) -> Spread:
    """The spread of a population: of trials as it is drawn, of images the mean of unbiased ones."""
    spreads = [spread_of(population.draw(0.0, generator)) for _ in range(REPORTS)]
    trial = ((1 - population.always) * population.trial) ** 2
    return Spread(
        poison=trial if population.poisons > 1 else 0.0,
        seed=trial,
        both=0.0,
        image=float(np.mean([one.image for one in spreads])),
        rest=float(np.mean([one.rest for one in spreads])),
    )


def weights(
    poisons: int, seeds: int, images: int, generator: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of a crossed bootstrap's 200 resamples, of trials and of images."""

    def counts(size: int) -> np.ndarray:
        return generator.multinomial(size, np.full(size, 1 / size), 200)

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
    for ours, theirs, delta in ((5, 5, 0.5), (10, 5, 0.5), (50, 5, 0.5), (50, 50, 0.3)):
        design = f"{ours} targets against {theirs}"
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
                words_of(equal, STRICT, Verdict.DIFFERS),
                f"Fisher {100 * other:.1f}",
            )
        lines.error(
            Verdict.EQUIVALENT,
            design,
            f"{0.4 + delta:g} and 0.4, delta {delta:g}",
            words_of(draw(0.4 + delta, 0.4), EquivalenceRule(delta), Verdict.EQUIVALENT),
        )
        truth = ShareDifference(Proportion(0, ours), Proportion(theirs, theirs))
        gap = detectable(truth, STRICT)
        if gap is not None:
            lines.found(
                Verdict.DIFFERS,
                design,
                f"{1 + gap:.2f} against 1",
                words_of(draw(1 + gap, 1.0), STRICT, Verdict.DIFFERS),
                truth.chances(STRICT, gap)[Verdict.DIFFERS],
            )


def counts(
    tables: int, trials: tuple[int, int], generator: Generator, first: float, second: float
) -> list[ShareDifference]:
    """Successes of ours and of the published ones, by their rates."""
    drawn = generator.binomial(trials, (first, second), (tables, 2)).tolist()
    return [ShareDifference(Proportion(x, trials[0]), Proportion(y, trials[1])) for x, y in drawn]


def words_of(evidence: Sequence[ShareDifference], rule: Rule, word: Verdict) -> float:
    """Share of tables with a word; tables of the same counts are judged once."""
    words = {one: rule.verdict(one) for one in set(evidence)}
    return share([words[one] is word for one in evidence])


def targets(lines: Lines, tables: int, generator: Generator) -> None:
    """Attack success under two defenses, targets under several attacks."""
    for count in (5, 8, 14, 16, 36):
        for truth, sums in skewed(tables, count, generator):
            evidence = [TargetDifference(tuple(row), 4, 0.15) for row in sums.tolist()]
            # As if of one attack, sums are tested by signs alone.
            signs = share(
                [TargetDifference(tuple(row), 1, 0.15).p_above(0) < 0.05 for row in sums.tolist()]
            )
            lines.error(
                Verdict.REPRODUCED,
                f"{count} targets, 4 attacks, least 10 %",
                truth,
                said(evidence, ClaimRule(0.0, LEAST_SUCCESS), Verdict.REPRODUCED),
                f"signs alone {100 * signs:.1f}",
            )
    rule = ClaimRule(0.0, 0.2)
    for count, attacks, alike in ((5, 4, 1.0), (10, 4, 0.5), (10, 1, 1.0), (30, 4, 0.5)):
        size = count, attacks, alike
        design = f"{count} targets, {attacks} attacks, alike on {100 * alike:g} %"
        design = design if attacks > 1 else f"{count} targets, 1 attack"
        for spread in ("targets equal", "targets easy or hard"):
            equal = list(hits(tables, size, (0.5, 0.5), spread, generator))
            other = share([pooled_fisher(*pair) for pair in equal])
            lines.error(
                Verdict.REPRODUCED,
                design,
                f"both 0.5, {spread}",
                said([target_difference(*pair) for pair in equal], rule, Verdict.REPRODUCED),
                f"Fisher {100 * other:.1f}",
            )
        apart = hits(tables, size, (0.6, 0.4), "targets equal", generator)
        lines.error(
            Verdict.REFUTED,
            design,
            "0.6 and 0.4, which counts",
            said([target_difference(*pair) for pair in apart], rule, Verdict.REFUTED),
        )
        truth = TargetDifference((0,) * count, attacks, 0.1, alike)
        gap = detectable(truth, rule)
        if gap is not None:
            rates = min(1.0, 0.1 + gap), min(0.1, 1 - gap)
            apart = hits(tables, size, rates, "targets equal", generator)
            evidence = [target_difference(*pair) for pair in apart]
            lines.found(
                Verdict.REPRODUCED,
                design,
                f"{rates[0]:.2f} against {rates[1]:.2f}",
                said(evidence, rule, Verdict.REPRODUCED),
                truth.chances(rule, gap)[Verdict.REPRODUCED],
                reports(evidence, rule, Verdict.REPRODUCED, gap),
            )


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
    rates: tuple[float, float],
    spread: str,
    generator: Generator,
) -> Iterator[list[list[list[bool]]]]:
    """Hits under two defenses, each a row a target.

    Args:
        tables: how many.
        size: targets, attacks, and the share of targets on which all attacks go alike.
        rates: of success under the two defenses.
        spread: whether targets are equal, or easy and hard.
        generator: of the draws.
    """
    count, attacks, alike = size
    for _ in range(tables):
        together = generator.random((count, 1)) < alike
        # A target that is easy is so under both.
        ease = generator.choice([-0.4, 0.4], (count, 1)) if spread != "targets equal" else 0.0
        yield [
            np.where(
                together,
                generator.random((count, 1)) < rate + ease,
                generator.random((count, attacks)) < rate + ease,
            ).tolist()
            for rate in rates
        ]


def pooled_fisher(first: list[list[bool]], second: list[list[bool]]) -> bool:
    """Whether Fisher's one-sided test of all attacks on all targets finds more hits."""
    counts = [(sum(map(sum, rows)), sum(map(len, rows))) for rows in (first, second)]
    return fisher(*counts, "greater") < 0.05


def fisher(first: tuple[int, int], second: tuple[int, int], side: str = "two-sided") -> float:
    """p-value of Fisher's exact test of two counts, each (successes, trials)."""
    table = [[successes, trials - successes] for successes, trials in (first, second)]
    return float(stats.fisher_exact(table, alternative=side).pvalue)


def trend(lines: Lines, tables: int, generator: Generator) -> None:
    """Accuracies that fall at each of five steps, five seeds."""
    rule, spread = ClaimRule(0.0, 0.001), 0.002
    design = f"5 seeds, {LEVELS} levels"
    truths = {
        "flat": [0.0] * LEVELS,
        "one drop of 0.2": [0.0] * (LEVELS - 1) + [-0.2],
        "a rise of 0.01, then drops of 0.05": [0, 0.01, -0.04, -0.09, -0.14, -0.19],
    }
    variance = 2 * spread**2 / 5
    step = Estimate(0.0, (Part(variance, 4),), variance)
    enough = detectable(step, rule, 1 - 0.2 / (LEVELS - 1))
    truths[f"drops of {enough:.4f}"] = [-enough * level for level in range(LEVELS)]
    for truth, levels in truths.items():
        words, page = [], []
        for _ in range(tables):
            blocks = np.array(levels) + generator.normal(0, spread, (5, LEVELS))
            steps = [paired_difference(column.tolist()) for column in -np.diff(blocks).T]
            word = judge_words(steps, rule)
            words.append(word is Verdict.REPRODUCED)
            page.append(stats.page_trend_test(-blocks).pvalue < 0.05)
        if truth.startswith("drops"):
            lines.found(Verdict.REPRODUCED, design, f"{enough:.4f} a step", share(words), 0.8)
        else:
            lines.error(
                Verdict.REPRODUCED, design, truth, share(words), f"Page {100 * share(page):.1f}"
            )


def judge_words(steps: Sequence[Estimate], rule: ClaimRule) -> Verdict:
    """The word of a claim, without what could have been found."""
    words = {rule.verdict(one, len(steps)) for one in steps}
    return words.pop() if len(words) == 1 else Verdict.INCONCLUSIVE


def family(lines: Lines, tables: int, generator: Generator) -> None:
    """Whether any of 60 equal values is said to differ."""
    raw, corrected = [], []
    for _ in range(tables // 10):
        p_values = [
            STRICT.p_value(mean_difference(*(summarise(row.tolist()) for row in pair)))
            for pair in generator.normal(size=(60, 2, 5))
        ]
        raw.append(min(p_values) < 0.05)
        corrected.append(min(holm(p_values)) < 0.05)
    lines.error(
        Verdict.DIFFERS,
        f"any of 60 values, 5 seeds against 5, Holm ({tables // 10} tables)",
        "all equal",
        share(corrected),
        f"without Holm {100 * share(raw):.1f}",
    )


PARTS: dict[str, Callable[[Lines, int, Generator], None]] = {
    part.__name__: part for part in (means, accuracy, shares, targets, trend, family)
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    lines = Lines([], [])
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
    made.add_argument("--tables", type=int, default=2000, help="simulated for each line")
    made.add_argument("--seed", type=int, default=0)
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
