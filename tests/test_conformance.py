"""The conformance kit: our own methods keep its promises, and planted faults are found by name."""

import random
import re

import numpy as np
import pytest
import torch

from helpers.command_line import cli, done
from helpers.data_files import write_npz
from poisonbench import registry
from poisonbench.conformance import ConformanceError, checks_of, methods, subject_of

#: Settings with which a method acts in a run of three epochs.
SETTINGS = {
    "hint": {"schedule": (1, 2)},
    "epic": {"warmup": 1, "interval": 1, "fraction": 0.3},
    "friends": {"begin_epoch": 1},
    "dc": {"epochs_per_round": 1, "generator_width": 1 / 16, "surrogate_width": 1 / 16},
}
OURS = (*registry.DEFENSES, *registry.ATTACKS)
CHECKS = [
    pytest.param(check, id=f"{entry.name}-{check}")
    for entry in OURS
    for check in checks_of(entry, **SETTINGS.get(entry.name, {}))
]


@pytest.mark.parametrize("check", CHECKS)
def test_our_methods_conform(check):
    check()


DEFENSE = """
import torch
from dataclasses import dataclass
from poisonbench.core.settings import BaseConfig, setting
from poisonbench.defenses.base import Defense
from poisonbench.entries import DefenseEntry
ENTRY = DefenseEntry("faulty", "x")
VERSION = 1
@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    share: float = {setting}
class build(Defense):
    calls = 0
    def perturb_batch(self, state, images, labels):
        {body}
"""
ATTACK = """
import torch
from dataclasses import dataclass
from poisonbench.attacks.base import AttackConfig
from poisonbench.entries import AttackEntry
ENTRY = AttackEntry("faulty", "x", trains=False)
VERSION = 1
@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    pass
def craft(task, config):
    task.report(1, 1)
    {body}
"""
NETWORK = """
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from poisonbench.entries import NetworkEntry
ENTRY = NetworkEntry("faulty", "x")
class Layers(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.convolution = nn.Conv2d(channels, 8, 3)
        self.scale = nn.Parameter({scale})
    def forward(self, images):
        return ({images} * self.scale).mean((2, 3))
def features(channels, height, width):
    layers = nn.Sequential(Layers(channels), nn.Dropout(0.5))
    return {returned}
"""
GOOD = 'setting(0.5, "Share.", low=0, high=1)'
FAULTS = [
    (DEFENSE, "return images + torch.rand(1)", "global-generator-untouched"),
    (
        DEFENSE,
        "torch.manual_seed(0); return images + torch.rand(1)",
        "global-generator-untouched",
    ),
    (
        DEFENSE,
        "import numpy; numpy.random.seed(0); return images * numpy.random.rand()",
        "global-generator-untouched",
    ),
    (
        DEFENSE,
        "import numpy; return images * (1 + 0 * numpy.random.rand())",
        "global-generator-untouched",
    ),
    (
        DEFENSE,
        "import random; random.seed(0); return images * random.random()",
        "global-generator-untouched",
    ),
    (
        DEFENSE,
        "with torch.random.fork_rng(devices=[]): return images * torch.rand(1)",
        "determinism-by-seed",
    ),
    (DEFENSE, "return images.mul_(0.5)", "inputs-not-edited"),
    (DEFENSE, "self.calls += 1; return images * (1 - self.calls / 99)", "resume-to-the-same-bytes"),
    (
        DEFENSE,
        "return images\n"
        "    def extend(self, train, validation):\n"
        "        return type(train)(train.images, train.labels.flip(0))",
        "labels-kept",
    ),
    (DEFENSE, "state.note({'x': float('nan')}); return images", "finite-record"),
    (DEFENSE, "return images\n    def start_epochs(self, state): return state.train", "hooks"),
    (DEFENSE, "import os; return images * (os.urandom(1)[0] / 255)", "determinism-by-seed"),
    (
        DEFENSE,
        "from poisonbench.data.sources import load_dataset; return images",
        "test-split-and-poison-rows-out-of-reach",
    ),
    (DEFENSE, "self.memory[str(state.step)] = torch.zeros(10**6); return images", "memory"),
    (DEFENSE, "return images * torch.tensor([0.5])", "runs-on-an-accelerator"),
    (
        ATTACK,
        "rows = [torch.zeros(10**6) for _ in range(20)]; return task.images + 0 * len(rows)",
        "peak-memory",
    ),
    (ATTACK, "task.validation.labels.zero_(); return task.images + 0", "inputs-not-edited"),
    (
        ATTACK,
        "torch.manual_seed(0); return (task.images + 0 * torch.rand(1)).clamp(0, 1)",
        "global-generator-untouched",
    ),
    (
        ATTACK,
        "with torch.random.fork_rng(devices=[]): return task.images * torch.rand(1)",
        "determinism-by-seed",
    ),
    (ATTACK, "return (task.images + 2 * config.epsilon).clamp(0, 1)", "budget-after-rounding"),
]


