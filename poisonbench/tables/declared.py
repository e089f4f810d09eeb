"""Claims that are declared before their runs, in ``claims.toml``. No torch here.

A declaration fixes what would count, how many trials are judged and by which test. Its digest goes
into the records of a sweep that is planned for it, so that a report can tell what was declared
first. All other claims are exploratory.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import UsageError
from poisonbench.results.records import ClaimLabel, RunRecord
from poisonbench.results.statistics import SIGNIFICANCE
from poisonbench.tables.cells import Cell, device_of, draws_on
from poisonbench.tables.claims import Claim
from poisonbench.tables.comparisons import Finding, Standing

_PATH = Path(__file__).parent.with_name("claims.toml")

#: The number of each test and its rules; raised where a change of them changes a verdict.
STATISTICS = {
    "accuracy under two methods": 1,
    "attack success under two defenses": 2,
    "seconds under two methods": 1,
}


class Declaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One claim as it was declared.

    Attributes:
        id: its name in records and plans.
        table: the table that makes it.
        claim: the table's words for it.
        keys: those of the table's keys that tell it from others in the same words.
        test: as docs/verdicts.md names it.
        least: the smallest difference that counts, by which it is planned and judged; of a claim
            with a margin, the margin.
        expected: the true difference that the planned number shall find four times of five; null
            where no spread is known to plan with.
        seeds: how many; null where targets are counted.
        poisons: draws of the poison: one for all seeds, or as many as seeds on data sets whose
            trials vary it. Each target has its own.
        targets: null where seeds are counted.
        source: where the paper says so.

    Raises:
        ValueError: both seeds and targets, or neither; no data set; another number of poisons; a
            least difference that is none.
    """

    id: str
    table: str
    claim: str
    keys: dict[str, str | float]
    test: Literal[
        "accuracy under two methods",
        "attack success under two defenses",
        "seconds under two methods",
    ]
    least: float
    expected: float | None = None
    seeds: int | None = None
    poisons: int = 1
    targets: int | None = None
    source: str

    def __post_init__(self) -> None:
        if (self.seeds is None) == (self.targets is None):
            raise ValueError(f"expected seeds or targets, got {self.seeds} and {self.targets}")
        if not isinstance(self.keys.get("dataset"), str):
            raise ValueError(f"expected keys with a dataset, got {self.keys}")
        varies = self.seeds is not None and draws_on(self.dataset) > 1 and self.keys.get("rho") != 0
        poisons = self.trials if varies else 1
        if self.poisons != poisons:
            raise ValueError(f"{self.id}: expected poisons = {poisons}, got {self.poisons}")
        most = math.inf if self.test == "seconds under two methods" else 1
        if not 0 < self.least < most:
            raise ValueError(
                f"{self.id}: expected least over 0 and under {most:g}, the smallest difference "
                f"that counts (0.001 is 0.1 points), got {self.least:g}"
            )

    @property
    def digest(self) -> str:
        """16 hex digits of the sha256 of what decides the verdict: all but the source.

        The level of the tests and the number of the statistics belong to it.
        """
        content: Mapping[str, Any] = msgspec.to_builtins(self)
        decisive = {name: value for name, value in content.items() if name != "source"}
        return spec_id({**decisive, "level": SIGNIFICANCE, "statistics": STATISTICS[self.test]})

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return str(self.keys["dataset"])

    @property
    def trials(self) -> int:
        """The planned number of seeds or targets."""
        return self.seeds or self.targets or 0

    def is_of(self, table: str, claim: Claim) -> bool:
        """Whether a claim that a table makes is this one."""
        return (
            self.table == table
            and self.claim == claim.claim
            and all(claim.keys.get(name) == value for name, value in self.keys.items())
        )


