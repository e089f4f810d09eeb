"""What the second paper's Tables 1 and 2 share: what a filter catches, whether the attack survives.

Both are of attacks that succeed undefended: a defense's runs count only where the plain run on the
same poison is hit. No torch here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

from poisonbench import registry
from poisonbench.core.seeds import Seeds
from poisonbench.requests import RunRequest, Values
from poisonbench.results import published
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Proportion, Summary, Verdict, summarise
from poisonbench.results.verdicts import Judgement
from poisonbench.tables.cells import TARGETED_SAMPLE, Cell, is_run_on
from poisonbench.tables.claims import Claim, SuccessOrder
from poisonbench.tables.comparisons import Block, Comparison, Statistic
from poisonbench.tables.layout import DASH, difference_columns, show_judgement, show_measured
from poisonbench.tables.measured import compare_success, share_hit
from poisonbench.tables.paper_table import (
    TARGETED_DATASET,
    PaperTable,
    Records,
    dataset_labels,
    method_labels,
)

#: Attacks that are tried on a target each: the paper's of feature collision, and fewer on a CPU.
TARGETS_TRIED = {TARGETED_DATASET: 16, TARGETED_SAMPLE: 10}

#: The paper's defenses; then what a table of cheap defenses must not leave out.
METHODS = ("none", "knn", "l2", "ocsvm", "random")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One attack as the paper ran it."""

    key: str
    #: What the table of it shows.
    title: str
    attack: str
    scenario: str
    #: Poisoned share of the training images, by data set.
    rho: Mapping[str, float]
    #: Settings of every run, by data set, and of one defense, by data set and defense.
    overrides: Mapping[str, Values] = field(default_factory=dict)
    method_overrides: Mapping[tuple[str, str], Values] = field(default_factory=dict)
    #: Whether the paper prints averages over several victims' networks.
    averages_networks: bool = False


@dataclass(frozen=True, kw_only=True)
class FilterCell(Cell):
    """A cell whose command says how many poisons there are: the paper's, not the attack's own.

    Attributes:
        plain: the undefended runs; their attacks that fail are not tried on a defense.
    """

    plain: Cell | None = None

    def missing(self, records: Sequence[RunRecord]) -> list[int]:
        """The trials to run, but for those whose attack is known to fail undefended."""
        if self.plain is None:
            return super().missing(records)
        done = {record.spec.trial for record in self.select(records) if _has_default_seed(record)}
        failed = {
            record.spec.trial
            for record in self.plain.select(records)
            if _has_default_seed(record) and not record.metrics.attack_success
        }
        return [trial for trial in range(self.trials) if trial not in done | failed]

    def request(self, trial: int) -> RunRequest:
        """What to run for one trial, with the default seed."""
        request = super().request(trial)
        return replace(request, poison=replace(request.poison, rho=self.rho))


def _has_default_seed(record: RunRecord) -> bool:
    return record.spec.seed == Seeds().root


def mean_over_networks(successes: Sequence[Proportion]) -> float:
    """The second paper's average: each network counts once, however many attacks it stands for."""
    return fmean(share.rate for share in successes)


def _cells(
    protocol: Protocol, dataset: str, methods: Sequence[str], records: Records
) -> list[Cell]:
    """The paper's defenses, and others and other networks that have runs."""
    rho = protocol.rho.get(dataset)
    if rho is None:
        return []
    printed = _printed_success(protocol) if dataset == TARGETED_DATASET else {}
    shared = protocol.overrides.get(dataset, {})
    used = [
        record.spec.model
        for record in records
        if is_run_on(record, dataset) and "model" in record.labels.overrides
    ]
    networks = [None, *sorted(set(used) - {shared.get("model")})]
    cells: list[Cell] = []
    for network in networks:
        plain: Cell | None = None
        for method in [*METHODS, *(name for name in registry.defenses() if name not in METHODS)]:
            overrides = {**shared, **protocol.method_overrides.get((dataset, method), {})}
            overrides |= {} if network is None else {"model": network}
            cell = FilterCell(
                dataset=dataset,
                method=method,
                rho=rho,
                overrides=overrides,
                names={"network": network},
                attacks=(protocol.attack,),
                scenario=protocol.scenario,
                trials=TARGETS_TRIED[dataset],
                published_success=printed.get(method) if network is None else None,
            )
            if method == "none":
                plain = cell
            else:
                cell = replace(cell, plain=plain)
            if network is None and method in METHODS:
                cells.append(cell)
            elif any(cell.matches(record) for record in records):
                cells.append(replace(cell, trials=0))
    return cells


