"""Which defenses and attacks of a table are wanted: the words of ``--methods`` and ``--attacks``.

No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.registry import DEFAULT_READING
from poisonbench.requests import read_mix
from poisonbench.tables.cells import Cell


@dataclass(frozen=True)
class Selection:
    """Cells by their defense and poison, as :func:`select` has checked them.

    Attributes:
        methods: the defenses as :attr:`Cell.method_text` has them; all where there is none.
        poisons: likewise, as :attr:`Cell.poison_text`; clean runs are always in.
    """

    methods: Sequence[str] = ()
    poisons: Sequence[str] = ()

    def shown(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells that a report shows, by defense in the order in which they are named."""
        own = filter(self.is_shown, cells)
        if not self.methods:
            return list(own)
        return sorted(own, key=lambda cell: self.methods.index(cell.method_text))

    def is_shown(self, cell: Cell) -> bool:
        """Whether a report shows it: where nothing is named, forms and adaptive poisons too."""
        return (not self.methods or cell.method_text in self.methods) and (
            not self.poisons or not cell.rho or cell.poison_text in self.poisons
        )

    def is_planned(self, cell: Cell) -> bool:
        """Whether it is to be run: forms and adaptive poisons are where somebody names them."""
        is_form = bool(cell.form) and not self.methods
        is_variant = bool(cell.poison_variant) and not (self.poisons and cell.rho)
        return self.is_shown(cell) and not is_form and not is_variant


def check_names(methods: Sequence[str], attacks: Sequence[str]) -> None:
    """Raise a UsageError for a defense or an attack that there is not, in any table."""
    bare_methods(methods)
    for name in attacks:
        _poison_text(name)


def bare_methods(methods: Sequence[str]) -> list[str]:
    """The defenses without what is behind their colon.

    Raises:
        UsageError: an unknown one.
    """
    known = registry.defenses()
    return [registry.find("a defense", known, name.partition(":")[0]).name for name in methods]


def select(
    cells: Sequence[Cell], methods: Sequence[str], attacks: Sequence[str], where: str
) -> Selection:
    """The cells that are named.

    Args:
        cells: all of the table.
        methods: defenses, with ``:10`` behind a form of one.
        attacks: as ``--attack`` names them, with ``:jpeg`` behind one that is crafted against a
            defense and ``:class`` behind a form of one.
        where: the table's name for messages.

    Raises:
        UsageError: an unknown method or attack, or one that the table has no cells of.
    """
    forms = [name.partition(":")[1:] for name in methods]
    bare = bare_methods(methods)
    named = [f"{name}{colon}{form}" for name, (colon, form) in zip(bare, forms, strict=True)]
    texts = [_poison_text(name) for name in attacks]
    held = dict.fromkeys(cell.method_text for cell in cells)
    if lacking := [name for name in named if name not in held]:
        known = list(registry.defenses())
        others = ", ".join(sorted(held, key=lambda text: known.index(text.split(":")[0])))
        raise UsageError(
            f"--methods: expected defenses that {where} has, got {', '.join(lacking)}; it has "
            + (f"these: {others}" if others else "no cells there")
        )
    poisons = {cell.poison_text for cell in cells if cell.rho}
    if absent := [name for name, text in zip(attacks, texts, strict=True) if text not in poisons]:
        raise UsageError(
            f"--attacks: expected poisons that {where} has, got {', '.join(absent)}; it has "
            f"{', '.join(sorted(poisons))}"
        )
    return Selection(named, texts)


def _poison_text(name: str) -> str:
    """A word of ``--attacks`` as :attr:`Cell.poison_text` has it.

    Raises:
        UsageError: an unknown or repeated attack.
    """
    attacks, _, variant = name.partition(":")
    mix = read_mix(attacks)
    if not variant and mix.name != DEFAULT_READING:
        variant = mix.name
    return "+".join(mix.attacks) + (f":{variant}" if variant else "")
