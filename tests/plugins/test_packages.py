"""The door: other people's methods, networks and data out of packages, as the page has them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import poisonbench
from helpers.command_line import done, files_in, refused
from helpers.own_methods import COMMANDS, EMPTY_DEFENSE, FILES, PAGE
from helpers.synthetic_runs import make_record
from poisonbench import registry
from poisonbench.results.records import Sources, read_record
from poisonbench.specs import CodeSource
from poisonbench.tables import catalogue


def defense_package(packages, name, version, text, point="own", group="poisonbench.defenses"):
    """A package of one module with one entry point."""
    module = name.replace("-", "_")
    return packages(name, version, {f"{module}.py": text}, {group: {point: module}})


# The page


@pytest.fixture(scope="module")
def shared_results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


def test_the_page_has_a_file_of_each_kind_and_commands_that_use_it():
    assert sorted(FILES) == ["bars.py", "blend.py", "blur.py", "fgsm.py", "small_cnn.py"]
    for name in FILES:
        assert any(f"--plugin {name}" in command for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_run(command, folder, shared_results, monkeypatch):
    """On the page's own data, which are small."""
    monkeypatch.chdir(folder)
    words = command.replace("--preset quick", "--plugin bars.py --dataset bars").split()
    if words[0] not in ("list", "data"):
        words += ["--results", str(shared_results)]
    assert done(*words).out
    assert registry._registered == []


# Packages


def test_a_package_is_listed_with_its_version_and_used_like_our_own(mylab, results):
    for kind, names in (
        ("attacks", ["fgsm", "blend"]),
        ("defenses", ["blur"]),
        ("models", ["small-cnn"]),
        ("datasets", ["bars"]),
    ):
        listed = done("list", kind, "--json").json
        assert all(listed[name].endswith(" [mylab-poisonbench 1.2]") for name in names)
    assert "Blur: trains on blurred images; on images without fine detail" in str(
        done("list", "defenses").out
    )
    own = CodeSource(distribution="mylab-poisonbench", version="1.2")
    ours = CodeSource(distribution="poisonbench", version=poisonbench.__version__)
    words = ("defend", "--dataset", "bars", "--results", results, "--json")
    run = done(
        *(*words, "--method", "blur", "--attack", "fgsm+durp", "--model", "small-cnn"),
        *("--rho", "0.5", "--width", "5"),
    )
    record = read_record(Path(run.json["path"]))
    assert record.spec.config == {"width": 5}
    assert record.spec.training.epochs == 2
    assert record.spec.training.batch_size == 32
    assert record.labels.overrides == {"width": 5, "model": "small-cnn"}
    assert record.labels.source == Sources(
        method=own, attacks={"fgsm": own, "durp": ours}, model=own, dataset=own
    )
    # A targeted attack.
    run = done(*words, "--method", "none", "--attack", "blend", "--scenario", "transfer")
    record = read_record(Path(run.json["path"]))
    assert record.labels.source.attacks == {"blend": own}
    assert record.labels.source.method == ours
    assert record.labels.overrides == {"scenario": "transfer"}
    assert run.json["attack_success"] in (True, False)
    table = done("report", "--table", "2", "--dataset", "bars", "--results", results)
    assert "Bars" in table.out
    done("report", "--runs", "--results", results)


def test_a_package_with_runs_gets_a_column(mylab):
    assert "Blur" not in catalogue.build("2", []).blocks[3].columns
    table = catalogue.build("2", [make_record(method="blur")])
    assert table.blocks[3].columns[-1] == "Blur"
    keys = {"dataset": "mnist", "rho": 0.0, "method": "blur"}
    (cell,) = [cell for cell in table.cells if keys.items() <= cell.keys.items()]
    assert cell.verdict == "not published"


