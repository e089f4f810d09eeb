"""Folded batch norm is the same function, and leaves the model alone."""

import pytest
import torch
from torch import nn

from helpers.attack_tasks import frozen
from poisonbench.influence.head import head_inputs, pixel_influence
from poisonbench.models import build_model
from poisonbench.models.classifier import Classifier, initialise
from poisonbench.models.cpu.first_block import FrozenBlock, is_first_block
from poisonbench.models.folding import folded

SHAPES = {"mnist-cnn": (1, 28, 28), "mnist-cnn-small": (1, 20, 17), "cifar-resnet18": (3, 16, 16)}


def trained_looking(model: Classifier, generator):
    """Running statistics, scales and shifts far from their initial values."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.2, 3, generator=generator)
            with torch.no_grad():
                layer.weight.uniform_(-1, 2, generator=generator)
                layer.bias.normal_(0, 0.5, generator=generator)
    return model.double()


@pytest.mark.parametrize("name", SHAPES)
def test_embedding_and_maps_are_the_models(name):
    generator = torch.Generator().manual_seed(1)
    shape = SHAPES[name]
    mean, std = (0.4,) * shape[0], (0.2,) * shape[0]
    model = trained_looking(build_model(name, shape, 5, mean, std, generator), generator)
    images = torch.rand(6, *shape, dtype=torch.float64, generator=generator)
    labels = torch.arange(6) % 5
    copied = folded(model)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in copied.modules())
    with frozen(model), torch.no_grad():
        expected = head_inputs(model, images)
        direction = torch.randn(5, expected.shape[1], dtype=torch.float64, generator=generator)
        torch.testing.assert_close(head_inputs(copied, images), expected, rtol=1e-9, atol=1e-9)
        maps = pixel_influence(model, images, labels, direction)
        assert maps.abs().max() > 0
        torch.testing.assert_close(
            pixel_influence(copied, images, labels, direction), maps, rtol=1e-8, atol=1e-9
        )


def test_what_a_fold_replaces_is_left_alone_and_its_copy_follows_nothing():
    generator = torch.Generator().manual_seed(3)
    model = trained_looking(
        build_model("cifar-resnet18", (3, 16, 16), 5, (0.4,) * 3, (0.2,) * 3, generator), generator
    )
    state = {name: value.clone() for name, value in model.state_dict().items()}
    copied = folded(model)
    shared = {value.data_ptr() for value in copied.state_dict().values()}
    assert shared.isdisjoint(value.data_ptr() for value in model.state_dict().values())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(value.requires_grad for value in copied.parameters())
    assert all(value.requires_grad for value in model.parameters())


def test_a_norm_without_running_statistics_is_kept():
    layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    assert isinstance(folded(layers)[1], nn.BatchNorm2d)


def block(conv):
    return [conv, nn.Identity(), nn.ReLU(), nn.AvgPool2d(2)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(12, 10), (12, 11), (11, 10)])
def test_the_frozen_block_is_its_layers(bias, dtype, size):
    generator = torch.Generator().manual_seed(4)
    conv = nn.Conv2d(1, 7, (5, 3), bias=bias).to(dtype).requires_grad_(False)
    images = torch.rand(4, 1, *size, dtype=dtype, generator=generator).requires_grad_(True)
    fast = FrozenBlock(conv)(images)
    expected = nn.Sequential(*block(conv))(images)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(fast, expected, rtol=0, atol=tolerance)
    upstream = torch.randn(expected.shape, dtype=dtype, generator=generator)
    (gradient,) = torch.autograd.grad(fast, images, upstream)
    (exact_gradient,) = torch.autograd.grad(expected, images, upstream)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, exact_gradient, rtol=0, atol=tolerance)


def test_the_frozen_block_may_run_again_before_its_backward_pass():
    generator = torch.Generator().manual_seed(6)
    fast = FrozenBlock(nn.Conv2d(1, 7, 5).requires_grad_(False))
    first = torch.rand(3, 1, 8, 8, generator=generator).requires_grad_(True)
    second = torch.rand(5, 1, 8, 8, generator=generator).requires_grad_(True)
    alone = [torch.autograd.grad(fast(one).sum(), one)[0] for one in (first, second)]
    together = torch.autograd.grad(fast(first).sum() + fast(second).sum(), (first, second))
    assert all(map(torch.equal, alone, together))


def test_the_frozen_block_is_float32_under_autocast():
    conv = nn.Conv2d(1, 40, 5).requires_grad_(False)
    leaf = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(5))
    leaf.requires_grad_(True)
    fast = FrozenBlock(conv)
    with torch.autocast("cpu", torch.bfloat16):
        output = fast(leaf)
    assert torch.equal(output, fast(leaf))
    assert torch.autograd.grad(output.square().sum(), leaf)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("layers", "fits"),
    [
        (block(nn.Conv2d(1, 4, 3)), True),
        ([*block(nn.Conv2d(1, 4, 3)), nn.Flatten()], True),
        (block(nn.Conv2d(2, 4, 3)), False),
        (block(nn.Conv2d(1, 4, 3, stride=2)), False),
        (block(nn.Conv2d(1, 4, 3, padding=1)), False),
        (block(nn.Conv2d(1, 4, 3, dilation=2)), False),
        (block(nn.Conv2d(1, 4, 3))[:3], False),
        ([*block(nn.Conv2d(1, 4, 3))[:3], nn.AvgPool2d(3)], False),
        ([*block(nn.Conv2d(1, 4, 3))[:3], nn.AvgPool2d(2, ceil_mode=True)], False),
        ([*block(nn.Conv2d(1, 4, 3))[:3], nn.MaxPool2d(2)], False),
    ],
)
def test_which_blocks_are_replaced(layers, fits):
    assert is_first_block(layers, nn.Identity) == fits


def test_the_mnist_network_has_one():
    generator = torch.Generator().manual_seed(1)
    model = build_model("mnist-cnn", (1, 28, 28), 5, (0.4,), (0.2,), generator)
    assert sum(isinstance(layer, FrozenBlock) for layer in folded(model).modules()) == 1


def test_the_model_stays_as_it_is():
    generator = torch.Generator().manual_seed(2)
    model = build_model("cifar-resnet18", (3, 16, 16), 4, (0.0,) * 3, (1.0,) * 3, generator)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copied = folded(model)
    assert not copied.training
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        copied.head.weight.zero_()
    assert torch.equal(model.head.weight, before["head.weight"])


def test_only_norms_that_follow_a_convolution_are_folded():
    generator = torch.Generator().manual_seed(3)
    features = nn.Sequential(
        nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten()
    )
    model = Classifier(features, nn.Linear(48, 3), (0.0, 0.0), (1.0, 1.0))
    initialise(model, generator)
    trained_looking(model, generator)
    copied = folded(model)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in copied.modules()) == 2
    images = torch.rand(3, 2, 6, 6, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(copied(images), model.eval()(images), rtol=1e-12, atol=1e-12)


class _NormAct(nn.BatchNorm2d):
    """As in timm: a batch norm with its activation."""

    def forward(self, images):
        return super().forward(images).relu()


class _DoubledConv(nn.Conv2d):
    """A convolution that is not its weights alone."""

    def forward(self, images):
        return 2 * super().forward(images)


@pytest.mark.parametrize("first", [nn.Conv2d, _DoubledConv])
@pytest.mark.parametrize("second", [nn.BatchNorm2d, _NormAct])
@pytest.mark.parametrize("side", [3, 5])
def test_subclasses_that_do_more_keep_doing_it(first, second, side):
    generator = torch.Generator().manual_seed(2)
    layers = nn.Sequential(first(8, 8, side), second(8), nn.Flatten())
    width = 8 * (13 - side) ** 2
    model = Classifier(layers, nn.Linear(width, 3), (0.0,) * 8, (1.0,) * 8)
    initialise(model, generator)
    model = trained_looking(model, generator).eval()
    images = torch.rand(2, 8, 12, 12, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(folded(model)(images), model(images))


class _Skipping(nn.Sequential):
    """A subclass that does not run its layers one after the other."""

    def forward(self, images):
        return self[1](images + self[0](images))


def _used_twice(part):
    conv, other = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    norm, last = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
    if part == "weight":
        other.weight = conv.weight
    chains = {
        "convolution": (conv, norm, nn.ReLU(), conv),
        "norm": (conv, norm, nn.ReLU(), norm),
        "weight": (conv, norm, nn.ReLU(), other, last),
    }
    return nn.Sequential(*chains[part])


def _hooked(add):
    conv, norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
    add(conv, norm)
    return nn.Sequential(conv, norm)


def _five_wide():
    """A convolution that Winograd's would take, with a hook."""
    conv = nn.Conv2d(8, 8, 5, padding=0)
    conv.register_forward_hook(lambda layer, inputs, output: 2 * output)
    return nn.Sequential(nn.ConstantPad2d(2, 0.0), conv)


