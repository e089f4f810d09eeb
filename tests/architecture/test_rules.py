"""Rules that every file keeps: parameters, randomness, pickles, devices, tests apart."""

import ast
import re
from pathlib import Path

import pytest

from helpers.source import FILES, PACKAGE, imports_of

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


#: The kit, and the check of a network, look whether other people's code has used a global
#: generator: they read states, the kit sets others for the time, and nothing is drawn.
READS_STATES = ("poisonbench/conformance/problem.py", "poisonbench/models/global_generators.py")
STATE_READERS = (
    *("np.random.get_state", "np.random.set_state", "np.random.RandomState"),
    *("np.random.RandomState(UNLIKELY_SEED).get_state", "random.Random(UNLIKELY_SEED).getstate"),
    *("random.getstate", "random.setstate", "random.Random"),
)


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
        reads = name in READS_STATES and function in STATE_READERS
        if function.startswith(("np.random.", "numpy.random.", "random.")) and not reads:
            faults.append(f"{name}:{node.lineno}: {function} draws from a global generator")
        if "dropout" in last.lower():
            faults.append(f"{name}:{node.lineno}: {function} draws from the global generator")
    for node, module, _ in imports_of(ast.parse(text)):
        if module in ("random", "numpy.random") and name not in READS_STATES:
            faults.append(f"{name}:{node.lineno}: imports {module}")
    return faults


#: The module that opens pickles: published poison sets come in no other form. It has no
#: constructor to call but its own, and torch's files are read by it alone.
READS_PICKLES = ("poisonbench/data/notes.py",)


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
    """Ways in which even the reader of pickles must not open one.

    It names no base class but to begin, and answers every name and every reference itself.
    """
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
            names = {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
            is_own = names - {"__init__", "persistent_load"} == {"find_class"}
            if not is_own or "super" in ast.unparse(node).replace("super().__init__(", ""):
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


# Tests


def test_no_test_imports_another():
    """What tests share lies in ``tests/helpers``."""
    files = [
        path for path in Path(__file__).parents[1].rglob("*.py") if "helpers" not in path.parts
    ]
    modules = [
        module
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in (getattr(node, "module", None) or "", *(alias.name for alias in node.names))
    ]
    assert "helpers.command_line" in modules
    assert [name for name in modules if re.search(r"(^|\.)(test_\w+|conftest)$", name)] == []
