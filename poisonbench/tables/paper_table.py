"""What a paper's table is made of, for the modules that define one. No torch here."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from poisonbench import registry
from poisonbench.core.quick_names import split_quick
from poisonbench.entries import DatasetEntry, shown_name
from poisonbench.results.records import RunRecord
from poisonbench.tables.cells import Cell
from poisonbench.tables.claims import Claim
from poisonbench.tables.comparisons import Block

PAPER_DATASETS = ("cifar10", "mnist")

#: That of the papers' tables of targeted attacks.
TARGETED_DATASET = "cifar10"

Records = Sequence[RunRecord]


def dataset_labels(entries: Iterable[DatasetEntry] | None = None) -> dict[str, str]:
    """How tables print the data sets and parts that they show.

    Args:
        entries: by default all, plug-ins included.
    """
    labels = {}
    for entry in registry.datasets().values() if entries is None else entries:
        if entry.label:
            labels[entry.name] = entry.label
            for size in entry.parts_in_tables:
                default = f"{size:,} images of the {entry.label}"
                labels[f"{entry.name}@{size}"] = entry.part_label or default
    return labels


def dataset_title(name: str) -> str:
    """How tables print a data set: its label or name, and the settings that the name asks for."""
    base, quick = split_quick(name)
    title = dataset_labels().get(base) or shown_name(base)
    if quick is None:
        return title
    network = f"{quick.network}, {quick.epochs} epochs" if quick.network else "quick settings"
    return f"{title} ({network})"


def nothing(*about: object) -> list[Any]:
    """No claims, or no notes."""
    return []


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table.

    Attributes:
        title: what it shows.
        cells: the cells of a data set for some methods; sees what has been run.
        blocks: lays the cells of one data set out.
        remark: what the figures are, in a line of 100 columns; docs/tables.md says more.
        notes: short sentences on the cells and runs.
        claims: what the paper concludes from the cells of one data set.
        datasets: those that the paper's table shows.
        is_targeted: whether its runs are those of targeted attacks; it sees no others. Null: both.
        is_of_mix: whether the poison of its untargeted runs is the mix.
        is_published: whether there are published figures of it.
        takes_any: whether it has cells of any data set, a user's own too.
        has_triggers: whether it also sees runs on poisons with a trigger.
        pairs_with_plain: whether it compares runs with plain training's of the same trial.
    """

    title: str
    cells: Callable[[str, Sequence[str], Records], list[Cell]]
    blocks: Callable[[str, Sequence[Cell], Records], list[Block]]
    remark: str
    notes: Callable[[Sequence[Cell], Records], list[str]] = nothing
    claims: Callable[[str, Sequence[Cell], Records], list[Claim]] = nothing
    datasets: tuple[str, ...] = PAPER_DATASETS
    is_targeted: bool | None = False
    is_of_mix: bool = True
    is_published: bool = True
    takes_any: bool = False
    has_triggers: bool = False
    pairs_with_plain: bool = True

    def own(self, records: Records) -> Records:
        """The runs of its kind of attack; those on a trigger are no paper's."""
        kinds = (True, False) if self.is_targeted is None else (self.is_targeted,)
        return [
            run
            for run in records
            if (run.spec.targeting is not None) in kinds
            and (self.has_triggers or run.spec.trigger is None)
        ]


#: What a table calls the runs of ATDA in L-infinity, ``--profile linf``.
OTHER_NORM = "atda-linf"


def method_labels() -> dict[str, str]:
    """The names of the defenses in tables; the cells of ATDA's other norm have one of their own."""
    labels = {name: entry.title for name, entry in registry.defenses().items()}
    return labels | {OTHER_NORM: registry.label_of("atda", {"norm": "linf"}.get)}