def broken(path):
    names, messages = [], []
    for check in checks_of(path):
        try:
            check()
        except ConformanceError as error:
            names.append(check.name)
            messages.append(str(error))
    assert all(re.match(r"(model .*: )?expected .*; ", text) for text in messages)
    return names


@pytest.mark.parametrize(("template", "body", "name"), FAULTS, ids=[row[2] for row in FAULTS])
def test_a_planted_fault_is_found_by_name(template, body, name, tmp_path):
    path = tmp_path / "faulty.py"
    path.write_text(template.format(body=body, setting=GOOD))
    assert name in broken(path)


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        # Such weights and nn.Dropout are seen to in a run.
        ({"scale": "torch.randn(8, 1, 1)"}, []),
        ({"scale": "torch.randn(1)"}, ["determinism-by-seed"]),
        ({"images": "F.dropout(self.convolution(images))"}, ["determinism-by-seed"]),
        ({"images": "np.random.rand() * self.convolution(images)"}, ["determinism-by-seed"]),
        ({"returned": "layers, 8.0"}, ["feature-shape", "determinism-by-seed", "gradient"]),
        (
            {"returned": "layers.double(), 8"},
            ["feature-shape", "determinism-by-seed", "gradient"],
        ),
    ],
)
def test_a_network_s_chance_and_forms_are_found(fault, names, tmp_path):
    sound = {"scale": "torch.ones(8, 1, 1)", "images": "self.convolution(images)"}
    path = tmp_path / "faulty.py"
    path.write_text(NETWORK.format(**{**sound, "returned": "layers, 8", **fault}))
    assert broken(path) == names


def test_the_watch_leaves_global_generators_as_it_finds_them(tmp_path):
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())

    path = tmp_path / "faulty.py"
    path.write_text(DEFENSE.format(body="return images + torch.rand(1)", setting=GOOD))
    before = states()
    for check in checks_of(path):
        if check.name == "global-generator-untouched":
            with pytest.raises(ConformanceError, match="another state of torch's"):
                check()
    assert states() == before


def test_a_sound_method_has_no_fault(tmp_path):
    path = tmp_path / "faulty.py"
    path.write_text(DEFENSE.format(body="return images * self.config.share", setting=GOOD))
    assert broken(path) == []
    assert done("check", path).out.count(" ok\n") == len(checks_of(path))


@pytest.mark.parametrize("setting", ["0.5", 'setting(0.5, "Share.")'])
def test_an_option_without_help_or_bounds_is_found(setting, tmp_path):
    path = tmp_path / "faulty.py"
    path.write_text(DEFENSE.format(body="return images", setting=setting))
    assert broken(path) == ["options"]
    outcome = cli("check", path)
    assert outcome.code == 65
    assert "1 broken: options; mend it" in outcome.err


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("PROFILES", "{'nosuch': 3}"),
        ("PROFILES", "{'share': 'half'}"),
        ("RECIPE_CHANGES", "{'nosuch': 3}"),
        ("RECIPE_CHANGES", "{'epochs': 0}"),
    ],
)
def test_a_table_with_a_setting_or_value_that_there_is_not_is_found(table, fault, tmp_path):
    path = tmp_path / "faulty.py"
    code = DEFENSE.format(body="return images", setting=GOOD)
    path.write_text(f"{code}{table} = {{'paper': {{'imagenet': {fault}}}}}\n")
    (options,) = (check for check in checks_of(path) if check.name == "options")
    with pytest.raises(ConformanceError, match=rf"{table}\['paper'\]\['imagenet'\].*; mend it"):
        options()


SAVING = """done, noise, speed = 0, torch.zeros_like(task.images), torch.zeros_like(task.images)
    if (saved := task.checkpoint.load()) is not None:
        position, tensors = saved
        done, noise, speed = position["done"], tensors["noise"], {resumed}
    while done < 8:
        {early}
        drawn = torch.rand(speed.shape, generator=task.generator).to(speed.device)
        speed = 0.5 * speed + drawn - 0.5
        noise += config.epsilon / 20 * speed
        done += 1
        {late}
    return (task.images + noise.clamp(-config.epsilon, config.epsilon)).clamp(0, 1)"""
SAVE = 'task.checkpoint.save_if_due({"done": done}, {"noise": noise, "speed": speed})'


@pytest.mark.parametrize("places", [{"early": SAVE, "late": ""}, {"early": "", "late": SAVE}])
@pytest.mark.parametrize(
    ("resumed", "faults"),
    [
        ('tensors["speed"]', []),
        ('0 * tensors["speed"]', ["resume-to-the-same-bytes"]),
        # Only a stop at the second step shows this.
        ('(position["done"] != 2) * tensors["speed"]', ["resume-to-the-same-bytes"]),
    ],
)
def test_an_attack_that_saves_before_or_after_each_step(places, resumed, faults, tmp_path):
    path = tmp_path / "saving.py"
    path.write_text(ATTACK.format(body=SAVING.format(resumed=resumed, **places)))
    assert broken(path) == faults


