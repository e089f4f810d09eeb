"""How many runs the declared claims of a table need, from the spread of those there are.

A claim's comparisons are pooled, and so is their spread. Where there are no runs to tell it the
declared number is planned; the published spread then says what that could find. No torch here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import fmean

from poisonbench import registry
from poisonbench.requests import RunRequest
from poisonbench.results.crossed import Spread, spread_of
from poisonbench.results.records import ClaimLabel, RunRecord
from poisonbench.results.sign_permutation import TargetDifference, target_difference
from poisonbench.results.statistics import Verdict
from poisonbench.results.verdicts import POWER, ClaimRule, Evidence, detectable, enough
from poisonbench.tables import declared
from poisonbench.tables.catalogue import cells, find_table
from poisonbench.tables.cells import Cell, paired
from poisonbench.tables.claims import ACCURACY, Claim, SuccessOrder, Superiority, Trend
from poisonbench.tables.declared import Declaration

#: No more seeds or targets than this are planned for a claim.
MOST = 100


#: The evidence of one comparison, for a number of seeds or targets.
EvidenceOf = Callable[[int], Evidence]


@dataclass(frozen=True)
class Sizing:
    """What so many seeds or targets of a claim would find.

    Attributes:
        comparisons: the claim's; one stands for those with the same spread.
        count: how many the claim consists of.
        rule: of the claim.
        basis: where the spread is from, in words.
    """

    comparisons: tuple[EvidenceOf, ...]
    count: int
    rule: ClaimRule
    basis: str

    def power(self, trials: int, effect: float) -> float:
        """The least probability that all comparisons are found, were each of this size."""
        words = [evidence(trials).chances(self.rule, effect) for evidence in self.comparisons]
        return 1 - self.count * (1 - min(word.get(Verdict.REPRODUCED, 0.0) for word in words))

    def enough(self, effect: float) -> int | None:
        """How many give a power of 0.8; null where :data:`MOST` do not."""
        return enough(lambda trials: self.power(trials, effect), 2, MOST)

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
        trials: seeds or targets.
        needed: how many by the spread of the runs there are; null where that is not known, or not
            even :data:`MOST` are enough.
        sizing: what they could find; null where no spread is known.
    """

    declaration: Declaration
    claims: tuple[Claim, ...]
    trials: int
    needed: int | None
    sizing: Sizing | None

    @property
    def label(self) -> ClaimLabel:
        """What the records of the runs shall say."""
        return ClaimLabel(digest=self.declaration.digest, trials=self.trials)

    def requests(self, records: Sequence[RunRecord] = ()) -> list[RunRequest]:
        """The runs of the claim's cells that have no record; all without records."""
        requests = []
        for cell in self.claims[0].cells:
            done = {_draw_of(record) for record in records if cell.matches(record)}
            for request in map(cell.request, range(self.trials)):
                draw = request.trial % self.declaration.poisons if cell.rho else 0
                if (request.seed, request.trial, draw) not in done:
                    poison = replace(request.poison, trial=draw)
                    requests.append(replace(request, poison=poison))
        return requests

    def in_words(self) -> str:
        """The number, where it is from and what it could find, in one line."""
        own, unit = self.declaration, "target" if self.declaration.targets else "seed"
        text = f"{own.id}: {self.trials} {unit}(s)"
        text += f" on {own.poisons} poisons" if own.poisons > 1 else ""
        if self.trials == own.trials:
            text += " as declared"
        elif self.trials == self.needed:
            text += f" by the spread, {own.trials} declared"
        else:
            text += f" by choice, of {max(own.trials, self.needed or 0)}"
        if self.sizing is None:
            return f"{text}; no spread is known to say what they could find"
        least = self.sizing.detectable(self.trials)
        shown = "nothing" if least is None else f"{100 * least:.2f} %"
        text += f"; {self.sizing.basis} {shown} is found four times of five"
        return text if own.expected is None else f"{text}, expected is {100 * own.expected:.2f} %"


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
        made = paper_table.claims(where, cells(table, records, where), records)
        claims = declared.claims_of(own, made)
        measured = measured_sizing(own, claims[0], records)
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
            )
        )
    return planned


def measured_sizing(
    declaration: Declaration, claim: Claim, records: Sequence[RunRecord]
) -> Sizing | None:
    """By the spread of runs; null where no two trials of a comparison have outcomes by image."""
    if isinstance(claim, SuccessOrder):
        return _measured_success(declaration, claim, records)
    if claim.measure is not ACCURACY:
        return None
    spreads, images, trials = [], 0, 0
    same_poison = isinstance(claim, Superiority) or claim.same_poison
    for first, second in _comparisons(claim):
        pairs = paired([first.select(records), second.select(records)], same_poison=same_poison)
        outcomes = [tuple(run.outcomes.test for run in pair) for pair in pairs]
        known = [(a.unpack(), b.unpack()) for a, b in outcomes if a is not None and b is not None]
        if len(known) < 2:
            continue
        gains = [ours.astype(int) - theirs for ours, theirs in known]
        spreads.append(spread_of([gains]))
        images, trials = len(gains[0]), trials + len(gains)
    if not spreads:
        return None
    basis = f"by the spread of {trials} pairs of runs"
    return _accuracy_sizing(declaration, claim, [_pooled(spreads)], images, basis)


