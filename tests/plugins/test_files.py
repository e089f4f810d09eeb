"""The door: other people's methods out of single files, and what they must not do."""

import hashlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

import poisonbench
from helpers.command_line import cli, done, last_line, refused
from helpers.own_methods import EMPTY_DEFENSE, FILES, TRIGGER, attack_file, trigger_file
from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.data.artefacts import read_poison
from poisonbench.entries import AttackEntry, DefenseEntry
from poisonbench.results.records import read_record
from poisonbench.specs import CodeSource


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


def test_a_run_of_an_edited_file_is_warned_of(folder, tmp_path, tiny, results):
    file = tmp_path / "blur.py"
    words = ("defend", "--plugin", file, "--method", "blur", "--dataset", tiny, "--clean")
    words = (*words, "--epochs", "1", "--results", results)
    file.write_text(FILES["blur.py"])
    done(*words)
    assert "warning: done with" not in done(*words).err
    file.write_text(FILES["blur.py"] + "# edited\n")
    assert "warning: done with another blur.py; raise its VERSION" in done(*words).err


def code_of(file):
    return CodeSource(file=file.name, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.mark.parametrize("options", [{}, TRIGGER, {"scenario": "scratch"}])
def test_a_run_names_the_text_that_crafted_its_poison(options, tmp_path, tiny, results):
    make = trigger_file if options.get("has_trigger") else attack_file
    file = make(tmp_path / "own.py", "task.images", **options)
    attack = ("--plugin", file, "--dataset", tiny, "--results", results, "--json", "--attack")
    words = ("defend", *attack, "own", "--method", "none", "--epochs")
    crafted, made_by = done("craft", *attack, "own"), code_of(file)
    digest = crafted.json["digest"]
    assert "warning" not in crafted.err + done(*words, "1").err
    make(file, "1 - task.images", **options)
    assert code_of(file) != made_by
    warning = f"warning: poison {crafted.json['id']} was crafted with another own.py; raise its"
    again, run = done("craft", *attack, "own"), done(*words, "2")
    assert again.json["digest"] == digest
    assert warning in again.err
    assert warning in run.err
    given = ("--plugin", file, "--poison", crafted.json["path"], *attack[2:-1])
    for path in (run.json["path"], done("defend", *given, "--method", "none").json["path"]):
        assert read_record(Path(path)).labels.source.attacks == {"own": made_by}


def test_a_mix_names_the_text_that_crafted_each_part(tmp_path, tiny, results):
    file = attack_file(tmp_path / "own.py", "task.images")
    attack = ("--plugin", file, "--dataset", tiny, "--results", results, "--json", "--attack")
    made_by = code_of(file)
    done("craft", *attack, "own")
    attack_file(file, "1 - task.images")
    mixed = done("craft", *attack, "own+durp").json
    run = done("defend", *attack, "own+durp", "--rho", "1", "--method", "none", "--epochs", "1")
    assert read_poison(Path(mixed["path"])).card.code == {"own": made_by}
    attacks = read_record(Path(run.json["path"])).labels.source.attacks
    assert attacks["own"] == made_by
    assert attacks["durp"].distribution == "poisonbench"
    # Our own cards are as they always were.
    ours = done("craft", *attack, "durp").json["path"]
    assert "code" not in json.loads((Path(ours) / "card.json").read_text())


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
        (EMPTY_DEFENSE + "ENTRY = DefenseEntry('epic', 'x')", "own.py "),
        (
            EMPTY_DEFENSE + "A, B = DefenseEntry('a', 'x'), DefenseEntry('a', 'y')",
            "a defense a once",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(text, reason, tmp_path, results):
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    words = ("defend", "--plugin", file, "--method", "none", "--preset", "quick")
    assert reason in refused(2, results, *words)
    assert registry._registered == []


@pytest.mark.parametrize("name", ["trials", "data_root", "scenario", "rho", "plugin", "seed"])
def test_a_setting_that_an_option_hides_is_refused(name, tmp_path, results):
    """By Python, ``check`` and the commands alike."""
    text = FILES["blur.py"].replace("width", name)
    (tmp_path / "own.py").write_text(text)
    words = ("defend", "--plugin", tmp_path / "own.py", "--method", "blur", "--preset", "quick")
    error = refused(2, results, *words)
    flag = name.replace("_", "-")
    assert f"other names than the command's options, got --{flag}; mend it" in error
    assert f"got --{flag}; mend it" in cli("check", tmp_path / "own.py").err
    with pytest.raises(UsageError, match="settings of other names than the command's options"):
        poisonbench.register(tmp_path / "own.py")


def test_an_attack_without_a_target_may_have_settings_of_its_names(tmp_path):
    """What only ``defend`` and targeted attacks have options of is free."""
    field = "scenario: str = 'x'"
    for options in ({}, {"scenario": "scratch"}):
        file = attack_file(tmp_path / "own.py", "task.images", **options)
        file.write_text(file.read_text().replace("pass", field))
        refusal = pytest.raises(UsageError, match="command's options, got scenario; mend it")
        with registry.forgetting(), refusal if options else nullcontext():
            poisonbench.register(file)


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        (
            "blur.py",
            '"cifar10": {"width"',
            '"mnist": {"nosuch"',
            "among width in PROFILES['paper']['mnist'], got no",
        ),
        (
            "blur.py",
            '"cifar10": {"width": 5',
            "\"mnist\": {'width': 0",
            "PROFILES['paper']['mnist']['width']: expected at least 1, got 0; mend it",
        ),
        (
            "blur.py",
            '"cifar10": {"width": 5',
            "\"*\": {'width': 'wide'",
            "PROFILES['paper']['*']['width']: expected `int`, got `str`, which is 'wide'; mend",
        ),
        (
            "blur.py",
            "VERSION = 1",
            "VERSION = 1\nRECIPE_CHANGES = {'paper': {'*': {'milestones': [3]}}}",
            "RECIPE_CHANGES['paper']['*']['milestones']: expected (3,), got [3]; mend it",
        ),
        (
            "blur.py",
            "VERSION = 1",
            "VERSION = 1\nRECIPE_CHANGES = {'paper': {'*': {'nosuch': 3}}}",
            "cycle_epochs in RECIPE_CHANGES['paper']['*'], got nosuch",
        ),
        (
            "blur.py",
            "VERSION = 1",
            "VERSION = 1\nRECIPE_CHANGES = [3]",
            "expected RECIPE_CHANGES in",
        ),
        ("small_cnn.py", '{"epochs"', '{"nosuch"', "cycle_epochs in recipe, got nosuch"),
        ("bars.py", '{"epochs"', '{"nosuch"', "cycle_epochs in recipe, got nosuch"),
        ("bars.py", '{"epochs": 3', '{"epochs": 0', "recipe['epochs']: expected at least 1, got 0"),
    ],
)
def test_a_setting_or_value_that_there_is_not_is_told_with_its_table(
    file, old, new, reason, tmp_path, results
):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.replace(old, new) if name == file else text)
    words = ("defend", "--method", "blur", "--dataset", "bars", "--model", "small-cnn", "--clean")
    for name in ("blur.py", "bars.py", "small_cnn.py"):
        words += ("--plugin", tmp_path / name)
    error = last_line(2, results, *words)
    assert reason in error
    assert f"broken: {file}" in error


