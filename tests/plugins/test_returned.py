"""What other people's code returns: poisons, what hooks give, data sets; and one line otherwise."""

import re
from pathlib import Path

import pytest

from helpers.command_line import cli, done, last_line
from helpers.own_methods import LEARNED, NOTHING, TRIGGER, attack_file, trigger_file
from poisonbench.results.records import read_record


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
        ("task.images.to('meta')", r"torch.float32 on meta"),
        ("task.images.to_sparse()", r"torch.float32; mend it"),
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


@pytest.mark.parametrize(
    ("hook", "written", "arguments"),
    [
        ("start_epoch", "state.original.images.numpy()", EPOCH),
        ("start_epoch", "state.original.labels.data", EPOCH),
        ("start_epoch", "state.validation.labels.numpy()", EPOCH),
        ("extend", "train.labels.numpy()", "train, validation"),
    ],
)
def test_what_no_version_counts_is_seen_when_the_training_ends(
    hook, written, arguments, tmp_path, tiny, results
):
    body = f"{written}[:9] = 1; return {'train' if hook == 'extend' else 'state.train'}"
    file = defense_file(tmp_path / "own.py", hook, body, arguments)
    words = ("--plugin", file, "--method", "own", "--dataset", tiny, "--clean", "--epochs", "1")
    error = last_line(2, results, "defend", *words)
    assert "own: expected the images and labels given to it as they were" in error
    assert not list(results.glob("runs/*.json"))


@pytest.mark.parametrize(
    ("hook", "body", "arguments"),
    [
        ("perturb_batch", "images.mul_(0.5); return images", BATCH),
        (
            "start_epoch",
            "pixels = state.train.pixels(slice(None)); pixels.mul_(0.5); "
            "return state.train.with_images(pixels)",
            EPOCH,
        ),
    ],
)
def test_pixels_that_a_hook_is_handed_are_its_own(hook, body, arguments, tmp_path, tiny, results):
    file = defense_file(tmp_path / "own.py", hook, body, arguments)
    words = ("--plugin", file, "--method", "own", "--dataset", tiny, "--clean", "--epochs", "2")
    done("defend", *words, "--results", results)


def test_a_method_with_almost_a_hook_s_name_is_named(tmp_path, tiny, results):
    file = defense_file(tmp_path / "own.py", "perturb_batches", "return images", BATCH)
    words = ("--plugin", file, "--method", "own", "--dataset", tiny, "--clean", "--epochs", "1")
    warned = "warning: own: nothing calls perturb_batches, which is not perturb_batch; rename it"
    assert warned in done("defend", *words, "--results", results).err


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
        ("split, split, (1, 2, 3)", "class_names as a tuple of texts for own, got tuple; mend it"),
        ("split, split, 'abc'", "class_names as a tuple of texts for own, got str; mend it"),
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


def test_names_of_classes_may_be_numpy_s(tmp_path):
    file = data_file(tmp_path / "own.py", "split, split, list(np.array(names))")
    assert done("data", "show", "own", "--json", "--plugin", file).json["classes"] == [*"abc"]


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
