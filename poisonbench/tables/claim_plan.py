"""How many runs the declared claims of a table need, from the spread of those there are.

A claim's comparisons are pooled, and so is their spread. Where there are no runs to tell it the
declared number is planned; the published spread then says what that could find. No torch here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from statistics import fmean, variance
from typing import TYPE_CHECKING, Any

from poisonbench import registry
from poisonbench.requests import RunRequest
from poisonbench.results.crossed import Spread, spread_of
from poisonbench.results.estimates import Estimate, Part, as_printed
from poisonbench.results.records import ClaimLabel, RunRecord
from poisonbench.results.statistics import Summary, Verdict
from poisonbench.results.target_success import TargetDifference
from poisonbench.results.verdicts import POWER, ClaimRule, Evidence, detectable
from poisonbench.tables import declared
from poisonbench.tables.catalogue import cells, find_table
from poisonbench.tables.cells import paired
from poisonbench.tables.claims import ACCURACY, SECONDS, Claim, SuccessOrder, Superiority
from poisonbench.tables.comparisons import Standing, Unit
from poisonbench.tables.declared import Declaration
from poisonbench.tables.evidence import Sets, by_poison
from poisonbench.tables.layout import show_number
from poisonbench.tables.measured import PRINTED_DIGIT

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: No more seeds or targets than this are planned for a claim.
MOST = 100


@dataclass(frozen=True)
class Sizing:
    """What so many seeds or targets of a claim would find.

    Attributes:
        comparisons: the evidence of each by the number of seeds or targets; one stands for those
            with the same spread.
        count: how many the claim consists of.
        rule: of the claim.
        basis: where the spread is from, in words.
    """

    comparisons: tuple[Callable[[int], Evidence], ...]
    count: int
    rule: ClaimRule
    basis: str
    unit: Unit = "fraction"

    def power(self, trials: int, effect: float) -> float:
        """The least probability that all comparisons are found, were each of this size."""
        words = [evidence(trials).chances(self.rule, effect) for evidence in self.comparisons]
        least = min(word.get(Verdict.REPRODUCED, 0.0) for word in words)
        return max(0.0, 1 - self.count * (1 - least))

    def enough(self, effect: float) -> int | None:
        """How many give a power of 0.8; null where :data:`MOST` do not.

        The power of a test of counts has small teeth, so that one a little below may do as well.
        """
        numbers = range(2, MOST + 1)
        index = bisect_left(numbers, POWER, key=lambda trials: self.power(trials, effect))
        return numbers[index] if index < len(numbers) else None

    def show(self, difference: float) -> str:
        """A difference in the claim's unit."""
        unit = "s" if self.unit == "seconds" else "%"
        return f"{show_number(difference, self.unit)} {unit}"

    def detectable(self, trials: int) -> float | None:
        """The difference that so many find with a power of 0.8; null where they find none."""
        if trials < 2:
            return None
        power = 1 - (1 - POWER) / self.count
        least = [detectable(evidence(trials), self.rule, power) for evidence in self.comparisons]
        known = [difference for difference in least if difference is not None]
        return max(known) if len(known) == len(least) else None