def test_a_file_may_hold_several_entries(tmp_path):
    names = ("first", "second")
    # What a file prints is no part of the answer.
    entries = "".join(f"{name} = DefenseEntry('{name}', 'x')\n" for name in names)
    (tmp_path / "two.py").write_text(EMPTY_DEFENSE + entries + "print('hello')\n")
    listed = done("list", "defenses", "--plugin", tmp_path / "two.py", "--json").json
    assert set(names) <= set(listed)


@pytest.fixture
def forgetting():
    with registry.forgetting():
        yield


@pytest.mark.usefixtures("forgetting")
def test_another_file_of_the_same_name_does_not_take_a_ones_place(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(
            EMPTY_DEFENSE + f"ENTRY = ALIAS = DefenseEntry('own', '{folder}')"
        )
    poisonbench.register(tmp_path / "a" / "own.py")
    with pytest.raises(UsageError, match=r"both .*/a/own\.py \w+ and .*/b/own\.py \w+ have one"):
        poisonbench.register(tmp_path / "b" / "own.py")
    assert registry.defenses()["own"].summary == "a"


@pytest.mark.usefixtures("forgetting")
def test_what_runs_is_the_text_that_was_hashed(tmp_path, monkeypatch):
    """Python's own bytecode of a file is taken again by its second and size."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "own.py"
    for number in (1, 2):
        file.write_text(EMPTY_DEFENSE + f"NUMBER = {number}\nENTRY = DefenseEntry('own', 'x')")
        os.utime(file, (1e9, 1e9))
        poisonbench.register(file)
        assert registry.defenses()["own"].load().NUMBER == number


@pytest.mark.usefixtures("forgetting")
def test_the_api_registers_files_and_entries(folder, tiny, results):
    poisonbench.register(folder / "blur.py")
    poisonbench.register(folder / "blur.py")
    record = poisonbench.defend("blur", tiny, rho=0, results=results, epochs=1, width=5)
    assert record.spec.config == {"width": 5}
    other = DefenseEntry("again", "x", module="poisonbench.defenses.none")
    poisonbench.register(other)
    assert registry.defenses()["again"].source.name == "none.py"
    with pytest.raises(UsageError, match=r"both poisonbench .* and /.*none.py .* have one"):
        poisonbench.register(DefenseEntry("hint", "x", module="poisonbench.defenses.none"))
    with pytest.raises(UsageError, match="module=__name__, got blank without one"):
        poisonbench.register(DefenseEntry("blank", "x"))
    with pytest.raises(UsageError, match="broken: nowhere: ModuleNotFoundError"):
        poisonbench.register(AttackEntry("nowhere", "x", module="nowhere"))
