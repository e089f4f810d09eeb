"""Table III: attack success and test accuracy under targeted attacks, by defense. No torch here.

A cell's trials differ in their targets. Controls stand below the attacks once they have runs: as
many images with random noise, and no poison at all, whose runs also make the column "net".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from poisonbench import registry
from poisonbench.core.quick_names import QUICK, split_quick
from poisonbench.requests import Values
from poisonbench.results import published
from poisonbench.results.records import RunRecord
from poisonbench.tables.cells import COLOUR_PART, TARGETED_SAMPLE, TRIALS, Cell
from poisonbench.tables.claims import Claim, SuccessOrder, Superiority, against
from poisonbench.tables.comparisons import Block, Comparison
from poisonbench.tables.layout import comparison_block, matrix_block
from poisonbench.tables.measured import compare_success
from poisonbench.tables.paper_table import (
    TARGETED_DATASET,
    PaperTable,
    Records,
    dataset_labels,
    method_labels,
)
from poisonbench.tables.table2 import compare_cells
from poisonbench.targeting import own_targeting

#: The row of the runs without poison.
CLEAN = "clean"

#: Data on which MetaPoison is fine-tuned against, and the controls are planned.
_SMALL = (TARGETED_SAMPLE, COLOUR_PART)


@dataclass(frozen=True)
class Row:
    """One attack as the table shows it."""

    #: Its name; "clean" for runs without poison.
    attack: str
    #: How its victims are trained, and the settings that make that.
    scenario: str
    overrides: Values = field(default_factory=dict)
    #: The attack that a command names; empty for the row's own.
    stand_in: str = ""

    @property
    def training(self) -> str:
        """The scenario in words."""
        plain = self.overrides.get("augment") == "none"
        return f"{self.scenario}, no augmentation" if plain else self.scenario


def attack_rows(dataset: str) -> list[Row]:
    """The attacks of the table on a data set."""
    metapoison = Row("mp", "scratch")
    if dataset == TARGETED_DATASET:
        metapoison = Row("mp", "scratch", {"augment": "none"})
    elif dataset in _SMALL or split_quick(dataset)[1]:
        metapoison = Row("mp", "finetune", {"scenario": "finetune"})
    return [Row("gm", "scratch"), metapoison, Row("bp", "transfer"), Row("fc", "transfer")]


def control_rows(dataset: str) -> list[Row]:
    """Noise and no poison, in every way in which the attacks' victims are trained."""
    attacks = {row.training: row for row in attack_rows(dataset)}.values()
    own = registry.attacks()["noise"].scenario
    noise = [
        replace(row, attack="noise")
        if row.scenario == own
        else Row("noise", row.scenario, {"scenario": row.scenario})
        for row in attacks
    ]
    return noise + [replace(row, attack=CLEAN, stand_in=row.attack) for row in attacks]


def own_share(dataset: str, scenario: str) -> float:
    """Poisoned share of the training images in a scenario, where nothing else is asked for."""
    presets = (dataset,) if split_quick(dataset)[1] is None else (QUICK,)
    return own_targeting(presets, scenario).rho


def make_cell(dataset: str, row: Row, method: str) -> Cell:
    """The runs of one attack under one defense."""
    printed = {(r.attack, r.method): r for r in published.table3()}.get((row.attack, method))
    printed = printed if dataset == TARGETED_DATASET else None
    return Cell(
        dataset=dataset,
        method=method,
        rho=0.0 if row.attack == CLEAN else own_share(dataset, row.scenario),
        overrides=row.overrides,
        names={"attack": row.attack, "scenario": row.training},
        attacks=(row.stand_in or row.attack,),
        scenario=row.scenario,
        published=printed.summary() if printed else None,
        published_success=printed.proportion() if printed else None,
    )


def find_row(dataset: str, attack: str) -> Row:
    """The table's row of an attack, or one in the attack's own scenario where it has none.

    Raises:
        UsageError: no targeted attack has that name.
    """
    targeted = {name: entry for name, entry in registry.attacks().items() if entry.scenario}
    entry = registry.find("a targeted attack", targeted, attack)
    rows = {row.attack: row for row in attack_rows(dataset)}
    return rows.get(attack, Row(attack, entry.scenario))


