"""Claims that are declared before their runs, in ``claims.toml``. No torch here.

A declaration fixes what would count, how many trials are judged and by which test. Its digest goes
into the records of a sweep that is planned for it, so that a report can tell what was declared
first. All other claims are exploratory.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import UsageError
from poisonbench.results.records import RunRecord
from poisonbench.tables.claims import Claim
from poisonbench.tables.comparisons import Finding, Standing

_PATH = Path(__file__).parent.with_name("claims.toml")


class Declaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One claim as it was declared.

    Attributes:
        id: its name in records and plans.
        table: the table that makes it.
        claim: the table's words for it.
        keys: those of the table's keys that tell it from others in the same words.
        test: as docs/verdicts.md names it.
        least: the smallest difference that counts; of a claim with a margin, the margin.
        expected: the true difference that the planned number shall find four times of five; null
            where no spread is known to plan with.
        seeds: how many; null where targets are counted.
        poisons: draws of the poison, which the seeds share out in turn; each target has its own.
        targets: null where seeds are counted.
        source: where the paper says so.

    Raises:
        ValueError: both seeds and targets, or neither; no data set.
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

    @property
    def digest(self) -> str:
        """16 hex digits of the sha256 of what decides the verdict: all but the source."""
        content: Mapping[str, Any] = msgspec.to_builtins(self)
        return spec_id({name: value for name, value in content.items() if name != "source"})

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

    Raises:
        UsageError: the table makes none like that.
    """
    known = [claim for claim in claims if declaration.is_of(declaration.table, claim)]
    if not known:
        words = "; ".join(sorted({claim.claim for claim in claims}))
        raise UsageError(
            f"claims.toml: {declaration.id}: expected a claim of table {declaration.table}, got "
            f"{declaration.claim!r} with {declaration.keys}; it claims: {words or 'nothing'}"
        )
    return known


def judge(table: str, claim: Claim, records: Sequence[RunRecord]) -> Finding:
    """Judge a claim at the planned number, and say whether it was declared beforehand.

    That number is of the plan that the claim's first run was made for, so that planning more after
    a look changes nothing; of runs without a plan the declared one, or the table's own.

    Args:
        table: the table's number.
        claim: of the table.
        records: what has been run; those that the claim's cells select count.
    """
    declaration = find(table, claim)
    if declaration is None:
        return claim.judge(records)
    runs = [record for cell in claim.cells for record in cell.select(records)]
    runs.sort(key=lambda run: run.environment.finished)
    labels = [(run.labels.claims or {}).get(declaration.id) for run in runs]
    own = [label for label in labels if label and label.digest == declaration.digest]
    trials = own[0].trials if own else declaration.trials
    standing = Standing.DECLARED if len(own) == len(runs) else Standing.DECLARED_LATE
    return replace(claim.wanting(trials).judge(records), standing=standing)
