"""The door: other people's methods, networks and data, out of packages and out of single files."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import poisonbench
from helpers.command_line import cli, done, files_in, last_line, refused
from helpers.other_packages import install
from helpers.synthetic_runs import make_record
from poisonbench import plugins, registry
from poisonbench.core.errors import UsageError
from poisonbench.entries import AttackEntry, DefenseEntry
from poisonbench.results.records import CodeSource, Sources, read_record
from poisonbench.tables import catalogue

PAGE = Path(__file__).parents[1] / "docs/own-methods.md"
#: The page's files by name, its commands, and what it says of a package.
FILES = dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
COMMANDS = re.findall(r"^    poisonbench (.+)$", PAGE.read_text(), re.MULTILINE)
(PROJECT,) = map(tomllib.loads, re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL))

NOTHING = "VERSION = 1\nPROFILES = {}\n"
CONFIG = """
from dataclasses import dataclass
from poisonbench.attacks.base import AttackConfig
@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    pass
"""
EMPTY_DEFENSE = (
    "from poisonbench.defenses import none\n"
    "from poisonbench.defenses.none import Config, PROFILES, VERSION, build\n"
    "from poisonbench.entries import DefenseEntry\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's files."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Installs distributions into a folder that is on the path."""
    site = tmp_path / "site"
    site.mkdir()

    def installed(name, version, files, points):
        install(site, name, version, files, points)
        monkeypatch.syspath_prepend(site)
        plugins.installed.cache_clear()
        return site

    yield installed
    plugins.installed.cache_clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(site)):
            del sys.modules[name]


@pytest.fixture
def mylab(packages):
    """The page's package, with its entry points."""
    project = PROJECT["project"]
    files = {f"mylab/{name}": text for name, text in FILES.items()}
    return packages(
        project["name"],
        project["version"],
        {"mylab/__init__.py": "", **files},
        project["entry-points"],
    )


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
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout

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
            "ValueError: name: expected letters, digits and -, and not mix, got 'o+n'",
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
        ("return layers, 7", "expected features of shape (B, 7) for images of shape (1, 16, 16)"),
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
        "def features(channels, height, width):\n"
        f"    layers = nn.Sequential(nn.Flatten(), nn.Linear(256, 9))\n    {text}\n"
    )
    words = ("--model", "own", "--method", "none", "--dataset", tiny, "--clean")
    error = refused(2, results, "defend", "--plugin", tmp_path / "net.py", *words)
    assert reason in error


# Budgets


def attack_file(path, body, **options):
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    path.write_text(
        "import torch\nfrom poisonbench.entries import AttackEntry\n"
        f"ENTRY = AttackEntry('own', 'x', trains=False{given})\n{NOTHING}{CONFIG}"
        f"def craft(task, config):\n    return {body}\n"
    )
    return path


@pytest.mark.parametrize(
    ("body", "options", "excess"),
    [
        ("task.images + 0.1", {}, "17.5/255"),
        ("task.images - 1 / 255", {}, "1/255"),
        ("task.images.lerp(task.targets[:, None], 0.5)", {"scenario": "scratch"}, r"[\d.]+/255"),
    ],
)
def test_an_attack_that_leaves_its_budget_is_told_by_how_much(
    body, options, excess, tmp_path, tiny, results
):
    file = attack_file(tmp_path / "own.py", body, **options)
    words = ("craft", "--plugin", file, "--attack", "own", "--dataset", tiny, "--results", results)
    outcome = done(*words)
    (line,) = [line for line in outcome.err.splitlines() if "budget" in line]
    assert re.fullmatch(
        r"warning: own leaves its budget, 8/255 around each image inside \[0, 1\], by up to "
        rf"{excess}; its poisons are clipped to it",
        line,
    )
    assert re.search("largest change [0-8]/255 of 8/255 allowed", outcome.err)
    assert "budget" not in done(*words).err


@pytest.mark.parametrize("attack", ["pgd", "dap", "durp", "noise"])
def test_our_attacks_keep_to_their_budget(attack, tiny, results):
    words = ("--dataset", tiny, "--results", results)
    outcome = done("craft", "--attack", attack, *words)
    assert "budget" not in outcome.err


@pytest.mark.parametrize(
    ("body", "got"),
    [
        ("None", "got NoneType"),
        ("task.images[:3]", r"got Tensor \(3, 1, 16, 16\) torch.float32"),
        ("(255 * task.images).byte()", r"torch.uint8"),
    ],
)
def test_what_is_no_poison_is_refused(body, got, tmp_path, tiny, results):
    file = attack_file(tmp_path / "own.py", body)
    words = ("--plugin", file, "--attack", "own", "--dataset", tiny, "--results", results)
    outcome = cli("craft", *words)
    assert outcome.code == 2
    assert re.search(
        f"own: expected floating-point images of shape .* from craft, .*{got}", outcome.err
    )


