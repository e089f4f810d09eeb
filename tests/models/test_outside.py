"""Networks of torchvision and of files: adapted as stated, seeded, refused without a linear end."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.command_line import cli, done
from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.models import build_model, check_model

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
def fraction(channels, height, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 8)), 8.0
def half(channels, height, width):
    return small(channels, height, width).half()
def nothing(channels, height, width):
    return None, 8
"""
PLUG_IN = """
import random
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from poisonbench.entries import NetworkEntry
ENTRY = NetworkEntry("own-network", "x")
class Layers(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.convolution, self.dropout = nn.Conv2d(channels, 8, 3), nn.Dropout(0.5)
        self.place = nn.Parameter(torch.randn(8, 1, 1))
    def forward(self, images):
        return (self.dropout({images}) + self.place).mean((2, 3))
def features(channels, height, width):
    return Layers(channels){form}, {width}
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
        ("FILE:fraction", "expected a whole number of features, got float"),
        ("FILE:half", r"weights of torch.float32, .*got 1.weight of torch.float16; call .float"),
        ("FILE:nothing", "expected a network, got NoneType"),
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


@pytest.fixture
def plug_in(tmp_path):
    """Registers a plug-in network, with what is not sound about it, for the test alone."""

    def register(**fault):
        sound = {"images": "self.convolution(images)", "form": "", "width": 8}
        (tmp_path / "plug_in.py").write_text(PLUG_IN.format(**{**sound, **fault}))
        registry.register(tmp_path / "plug_in.py")

    with registry.forgetting():
        yield register


def test_a_plug_in_s_weights_and_training_are_the_seed_s_alone(plug_in):
    plug_in()
    check_model("own-network", (1, 28, 28))
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    first, again, other = (build("own-network", seed=seed) for seed in (0, 0, 1))
    # Between the builds nothing has moved the global generator, so here it is moved.
    with torch.random.fork_rng(devices=[]):
        torch.rand(3)
        moved = build("own-network")
        results = [model.train()(images) for model in (first, again, moved)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(first.features.place, other.features.place)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"images": "F.dropout(self.convolution(images))"}, "that draws from torch's global gen"),
        ({"images": "self.convolution(images) * random.random()"}, "draws from random's global"),
        ({"images": "self.convolution(images) * np.random.rand()"}, "draws from numpy's global"),
        ({"width": 8.0}, r"plug_in.py \w+: expected a whole number of features, got float; mend"),
        ({"form": ".double()"}, r"plug_in.py \w+: .* place of torch.float64; call .float\(\)"),
    ],
)
def test_a_plug_in_that_is_not_the_seed_s_or_does_not_fit_is_refused(plug_in, fault, reason):
    plug_in(**fault)
    with pytest.raises(UsageError, match=reason):
        check_model("own-network", (1, 28, 28))
