"""The cells of the matrix: what is poisoned, and under which defenses. No torch here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from poisonbench import registry
from poisonbench.requests import Values
from poisonbench.tables.cells import SAMPLE_DATASET, TARGETED_SAMPLE, Cell
from poisonbench.tables.paper_table import Records
from poisonbench.tables.table3 import find_row, make_cell

#: Poisoned shares of the training images; the worst case is of the first.
RHOS = (1.0, 0.6)

#: That of triggers beside each attack's own; with labels kept it fits into one of ten classes.
TRIGGER_RHO = 0.05

#: Trials of each cell, of which there are many.
TRIALS = 3

#: The row without poison.
CLEAN = "clean"


@dataclass(frozen=True)
class _Poison:
    """One row's poison, apart from where it is used."""

    label: str
    rho: float
    attacks: tuple[str, ...]
    overrides: Values = field(default_factory=dict)
    form: str = ""


def cells_of(dataset: str, methods: Sequence[str], records: Records) -> list[Cell]:
    """The cells of all attacks and of the defenses that are told nothing, in their order.

    A cell that a defense would refuse to run is left out.
    """
    defenses = registry.defenses()
    # Each sample is for one kind of attacks.
    poisons = [] if dataset == TARGETED_SAMPLE else [*_untargeted(), *_triggers()]
    controls = [] if dataset == TARGETED_SAMPLE else _controls()
    has_targets = dataset != SAMPLE_DATASET
    columns = dict.fromkeys(["none", *defenses])
    cells: list[Cell] = []
    for method in columns:
        if defenses[method].oracle:
            continue
        every = [
            *(_cell(dataset, method, poison) for poison in poisons),
            *(_cell(dataset, method, poison) for poison in (controls if method == "none" else ())),
            *(_targeted(dataset, method) if has_targets else ()),
        ]
        own = list(filter(_is_possible, every))
        cells += [*own, *_forms(method, own)]
    return cells


def _is_possible(cell: Cell) -> bool:
    """Whether there is something for the defense to act on: colours, a pretraining."""
    entry = registry.defenses()[cell.method]
    data = registry.datasets().get(cell.dataset.partition(":")[0].partition("@")[0])
    is_grey = data is not None and data.presets[:1] == ("mnist",)
    is_pretrained = cell.scenario in ("transfer", "finetune")
    return not (entry.colour_only and is_grey) and (is_pretrained or not entry.pretrains)


def _forms(method: str, cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells of a defense once more in each form of it that has a name of its own."""
    for setting, labels in registry.defenses()[method].labels.items():
        for value in labels:
            for cell in cells:
                yield replace(
                    cell,
                    overrides={**cell.overrides, setting: value},
                    names={**cell.names, "form": str(value)},
                    form=str(value),
                )


def untargeted_cell(dataset: str, method: str, rho: float, attacks: tuple[str, ...]) -> Cell:
    """The runs under a defense on poison of attacks in a share rho, 0 for clean data."""
    is_mix = attacks == registry.MIX
    label = (
        f"mix, {registry.MIXES['mix'].reading}" if is_mix else registry.attacks()[attacks[0]].title
    )
    label += f", rho {rho:g}" if rho not in (0, RHOS[0]) else ""
    return _cell(dataset, method, _Poison(CLEAN if rho == 0 else label, rho, attacks))


def _untargeted() -> Iterator[_Poison]:
    """Clean data, then by ratio each attack, its forms, and what it is against; the mixes."""
    yield _Poison(CLEAN, 0.0, registry.MIX)
    for rho in RHOS:
        more = f", rho {rho:g}" if rho != RHOS[0] else ""
        for name, entry in registry.attacks().items():
            if entry.scenario or entry.has_trigger:
                continue
            yield _Poison(entry.title + more, rho, (name,))
            if rho != RHOS[0]:
                continue
            for setting, labels in entry.labels.items():
                for value, label in labels.items():
                    yield _Poison(label, rho, (name,), {f"{name}.{setting}": value}, value)
            for against in entry.against:
                label = entry.title + against_text(against)
                yield _Poison(label, rho, (name,), {f"{name}.against": against})
        for mix in registry.READINGS.values():
            overrides = {
                f"{name}.{setting}": value
                for name, values in mix.settings.items()
                for setting, value in values.items()
            }
            form = "" if mix.name == registry.DEFAULT_READING else mix.name
            yield _Poison(f"mix, {mix.reading}{more}", rho, mix.attacks, overrides, form)


def _triggers() -> Iterator[_Poison]:
    """Each attack with a trigger, labels changed or not, at one share and at its own."""
    for name, entry in registry.attacks().items():
        if not entry.has_trigger:
            continue
        word = "clean" if entry.keeps_labels else "dirty"
        for rho in dict.fromkeys((TRIGGER_RHO, entry.rho)):
            yield _Poison(f"{entry.title}, {word} label, rho {rho:g}", rho, (name,))
        if not entry.keeps_labels:
            label = f"{entry.title}, clean label, rho {TRIGGER_RHO:g}"
            yield _Poison(label, TRIGGER_RHO, (name,), {f"{name}.clean_label": True})


def _controls() -> list[_Poison]:
    """Each trigger, shown to a network that has seen no poison."""
    return [
        _Poison(f"{entry.title}, no poison", TRIGGER_RHO, (name,), {f"{name}.control": True})
        for name, entry in registry.attacks().items()
        if entry.has_trigger
    ]


def _targeted(dataset: str, method: str) -> Iterator[Cell]:
    """Each targeted attack, and as it was crafted against defenses."""
    for name, entry in registry.attacks().items():
        if not entry.scenario:
            continue
        row = find_row(dataset, name)
        yield (plain := make_cell(dataset, row, method))
        for against in entry.against:
            overrides = {**row.overrides, f"{name}.against": against}
            yield replace(plain, overrides=overrides, names={**plain.names, "against": against})


def _cell(dataset: str, method: str, poison: _Poison) -> Cell:
    return Cell(
        dataset=dataset,
        method=method,
        rho=poison.rho,
        overrides=poison.overrides,
        names={"attack": poison.label},
        attacks=poison.attacks,
        attack_form=poison.form,
        trials=TRIALS,
    )


def against_text(defense: str) -> str:
    """What a poison's label ends with that was crafted against a defense."""
    return f" against {registry.form_label(defense)}"