@pytest.mark.parametrize(
    "build",
    [
        lambda: _Skipping(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)),
        lambda: _used_twice("convolution"),
        lambda: _used_twice("norm"),
        lambda: _used_twice("weight"),
        lambda: _hooked(lambda conv, norm: nn.utils.spectral_norm(conv)),
        lambda: _hooked(lambda conv, norm: conv.register_forward_hook(lambda *all: 2 * all[2])),
        lambda: _hooked(
            lambda conv, norm: norm.register_forward_pre_hook(lambda *all: 2 * all[1][0])
        ),
        _five_wide,
    ],
)
def test_what_is_more_than_a_chain_keeps_its_function(build):
    generator = torch.Generator().manual_seed(4)
    layers = nn.Sequential(build(), nn.Flatten())
    model = Classifier(layers, nn.Linear(8 * 144, 3), (0.0,) * 8, (1.0,) * 8)
    model = trained_looking(model, generator).eval()
    images = torch.rand(2, 8, 12, 12, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(folded(model)(images), model(images))


@pytest.mark.parametrize("first", [1, 2])
def test_a_flatten_of_other_ranks_passes_its_gradient(first):
    """Of (B, 16) or of tokens (B, 1, 16)."""
    layers = nn.Sequential(nn.Flatten(first), nn.Linear(16, 3), nn.Flatten())
    model = Classifier(layers, nn.Linear(3, 3), (0.0,), (1.0,)).eval()
    images = torch.rand(2, 1, 4, 4, requires_grad=True)
    expected = torch.autograd.grad(model(images).square().sum(), images)
    got = torch.autograd.grad(folded(model)(images).square().sum(), images)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", SHAPES)
def test_a_copy_can_be_copied(name):
    generator, shape = torch.Generator().manual_seed(9), SHAPES[name]
    model = build_model(name, shape, 5, (0.4,) * shape[0], (0.2,) * shape[0], generator)
    images = torch.rand(2, *shape, generator=generator).requires_grad_(True)
    outputs = [folded(model)(images), folded(folded(model))(images)]
    gradients = [torch.autograd.grad(output.square().sum(), images)[0] for output in outputs]
    assert torch.equal(*outputs)
    assert torch.equal(*gradients)
