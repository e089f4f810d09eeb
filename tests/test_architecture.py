"""What holds for the source as a whole: layers, randomness, pickles, imports and the registry."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import poisonbench
from poisonbench import registry
from poisonbench.attacks.base import BudgetConfig
from poisonbench.cli.main import COMMANDS, load_command
from poisonbench.core.settings import BaseConfig, options_of
from poisonbench.entries import profiles_of
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense

PACKAGE = Path(poisonbench.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Layers

BOTTOM = {"core", "specs", "targeting"}
NUMERIC = BOTTOM | {"data", "models"}
ALGORITHM = NUMERIC | {"training", "influence"}
REGISTRY = {"builtin", "entries", "registry"}
RUNS = ALGORITHM | REGISTRY | {"requests", "attacks", "defenses", "results"}

#: What each part may import; itself is understood, except for algorithms.
MAY_IMPORT = {
    "core": set(),
    "targeting": {"core"},
    "specs": {"core", "targeting"},
    "entries": BOTTOM,
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
    *("builtin", "entries", "plugins", "registry", "requests", "results"),
    *("tables", "sweep", "page", "api", "cli", "scaffold", "__init__"),
}
#: No torch anywhere in these.
NEVER_TORCH = {"requests", "specs", "results", "tables", "sweep"}
HEAVY = {"torch", "torchvision", "safetensors", "kornia", "sklearn"}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def module_name(path: Path) -> str:
    parts = ("poisonbench", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imports_of(tree: ast.Module):
    """(node, module, runs when the file is imported) for everything a file imports."""

    def walk(node, at_import):
        for child in ast.iter_child_nodes(node):
            inner = at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = False
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield child, alias.name, inner
            elif isinstance(child, ast.ImportFrom):
                yield from from_import(child, inner)
            else:
                yield from walk(child, inner)

    def from_import(node, at_import):
        base = "." * node.level + (node.module or "")
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield node, full if full in MODULES else base, at_import

    return list(walk(tree, True))


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


# Parameters

MOST_PARAMETERS = 6


def parameter_faults(name: str, text: str) -> list[str]:
    """Functions of many parameters, without a line of their docstring that says why.

    A command's parameters are its options; what such a line begins with is "Parameters:".
    """
    faults = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef):
            continue
        given = node.args
        count = len([*given.posonlyargs, *given.args, *given.kwonlyargs])
        count += bool(given.vararg) + bool(given.kwarg)
        count -= bool(given.args) and given.args[0].arg in ("self", "cls")
        is_command = any(
            ast.unparse(decorator).startswith("app.c") for decorator in node.decorator_list
        )
        reasons = re.search(r"^\s*Parameters: ", ast.get_docstring(node) or "", re.MULTILINE)
        if count > MOST_PARAMETERS and not is_command and not reasons:
            faults.append(f"{name}:{node.lineno}: {node.name} has {count} parameters and no reason")
    return faults


def test_functions_have_few_parameters_or_say_why():
    faults = [
        fault
        for path in FILES
        for fault in parameter_faults(str(path.relative_to(PACKAGE.parent)), path.read_text())
    ]
    assert not faults, "\n" + "\n".join(faults)


SEVEN = "a, b, c, d, e, *, f, g"


@pytest.mark.parametrize(
    ("text", "is_fault"),
    [
        (f"def f({SEVEN}):\n    pass", True),
        (f"class A:\n    def f(self, {SEVEN}):\n        pass", True),
        ("def f(a, b, c, d, e, *rest, **more):\n    pass", True),
        ("class A:\n    def f(self, a, b, c, d, e, f):\n        pass", False),
        (f'@app.command("f")\ndef f({SEVEN}):\n    pass', False),
        (f'def f({SEVEN}):\n    """Do.\n\n    Parameters: of the paper.\n    """', False),
    ],
)
def test_what_counts_as_many_parameters(text, is_fault):
    assert bool(parameter_faults("file.py", text)) is is_fault


# Randomness and pickles

DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
DRAWS_IN_PLACE = {
    *("uniform_", "normal_", "random_", "bernoulli_", "exponential_", "cauchy_", "trunc_normal_"),
    *("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_", "orthogonal_"),
}
LIKE = {"rand_like", "randn_like", "randint_like"}


def calls_of(text: str):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func), {keyword.arg for keyword in node.keywords}


#: The kit looks whether a method has used a global generator: it reads their states, and no more.
READS_STATES = "poisonbench/conformance/problem.py"
STATE_READERS = ("np.random.get_state", "random.getstate")


def randomness_faults(name: str, text: str) -> list[str]:
    """Every use of a generator that is not passed."""
    faults = []
    for node, function, keywords in calls_of(text):
        owner, _, last = function.rpartition(".")
        wants = (owner == "torch" and last in DRAWS) or (bool(owner) and last in DRAWS_IN_PLACE)
        if wants and "generator" not in keywords:
            faults.append(f"{name}:{node.lineno}: {function} draws from the global generator")
        if owner == "torch" and last in LIKE:
            faults.append(f"{name}:{node.lineno}: {function} takes no generator")
        seeds_a_new_one = owner == "torch.Generator()"
        if last in ("manual_seed", "manual_seed_all", "seed_all") and not seeds_a_new_one:
            faults.append(f"{name}:{node.lineno}: {function} sets the global generator")
        reads = name == READS_STATES and function in STATE_READERS
        if function.startswith(("np.random.", "numpy.random.", "random.")) and not reads:
            faults.append(f"{name}:{node.lineno}: {function} draws from a global generator")
        if "dropout" in last.lower():
            faults.append(f"{name}:{node.lineno}: {function} draws from the global generator")
    for node, module, _ in imports_of(ast.parse(text)):
        if module in ("random", "numpy.random") and name != READS_STATES:
            faults.append(f"{name}:{node.lineno}: imports {module}")
    return faults


#: The modules that open pickles: published poison sets come in no other form. They have no
#: constructor to call but their own, and read torch's part by ``weights_only=True``.
READS_PICKLES = ("poisonbench/data/pickles.py", "poisonbench/data/tensor_files.py")


#: The module that writes one, for others: a state dict, which ``torch.load`` reads as data alone.
WRITES_PICKLES = "poisonbench/runs/exported_model.py"


def pickle_faults(name: str, text: str) -> list[str]:
    """Every way in which a file could run code that came with data."""
    if name in READS_PICKLES:
        return reader_faults(name, text)
    faults = []
    for node, function, keywords in calls_of(text):
        allows = any(
            keyword.arg == "allow_pickle"
            and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            for keyword in node.keywords
        )
        writes = function == "torch.save" and name == WRITES_PICKLES
        if (function in ("torch.load", "torch.save", "eval", "exec") and not writes) or allows:
            faults.append(f"{name}:{node.lineno}: {function} may open a pickle")
        if function in ("np.load", "numpy.load") and "allow_pickle" not in keywords:
            faults.append(f"{name}:{node.lineno}: {function} does not say allow_pickle=False")
        if function in ("pd.read_pickle", "pandas.read_pickle"):
            faults.append(f"{name}:{node.lineno}: {function} opens a pickle")
    for node, module, _ in imports_of(ast.parse(text)):
        if module.split(".")[0] in ("pickle", "cPickle", "dill", "joblib", "shelve", "marshal"):
            faults.append(f"{name}:{node.lineno}: imports {module}")
    return faults


def reader_faults(name: str, text: str) -> list[str]:
    """Ways in which even the reader of pickles must not open one."""
    faults = []
    for node, function, _ in calls_of(text):
        last = function.rpartition(".")[2]
        is_bare = function.startswith("pickle.") or function in ("eval", "exec", "__import__")
        is_whole = function == "torch.load" and not any(
            keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True"
            for keyword in node.keywords
        )
        if is_bare or is_whole or last in ("import_module", "getattr"):
            faults.append(f"{name}:{node.lineno}: {function} may run what a pickle names")
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases):
            finders = [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]
            if [inner.name for inner in finders] != ["find_class"] or "super" in ast.unparse(node):
                faults.append(f"{name}:{node.lineno}: {node.name} does not replace find_class")
    return faults


@pytest.mark.parametrize("check", [randomness_faults, pickle_faults])
def test_no_global_randomness_and_no_pickle(check):
    """Torchvision opens CIFAR-10's pickles, after comparing MD5 sums; one module reads others."""
    faults = [
        fault
        for path in FILES
        for fault in check(str(path.relative_to(PACKAGE.parent)), path.read_text())
    ]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (randomness_faults, "torch.manual_seed(1)"),
        (randomness_faults, "torch.cuda.manual_seed_all(1)"),
        (randomness_faults, "torch.randperm(5)"),
        (randomness_faults, "torch.rand(2, device=device)"),
        (randomness_faults, "torch.randn_like(x)"),
        (randomness_faults, "weight.uniform_(-1, 1)"),
        (randomness_faults, "nn.init.kaiming_normal_(layer.weight)"),
        (randomness_faults, "np.random.default_rng(0)"),
        (randomness_faults, "random.shuffle(rows)"),
        (randomness_faults, "import random"),
        (randomness_faults, "from numpy.random import default_rng"),
        (randomness_faults, "nn.Dropout(0.5)"),
        (pickle_faults, "torch.load(path, weights_only=True)"),
        (pickle_faults, "np.load(path)"),
        (pickle_faults, "np.load(path, allow_pickle=True)"),
        (pickle_faults, "np.load(path, allow_pickle=flag)"),
        (pickle_faults, "import pickle"),
        (pickle_faults, "from pickle import loads"),
        (pickle_faults, "pd.read_pickle(path)"),
    ],
)
def test_the_checks_see_what_they_are_for(check, line):
    # The lines are texts for the checks to read; nothing runs them.
    (fault,) = check("file.py", line)
    assert fault.startswith("file.py:1: ")