@dataclass(frozen=True)
class PlannedClaim:
    """A declared claim and how many trials are planned for it.

    Attributes:
        declaration: what was declared.
        claims: of the table; of seconds one for each device.
        trials: seeds or targets; seeds on poisons of their own where several are declared.
        needed: how many by the spread of the runs there are; null where that is not known, or not
            even :data:`MOST` are enough.
        sizing: what they could find; null where no spread is known.
        undeclared: how many runs in the claim's cells do not carry its digest.
        repeats: trials that were run and have a target of an earlier one; as many more are to do.
    """

    declaration: Declaration
    claims: tuple[Claim, ...]
    trials: int
    needed: int | None
    sizing: Sizing | None
    undeclared: int
    repeats: int = 0

    @property
    def label(self) -> ClaimLabel:
        """What the records of the runs shall say."""
        return ClaimLabel(digest=self.declaration.digest, trials=self.trials)

    def requests(self, records: Sequence[RunRecord] = ()) -> list[RunRequest]:
        """The runs of the claim's cells that have no record; all without records."""
        requests = []
        for cell in self.claims[0].cells:
            done = {_draw_of(record) for record in records if cell.matches(record)}
            for request in map(cell.request, range(self.trials + self.repeats)):
                # A verdict counts poisons where they vary, so that no two trials share one.
                draw = request.trial if self.declaration.poisons > 1 and cell.rho else 0
                if (request.seed, request.trial, draw) not in done:
                    poison = replace(request.poison, trial=draw)
                    requests.append(replace(request, poison=poison))
        return requests

    @property
    def warning(self) -> str | None:
        """What runs without this declaration make of it; null where there are none."""
        if not self.undeclared:
            return None
        return (
            f"{self.declaration.id}: {self.undeclared} run(s) in its cells were made before, "
            f"without this declaration: it will be {Standing.DECLARED_LATE.value}; for another "
            "standing plan with a new results folder"
        )

    def in_words(self) -> str:
        """The number, where it is from and what it could find, in one line."""
        own, unit = self.declaration, "target" if self.declaration.targets else "seed"
        text = f"{own.id}: {self.trials} {unit}(s)"
        text += f" on {self.trials} poison(s)" if own.poisons > 1 else ""
        if self.trials == own.trials:
            text += " as declared"
        elif self.trials == self.needed:
            text += f" by the spread, {own.trials} declared"
            text += "; each on a poison of its own, which a verdict counts" * (own.poisons > 1)
        else:
            text += f" by choice, of {max(own.trials, self.needed or 0)}"
        text += f", and {self.repeats} more for repeated targets" if self.repeats else ""
        if self.sizing is None:
            text += "; no spread is known to say what they could find"
            is_timed = own.test == "seconds under two methods"
            return text + ", before two timed runs of each method on one device" * is_timed
        least = self.sizing.detectable(self.trials)
        shown = "nothing" if least is None else f"{self.sizing.show(least)} or more"
        text += f"; {self.sizing.basis} {shown} is found four times of five"
        if own.expected is None:
            return f"{text}; what is expected is not declared, so that the spread plans no more"
        return f"{text}, expected is {self.sizing.show(own.expected)}"


def plan_claims(
    table: str,
    records: Sequence[RunRecord],
    dataset: str | None = None,
    trials: int | None = None,
) -> list[PlannedClaim]:
    """The declared claims of a table, each with as many runs as it needs.

    Args:
        table: its number.
        records: what has been run, whose spread counts.
        dataset: only claims on this one.
        trials: as many seeds, or targets, by choice.

    Raises:
        UsageError: unknown table or data set, or a declared claim that the table does not make.
    """
    paper_table = find_table(table)
    records = paper_table.own(records)
    cells(table, (), dataset)
    planned = []
    for own in declared.shipped():
        where = own.dataset
        if own.table != table or dataset not in (None, where):
            continue
        of_table = paper_table.claims(where, cells(table, records, where), records)
        claims = declared.claims_of(own, of_table)
        by_claim = (measured_sizing(own, claim, records) for claim in claims)
        measured = next(filter(None, by_claim), None)
        needed = None
        if measured is not None and own.expected is not None:
            needed = measured.enough(own.expected)
        planned.append(
            PlannedClaim(
                own,
                tuple(claims),
                trials or max(own.trials, needed or 0),
                needed,
                measured or published_sizing(own, claims[0]),
                len(declared.undeclared(own, claims, records)),
                max(c.repeats(records) if isinstance(c, SuccessOrder) else 0 for c in claims),
            )
        )
    return planned


def measured_sizing(
    declaration: Declaration, claim: Claim, records: Sequence[RunRecord]
) -> Sizing | None:
    """A sizing by the spread of runs; null where no two trials of a comparison tell it."""
    if isinstance(claim, SuccessOrder):
        return _measured_success(claim, records)
    assert isinstance(claim, Superiority)
    pairs = [
        paired([first.select(records), second.select(records)], same_poison=claim.same_poison)
        for first, second in claim.comparisons
    ]
    if claim.measure is SECONDS:
        return _seconds_sizing(claim, pairs)
    # Seeds are a sample on one poison; where poisons are one, they are so with a seed of each.
    groups = [[_gains(group) for group in by_poison(sets)] for sets in pairs]
    if declaration.poisons > 1:
        rounds = [zip_longest(*by) for by in groups]
        groups = [[[g for g in row if g is not None] for row in by] for by in rounds]
    samples = [gains for by in groups for gains in by if len(gains) > 1]
    if not samples:
        return None
    sizes = [len(gains) for gains in samples]
    spread = _pooled([spread_of([gains]) for gains in samples], [size - 1 for size in sizes])
    basis = f"by the spread of {sum(sizes)} pairs of runs"
    return _accuracy_sizing(claim, [spread], len(samples[0][0]), basis)