def test_code_that_raises_is_told_with_its_line(tmp_path):
    path = tmp_path / "faulty.py"
    path.write_text(DEFENSE.format(body="return images.no_such()", setting=GOOD))
    rows = cli("check", path, "--json").json
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "no_such" in text)
    assert rows["options"] == "ok"
    assert rows["finite-record"].startswith("expected it to run through, got AttributeError: ")
    assert rows["finite-record"].endswith(f"no_such'; mend line {line} of {path}")


def test_a_fault_on_an_accelerator_is_told_with_its_line(tmp_path):
    path = tmp_path / "faulty.py"
    path.write_text(DEFENSE.format(body="return images * torch.tensor([0.25])", setting=GOOD))
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "[0.25]" in text)
    text = cli("check", path, "--json").json["runs-on-an-accelerator"]
    assert f"; mend line {line} of {path}: make tensors with device=images.device" in text


@pytest.mark.parametrize(
    ("name", "path"),
    [("a.pyenv/faulty.py", ""), ("a.pyenv/faulty.py", "b.py"), ("faulty.py", "c.py/images")],
)
def test_a_file_s_name_ends_at_the_py_before_a_colon_or_the_end(name, path, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(BARS)
    entry, rest = subject_of(f"{file}:{path}" if path else str(file))
    assert (entry.source.path, rest) == (str(file), path)


@pytest.mark.parametrize("name", [*registry.NETWORKS, "mnist-sample"])
def test_our_networks_and_data_conform(name):
    for check in checks_of(name):
        check()


BARS = """
import numpy as np
from poisonbench.data.arrays import make_split
from poisonbench.data.splits import RawData
from poisonbench.entries import DatasetEntry
ENTRY = DatasetEntry("bars", "x", takes_path=True)
def load(name, path, data_root):
    seed = int(path.read_text()) or None
    def split(size):
        images = np.random.default_rng(seed).integers(0, 256, (size, 8, 8), dtype=np.uint8)
        return make_split(images, np.arange(size) % 2, name)
    return RawData(split(8), split(4), ("a", "b"))
"""


def test_a_data_set_with_a_path(tmp_path):
    assert done("check", write_npz(tmp_path / "x.npz")).out.count(" ok\n") == 2
    plugin, seed = tmp_path / "bars.py", tmp_path / "seed"
    plugin.write_text(BARS)
    seed.write_text("1")
    assert done("check", f"{plugin}:{seed}").out.count(" ok\n") == 2
    assert done("check", f"bars:{seed}", "--plugin", plugin).out.count(" ok\n") == 2
    seed.write_text("0")
    outcome = cli("check", f"{plugin}:{seed}")
    assert outcome.code == 65
    assert "1 broken: determinism; mend it" in outcome.err


@pytest.mark.parametrize(
    ("returned", "part"),
    [
        ("split(8), Split(split(4).images, torch.arange(4) * count), names", "test"),
        (
            "split(8), split(4), names, Split(split(4).images, torch.arange(4) * count)",
            "validation",
        ),
        ("split(8), split(4), (str(count), 'b')", "class_names"),
        ("split(8), split(4), names, None, (count / 9,), (1.0,)", "mean"),
        ("split(8), split(4), names, None, (0.0,), (count / 9,)", "std"),
    ],
)
def test_another_part_of_a_data_set_from_a_second_call_is_found(returned, part, tmp_path):
    text = BARS.replace('RawData(split(8), split(4), ("a", "b"))', f"RawData({returned})")
    text = text.replace("    seed =", "    global count; count += 1\n    seed =")
    text += "import torch\nfrom poisonbench.data.splits import Split\n"
    (tmp_path / "bars.py").write_text(text + "count, names = 0, ('a', 'b')\n")
    (tmp_path / "seed").write_text("1")
    check = checks_of(f"{tmp_path / 'bars.py'}:{tmp_path / 'seed'}")[0]
    with pytest.raises(ConformanceError, match=f"from a second call, got another {part}; draw"):
        check()


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("npz", "expected npz:PATH, got no path"),
        ("mnist-sample:x", "expected mnist-sample without a path, got the path x"),
        ("hint:x", "expected a data set before a colon, got a defense and 'x'"),
        ("nbz:x", "did you mean 'npz'?"),
    ],
)
def test_a_path_where_there_is_none_or_none_where_one_is(subject, message):
    outcome = cli("check", subject)
    assert outcome.code == 2
    assert message in outcome.err


def test_slow_code_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(methods, "SLOWEST", 2)
    monkeypatch.setattr(methods, "GRACE", 0)
    path = tmp_path / "faulty.py"
    path.write_text(
        DEFENSE.format(
            body="[row.sum() for _ in range(2000) for row in images]; return images", setting=GOOD
        )
    )
    (speed,) = (check for check in checks_of(path) if check.name == "speed")
    with pytest.raises(ConformanceError, match="index tensors instead of looping"):
        speed()
