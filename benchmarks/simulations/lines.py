"""What all simulations share: the lines that they add, and how tables are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from poisonbench.results.estimates import (
    Estimate,
)
from poisonbench.results.statistics import (
    Verdict,
)
from poisonbench.results.verdicts import (
    LEAST_ACCURACY,
    ClaimRule,
    EquivalenceRule,
    Evidence,
    Rule,
    detectable,
    joint_word,
)

#: Tables of which their own report is asked, and of which the true spread is taken.
REPORTS = 200

#: With a delta that nothing reaches, equivalence takes nothing from "differs".
STRICT = EquivalenceRule(1e-9)

BETTER = ClaimRule(0.0, LEAST_ACCURACY)

FASTER = ClaimRule(0.0, 1.0)


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


def words_of(evidence: Sequence[Evidence], rule: Rule, word: Verdict) -> float:
    """Share of tables with a word; tables of the same counts are judged once."""
    words = {one: rule.verdict(one) for one in set(evidence)}
    return share([words[one] is word for one in evidence])


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


def claim_word(comparisons: Sequence[Estimate]) -> Verdict:
    """The word of a claim that something is better; too small a gain refutes it."""
    word = joint_word([(one, BETTER) for one in comparisons])
    return Verdict.REFUTED if word is Verdict.TOO_SMALL else word
