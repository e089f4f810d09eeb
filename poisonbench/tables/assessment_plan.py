"""What an assessment of one data set runs: attacks and defenses by default, and its cells.

No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.requests import RunRequest
from poisonbench.tables.cells import Cell
from poisonbench.tables.matrix_cells import untargeted_cell
from poisonbench.tables.table3 import CLEAN, find_row, make_cell, own_share

#: Strong untargeted attacks of different kinds, by docs/findings.md: two by gradients and a cheap
#: shortcut; and a targeted one against training from scratch.
ATTACKS = ("pgd", "dap", "ar", "gm")
GREY_ATTACKS = ("pgd", "dap", "lsp", "gm")
#: Plain training, cheap defenses that hold against most attacks of docs/findings.md, and noise on
#: influential images.
METHODS = ("none", "jpeg:10", "ueraser:lite-jpeg", "hint")
GREY_METHODS = ("none", "ueraser:lite", "bit-depth", "hint")
#: Noise of the attacks' size, the control beside them.
NOISE = "untargeted-noise"
#: Defenses that trust the validation images; plain training on these too is their control.
TRUSTING = ("hint",)


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What an assessment runs.

    Attributes:
        dataset: name of the data set, with its settings.
        attacks: untargeted and targeted ones.
        methods: defenses or forms of them (``jpeg:10``), plain training among them.
        trials: of each cell.
    """

    dataset: str
    attacks: tuple[str, ...]
    methods: tuple[str, ...]
    trials: int

    def __post_init__(self) -> None:
        known = registry.attacks()
        for name in self.attacks:
            entry = registry.find("an attack", known, name)
            if entry.has_trigger:
                raise UsageError(
                    f"--attacks: expected attacks without a trigger, got {name}; try it with "
                    "`poisonbench defend --attack`"
                )
        for name in self.methods:
            if registry.find_form(name)[0].oracle:
                raise UsageError(
                    f"--methods: expected defenses that are told nothing, got {name}; leave it out"
                )

    @property
    def untargeted(self) -> list[str]:
        """The attacks without a target."""
        return [name for name in self.attacks if not registry.attacks()[name].scenario]

    @property
    def targeted(self) -> list[str]:
        """The attacks with one."""
        return [name for name in self.attacks if registry.attacks()[name].scenario]

    def cell(self, method: str, attack: str | None) -> Cell:
        """The runs under a defense on an attack's poison; of null on clean data."""
        entry, form = registry.find_form(method)
        if attack in self.targeted:
            cell = make_cell(self.dataset, find_row(self.dataset, attack), entry.name)
        else:
            names = registry.MIX if attack is None else (attack,)
            cell = untargeted_cell(self.dataset, entry.name, 1.0 if attack else 0.0, names)
        return replace(cell, overrides={**cell.overrides, **form}, trials=self.trials)

    def trusted(self, attack: str) -> Cell:
        """The runs of plain training that is given the validation images as well."""
        return replace(self.cell("none", attack), overrides={"with_validation": True})

    def without_poison(self, attack: str) -> Cell:
        """The runs of plain training on clean data with a targeted attack's targets."""
        row = find_row(self.dataset, attack)
        clean = make_cell(self.dataset, replace(row, attack=CLEAN, stand_in=attack), "none")
        return replace(clean, trials=self.trials)

    @property
    def cells(self) -> list[Cell]:
        """All cells: clean data and each attack under each defense, and the controls."""
        cells = [
            self.cell(method, attack)
            for attack in (None, *self.untargeted, *self.targeted)
            for method in self.methods
        ]
        if self.untargeted and NOISE not in self.attacks:
            cells.append(self.cell("none", NOISE))
        if set(TRUSTING) & set(self.methods):
            cells += [self.trusted(attack) for attack in self.untargeted]
        return cells + [self.without_poison(attack) for attack in self.targeted]

    @property
    def requests(self) -> list[RunRequest]:
        """All runs, trial by trial, so that what is done first is a whole matrix."""
        return [cell.request(trial) for trial in range(self.trials) for cell in self.cells]


def room_for_targets(dataset: str, attack: str, counts: Sequence[int]) -> str:
    """Why a targeted attack does not fit the training images; empty where it does.

    Args:
        dataset: name of the data set, with its settings.
        attack: a targeted one.
        counts: training images by class.
    """
    share = own_share(dataset, find_row(dataset, attack).scenario)
    needed, smallest = round(share * sum(counts)), min(counts)
    # Of a class that is all poison nothing clean is left to learn.
    if 1 <= needed <= smallest / 2:
        return ""
    return (
        f"{attack} is left out: it would poison {needed} images of one class ({share:.1%} of "
        f"{sum(counts)}), of which the smallest has {smallest}; expected one image at least and "
        "half of a class at most: add images of that class"
    )