def published_sizing(declaration: Declaration, claim: Claim) -> Sizing | None:
    """By the published spreads; null where the paper prints none.

    Seeds vary as its standard deviations say, independently for two methods. Of images it says
    nothing: the expected difference is taken to be on the same images always, which is the least
    that images can vary. Of targets all attacks are taken to go alike.
    """
    if isinstance(claim, SuccessOrder):
        printed = [cell.published_success for cell in claim.cells if cell.published_success]
        if len(printed) < len(claim.cells):
            return None
        own = printed[: len(claim.first)]
        rate = sum(p.successes for p in own) / sum(p.trials for p in own)
        other = declaration.expected or 0.0
        low = rate if claim.direction < 0 else max(0.0, rate - other)
        return _success_sizing(declaration, claim, low, 1.0, "by the published rates")
    effect = declaration.expected
    figures = [(a.published, b.published) for a, b in _comparisons(claim)]
    variances = [a.std**2 + b.std**2 for a, b in figures if a and b and a.std and b.std]
    sizes = registry.datasets()[claim.cells[0].dataset].paper_sizes
    is_known = claim.measure is ACCURACY and len(variances) == len(figures)
    if effect is None or sizes is None or not is_known:
        return None
    image = abs(effect) * (1 - abs(effect))
    spreads = [Spread(poison=0, seed=v, both=0, image=image, rest=0) for v in variances]
    return _accuracy_sizing(declaration, claim, spreads, sizes[1], "by the published spread")


def _draw_of(record: RunRecord) -> tuple[int, int, int]:
    """Seed, trial and draw of the poison; a targeted poison is the trial's own."""
    spec = record.spec
    draw = 0 if spec.poison is None or spec.targeting is not None else spec.poison.trial
    return spec.seed, spec.trial, draw or 0


def _comparisons(claim: Superiority | Trend) -> list[tuple[Cell, Cell]]:
    if isinstance(claim, Trend):
        return list(pairwise(claim.levels))
    return [(claim.first, other) for other in claim.others]


def _pooled(spreads: Sequence[Spread]) -> Spread:
    columns = zip(*((s.poison, s.seed, s.both, s.image, s.rest) for s in spreads), strict=True)
    return Spread(*map(fmean, columns))


def _accuracy_sizing(
    declaration: Declaration,
    claim: Superiority | Trend,
    spreads: Sequence[Spread],
    images: int,
    basis: str,
) -> Sizing:
    """From spreads between trials: of each trial's seed, and of its poison where it has its own."""
    has_margin = isinstance(claim, Superiority) and claim.margin > 0
    least = declaration.least
    rule = ClaimRule(-least, -least) if has_margin else ClaimRule(0.0, least)

    def evidence(spread: Spread, trials: int) -> Evidence:
        # Of seeds that share out several poisons only these are counted, however many seeds.
        most = trials if declaration.poisons == 1 else min(trials, declaration.poisons)
        return spread.estimate(0.0, poisons=1, seeds=max(2, most), images=images, least=least)

    comparisons = tuple(partial(evidence, spread) for spread in spreads)
    return Sizing(comparisons, len(_comparisons(claim)), rule, basis)


def _measured_success(
    declaration: Declaration, claim: SuccessOrder, records: Sequence[RunRecord]
) -> Sizing | None:
    differences = []
    for column in claim.others:
        by_target: dict[tuple[int, int], list[tuple[bool, bool]]] = {}
        for own, other in zip(claim.first, column, strict=True):
            for first, second in paired([own.select(records), other.select(records)]):
                hits = (bool(first.metrics.attack_success), bool(second.metrics.attack_success))
                target = (first.spec.seed, first.spec.trial)
                by_target.setdefault(target, []).append(hits)
        rows = [pairs for pairs in by_target.values() if len(pairs) == len(claim.first)]
        # The defense that is said to be hit less comes second.
        sides = (1, 0) if claim.direction < 0 else (0, 1)
        more, less = ([[pair[side] for pair in row] for row in rows] for side in sides)
        if (difference := target_difference(more, less)) is not None:
            differences.append(difference)
    if not differences:
        return None
    targets = sum(len(difference.sums) for difference in differences)
    return _success_sizing(
        declaration,
        claim,
        fmean(difference.second_rate for difference in differences),
        fmean(difference.observed_dependence for difference in differences),
        f"by the hits on {targets} targets",
    )


def _success_sizing(
    declaration: Declaration, claim: SuccessOrder, rate: float, dependence: float, basis: str
) -> Sizing:
    attacks = len(claim.first)

    def evidence(targets: int) -> Evidence:
        return TargetDifference((0,) * targets, attacks, rate, dependence)

    return Sizing((evidence,), len(claim.others), ClaimRule(0.0, declaration.least), basis)
