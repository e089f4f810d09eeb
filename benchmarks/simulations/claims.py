"""Claims of several comparisons, of seconds, refuted ones and gains too small to count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from scipy import stats

from poisonbench.results.estimates import (
    Estimate,
    Part,
    mean_difference,
    paired_difference,
    unshared_errors,
)
from poisonbench.results.statistics import (
    Verdict,
    summarise,
)
from poisonbench.results.target_success import TargetDifference
from poisonbench.results.verdicts import (
    LEAST_ACCURACY,
    LEAST_SUCCESS,
    POWER,
    ClaimRule,
    Evidence,
    detectable,
    halve,
    joint_word,
)
from simulations import outcomes
from simulations.lines import BETTER, FASTER, Lines, claim_word, reports, said, share, words_of
from simulations.outcomes import POPULATIONS, Outcomes, estimates, true_spread
from simulations.targets import differences, hits

LEVELS = 6


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


def refuted(lines: Lines, tables: int, generator: Generator) -> None:
    """How often a claim is refuted where that is reported to be so four times of five."""
    for poisons, seeds, images, draws in outcomes.FEW_DESIGNS:
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