# Files


def test_a_file_is_known_to_one_command_and_the_record_says_which(folder, tiny, results):
    file = folder / "blur.py"
    words = ("defend", "--method", "blur", "--dataset", tiny, "--clean", "--epochs", "1")
    run = done(*words, "--plugin", file, "--results", results, "--json")
    source = read_record(Path(run.json["path"])).labels.source
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert source.method == CodeSource(file="blur.py", sha256=digest)
    assert source.attacks == {}
    error = refused(2, results, *words)
    assert "expected a defense among none, hint" in error
    done("report", "--runs", "--results", results)


def defense_file(path, hook, body, arguments="state, images, labels"):
    """A defense of one hook."""
    path.write_text(
        "import torch\nfrom poisonbench.core.settings import BaseConfig\n"
        "from poisonbench.defenses.base import Defense\n"
        "from poisonbench.entries import DefenseEntry\n"
        "from poisonbench.defenses.none import Config\n"
        f"ENTRY = DefenseEntry('own', 'x')\n{NOTHING}"
        "def build(config, recipe):\n    return Own()\n"
        f"class Own(Defense):\n    def {hook}(self, {arguments}):\n        {body}\n"
    )
    return path


BATCH, EPOCH = "state, images, labels", "state"


@pytest.mark.parametrize(
    ("hook", "arguments", "body", "reason"),
    [
        ("perturb_batch", BATCH, "return images[:, :, 2:]", "float32 images (128, 1, 16, 16), got"),
        ("perturb_batch", BATCH, "images * 2", "got NoneType; mend it"),
        ("perturb_batch", BATCH, "return images.double()", "torch.float64; mend it"),
        ("perturb_batch", BATCH, "return images.numpy()", "got ndarray (128, 1, 16, 16) float32"),
        ("batch_loss", BATCH, "return images.logsumexp(1)", "a scalar tensor with a gradient, got"),
        ("batch_loss", BATCH, "return images.sum().item()", "got float; mend it"),
        ("start_epoch", EPOCH, "return state.train.images", "a TrainingSet, got Tensor"),
        ("start_epoch", EPOCH, "return state.train.with_images(state.train.images[1:])", "270, 1"),
        (
            "start_epoch",
            EPOCH,
            "return state.train.with_images(state.train.images.float())",
            "in [0",
        ),
        ("start_epoch", EPOCH, "return state.train.with_keep(torch.arange(9))", "torch.int64"),
        (
            "start_epoch",
            EPOCH,
            "return type(state.train)(state.train.images, 1 - state.train.labels)",
            "expected the labels of state.train, got",
        ),
        ("extend", "train, validation", "pass", "extend: expected a Split, got NoneType"),
        (
            "__init__",
            "",
            "pass",
            "build: expected a Defense whose __init__ calls super().__init__()",
        ),
    ],
)
def test_what_a_hook_must_not_return_is_one_line(
    hook, arguments, body, reason, tmp_path, tiny, results
):
    file = defense_file(tmp_path / "own.py", hook, body, arguments)
    words = ("--plugin", file, "--method", "own", "--dataset", tiny, "--clean", "--epochs", "1")
    assert reason in last_line(2, results, "defend", *words)


def test_a_run_of_an_edited_file_is_warned_of(folder, tmp_path, tiny, results):
    file = tmp_path / "blur.py"
    words = ("defend", "--plugin", file, "--method", "blur", "--dataset", tiny, "--clean")
    words = (*words, "--epochs", "1", "--results", results)
    file.write_text(FILES["blur.py"])
    done(*words)
    assert "warning: done with" not in done(*words).err
    file.write_text(FILES["blur.py"] + "# edited\n")
    assert "warning: done with another blur.py; raise its VERSION" in done(*words).err


def test_a_surrogate_that_the_entry_does_not_say_is_refused(tmp_path, tiny, results):
    file = attack_file(tmp_path / "own.py", "task.surrogate()")
    words = ("craft", "--plugin", file, "--attack", "own", "--dataset", tiny)
    assert "own: expected trains=True in the entry" in last_line(2, results, *words)


def test_a_poison_of_a_file_s_data_is_inspected(folder, results):
    words = ("--plugin", folder / "bars.py", "--results", results)
    path = done("craft", "--attack", "durp", "--dataset", "bars", *words).out.strip()
    assert "sound: seal, rows" in done("inspect", path, *words).out
    error = refused(2, results, "inspect", path)
    assert "got 'bars'; one of your own needs --plugin FILE" in error