@pytest.mark.parametrize(
    "text",
    # As above: texts for the check to read; nothing runs them.
    [
        "pickle.loads(data)",
        "pickle.Unpickler(stream).load()",
        "torch.load(stream)",
        "torch.load(stream, weights_only=False)",
        "getattr(module, name)",
        "class R(pickle.Unpickler):\n    pass",
        "class R(pickle.Unpickler):\n    def find_class(self, m, n): super().find_class(m, n)",
    ],
)
def test_the_reader_of_pickles_is_checked_too(text):
    assert all(pickle_faults(name, text) for name in READS_PICKLES)


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (randomness_faults, "torch.Generator().manual_seed(3)"),
        (randomness_faults, "torch.rand(2, generator=generator)"),
        (randomness_faults, "weight.uniform_(-1, 1, generator=generator)"),
        (pickle_faults, "np.load(path, allow_pickle=False)"),
    ],
)
def test_the_checks_let_through_what_is_fine(check, line):
    assert check("file.py", line) == []


# Devices

#: What asks for the kind of a device, the function that answers, and who looks for GPUs.
ASKS = re.compile(r"\.is_cuda\b|\.type\s*[!=]=|\.type\s+(?:not\s+)?in\b|torch\.cuda\b")
MAY_ASK = {
    *("core/devices.py", "runs/context.py", "cli/doctor.py"),
    # It is a kind of device itself.
    "conformance/pretended_device.py",
}


