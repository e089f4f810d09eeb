"""Arrays, tensors and networks that Python code passes."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import poisonbench
from helpers.data_files import arrays
from poisonbench.core.errors import PoisonbenchError, StoreError, UsageError
from poisonbench.data.in_memory import keep_arrays
from poisonbench.data.sources import load_dataset
from poisonbench.models import build_model
from poisonbench.models.own import own_network
from poisonbench.registry import forgetting, network_name

ROOT = Path(__file__).parents[1]
COLOUR = tuple(arrays((8, 8, 3)).values())
SHAPE = (3, 8, 8)


class Net(nn.Module):
    def __init__(self, width=4, scale=1.0):
        super().__init__()
        self.convolution = nn.Conv2d(3, width, 3)
        self.norm = nn.LayerNorm([width, 6, 6])
        self.head = nn.Linear(width * 36, 10)
        self.scale = scale

    def forward(self, images):
        return self.head(self.norm(self.convolution(images) * self.scale).flatten(1))


class Other(Net):
    def forward(self, images):
        return super().forward(images.sqrt())


def test_the_same_images_are_one_file_whatever_holds_them(tmp_path):
    x, y, tx, ty = COLOUR
    channels_first = [np.moveaxis(images, 3, 1) for images in (x, tx)]
    same = [
        COLOUR,
        (torch.tensor(channels_first[0]), torch.tensor(y), torch.tensor(channels_first[1]), ty),
        (channels_first[0], list(y), channels_first[1], ty.astype(np.int32)),
        (x / 255, y[:, None], (tx / 255).astype(np.float32), ty),
    ]
    (name,) = {keep_arrays(data, tmp_path) for data in same}
    assert len(list(tmp_path.iterdir())) == 1
    data = load_dataset(name, tmp_path, 0)
    assert data.image_shape == SHAPE
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1), tx)
    assert keep_arrays((x, (y + 1) % 3, tx, ty), tmp_path) != name


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_channels_are_last_of_an_array_and_second_of_a_tensor(kind, tmp_path):
    images = np.arange(60 * 27, dtype=np.uint8).reshape(60, 3, 3, 3)
    labels = np.arange(60) % 3
    given = torch.tensor(images) if kind == "tensor" else images
    data = load_dataset(keep_arrays((given, labels, given, labels), tmp_path), tmp_path, 0)
    expected = images if kind == "tensor" else images.transpose(0, 3, 1, 2)
    assert np.array_equal(data.test.images, expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (COLOUR[:3], "expected a name or .images, labels, test_images, test_labels., got 3"),
        ((COLOUR[0] / 100, *COLOUR[1:]), r"floats in \[0, 1\], got .* x_train .*; divide"),
        ((COLOUR[0] / np.float64("nan"), *COLOUR[1:]), "x_train that are NaN or infinite; look"),
        ((COLOUR[0].astype(int), *COLOUR[1:]), "train images and labels: .* type uint8"),
        ((COLOUR[0][..., :2], *COLOUR[1:]), "with C 1 or 3"),
        ((COLOUR[0], COLOUR[1][1:], *COLOUR[2:]), "one integer label for each of 60"),
        ((*COLOUR[:3], COLOUR[3] / 2), "test images and labels: expected one integer label"),
        (Path("x.npz"), "got .*Path; pass a tuple of the four, or npz:PATH as text"),
        (None, "expected a name or .*, got NoneType; pass"),
        (dict.fromkeys("abcd", COLOUR[0]), "got dict"),
        ((part for part in COLOUR), "got generator"),
        (([[1, 2], [3]], *COLOUR[1:]), "expected x_train as one array or tensor of numbers, got"),
        ((COLOUR[0][:0], COLOUR[1][:0], *COLOUR[2:]), "images in the train split, got none"),
        ((COLOUR[0] / 255, COLOUR[1], COLOUR[2][:0] / 255, COLOUR[3][:0]), "test split, got none"),
        ((COLOUR[0][:, :0], COLOUR[1], COLOUR[2][:, :0], COLOUR[3]), r"of shape \(3, 0, 8\)"),
        ((COLOUR[0], COLOUR[1] * 0, *COLOUR[2:]), "dataset: expected at least 2 classes in train"),
        ((COLOUR[0], COLOUR[1] * 2, *COLOUR[2:]), "number the classes from 0 without gaps"),
        ((*COLOUR[:2], COLOUR[2][:, :5], COLOUR[3]), "dataset: expected images of one size"),
        (tuple(part[:3] for part in COLOUR), "dataset: expected more than 1 training images"),
    ],
)
def test_what_is_no_data_set_is_refused(data, message, tmp_path):
    with pytest.raises(PoisonbenchError, match=message):
        poisonbench.craft("durp", data, results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_tensors_that_numpy_has_not(tmp_path):
    x, y, tx, ty = COLOUR
    whole = [torch.tensor(images // 255).float() for images in (x, tx)]
    names = {
        keep_arrays((first, y, second, ty), tmp_path)
        for first, second in (
            [image.permute(0, 3, 1, 2) for image in whole],
            [image.permute(0, 3, 1, 2).bfloat16() for image in whole],
            [image.permute(0, 3, 1, 2).to_sparse() for image in whole],
        )
    }
    assert len(names) == 1


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to"):
        poisonbench.craft("durp", COLOUR, results=tmp_path / "file")


def built(name, seed):
    generator = torch.Generator().manual_seed(seed)
    return build_model(name, SHAPE, 3, (0.0,) * 3, (1.0,) * 3, generator).state_dict()


def test_a_network_is_its_architecture_and_weights_are_the_seeds():
    network = Net()
    name = own_network(network, SHAPE)
    first = built(name, 1)
    before = copy.deepcopy(network.state_dict())
    assert all(torch.equal(first[key], value) for key, value in built(name, 1).items())
    assert not torch.equal(first["head.weight"], built(name, 2)["head.weight"])
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    state = torch.get_rng_state()
    for same in (
        network.eval().requires_grad_(False),
        Net,
        lambda: Net(),
        lambda c, h, w: Net(c + 1),
    ):
        assert own_network(same, SHAPE) == name
        again = built(name, 1)
        assert all(torch.equal(first[key], value) for key, value in again.items())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("other", [Net(5), Net(scale=2.0), Other()])
def test_another_width_setting_or_source_is_another_network(other):
    assert own_network(other, SHAPE) != own_network(Net(), SHAPE)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "expected a name, an nn.Module or a callable that builds one, got int"),
        (lambda: 3, "got one that gives int; return the network"),
        (lambda width: Net(width), "without arguments, or of channels, .* got one of width"),
        (lambda: Net("wide"), "got TypeError"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.ReLU()), "last layer is linear"),
        (Net().half(), "weights of torch.float32, .* of torch.float16; call .float"),
        (Net().bfloat16(), "weights of torch.float32, .* of torch.bfloat16; call .float"),
        (Net(4, scale=torch.ones(7)), "expected a network for images"),
    ],
)
def test_what_is_no_network_is_refused(model, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        poisonbench.defend("none", COLOUR, rho=0, model=model, results=tmp_path / "results")


class Setting:
    def __init__(self, value):
        self.value = value


def _closure(function):
    return lambda images: function(images)


def _hooked(factor):
    network = Net()
    network.convolution.register_forward_hook(lambda layer, inputs, output: factor * output)
    return network


def _with(value):
    network = Net()
    network.more = value
    return network


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.nn.functional.relu, torch.nn.functional.gelu),
        (torch.relu, torch.sin),
        (partial(torch.nn.functional.leaky_relu, negative_slope=0.1), torch.nn.functional.relu),
        (partial(torch.clamp, min=0), partial(torch.clamp, min=1)),
        (_closure(torch.relu), _closure(torch.sin)),
        ({"slope": 0.0}, {"slope": 1.0}),
        ({1, 2}, {1, 3}),
        (torch.zeros(8), torch.ones(8)),
        (np.zeros(8), np.ones(8)),
        (Setting(1), Setting(2)),
        ([nn.ReLU()], [nn.GELU()]),
        (torch.float32, torch.float16),
    ],
)
def test_another_value_that_a_layer_holds_is_another_network(first, second):
    names = [own_network(_with(value), SHAPE) for value in (first, second)]
    assert names[0] != names[1]
    assert names == [own_network(_with(value), SHAPE) for value in (first, second)]


def test_another_hook_is_another_network():
    names = [own_network(network, SHAPE) for network in (Net(), _hooked(1), _hooked(2), _hooked(2))]
    assert len(set(names)) == 3
    assert names[2] == names[3]


class Dropping(Net):
    def forward(self, images):
        return super().forward(torch.nn.functional.dropout(images, 0.5, self.training))


class Normed(Net):
    def __init__(self):
        super().__init__()
        nn.utils.spectral_norm(self.convolution)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Dropping(), "training that draws nothing at random, .*nn.Dropout, which is turned off"),
        (
            Normed,
            r"start that the run's seed draws, got .*weight_orig drawn from a global generator",
        ),
    ],
)
def test_what_is_not_the_seeds_is_refused(model, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        poisonbench.defend("none", COLOUR, rho=0, model=model, results=tmp_path / "results")


def test_a_class_without_source_is_refused():
    names = {"Net": Net, "__name__": "elsewhere"}
    exec("class Hidden(Net):\n    def forward(self, images):\n        return images", names)
    with pytest.raises(UsageError, match="source can be read, got Hidden"):
        own_network(names["Hidden"](), SHAPE)


def test_a_command_says_that_it_cannot_build_it():
    with pytest.raises(UsageError, match=r"which Python code passed; .* FILE.py:FUNCTION"):
        network_name("python:Net@0123456789ab")


def test_an_unknown_figure_is_answered_with_all_there_are(tmp_path):
    with pytest.raises(UsageError, match=r"expected one of 1, 2, .*, got 'sensitivty'; did you"):
        poisonbench.figure("sensitivty", results=tmp_path)
    with pytest.raises(UsageError, match="figure 3: expected a data set of the papers' tables"):
        poisonbench.figure("3", COLOUR, results=tmp_path)


def test_an_assessment_of_arrays_says_what_it_would_cost(tmp_path):
    data = tuple(arrays((16, 16, 3)).values())
    options = {"dry_run": True, "trials": 1, "attacks": ["lsp"], "results": tmp_path}
    plan = poisonbench.assess(data, methods=["jpeg"], **options)
    assert (plan.facts["attacks"], plan.facts["methods"]) == (["lsp"], ["none", "jpeg"])
    assert plan.facts["estimated_seconds"] > 0
    assert (plan.sentences, plan.page) == ((), None)
    with pytest.raises(UsageError, match=r"^minutes: expected over 0, got -1"):
        poisonbench.assess(data, minutes=-1, **options)


def test_an_assessment_knows_what_is_registered(tmp_path, capfd):
    plugin = tmp_path / "wash.py"
    code = "from poisonbench.defenses.none import PROFILES, VERSION, Config, build\n"
    entry = "from poisonbench.entries import DefenseEntry\nENTRY = DefenseEntry('wash', 'x')\n"
    plugin.write_text(code + entry)
    with forgetting():
        poisonbench.register(plugin)
        data = tuple(arrays((16, 16, 3)).values())
        options = {"dry_run": True, "trials": 1, "attacks": ["lsp"], "results": tmp_path}
        plan = poisonbench.assess(data, methods=["wash"], quiet=True, **options)
    assert plan.facts["methods"] == ["none", "wash"]
    assert capfd.readouterr().err == ""