def _printed_success(protocol: Protocol) -> dict[str, Proportion]:
    """Targets hit, by defense; where the paper averages networks, of all its networks together."""
    if protocol.averages_networks:
        networks = [row.successes for row in published.baseline_networks()]
        shares = {method: [row[method] for row in networks] for method in networks[0]}
        return {
            method: Proportion(sum(s.successes for s in of_all), sum(s.trials for s in of_all))
            for method, of_all in shares.items()
        }
    tried = published.source(protocol.key).trials
    rows = published.baseline(protocol.key)
    return {row.method: Proportion(round(row.success / 100 * tried), tried) for row in rows}


def successful_attacks(cells: Sequence[Cell], records: Records) -> dict[str, set[tuple[Any, ...]]]:
    """The attacks that hit a plainly trained victim, by the name of its network."""
    hit: dict[str, set[tuple[Any, ...]]] = {}
    for cell in cells:
        if cell.method == "none":
            for record in cell.select(records):
                if record.metrics.attack_success:
                    hit.setdefault(record.spec.model, set()).add(attack_of(record))
    return hit


def plain_cells(protocol: Protocol, dataset: str) -> list[Cell]:
    """The undefended runs of a protocol; none on a data set that it has no settings for."""
    return [cell for cell in _cells(protocol, dataset, (), ()) if cell.method == "none"]


def attack_of(record: RunRecord) -> tuple[Any, ...]:
    """The key that tells a run's attack from others: seed, trial and poison."""
    return record.spec.seed, record.spec.trial, record.spec.poison_digest


def _blocks(
    protocol: Protocol, dataset: str, cells: Sequence[Cell], records: Records
) -> list[Block]:
    printed = {row.method: row for row in published.baseline(protocol.key)}
    printed = printed if dataset == TARGETED_DATASET else {}
    hit = successful_attacks(cells, records)
    rows, judged, compared, untried = [], [], [], 0
    for method in dict.fromkeys(cell.method for cell in cells):
        group = [cell for cell in cells if cell.method == method]
        runs = [record for cell in group for record in cell.select(records)]
        trials = group[0].trials
        if method == "none":
            untried = max(0, trials - len(runs))
        else:
            # Those that fail undefended are not lacking.
            trials = sum(map(len, hit.values()))
            runs = [run for run in runs if attack_of(run) in hit.get(run.spec.model, set())]
        keys = {"dataset": dataset, "attack": protocol.attack, "method": method}
        row = printed.get(method)
        comparisons = _compare(keys, runs, row, trials, is_averaged=protocol.averages_networks)
        if row is None or not protocol.averages_networks:
            comparisons[2] = compare_success(
                comparisons[2].keys,
                runs,
                group[0].published_success if row else None,
                trials=trials,
                planned=trials if method == "none" else trials + untried,
            )
        compared += comparisons
        texts = [text for cell in comparisons for text in (show_measured(cell), _printed(cell))]
        judged.append(comparisons[2])
        rows.append((method_labels()[method], *texts))
    others = ("poisons removed", "clean removed, %", "accuracy, %")
    columns = [
        text for name in (*others[:2], "attack success", others[2]) for text in (name, "published")
    ]
    is_judged = any(success.judgement.basis.seeds for success in judged)
    names = difference_columns("diff in success", "fraction", is_judged)
    return [
        Block(
            title=f"{dataset_labels()[dataset]}: attacks that succeed undefended",
            columns=("method", *columns, *names),
            rows=tuple(
                (*row, *show_judgement(success, is_judged))
                for row, success in zip(rows, judged, strict=True)
            ),
            keys=1,
            dispensable=(*names[:2:-1], "published", *others) if is_judged else (),
            cells=tuple(compared),
        )
    ]


