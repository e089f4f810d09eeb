"""Means of a few seeds against published ones, and sixty of them at once."""

from __future__ import annotations

from functools import partial
from math import gamma

from numpy.random import Generator
from scipy import stats

from poisonbench.results.estimates import (
    Estimate,
    Part,
    as_printed,
    mean_difference,
    printed_difference,
)
from poisonbench.results.statistics import (
    Summary,
    Verdict,
    summarise,
)
from poisonbench.results.verdicts import (
    LEAST_ACCURACY,
    EquivalenceRule,
    detectable,
    holm,
)
from simulations.lines import STRICT, Lines, reports, said, share


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
