"""A package of somebody's own method, network or data set, as ``poisonbench new`` writes it.

No torch here. Templates lie in ``templates``; what they make runs as it is.
"""

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.entries import AttackEntry, DatasetEntry, DefenseEntry, Entry, NetworkEntry

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Kind:
    """What can be begun: its entry's class, and a command that uses one of it."""

    entry: type[Entry]
    example: str


_RUN = "poisonbench defend --preset quick"
KINDS = {
    "defense": Kind(DefenseEntry, _RUN + " --attack durp --rho 0.6 --method {name}"),
    "attack": Kind(AttackEntry, _RUN + " --attack {name} --rho 0.6 --method none"),
    "targeted-attack": Kind(AttackEntry, _RUN + " --attack {name} --method none"),
    "network": Kind(NetworkEntry, _RUN + " --model {name} --attack durp --rho 0.6 --method none"),
    "dataset": Kind(
        DatasetEntry,
        "poisonbench defend --dataset {name} --attack durp --rho 0.6 --method none",
    ),
}


def write_package(kind: str, name: str, parent: Path) -> list[Path]:
    """Write the package's folder into a folder; the paths of its files.

    Raises:
        UsageError: an unknown kind, a name that is taken or not valid, or the folder is there.
        OSError: it cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    if kind not in KINDS:
        raise UsageError(
            f"expected one of {', '.join(KINDS)}, got {kind!r}{did_you_mean(kind, KINDS)}"
        )
    _check_name(name)
    module = "poisonbench_" + name.replace("-", "_")
    distribution = f"poisonbench-{name}"
    folder = parent / distribution
    if folder.exists():
        raise UsageError(
            f"expected a folder that is not there yet, got {folder}; nothing is overwritten: "
            "choose another name or --output"
        )
    values = {
        "name": name,
        "kind": kind.replace("-", " "),
        "module": module,
        "distribution": distribution,
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "group": KINDS[kind].entry.group,
        "example": KINDS[kind].example.format(name=name),
    }
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}.py": f"{kind}.py",
        f"tests/test_{module}.py": "test.py",
    }
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    for path, template in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        text = templates.get_template(f"{template}.jinja").render(values)
        target.write_text(text, encoding="utf-8")
    return [folder / path for path in files]


def _check_name(name: str) -> None:
    """Raise UsageError for a name that would not work as an entry's, a module's and a class's."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise UsageError(
            "expected a name of small letters and digits that begins with a letter, parts joined "
            f"by -, as in gray-scale, got {name!r}"
        )
    kinds: list[type[Entry]] = [AttackEntry, DefenseEntry, NetworkEntry, DatasetEntry]
    # One name for two kinds of things would leave it open what `check` is asked about.
    for table in map(registry.EntryTable, kinds):
        if name in table or name in table.faults:
            owner = f"{table[name].kind} of {table[name].source}" if name in table else "taken"
            raise UsageError(
                f"expected a name that nothing has, got {name}, {owner}; choose another"
            )
    if name in registry.MIXES:
        raise UsageError(f"expected a name that nothing has, got {name}, a mix; choose another")