def published_sizing(declaration: Declaration, claim: Claim) -> Sizing | None:
    """A sizing by the published spreads; null where the paper prints none.

    Seeds vary as its standard deviations say, read as a verdict reads them, independently for two
    methods. Of images it says nothing: the expected difference is taken to be on the same images
    always, which is the least that images can vary. Of targets all attacks are taken to go alike.
    """
    effect = declaration.expected
    if effect is None or None in claim.published:
        return None
    if isinstance(claim, SuccessOrder):
        rate = next(own for own, _ in filter(None, claim.published)) * claim.direction
        low = rate if claim.direction < 0 else max(0.0, rate - effect)
        return _success_sizing(claim, low, 1.0, "by the published rates")
    assert isinstance(claim, Superiority)
    figures = [(a.published, b.published) for a, b in claim.comparisons]
    known = [(a, b) for a, b in figures if a and b and None not in (a.std, b.std)]
    variances = [_variance(a) + _variance(b) for a, b in known]
    sizes = registry.datasets()[claim.cells[0].dataset].paper_sizes
    if sizes is None or claim.measure is not ACCURACY or len(variances) < len(figures):
        return None
    image = abs(effect) * (1 - abs(effect))
    spreads = [Spread(poison=0, seed=v, both=0, image=image, rest=0) for v in variances]
    return _accuracy_sizing(claim, spreads, sizes[1], "by the published spread")


def _variance(printed: Summary) -> float:
    """The largest that a printed spread can stand for."""
    return (as_printed(printed, PRINTED_DIGIT).std or 0.0) ** 2


def _draw_of(record: RunRecord) -> tuple[int, int, int]:
    """Seed, trial and draw of the poison; a targeted poison is the trial's own."""
    spec = record.spec
    draw = 0 if spec.poison is None or spec.targeting is not None else spec.poison.trial
    return spec.seed, spec.trial, draw or 0


def _gains(pairs: Sets) -> list[NDArray[Any]]:
    """The gains by image of the pairs that keep their outcomes."""
    outcomes = ((first.outcomes.test, second.outcomes.test) for first, second in pairs)
    return [a.unpack().astype(int) - b.unpack() for a, b in outcomes if a and b]


def _pooled(spreads: Sequence[Spread], weights: Sequence[int]) -> Spread:
    columns = zip(*((s.poison, s.seed, s.both, s.image, s.rest) for s in spreads), strict=True)
    return Spread(*(fmean(column, weights) for column in columns))


def _accuracy_sizing(
    claim: Superiority, spreads: Sequence[Spread], images: int, basis: str
) -> Sizing:
    """A sizing from spreads between trials: of each one's seed, and of its poison if its own."""

    def evidence(spread: Spread, trials: int) -> Evidence:
        least = abs(claim.rule.least)
        return spread.estimate(0.0, poisons=1, seeds=max(2, trials), images=images, least=least)

    comparisons = tuple(partial(evidence, spread) for spread in spreads)
    return Sizing(comparisons, len(claim.comparisons), claim.rule, basis)


def _seconds_sizing(claim: Superiority, pairs: Sequence[Sets]) -> Sizing | None:
    """A sizing by each comparison's spread of differences, maybe far apart, on one device."""
    trials = min(map(len, pairs))
    if trials < 2:
        return None

    def evidence(spread: float, trials: int) -> Evidence:
        return Estimate(0.0, (Part(spread / trials, max(2, trials) - 1),), spread / trials)

    spreads = [variance(claim.measure.gains(sets)) for sets in pairs]
    comparisons = tuple(partial(evidence, spread) for spread in spreads if spread > 0)
    basis = f"by the spread of {trials} trials on {claim.cells[0].device}"
    return Sizing(comparisons, len(pairs), claim.rule, basis, "seconds") if comparisons else None


def _measured_success(claim: SuccessOrder, records: Sequence[RunRecord]) -> Sizing | None:
    compared = [claim.evidence(targets) for targets in claim.by_target(records)]
    differences = [difference for difference in compared if difference is not None]
    if not differences:
        return None
    targets = sum(len(difference.sums) for difference in differences)
    return _success_sizing(
        claim,
        fmean(difference.second_rate for difference in differences),
        fmean(difference.observed_dependence for difference in differences),
        f"by the hits on {targets} targets",
    )


def _success_sizing(claim: SuccessOrder, rate: float, dependence: float, basis: str) -> Sizing:
    def evidence(targets: int) -> Evidence:
        return TargetDifference((0,) * targets, len(claim.first), rate, dependence)

    return Sizing((evidence,), len(claim.others), claim.rule, basis)
