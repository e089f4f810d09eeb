"""Which part of the package may import which, and torch."""

import ast
import re
from pathlib import Path

import pytest

from helpers.source import FILES, HEAVY, PACKAGE, imports_of, module_name

BOTTOM = {"core", "specs", "targeting"}
NUMERIC = BOTTOM | {"data", "models"}
ALGORITHM = NUMERIC | {"training", "influence"}
REGISTRY = {"builtin", "entries", "entry_needs", "registry"}
RUNS = ALGORITHM | REGISTRY | {"requests", "attacks", "defenses", "results"}

#: What each part may import; itself is understood, except for algorithms.
MAY_IMPORT = {
    "core": set(),
    "targeting": {"core"},
    "specs": {"core", "targeting"},
    "entry_needs": {"core", "targeting"},
    "entries": BOTTOM | {"entry_needs"},
    "plugins": BOTTOM | {"entries"},
    "builtin": {"entries"},
    "registry": BOTTOM | {"builtin", "entries", "plugins"},
    "requests": BOTTOM | REGISTRY,
    "data": BOTTOM | REGISTRY,
    "models": BOTTOM | REGISTRY,
    "training": NUMERIC,
    "influence": NUMERIC,
    "attacks": ALGORITHM,
    "defenses": ALGORITHM,
    "results": BOTTOM,
    "tables": BOTTOM | REGISTRY | {"requests", "results"},
    "sweep": BOTTOM | {"registry", "requests", "results", "tables"},
    "runs": RUNS,
    "figures": RUNS | {"runs", "tables"},
    "api": RUNS | {"runs", "tables", "figures"},
    "scaffold": BOTTOM | REGISTRY,
    "conformance": RUNS | {"plugins", "runs"},
    "page": BOTTOM
    | {"entries", "registry", "requests", "data", "results", "tables", "figures", "sweep"},
    "cli": RUNS
    | {"plugins", "scaffold", "conformance", "runs", "tables", "figures", "sweep", "page"},
    "__main__": {"cli"},
    "__init__": {"api"},
}

#: What of an algorithm's folder its neighbours may import.
SHARED_BY_ALGORITHMS = (
    "poisonbench.attacks.base",
    "poisonbench.attacks.shared",
    "poisonbench.defenses.base",
    "poisonbench.defenses.shared",
)

#: What models defenses for adaptive attacks, by their own code.
OF_BOTH = "poisonbench.attacks.shared.adaptive"

#: No torch when these are imported, so help and tables are quick and run on any machine.
WITHOUT_TORCH = BOTTOM | {
    *("builtin", "entries", "entry_needs", "plugins", "registry", "requests", "results"),
    *("tables", "sweep", "page", "api", "cli", "scaffold", "__init__"),
}
#: No torch anywhere in these.
NEVER_TORCH = {"requests", "specs", "results", "tables", "sweep"}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def layer_faults(path: Path, text: str) -> list[str]:
    """One sentence for each import that breaks the table of layers, with file and line."""
    part, module = part_of(path), module_name(path)
    faults = []

    def fault(node, sentence):
        faults.append(f"{path.relative_to(PACKAGE.parent)}:{node.lineno}: {sentence}")

    if part not in MAY_IMPORT:
        return [f"{path.relative_to(PACKAGE.parent)}:1: {part} has no row in MAY_IMPORT; add one"]
    tree = ast.parse(text)
    for node, name, at_import in imports_of(tree):
        if name.startswith("."):
            fault(node, "imports by a relative name; write the whole one")
        if name.split(".")[0] in HEAVY:
            if part in NEVER_TORCH:
                fault(node, f"{part} imports {name}; tables are made where there is no torch")
            elif at_import and part in WITHOUT_TORCH:
                fault(node, f"{part} imports {name} at once; import it inside the function")
        if name == "poisonbench":
            names = {alias.name for alias in node.names} - {"__version__", "poisonbench"}
            if names and part != "__init__":
                fault(node, f"imports {', '.join(names)} from the package; name its module")
        if not name.startswith("poisonbench."):
            continue
        other = name.split(".")[1]
        is_modelled = module == OF_BOTH and other == "defenses"
        if other != part and other not in MAY_IMPORT[part] and not is_modelled:
            allowed = ", ".join(sorted(MAY_IMPORT[part])) or "nothing of the package"
            fault(node, f"{part} imports {name}; it may import {allowed}")
        if part in ("attacks", "defenses") and other == part:
            if not name.startswith(SHARED_BY_ALGORITHMS) and name != module:
                fault(node, f"an algorithm imports another's file, {name}; share it a layer below")
        if part == "defenses" and path.stem != "base" and name == "poisonbench.training.state":
            fault(node, "a defense imports the loop's types past its contract; take base's")
    return faults


def test_the_layers_are_kept():
    faults = [fault for path in FILES for fault in layer_faults(path, path.read_text())]
    assert not faults, "\n" + "\n".join(faults)


def test_every_row_of_the_table_has_a_part():
    assert {part_of(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("file", "line", "sentence"),
    [
        ("core/errors.py", "from poisonbench.targeting import Goal", "may import nothing of the"),
        ("data/splits.py", "from poisonbench.training import trainer", "data imports poisonbench"),
        ("models/mnist_cnn.py", "from poisonbench.data.splits import Split", "models imports"),
        ("training/trainer.py", "from poisonbench import registry", "training imports"),
        ("influence/head.py", "from poisonbench.training import trainer", "influence imports"),
        ("attacks/pgd.py", "from poisonbench.attacks import base, delusive_adversarial", "another"),
        ("defenses/hint.py", "from poisonbench.defenses.none import Config", "another's file"),
        ("defenses/hint.py", "def f():\n    from poisonbench.results import store", "results"),
        ("defenses/hint.py", "from poisonbench.training.state import Defense", "take base's"),
        ("results/store.py", "def f():\n    import torch", "where there is no torch"),
        ("results/store.py", "from poisonbench.data.splits import Split", "results imports"),
        ("tables/cells.py", "from poisonbench.runs import defend", "tables imports"),
        ("runs/defend.py", "from poisonbench.cli.common import say", "runs imports"),
        ("runs/defend.py", "from poisonbench.tables.cells import Cell", "runs imports"),
        ("cli/craft.py", "import torch", "import it inside the function"),
        ("cli/craft.py", "class A:\n    import torch.nn", "import it inside the function"),
        ("cli/craft.py", "from . import common", "relative"),
        ("data/splits.py", "from poisonbench import craft", "name its module"),
        ("colours/red.py", "import sys", "has no row"),
    ],
)
def test_a_broken_layer_is_named_with_its_file_and_line(file, line, sentence):
    (fault,) = layer_faults(PACKAGE / file, line)
    number = 1 + line.count("\n")
    assert fault.startswith(f"poisonbench/{file}:{number}: ")
    assert sentence in fault


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("cli/craft.py", "def f():\n    import torch"),
        ("cli/craft.py", "if TYPE_CHECKING:\n    import torch"),
        ("attacks/pgd.py", "from poisonbench.attacks.base import AttackTask"),
        ("data/poison.py", "from poisonbench import __version__"),
        ("tables/cells.py", "from poisonbench import registry"),
        ("data/splits.py", "import torch"),
    ],
)
def test_what_the_layers_allow(file, text):
    assert layer_faults(PACKAGE / file, text) == []


def test_the_page_has_a_row_for_every_part():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    table = page.split("## Layers")[1].split("\n\n")[2]
    first = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for cell in first for name in re.findall(r"`(\w+)`", cell)} == set(MAY_IMPORT)