def test_one_function_tells_an_accelerator_from_a_cpu():
    asking = {
        str(path.relative_to(PACKAGE)) for path in FILES if ASKS.search(path.read_text())
    } - MAY_ASK
    assert not asking, "ask poisonbench.core.devices.is_accelerator"


@pytest.mark.parametrize(
    "line",
    [
        "if images.is_cuda:",
        'if device.type == "cuda":',
        'if device.type in ("cuda", "xpu"):',
        "torch.cuda.synchronize()",
    ],
)
def test_who_asks_for_a_kind_of_device_is_seen(line):
    assert ASKS.search(line)


# Imports that cost time


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    return done.stdout


def test_the_command_line_starts_without_torch():
    code = (
        "import sys, poisonbench.cli.main, poisonbench.tables.catalogue; "
        "heavy = {'torch', 'torchvision', 'pandas', 'kornia', 'scipy', 'numpy', 'matplotlib', "
        "'sklearn'}; "
        "print(*sorted(set(sys.modules) & heavy))"
    )
    assert python("-c", code).split() == []


#: What takes time to import, or is only needed by one command.
NOT_FOR_HELP = HEAVY | {
    *("importlib.metadata", "packaging", "rich", "numpy", "scipy", "pandas", "matplotlib"),
}


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_imports_no_command(word):
    code = (
        "import sys; from poisonbench.cli.main import main; main(sys.argv[1:]); "
        "print(); print(*sorted(sys.modules))"
    )
    modules = set(python("-c", code, word).splitlines()[-1].split())
    own = {name for name in modules if name.partition(".")[0] == "poisonbench"}
    assert own == {
        *("poisonbench", "poisonbench.cli", "poisonbench.cli.main"),
        *("poisonbench.core", "poisonbench.core.errors"),
    }
    assert not modules & NOT_FOR_HELP