def net_of_control(records: Sequence[RunRecord], controls: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs whose target plain training without poison does not call the intended class.

    A run without a control of its trial and target is left out.
    """
    missed = {_target(run) for run in controls if not run.metrics.attack_success}
    return [record for record in records if _target(record) in missed]


def _target(record: RunRecord) -> tuple[Any, ...]:
    spec, (goal, _) = record.spec, record.on_target
    return spec.seed, spec.trial, spec.dataset.digest, goal.target, goal.intended_class


def _cells(dataset: str, methods: Sequence[str], records: Records) -> list[Cell]:
    attacks = [make_cell(dataset, row, m) for row in attack_rows(dataset) for m in methods]
    controls = []
    for row in control_rows(dataset):
        for method in methods:
            cell = make_cell(dataset, row, method)
            trials = TRIALS if dataset in _SMALL and method == "none" else 0
            if trials or any(cell.matches(record) for record in records):
                controls.append(replace(cell, trials=trials))
    return attacks + controls


def _blocks(dataset: str, cells: Sequence[Cell], records: Records) -> list[Block]:
    labels = method_labels() | {name: entry.title for name, entry in registry.attacks().items()}
    title = dataset_labels()[dataset]
    controls = {
        row.training: make_cell(dataset, row, "none").select(records)
        for row in control_rows(dataset)
        if row.attack == CLEAN
    }
    successes, net = [], []
    for cell in cells:
        runs = cell.select(records)
        missed = net_of_control(runs, controls[cell.names["scenario"]])
        keys = {**cell.keys, "quantity": "attack_success"}
        successes.append(compare_success(keys, runs, cell.published_success, trials=cell.trials))
        keys = {**cell.keys, "quantity": "net_attack_success"}
        net.append(compare_success(keys, missed, None, trials=cell.trials))
    blocks, matrices = [], []
    for what, compared, beside in (
        ("attack success", successes, {"net": net}),
        ("test accuracy", compare_cells(cells, records), {}),
    ):
        rows = [_with_row(comparison, labels) for comparison in compared]
        matrices.append(matrix_block(f"{title}: {what}, measured", rows, "row", "method", labels))
        names = ["attack", "scenario", "method"]
        shown = beside if any(comparison.measured for comparison in net) else {}
        blocks.append(
            comparison_block(f"{title}: {what} beside published", compared, names, labels, shown)
        )
    return matrices + blocks


def _with_row(comparison: Comparison, labels: Mapping[str, str]) -> Comparison:
    """Add a key that names a row of the paper's shape."""
    attack, scenario = comparison.keys["attack"], comparison.keys["scenario"]
    row = f"{labels.get(attack, attack)} ({scenario})"
    return replace(comparison, keys={**comparison.keys, "row": row})


def _claims(dataset: str, cells: Sequence[Cell], records: Records) -> list[Claim]:
    attacks = [row.attack for row in attack_rows(dataset)]
    at = {(cell.names["attack"], cell.method): cell for cell in cells}
    methods = [name for name in published.METHOD_LABELS if (attacks[0], name) in at]
    rivals = [name for name in methods if name != "hint"]
    defenses = [name for name in methods if name not in ("none", "atda")]
    labels = method_labels()
    orders = [("hint", f"HINT is hit less than {labels[name]}", [name]) for name in rivals]
    if len(rivals) > 1:
        orders.append(("hint", "HINT is hit least of all", rivals))
    if "atda" in rivals and len(defenses) > 1:
        orders.append(("atda", f"{labels['atda']} is hit most of the defenses", defenses))
    claims: list[Claim] = [
        SuccessOrder(
            claim=claim,
            first=tuple(at[attack, first] for attack in attacks),
            others=tuple(tuple(at[attack, name] for attack in attacks) for name in others),
            direction=1 if first == "atda" else -1,
            keys={"dataset": dataset, "attack": None},
        )
        for first, claim, others in orders
    ]
    return claims + [
        Superiority(
            claim="HINT has the best accuracy",
            keys={"dataset": dataset, "attack": attack},
            comparisons=against(at[attack, "hint"], [at[attack, name] for name in rivals]),
        )
        for attack in attacks
    ]


def _notes(cells: Sequence[Cell], records: Records) -> list[str]:
    if any(cell.names["attack"] == CLEAN and cell.select(records) for cell in cells):
        return ["Net: without targets that are hit without poison too."]
    return []


TABLE = PaperTable(
    title="attack success and test accuracy under targeted attacks",
    cells=_cells,
    blocks=_blocks,
    remark="Measured: targets hit, and accuracy in % as mean±sample standard deviation: "
    "docs/tables.md.",
    notes=_notes,
    claims=_claims,
    datasets=(TARGETED_DATASET,),
    is_targeted=True,
)
