"""The networks, their initial weights and the classifier around them."""

import math

import pytest
import torch
from torch import nn

from poisonbench.core.errors import UsageError
from poisonbench.data.splits import digest_tensors
from poisonbench.models import build_model, default_network
from poisonbench.models.classifier import Classifier, initialise
from poisonbench.registry import NETWORKS


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(name, shape, num_classes=10, seed=0, mean=None, std=None):
    mean = mean or (0.0,) * shape[0]
    return build_model(name, shape, num_classes, mean, std or (1.0,) * shape[0], generator(seed))


@pytest.fixture(scope="module")
def resnet():
    return build("cifar-resnet18", (3, 32, 32))


def test_mnist_cnn_is_the_papers():
    model = build("mnist-cnn", (1, 28, 28))
    assert sum(p.numel() for p in model.parameters()) == 117_430
    assert model.head.in_features == 1600
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_the_small_mnist_cnn_is_the_reference_codes():
    model = build("mnist-cnn-small", (1, 28, 28))
    assert sum(p.numel() for p in model.parameters()) == 10_615
    assert model.head.in_features == 400
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [10, 25]
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_cifar_resnet18_is_the_papers(resnet):
    assert sum(p.numel() for p in resnet.parameters()) == 11_173_962
    assert resnet.head.in_features == 512
    with torch.no_grad():
        assert resnet.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    convolutions = [layer for layer in resnet.modules() if isinstance(layer, nn.Conv2d)]
    assert all(layer.bias is None for layer in convolutions)
    # 17 weighted convolutions and three 1x1 shortcuts, at strides 1, 2, 2, 2.
    assert len(convolutions) == 20
    assert sum(layer.stride == (2, 2) for layer in convolutions) == 6


def test_the_small_colour_network_pools_early_in_three_stages():
    model = build("cifar-small", (3, 32, 32))
    assert sum(p.numel() for p in model.parameters()) == 292_954
    assert model.head.in_features == 128
    sizes = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(
                lambda layer, inputs, output: sizes.append((layer.out_channels, output.shape[-1]))
            )
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    stages = [(32, 32), (32, 16), (64, 16), (64, 8), (128, 8), (128, 4)]
    assert sizes == [(16, 32), *stages]
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [width for width, _ in sizes]


def test_the_part_of_cifar10_has_the_small_network_and_other_data_the_papers():
    assert default_network(("cifar10", "cifar10@10000")) == "cifar-small"
    assert default_network(("cifar10",)) == "cifar-resnet18"
    assert default_network(("cifar10", "cifar10@5000")) == "cifar-resnet18"
    assert default_network(("mnist", "mnist-sample", "mnist-sample@1000")) == "mnist-cnn"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mnist-cnn", (1, 16, 16)),
        ("mnist-cnn", (3, 32, 32)),
        ("mnist-cnn", (2, 17, 30)),
        ("mnist-cnn-small", (3, 17, 32)),
        ("cifar-resnet18", (1, 9, 9)),
        ("cifar-resnet18", (3, 20, 33)),
        ("cifar-small", (1, 16, 19)),
    ],
)
def test_other_image_sizes_give_logits(name, shape):
    model = build(name, shape, num_classes=7).eval()
    with torch.no_grad():
        images = torch.rand(2, *shape)
        assert model.embed(images).shape == (2, model.head.in_features)
        assert model(images).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("mnist-cnn", (1, 15, 28), "16 x 16 pixels, got 15 x 28"),
        ("mnist-cnn", (1, 28, 15), "16 x 16 pixels, got 28 x 15"),
        ("mnist-cnn-small", (1, 15, 28), "16 x 16 pixels, got 15 x 28"),
        ("cifar-resnet18", (3, 7, 32), "9 x 9 pixels, got 7 x 32"),
        ("cifar-resnet18", (3, 32, 7), "9 x 9 pixels, got 32 x 7"),
        ("cifar-small", (3, 32, 15), "16 x 16 pixels, got 32 x 15"),
    ],
)
def test_too_small_images_name_the_sizes_and_the_option(name, shape, message):
    with pytest.raises(UsageError, match=f"{name}.*{message}.*--model"):
        build(name, shape)


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"mnist-cnn.*cifar-resnet18.*did you mean 'mnist-cnn'"):
        build("mnist-cn", (1, 28, 28))


def layers_with_weights(model):
    return [
        layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ] + [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def test_initial_weights_are_pytorchs_default_distribution(resnet):
    for layer in layers_with_weights(resnet):
        fan_in = layer.weight[0].numel()
        bound = 1 / math.sqrt(fan_in)
        weight = layer.weight.detach()
        assert weight.abs().max() <= bound
        if weight.numel() > 1500:
            assert weight.max() > 0.98 * bound
            assert weight.min() < -0.98 * bound
            assert float(weight.var()) == pytest.approx(bound**2 / 3, rel=0.1)
            assert abs(weight.mean()) < 5 * bound / math.sqrt(3 * weight.numel())
    for layer in resnet.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.weight == 1).all())
            assert bool((layer.bias == 0).all())
            assert bool((layer.running_mean == 0).all())


def test_biases_and_transposed_convolutions_match_pytorchs_own():
    """Bounds and spread of every tensor are those of PyTorch's own initial values."""
    ours = nn.Sequential(
        nn.Conv2d(3, 64, 5), nn.ConvTranspose2d(16, 48, 3), nn.Linear(300, 200), nn.BatchNorm1d(4)
    )
    theirs = [parameter.detach().clone() for parameter in ours.parameters()]
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.fill_(9)
    initialise(ours, generator(3))
    for own, default in zip(ours.parameters(), theirs, strict=True):
        own = own.detach()
        assert not bool((own == 9).any())
        if own.numel() > 40:
            assert float(own.abs().max()) == pytest.approx(float(default.abs().max()), rel=0.15)
            assert float(own.std()) == pytest.approx(float(default.std()), rel=0.35)


def test_initial_weights_come_from_the_generator_alone():
    names = [
        digest_tensors(*build("mnist-cnn", (1, 28, 28), seed=s).state_dict().values())
        for s in (0, 0, 1)
    ]
    assert names[0] == names[1]
    assert names[0] != names[2]
    torch.rand(3)
    again = build("mnist-cnn", (1, 28, 28), seed=0)
    assert digest_tensors(*again.state_dict().values()) == names[0]


@pytest.mark.parametrize("name", [entry.name for entry in NETWORKS])
def test_building_leaves_the_global_generator_alone(name):
    before = torch.get_rng_state()
    build(name, (1, 28, 28))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_classifier_normalises():
    model = build("mnist-cnn", (2, 16, 16), mean=(0.3, 0.6), std=(0.2, 0.5)).eval()
    images = torch.rand(3, 2, 16, 16)
    by_hand = torch.stack([(images[:, 0] - 0.3) / 0.2, (images[:, 1] - 0.6) / 0.5], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model.embed(images), model.features(by_hand))
        torch.testing.assert_close(model(images), model.head(model.features(by_hand)))


def test_a_classifier_without_normalisation_sees_the_pixels():
    seen = []
    features = nn.Flatten()
    features.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model = Classifier(features, nn.Linear(4, 2), (0.0,), (1.0,))
    images = torch.rand(1, 1, 2, 2)
    model(images)
    assert seen[0] is images