def declarations(path: Path = _PATH) -> tuple[Declaration, ...]:
    """All declared claims.

    Raises:
        UsageError: a file that is not one of claims; says what is wrong with it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        declared = msgspec.convert(content["claim"], tuple[Declaration, ...])
    except (tomllib.TOMLDecodeError, KeyError, ValueError) as error:
        raise UsageError(f"{path}: expected declared claims, got a fault: {error}") from None
    ids = [declaration.id for declaration in declared]
    if repeated := sorted({name for name in ids if ids.count(name) > 1}):
        raise UsageError(f"{path}: expected each id once, got {', '.join(repeated)} again")
    return declared


@cache
def shipped() -> tuple[Declaration, ...]:
    """The declared claims of this version."""
    return declarations()


def find(table: str, claim: Claim) -> Declaration | None:
    """The declaration of a claim that a table makes; null for an exploratory one."""
    return next((declared for declared in shipped() if declared.is_of(table, claim)), None)


def claims_of(declaration: Declaration, claims: Sequence[Claim]) -> list[Claim]:
    """What was declared among a table's claims: one, or of seconds one for each device.

    Returns:
        The claims with what the declaration says counts.

    Raises:
        UsageError: the table makes none like that, or what is expected does not count.
    """
    known = [claim for claim in claims if declaration.is_of(declaration.table, claim)]
    if not known:
        words = "; ".join(sorted({claim.claim for claim in claims}))
        raise UsageError(
            f"claims.toml: {declaration.id}: expected a claim of table {declaration.table}, got "
            f"{declaration.claim!r} with {declaration.keys}; it claims: {words or 'nothing'}"
        )
    return [_as_declared(declaration, claim) for claim in known]


def judge(
    table: str, claim: Claim, records: Sequence[RunRecord], *, is_own_poison: bool = True
) -> Finding:
    """Judge a claim at the planned number, and say whether it was declared beforehand.

    What counts is what was declared to. The number is of the plan that the claim's first run was
    made for, so that planning more after a look changes nothing, and never less than the declared
    one.

    Args:
        table: the table's number.
        claim: of the table.
        records: what has been run. Those that the claim's cells select are judged; on which plan
            every run in them bears, of whichever poison, recipe or repeat.
        is_own_poison: whether the runs are on the table's poison; of a chosen one all claims are
            exploratory.

    Raises:
        UsageError: what is declared to be expected does not count.
    """
    declaration = find(table, claim) if is_own_poison else None
    if declaration is None:
        return claim.judge(records)
    claim = _as_declared(declaration, claim)
    by_cell = [[run for run in records if _is_in(cell, run)] for cell in claim.cells]
    runs = sorted((r for cell in by_cell for r in cell), key=lambda r: r.environment.finished)
    labels = [_label(declaration, run) for run in runs]
    own = [label for label in labels if label is not None]
    trials = max(own[0].trials if own else 0, declaration.trials)
    is_once = all(len({(r.spec.seed, r.spec.trial) for r in c}) == len(c) for c in by_cell)
    standing = Standing.DECLARED
    if None in labels or not is_once:
        standing = Standing.DECLARED_LATE
    elif own and max(label.trials for label in own) < declaration.trials:
        standing = Standing.FEWER
    return replace(replace(claim, trials=trials).judge(records), standing=standing)


def undeclared(
    declaration: Declaration, claims: Sequence[Claim], records: Sequence[RunRecord]
) -> list[RunRecord]:
    """The runs in the cells of claims that do not carry the declaration's digest."""
    cells = [cell for claim in claims for cell in claim.cells]
    return [
        run
        for run in records
        if any(_is_in(cell, run) for cell in cells) and _label(declaration, run) is None
    ]


def _as_declared(declaration: Declaration, claim: Claim) -> Claim:
    """The claim with what was declared to count.

    Raises:
        UsageError: the expected difference is found in half of cases at most, however many runs.
    """
    claim = claim.with_least(declaration.least)
    expected = declaration.expected
    if expected is not None and expected <= claim.rule.least:
        raise UsageError(
            f"claims.toml: {declaration.id}: expected = {expected:g} must be over "
            f"{claim.rule.least:g}, the smallest difference that bears the claim out"
        )
    return claim


def _label(declaration: Declaration, run: RunRecord) -> ClaimLabel | None:
    """What a run's plan was for, if it was for this declaration."""
    label = (run.labels.claims or {}).get(declaration.id)
    return label if label is not None and label.digest == declaration.digest else None


def _is_in(cell: Cell, run: RunRecord) -> bool:
    return cell.matches(run) and cell.device in (None, device_of(run))