def _compare(
    keys: Mapping[str, Any],
    runs: Sequence[RunRecord],
    printed: published.FilterRow | None,
    trials: int,
    *,
    is_averaged: bool,
) -> list[Comparison]:
    """Poisons removed, clean images removed, success and accuracy of one defense, untested."""
    filtered = [run.metrics.filter for run in runs if run.metrics.filter is not None]
    # An attack's poisons lie together and are found together.
    removed = sum(scores.poisons_removed for scores in filtered)
    total = sum(scores.num_poisons for scores in filtered)
    measured = {
        "poisons_removed": Proportion(removed, total, is_independent=False) if total else None,
        "clean_removed": summarise([s.clean_removed / s.num_clean for s in filtered]),
        "attack_success": _over_networks(runs),
        "test_accuracy": summarise([run.metrics.test_accuracy for run in runs]),
    }
    values: dict[str, Statistic] = {}
    if printed:
        num_networks = len(published.baseline_networks())
        values = {
            "poisons_removed": Proportion(
                printed.poisons_removed, printed.num_poisons, is_independent=False
            ),
            "clean_removed": Summary(round(printed.clean_removed / 100, 6), None, 1),
            "attack_success": Summary(round(printed.success / 100, 6), None, num_networks),
            "test_accuracy": Summary(round(printed.accuracy / 100, 6), None, 1),
        }
    return [
        Comparison(
            keys={**keys, "quantity": quantity},
            measured=value,
            published=values.get(quantity),
            trials=0 if is_averaged and quantity == "attack_success" else trials,
            judgement=Judgement(Verdict.NOT_TESTED if values else Verdict.UNPUBLISHED),
            records=tuple(run.id for run in runs),
        )
        for quantity, value in measured.items()
    ]


def _over_networks(runs: Sequence[RunRecord]) -> Proportion | Summary | None:
    """Targets hit: counts of one network, or the average over several."""
    networks = {run.spec.model for run in runs}
    if len(networks) < 2:
        return share_hit(runs)
    shares = [share_hit([r for r in runs if r.spec.model == network]) for network in networks]
    return Summary(mean_over_networks(list(filter(None, shares))), None, len(shares))


def _printed(cell: Comparison) -> str:
    if isinstance(cell.published, Proportion):
        return f"{cell.published.successes}/{cell.published.trials}"
    if isinstance(cell.published, Summary):
        return f"{100 * cell.published.mean:.1f}"
    return DASH


def _claims(
    protocol: Protocol, dataset: str, cells: Sequence[Cell], records: Records
) -> list[Claim]:
    """The k-NN filter against each other one, on all attacks that were tried on both.

    Not against no defense: only attacks that succeed without one are shown.
    """
    at = {cell.method: cell for cell in reversed(cells)}
    labels = method_labels()
    return [
        SuccessOrder(
            claim=f"{labels['knn']} is hit less than {labels[name]}",
            first=(at["knn"],),
            others=((at[name],),),
            keys={"dataset": dataset, "attack": protocol.attack},
        )
        for name in METHODS[2:]
        if "knn" in at
    ]


def table_of(protocol: Protocol) -> PaperTable:
    """The table of one protocol."""
    cells: Callable[[str, Sequence[str], Records], list[Cell]] = partial(_cells, protocol)
    return PaperTable(
        title=protocol.title,
        cells=cells,
        blocks=partial(_blocks, protocol),
        remark="A defense's row counts the attacks that succeed undefended; all figures: "
        "docs/tables.md.",
        claims=partial(_claims, protocol),
        datasets=(TARGETED_DATASET,),
        is_targeted=True,
    )