def test_help_and_completion_name_every_command_by_its_own_help():
    text = python("-m", "poisonbench", "--help")
    for name, line in COMMANDS.items():
        assert f"\n  {name} " in text
        assert " ".join(load_command(name).help.partition("\n\n")[0].split()) == line
    variables = {"_POISONBENCH_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "poisonbench d"}
    done = subprocess.run(
        [sys.executable, "-m", "poisonbench"],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        env=os.environ | variables,
    )
    for name in COMMANDS:
        assert (f'"{name}"' in done.stdout) is name.startswith("d")


# The registry

ENTRIES = [("craft", entry) for entry in registry.ATTACKS] + [
    ("defend", entry) for entry in registry.DEFENSES
]
EVERY_ENTRY = pytest.mark.parametrize(
    ("command", "entry"), ENTRIES, ids=[entry.name for _, entry in ENTRIES]
)


@EVERY_ENTRY
def test_every_entry_has_what_an_algorithm_needs(command, entry):
    module = entry.load()
    assert module.__name__.startswith(f"poisonbench.{'attacks' if command == 'craft' else 'defen'}")
    assert isinstance(module.VERSION, int)
    assert module.VERSION >= 1
    config = module.Config()
    assert isinstance(config, BudgetConfig if command == "craft" else BaseConfig)
    assert type(config).__dataclass_params__.frozen
    assert all(option.help for option in options_of(module.Config))
    names = {option.name for option in options_of(module.Config)}
    for presets in profiles_of(module).values():
        for values in presets.values():
            assert set(values) <= names
    if command == "craft":
        assert callable(module.craft)
        assert isinstance(entry.trains, bool)
    else:
        assert isinstance(module.build(config, Recipe()), Defense)
    assert entry.label
    assert entry.summary
    assert entry.fault() == ""
    assert entry.source.name == "poisonbench"


def test_names_are_once_and_every_algorithm_is_in_a_table():
    for table, folder in ((registry.ATTACKS, "attacks"), (registry.DEFENSES, "defenses")):
        assert len({entry.name for entry in table}) == len(table)
        files = {path.stem for path in (PACKAGE / folder).glob("*.py")} - {"__init__", "base"}
        assert {entry.module.rpartition(".")[2] for entry in table} == files
    attacks = {entry.name for entry in registry.ATTACKS}
    assert set(registry.MIX) <= attacks


@EVERY_ENTRY
def test_no_setting_hides_behind_a_flag_of_the_command(command, entry):
    """A setting of the same name could not be reached: the command would take its flag."""
    parameters = load_command(command).params
    flags = {flag for parameter in parameters for flag in parameter.opts}
    assert "--results" in flags
    for config in (entry.load().Config, Recipe):
        assert not flags & {option.flag for option in options_of(config)}


@EVERY_ENTRY
def test_no_setting_hides_behind_a_parameter_of_the_python_api(command, entry):
    parameters = set(getattr(poisonbench, command).__annotations__)
    for config in (entry.load().Config, Recipe):
        assert not parameters & {option.name for option in options_of(config)}


def test_the_page_has_a_row_for_every_part():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    table = page.split("## Layers")[1].split("\n\n")[2]
    first = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for cell in first for name in re.findall(r"`(\w+)`", cell)} == set(MAY_IMPORT)


def test_no_test_imports_another():
    """What tests share lies in ``tests/helpers``."""
    files = [path for path in Path(__file__).parent.rglob("*.py") if "helpers" not in path.parts]
    modules = [
        module
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in (getattr(node, "module", None) or "", *(alias.name for alias in node.names))
    ]
    assert "helpers.command_line" in modules
    assert [name for name in modules if re.search(r"(^|\.)(test_\w+|conftest)$", name)] == []
