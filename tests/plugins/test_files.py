"""The door: other people's methods out of single files, and what they must not do."""

import hashlib
import json
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

import poisonbench
from helpers.command_line import cli, done, last_line, refused
from helpers.own_methods import CONFIG, EMPTY_DEFENSE, FILES, NOTHING
from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.data.artefacts import read_poison
from poisonbench.entries import AttackEntry, DefenseEntry
from poisonbench.results.records import read_record
from poisonbench.specs import CodeSource

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


@pytest.mark.parametrize("form", ["bfloat16()", "half()", "double()", "requires_grad_()"])
def test_images_of_any_floating_type_are_poisons(form, tmp_path, tiny):
    """They are rounded to grey levels as the same numbers in float32 are."""
    digests = set()
    for name in (form, f"{form}.detach().float()"):
        file = attack_file(tmp_path / "own.py", f"task.images.{name}")
        words = ("craft", "--plugin", file, "--attack", "own", "--dataset", tiny, "--json")
        digests.add(done(*words, "--results", tmp_path / name).json["digest"])
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("base", "lines", "fault"),
    [
        ("BudgetConfig", "pass", "expected budget a number in (0, 1] with norm linf, got None"),
        ("BudgetConfig", "budget = -1.0", "a number in (0, 1] with norm linf, got -1.0"),
        ("AttackConfig", "budget = 2", "a number in (0, 1] with norm linf, got 2"),
        ("AttackConfig", "budget = '1'", "a number in (0, 1] with norm linf, got '1'"),
        ("BudgetConfig", "norm = 'l2'; budget = float('inf')", "with norm l2, got inf"),
        ("BudgetConfig", "norm = 'l0'", "a finite number over 0 with norm l0, got None"),
        ("AttackConfig", "norm = 'l3'", "expected norm linf, l2, l0 or convolution, got 'l3'"),
        ("AttackConfig", "norm = 'convolution'", "expected budget None of a convolution, got 0.03"),
        ("TriggerConfig", "test_budget = None", "expected test_budget a number in (0, 1] with"),
    ],
)
def test_a_config_without_a_bound_is_refused(base, lines, fault, tmp_path, tiny, results):
    is_trigger = base == "TriggerConfig"
    make, options = (trigger_file, TRIGGER) if is_trigger else (attack_file, {})
    file = make(tmp_path / "own.py", "task.images", **options)
    text = file.read_text().replace("AttackConfig", base)
    file.write_text(text.replace("    pass\n", f"    {lines}\n"))
    words = ("craft", "--plugin", file, "--attack", "own", "--dataset", tiny)
    error = last_line(2, results, *words)
    assert error.startswith("error: own: expected ")
    assert fault in error
    assert error.endswith("; mend its Config")
    assert fault in cli("check", file, "--json").json["budget-after-rounding"]


TRIGGER, LEARNED = {"has_trigger": True}, {"has_trigger": True, "learns_trigger": True}


def trigger_file(path, body, **options):
    """A trigger that flips images, or adds what it has learned."""
    text = attack_file(path, body, **options).read_text().replace("AttackConfig", "TriggerConfig")
    path.write_text(
        f"{text}def stamp(images, config, source):\n"
        "    return (images + source if torch.is_tensor(source) else images.flip(3)).clamp(0, 1)\n"
        "def learn(task, config):\n    return 0.1 + 0 * task.images[0]\n"
    )
    return path


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ("task.labels", {}),
        ("task.validation.labels", {}),
        ("task.train.labels", {"scenario": "scratch"}),
        ("task.train.images", TRIGGER),
        ("task.rows", TRIGGER),
        ("task.pattern", LEARNED),
    ],
)
def test_a_run_is_the_same_in_the_process_whose_attack_wrote_into_its_task(
    written, options, tmp_path, tiny
):
    make = trigger_file if options.get("has_trigger") else attack_file
    file = make(tmp_path / "own.py", f"({written}.zero_(), task.images)[1]", **options)
    attack = ("--plugin", file, "--attack", "own", "--dataset", tiny, "--results")
    words = ("--method", "none", "--epochs", "1", "--json")
    done("craft", *attack, tmp_path / "before")
    first, second = (
        read_record(Path(done("defend", *attack, tmp_path / folder, *words).json["path"]))
        for folder in ("at once", "before")
    )
    assert first.id == second.id
    assert first.curve == second.curve


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
        ("start_epoch", EPOCH, "return state.train.with_images([1])", "270, 1, 16, 16), got list"),
        ("start_epoch", EPOCH, "return state.train.with_keep([True] * 270)", "bool, got list"),
        (
            "start_epoch",
            EPOCH,
            "return type(state.train)(state.train.images, state.train.labels.float())",
            "expected the labels of state.train, got Tensor (270,) torch.float32",
        ),
        ("batch_loss", BATCH, "return torch.ones(1).numpy()[0]", "got float32 () float32"),
        (
            "perturb_batch",
            BATCH,
            "labels.zero_(); return images",
            "perturb_batch: expected the images and labels given to it as they were",
        ),
        ("extend", "train, validation", "pass", "extend: expected a Split, got NoneType"),
        (
            "extend",
            "train, validation",
            "return train.rows(torch.arange(5))",
            "extend: expected the 270 images of shape (1, 16, 16), then added ones, got Tensor (5,",
        ),
        (
            "extend",
            "train, validation",
            "return type(train)(train.images[:, :, :8], train.labels)",
            "then added ones, got Tensor (270, 1, 8, 16)",
        ),
        (
            "extend",
            "train, validation",
            "return type(train)(train.images, train.labels.roll(1))",
            "extend: expected the 270 labels as given, then added ones, got 270 others",
        ),
        (
            "extend",
            "train, validation",
            "train.labels.zero_(); return train",
            "extend: expected the images and labels given to it as they were",
        ),
        (
            "extend",
            "train, validation",
            "return type(train)(*(torch.cat(pair) for pair in ((train.images, train.images), "
            "(train.labels, train.labels + 100))))",
            "extend: expected labels in 0..",
        ),
        (
            "perturb_batch",
            "images",
            "return images",
            "build: expected perturb_batch(state, images, labels), got perturb_batch(images)",
        ),
        ("start_epoch", "state, *, epoch", "return state.train", "got start_epoch(state, epoch)"),
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