def test_a_plan_remembers_its_files(tmp_path, results):
    for name in ("blur.py", "bars.py"):
        (tmp_path / name).write_text(FILES[name])
    blur, bars, plan = tmp_path / "blur.py", tmp_path / "bars.py", tmp_path / "plan.json"
    lines = tmp_path / "lines.txt"
    lines.write_text(
        "poisonbench defend --method blur --dataset bars --clean\n"
        f"poisonbench defend --plugin {bars} --method none --dataset bars --attack durp\n"
    )
    words = ("sweep", "plan", "--lines", lines, "--plugin", blur)
    assert "expected a data set among" in refused(2, results, *words, "--json", "--output", plan)
    words = (*words, "--plugin", bars)
    done(*words, "--json", "--output", plan)
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (blur, bars)}
    assert json.loads(plan.read_text())["plugins"] == digests
    printed = done(*words).out.splitlines()
    assert len(printed) == 2
    assert all(f"--plugin {blur} --plugin {bars}" in line for line in printed)
    assert registry._registered == []
    blur.write_text(FILES["blur.py"] + "# edited\n")
    error = last_line(65, results, "sweep", "run", plan)
    assert (
        f"expected {blur} with sha256 {digests[str(blur)][:12]}, as the plan has it, got" in error
    )
    blur.write_text(FILES["blur.py"])
    done("sweep", "run", plan, "--results", results, "--quiet")
    sources = [read_record(path).labels.source for path in (results / "runs").iterdir()]
    assert {source.method.file for source in sources} == {"blur.py", None}
    assert {source.dataset.sha256 for source in sources} == {digests[str(bars)]}
    edited = plan.read_text().replace(digests[str(blur)], digests[str(bars)])
    plan.write_text(edited)
    assert "was edited" in last_line(65, results, "sweep", "status", plan)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "FileNotFoundError"),
        ("def f(:", "SyntaxError: invalid syntax"),
        (
            "import nowhere_to_be_found",
            "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        ("x = 1", "expected a file with an entry, such as ENTRY = DefenseEntry(...), got none"),
        (EMPTY_DEFENSE + "del build\nENTRY = DefenseEntry('own', 'x')", "expected build in "),
        (EMPTY_DEFENSE + "ENTRY = DefenseEntry('own', 'x', oracle=True)", "no plug-in is told"),
        (EMPTY_DEFENSE + "ENTRY = DefenseEntry('epic', 'x')", "and own.py "),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(text, reason, tmp_path, results):
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    words = ("defend", "--plugin", file, "--method", "none", "--preset", "quick")
    assert reason in refused(2, results, *words)
    assert registry._registered == []


@pytest.mark.parametrize("name", ["trials", "data_root", "scenario", "rho", "plugin"])
def test_a_setting_that_an_option_hides_is_refused(name, tmp_path, results):
    text = FILES["blur.py"].replace("width", name)
    (tmp_path / "own.py").write_text(text)
    words = ("defend", "--plugin", tmp_path / "own.py", "--method", "blur", "--preset", "quick")
    error = refused(2, results, *words)
    flag = name.replace("_", "-")
    assert f"other names than the command's options, got --{flag}; mend it" in error


def test_a_file_may_hold_several_entries(tmp_path):
    names = ("first", "second")
    entries = "".join(f"{name} = DefenseEntry('{name}', 'x')\n" for name in names)
    (tmp_path / "two.py").write_text(EMPTY_DEFENSE + entries)
    listed = done("list", "defenses", "--plugin", tmp_path / "two.py", "--json").json
    assert set(names) <= set(listed)


@pytest.fixture
def forgetting():
    with registry.forgetting():
        yield


@pytest.mark.usefixtures("forgetting")
def test_the_api_registers_files_and_entries(folder, tiny, results):
    poisonbench.register(folder / "blur.py")
    poisonbench.register(folder / "blur.py")
    record = poisonbench.defend("blur", tiny, rho=0, results=results, epochs=1, width=5)
    assert record.spec.config == {"width": 5}
    other = DefenseEntry("again", "x", module="poisonbench.defenses.none")
    poisonbench.register(other)
    assert registry.defenses()["again"].source.name == "none.py"
    with pytest.raises(UsageError, match=r"both poisonbench .* and none.py .* have one"):
        poisonbench.register(DefenseEntry("hint", "x", module="poisonbench.defenses.none"))
    with pytest.raises(UsageError, match="module=__name__, got blank without one"):
        poisonbench.register(DefenseEntry("blank", "x"))
    with pytest.raises(UsageError, match="broken: nowhere: ModuleNotFoundError"):
        poisonbench.register(AttackEntry("nowhere", "x", module="nowhere"))