def test_a_sweep_does_jobs_of_a_package(mylab, tmp_path):
    lines, plan = tmp_path / "lines.txt", tmp_path / "plan.json"
    lines.write_text(
        "poisonbench defend --method blur --attack blend --dataset bars\n"
        "poisonbench defend --method blur --attack fgsm --rho 0.5 --dataset bars\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{mylab}{os.pathsep}{PAGE.parents[1]}"}

    def program(*words):
        done = subprocess.run(
            [sys.executable, "-m", "poisonbench", *words],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done

    program("sweep", "plan", "--lines", str(lines), "--json", "--output", str(plan))
    program("sweep", "run", str(plan), "--quiet")
    assert len(files_in(tmp_path / "results/runs")) == 2


def test_nothing_of_a_package_is_imported_before_its_kind_is_asked_for(packages):
    site = packages(
        "loud",
        "1",
        {"loud.py": "print('imported')\n" + EMPTY_DEFENSE + "ENTRY = DefenseEntry('own', 'x')"},
        {"poisonbench.defenses": {"own": "loud"}},
    )

    def printed(*words):
        environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{PAGE.parents[1]}"}
        command = [sys.executable, "-m", "poisonbench", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True).stderr

    assert "imported" not in printed("--help")
    assert "imported" not in printed("craft", "--help")
    assert "imported" not in printed("list", "attacks")
    assert "imported" in printed("list", "defenses")


def test_entries_in_a_module_of_their_own_name_the_others(packages, results):
    entries = (
        "from poisonbench.entries import DefenseEntry\n"
        "BLUR = DefenseEntry('blur', 'x', module='lab.blur')\n"
    )
    packages(
        "lab",
        "3",
        {"lab/__init__.py": "", "lab/entries.py": entries, "lab/blur.py": FILES["blur.py"]},
        {"poisonbench.defenses": {"blur": "lab.entries:BLUR"}},
    )
    assert registry.defenses()["blur"].load().__name__ == "lab.blur"
    assert "--width" in done("list", "defenses", "blur").out


# Clashes and what is broken


def test_a_name_that_is_ours_names_both_packages(packages, results):
    defense_package(packages, "taker", "2.0", EMPTY_DEFENSE, point="hint")
    error = refused(2, results, "defend", "--method", "hint", "--preset", "quick")
    assert (
        f"both poisonbench {poisonbench.__version__} and taker 2.0 have one of that name" in error
    )
    assert "uninstall or rename" in error
    assert "both poisonbench" in done("list", "defenses", "--json").json["hint"]
    assert "W/o Defense" in done("list", "defenses").out


def test_a_name_that_two_packages_have_names_both(packages, tiny, results):
    text = EMPTY_DEFENSE + "ENTRY = DefenseEntry('own', 'x')"
    defense_package(packages, "first", "1.0", text)
    defense_package(packages, "second", "0.3", text)
    error = refused(2, results, "defend", "--method", "own", "--dataset", tiny, "--clean")
    assert re.search("both (first 1.0 and second 0.3|second 0.3 and first 1.0) have", error)
    done("defend", "--method", "none", "--dataset", tiny, "--clean", "--results", results)


@pytest.mark.parametrize(
    ("group", "text", "reason"),
    [
        ("defenses", "import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere"),
        ("defenses", "1 / 0", "ZeroDivisionError: division by zero"),
        ("defenses", "def f(:", "SyntaxError"),
        ("defenses", "x = 1", "to be a defense own or a module with that as ENTRY, got NoneType"),
        ("defenses", EMPTY_DEFENSE + "ENTRY = DefenseEntry('other', 'x')", "got a defense other"),
        ("attacks", EMPTY_DEFENSE + "ENTRY = DefenseEntry('own', 'x')", "got a defense own"),
        (
            "defenses",
            EMPTY_DEFENSE + "ENTRY = DefenseEntry('own', '')",
            "expected a line, got none",
        ),
        ("defenses", EMPTY_DEFENSE + "ENTRY = DefenseEntry('own', 'x', oracle=True)", "is told"),
        (
            "defenses",
            EMPTY_DEFENSE + "del build\nENTRY = DefenseEntry('own', 'x')",
            "expected build in broken_lab, a function of a Config and a Recipe",
        ),
        (
            "defenses",
            EMPTY_DEFENSE + "def build(config):\n    pass\nENTRY = DefenseEntry('own', 'x')",
            "expected build in broken_lab, a function of a Config and a Recipe, got build(config)",
        ),
        (
            "defenses",
            EMPTY_DEFENSE + "class build(none.Defense):\n    def __init__(self, config):\n"
            "        super().__init__()\nENTRY = DefenseEntry('own', 'x')",
            "a function of a Config and a Recipe, got build(config)",
        ),
        (
            "attacks",
            "from poisonbench.attacks.random_noise import Config, PROFILES, VERSION\n"
            "from poisonbench.entries import AttackEntry\n"
            "def craft(task, config, seed):\n    pass\nENTRY = AttackEntry('own', 'x')",
            "expected craft in broken_lab, a function of a task and a Config, "
            "got craft(task, config, seed)",
        ),
        (
            "models",
            "from poisonbench.entries import NetworkEntry\nENTRY = NetworkEntry('own', 'x')\n"
            "def features(shape):\n    pass",
            "a function of channels, height and width, got features(shape)",
        ),
        (
            "defenses",
            EMPTY_DEFENSE + "VERSION = 'one'\nENTRY = DefenseEntry('own', 'x')",
            "expected VERSION in broken_lab, a whole number",
        ),
        (
            "defenses",
            EMPTY_DEFENSE + "PROFILES = {'mnist': {'a': 5}}\nENTRY = DefenseEntry('own', 'x')",
            """settings as {"paper": {"mnist": {...}}}, got {'mnist': {'a': 5}}""",
        ),
        (
            "defenses",
            EMPTY_DEFENSE + "ENTRY = DefenseEntry('own', 'x', module='broken_lab.algorithm')",
            "ModuleNotFoundError: No module named 'broken_lab.algorithm'",
        ),
        (
            "defenses",
            EMPTY_DEFENSE + "class Config(Config):\n    pass\nENTRY = DefenseEntry('own', 'x')",
            "expected Config in broken_lab, a frozen dataclass that derives from BaseConfig",
        ),
        (
            "attacks",
            "from poisonbench.entries import AttackEntry\nENTRY = AttackEntry('own', 'x')",
            "expected Config in broken_lab, ",
        ),
        (
            "attacks",
            "from poisonbench.entries import AttackEntry\n"
            "ENTRY = AttackEntry('own', 'x', scenario='anywhere')",
            "expected scratch, transfer, finetune, got 'anywhere'",
        ),
        (
            "attacks",
            "from poisonbench.entries import AttackEntry\nENTRY = AttackEntry('own', 'x', rho=5)",
            "UsageError: rho of own: expected in (0, 1], got 5",
        ),
        ("datasets", "raise SystemExit", "broken-lab 0.1: SystemExit; mend it"),
        (
            "models",
            "from poisonbench.entries import NetworkEntry\nENTRY = NetworkEntry('own', 'x')",
            "expected features in broken_lab, a function of channels, height and width",
        ),
        (
            "datasets",
            "from poisonbench.entries import DatasetEntry\nENTRY = DatasetEntry('own', 'x')",
            "expected load in broken_lab, a function",
        ),
        (
            "datasets",
            "from poisonbench.entries import DatasetEntry\nENTRY = DatasetEntry('o+n', 'x')",
            "UsageError: name: expected letters, digits and -, and not mix, got 'o+n'",
        ),
    ],
)
def test_what_is_broken_is_one_line_and_the_rest_works(
    group, text, reason, packages, tiny, results
):
    defense_package(packages, "broken-lab", "0.1", text, group=f"poisonbench.{group}")
    listed = done("list", group, "--json").json["own"]
    assert listed.startswith("broken: broken-lab 0.1: ")
    assert reason in listed
    assert "\n" not in listed
    option = {"defenses": "--method", "attacks": "--attack", "models": "--model"}
    words = {"--method": "none", "--attack": "durp", "--dataset": tiny}
    with_it = words | {option.get(group, "--dataset"): "own"}
    line = [word for pair in with_it.items() for word in pair]
    error = refused(2, results, "defend", *line, "--epochs", "1")
    assert "that can be used, got own: broken: broken-lab 0.1: " in error
    assert reason in error
    line = [word for pair in words.items() for word in pair]
    done("defend", *line, "--epochs", "1", "--results", results)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "return layers",
            "model own: expected layers, number of features from net.py ",
        ),
        (
            "return layers, 7",
            "expected float32 features of shape (B, 7) for images of shape (1, 16",
        ),
        ("return Doubled(), 256", "for images of shape (1, 16, 16), got (2, 256) torch.float64"),
        ("return Pair(), 256", "got AttributeError: 'tuple' object has no attribute 'shape'"),
        ("return layers.to('meta'), 9", "got 1.weight on meta; leave .to() and .cuda() to the run"),
        ("return nn.Linear(3, 4), 4", "got RuntimeError: "),
        ("return 4, layers", "layers, number of features from net.py "),
        ("raise ValueError('expected a panorama')", "expected a panorama; resize the images"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(text, reason, tmp_path, tiny, results):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "from poisonbench.entries import NetworkEntry\n"
        "ENTRY = NetworkEntry('own', 'x')\n"
        "class Doubled(nn.Module):\n    def forward(self, images):\n"
        "        return images.flatten(1).double()\n"
        "class Pair(nn.Module):\n    def forward(self, images):\n        return images, images\n"
        "def features(channels, height, width):\n"
        f"    layers = nn.Sequential(nn.Flatten(), nn.Linear(256, 9))\n    {text}\n"
    )
    words = ("--model", "own", "--method", "none", "--dataset", tiny, "--clean")
    error = refused(2, results, "defend", "--plugin", tmp_path / "net.py", *words)
    assert reason in error
