"""Successes against published ones, and targets hit under two defenses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.random import Generator
from scipy import stats

from poisonbench.results.proportions import ShareDifference
from poisonbench.results.statistics import (
    Proportion,
    Verdict,
)
from poisonbench.results.target_success import TargetDifference, target_difference
from poisonbench.results.verdicts import (
    LEAST_SUCCESS,
    ClaimRule,
    EquivalenceRule,
    detectable,
)
from simulations.lines import Lines, reports, share, words_of


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