def test_a_pretraining_must_be_a_defense(tmp_path, tiny, results):
    file = defense_file(tmp_path / "own.py", "pretraining", "return 3", "")
    words = ("--plugin", file, "--method", "own", "--dataset", tiny, "--rho", "0.03")
    words = (*words, "--attack", "noise", "--scenario", "finetune")
    error = last_line(2, results, "defend", *words)
    assert "pretraining: expected a Defense or None, got int" in error


def test_a_choice_of_no_rows_has_no_share(tmp_path, tiny, results):
    body = "self.memory['selected'] = torch.arange(0); return state.train"
    file = defense_file(tmp_path / "own.py", "start_epoch", body, EPOCH)
    words = ("--plugin", file, "--method", "own", "--dataset", tiny, "--attack", "durp")
    run = done("defend", *words, "--epochs", "1", "--results", results, "--json")
    assert read_record(Path(run.json["path"])).metrics.poison.share_of_selected is None


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


DATA = """
import numpy as np
import torch
from poisonbench.data.arrays import make_split
from poisonbench.data.splits import RawData
from poisonbench.entries import DatasetEntry
ENTRY = DatasetEntry("own", "x")
def load(name, path, data_root):
    images, labels = np.zeros((60, 8, 8, 3), np.uint8), np.arange(60) % 3
    split, names = make_split(images, labels, name), ("a", "b", "c")
    return RawData({fields})
"""


def data_file(path, fields):
    path.write_text(DATA.replace("{fields}", fields))
    return path


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("(images, labels), split", "expected a Split as train for own, got tuple; mend it"),
        ("split, None", "expected a Split as test for own, got NoneType; mend it"),
        ("split, split, names, images", "expected a Split as validation for own, got ndarray (60"),
        ("split.rows(torch.arange(0)), split, names", "own: expected images in the train split"),
        ("split, split, mean=(0.5,) * 3", "mean and std of 3 finite numbers for own, std over 0"),
        ("split, split, mean=(0.5,), std=(0.5,)", "or neither, got mean (0.5,) and std (0.5,)"),
        ("split, split, mean=(0.5,) * 3, std=(0.0, 1.0, 1.0)", "got mean (0.5, 0.5, 0.5) and std"),
        ("split, split, mean=(float('nan'),) * 3, std=(1.0,) * 3", "got mean (nan, nan, nan)"),
        ("split, split, mean=0.5, std=0.5", "got mean 0.5 and std 0.5; mend it"),
    ],
)
def test_what_is_no_data_set_is_one_line(fields, reason, tmp_path):
    file = data_file(tmp_path / "own.py", fields)
    outcome = cli("data", "show", "own", "--plugin", file)
    assert outcome.code == (65 if "arange(0)" in fields else 2)
    assert reason in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_statistics_of_a_data_set_may_be_numpy_s(tmp_path):
    shown = [
        done("data", "show", "own", "--json", "--plugin", data_file(tmp_path / "own.py", fields))
        for fields in (
            "split, split, mean=np.full(3, 0.5), std=np.full(3, 0.25)",
            "split, split, mean=(0.5,) * 3, std=(0.25,) * 3",
        )
    ]
    assert shown[0].json == shown[1].json
    assert shown[0].json["std"] == [0.25] * 3


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
        ("blur.py", '"cifar10": {"width"', '"mnist": {"nosuch"', "among width in PROFILES, got no"),
        (
            "blur.py",
            "VERSION = 1",
            "VERSION = 1\nRECIPE_CHANGES = {'paper': {'*': {'nosuch': 3}}}",
            "cycle_epochs in RECIPE_CHANGES, got nosuch",
        ),
        (
            "blur.py",
            "VERSION = 1",
            "VERSION = 1\nRECIPE_CHANGES = [3]",
            "expected RECIPE_CHANGES in",
        ),
        ("small_cnn.py", '{"epochs"', '{"nosuch"', "cycle_epochs in recipe, got nosuch"),
        ("bars.py", '{"epochs"', '{"nosuch"', "cycle_epochs in recipe, got nosuch"),
    ],
)
def test_a_setting_that_there_is_not_is_told_with_its_table(
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
