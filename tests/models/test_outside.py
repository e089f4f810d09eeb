"""Networks of torchvision and of files: adapted as stated, seeded, refused without a linear end."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.command_line import cli, done
from poisonbench.core.errors import UsageError
from poisonbench.models import build_model

FILE = """
from torch import nn
def small(channels, height, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 8), nn.ReLU(),
                         nn.Linear(8, 3))
def soft(channels, height, width):
    return nn.Sequential(small(channels, height, width), nn.Softmax(1))
def counted(channels, height, width, classes):
    return small(channels, height, width)
def wide(channels, height, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 8)), 9
"""


def build(name, shape=(1, 28, 28), seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = shape[0]
    return build_model(name, shape, 5, (0.5,) * channels, (0.2,) * channels, generator)


def test_a_network_of_torchvision_is_adapted_to_small_images():
    state = torch.get_rng_state()
    model = build("torchvision:resnet18", (1, 32, 32))
    assert torch.equal(torch.get_rng_state(), state)
    first = model.features.conv1
    assert (first.in_channels, first.kernel_size, first.stride) == (1, (3, 3), (1, 1))
    assert isinstance(model.features.maxpool, nn.Identity)
    assert model.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    assert model.head.in_features == 512
    large = build("torchvision:resnet18", (3, 96, 96)).features
    assert large.conv1.stride == (2, 2)
    assert isinstance(large.maxpool, nn.MaxPool2d)


@pytest.mark.parametrize("name", ["torchvision:shufflenet_v2_x0_5", "torchvision:swin_t"])
def test_the_generator_decides_all_weights(name):
    first, again, other = (build(name, (3, 32, 32), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("torchvision:resnet81", "did you mean 'resnet18'"),
        ("torchvision:squeezenet1_0", "whose last layer is linear"),
        ("FILE:soft", "whose last layer is linear"),
        ("FILE:counted", r"channels, height and width, got counted\(channels, .*a default"),
        ("FILE:wide", r"of shape \(B, 9\), got features of \(2, 8\) for B = 2"),
        ("FILE:absent", "expected a function absent"),
        ("nowhere.py:small", "expected a Python file"),
        ("keras:small", "timm:NAME"),
    ],
)
def test_what_cannot_be_used_is_a_clear_sentence(name, reason, tmp_path):
    (tmp_path / "net.py").write_text(FILE)
    with pytest.raises(UsageError, match=reason):
        build(name.replace("FILE", f"{tmp_path}/net.py"))


def test_a_run_of_a_file_s_network_names_its_digest_not_its_place(tiny, results, tmp_path):
    ids = []
    for folder in ("a", "b"):
        path = tmp_path / folder / "net.py"
        path.parent.mkdir()
        path.write_text(FILE)
        words = ("defend", "--dataset", tiny, "--clean", "--method", "hint", "--schedule", "1")
        words = (*words, "--epochs", "2", "--model", f"{path}:small", "--results", results)
        run = done(*words, "--json").json
        record = json.loads(Path(run["path"]).read_text())
        assert record["spec"]["model"].startswith("net.py:small@")
        assert record["labels"]["source"]["model"]["file"] == "net.py"
        ids.append(run["id"])
    assert ids[0] == ids[1]
    assert cli("report", "--runs", "--results", results).code == 0
    assert "torchvision:NAME" in done("list", "models").out
