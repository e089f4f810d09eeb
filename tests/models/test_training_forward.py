"""Winograd's convolution and the quick training pass: the layers' own values and gradients."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poisonbench.models import build_model
from poisonbench.models.classifier import Classifier
from poisonbench.models.cpu import training_forward as quick_module
from poisonbench.models.cpu import winograd
from poisonbench.models.cpu.training_forward import FirstBlock, quick_forward
from poisonbench.models.cpu.winograd import WinogradConv, cook_toom


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cnn(size=28, channels=1, seed=0, name="mnist-cnn"):
    """A network for MNIST, with scales and shifts as if trained."""
    shape, mean, std = (channels, size, size), (0.4,) * channels, (0.3,) * channels
    model = build_model(name, shape, 5, mean, std, generator(seed))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(-1, 2, generator=generator(seed + 1))
                layer.bias.normal_(0, 0.5, generator=generator(seed + 2))
                layer.running_mean.normal_(0, 0.5, generator=generator(seed + 3))
    return model.to(memory_format=torch.channels_last).train()


def batch(count, size=28, channels=1, seed=5):
    images = torch.rand(count, channels, size, size, generator=generator(seed))
    labels = torch.arange(count) % 5
    return images.contiguous(memory_format=torch.channels_last), labels


def loss_and_gradients(forward, model, images, labels):
    model.zero_grad()
    loss = F.cross_entropy(forward(images), labels)
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}


# Winograd's convolution


def test_the_transforms_are_a_correlation():
    into, kernel, out_of = cook_toom()
    rng = np.random.default_rng(0)
    for _ in range(5):
        signal, filtered = rng.normal(size=8), rng.normal(size=5)
        correlation = out_of @ ((kernel @ filtered) * (into @ signal))
        assert np.allclose(correlation, np.correlate(signal, filtered, "valid"), atol=1e-12)


@pytest.mark.parametrize(
    ("images", "outputs", "bias"),
    [((2, 8, 12, 12), 9, True), ((1, 11, 12, 20), 8, False), ((3, 8, 8, 8), 8, True)],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_it_is_a_convolution_with_its_gradients(images, outputs, bias, dtype, tolerance, layout):
    conv = nn.Conv2d(images[1], outputs, 5, bias=bias).to(dtype)
    pixels = torch.randn(images, dtype=dtype, generator=generator(1)).contiguous(
        memory_format=layout
    )
    assert winograd.fits(conv)
    assert winograd.covers(pixels)
    upstream = torch.randn(
        images[0], outputs, images[2] - 4, images[3] - 4, dtype=dtype, generator=generator(2)
    )
    results = []
    for function in (
        conv,
        WinogradConv(conv, keep=True),
    ):
        leaf = pixels.clone(memory_format=torch.preserve_format).requires_grad_(True)
        output = function(leaf)
        leaves = (leaf, *conv.parameters())
        results.append((output, *torch.autograd.grad(output, leaves, upstream)))
    for quick_result, expected in zip(results[1], results[0], strict=True):
        assert quick_result.shape == expected.shape
        scale = expected.abs().max()
        torch.testing.assert_close(quick_result / scale, expected / scale, rtol=0, atol=tolerance)


def test_without_keeping_the_weight_gets_no_gradient():
    conv = nn.Conv2d(8, 8, 5)
    pixels = torch.rand(1, 8, 8, 8, generator=generator(3)).requires_grad_(True)
    WinogradConv(conv)(pixels).sum().backward()
    assert conv.weight.grad is None
    assert pixels.grad is not None


def test_buffers_serve_batches_of_any_size():
    conv = nn.Conv2d(8, 10, 5).double()
    layer = WinogradConv(conv, keep=True)
    for count in (3, 1, 5, 2):
        pixels = torch.rand(count, 8, 12, 12, dtype=torch.float64, generator=generator(count))
        output = layer(pixels)
        torch.testing.assert_close(output, conv(pixels), rtol=0, atol=1e-11)
    assert layer.workspace.take("V", (2, 3), pixels).shape == (2, 3)


def test_an_output_survives_the_next_call():
    layer = WinogradConv(nn.Conv2d(8, 8, 5))
    first, second = torch.rand(2, 1, 8, 8, 8, generator=generator(4))
    output = layer(first)
    before = output.clone()
    layer(second)
    assert torch.equal(output, before)


def test_buffers_of_inference_serve_gradients():
    layer = WinogradConv(nn.Conv2d(8, 8, 5).requires_grad_(False))
    pixels = torch.rand(2, 8, 8, 8, generator=generator(8))
    with torch.inference_mode():
        layer(pixels)
    leaf = pixels.clone().requires_grad_(True)
    layer(leaf).sum().backward()
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 5, padding=2),
        nn.Conv2d(8, 8, 5, stride=2),
        nn.Conv2d(8, 8, 5, dilation=2),
        nn.Conv2d(8, 8, 5, groups=2),
        nn.Conv2d(1, 40, 5),
        nn.Linear(8, 8),
    ],
)
def test_other_layers_do_not_fit(layer):
    assert winograd.fits(nn.Conv2d(8, 8, 5))
    assert not winograd.fits(layer)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(8, 12, True), (12, 14, False), (4, 8, False), (9, 8, False)]
)
def test_tiles_cover_some_sizes(height, width, expected):
    images = torch.rand(2, 8, height, width, generator=generator(6))
    assert winograd.covers(images) == expected
    conv = nn.Conv2d(8, 8, 5, padding=0)
    if height >= 5:
        torch.testing.assert_close(
            WinogradConv(conv, keep=True)(images), conv(images), rtol=0, atol=1e-4
        )


# The training pass


def stages_of(model, size):
    return quick_module._stages(list(model.features), (size, size))


def test_the_networks_of_mnist_size_take_both_ways():
    kinds = [type(stage) for stage in stages_of(cnn(), 28)]
    assert kinds[:2] == [FirstBlock, WinogradConv]
    assert nn.Conv2d not in kinds


@pytest.mark.parametrize("name", ["mnist-cnn", "mnist-cnn-small"])
@pytest.mark.parametrize(
    ("size", "channels", "count"), [(28, 1, 6), (28, 1, 1), (16, 1, 5), (20, 1, 4), (28, 3, 3)]
)
def test_a_step_is_the_layers_own(size, channels, count, name):
    """Against the layers in float64; the layers in float32 say what rounding may do."""
    model = cnn(size, channels, name=name)
    exact, plain = copy.deepcopy(model).double(), copy.deepcopy(model)
    quick = quick_forward(model, (size, size))
    assert quick is not model
    images, labels = batch(count, size, channels)
    expected = loss_and_gradients(exact, exact, images.double(), labels)
    ordinary = loss_and_gradients(plain, plain, images, labels)
    actual = loss_and_gradients(quick, model, images, labels)
    assert actual[0] == pytest.approx(float(expected[0]), rel=1e-5)
    for weight, exact_gradient in expected[1].items():
        # A convolution's bias has no effect before batch norm: its gradient is rounding.
        scale = exact_gradient.abs().max().clamp(min=1e-3)
        error = (actual[1][weight].double() - exact_gradient).abs().max() / scale
        usual = (ordinary[1][weight].double() - exact_gradient).abs().max() / scale
        assert error < 1e-3 + 5 * usual, weight
    for (key, buffer), exact_gradient in zip(model.named_buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(
            buffer.to(exact_gradient.dtype), exact_gradient, rtol=1e-4, atol=1e-5, msg=key
        )


def test_the_first_block_is_exact_in_float64():
    model = cnn(seed=3).double()
    images, _ = batch(4)
    images, upstream = images.double(), torch.randn(4, 40, 12, 12, generator=generator(7)).double()
    plain = copy.deepcopy(model)
    block, layers = FirstBlock(*model.features[:2]), plain.features[:4]
    output, expected = block(images), layers(images)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
    output.backward(upstream)
    expected.backward(upstream)
    for mine, theirs in zip(model.features[:2].parameters(), layers.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-9)
    for mine, theirs in zip(model.features[:2].buffers(), layers.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize(
    ("level", "contrast"), [(0.0, 0.0), (1.0, 0.0), (0.9, 1 / 255), (0.9, 4 / 255), (0.1, 2 / 255)]
)
def test_images_of_little_contrast_train_as_they_would(level, contrast, count):
    """Blank images alone in a batch included: no variance is negative."""
    model = cnn(seed=6)
    with torch.no_grad():
        model.features[0].weight *= 3
    exact, plain = copy.deepcopy(model).double(), copy.deepcopy(model)
    images, _ = batch(count)
    images = (level + contrast * (images - 0.5)).clamp(0, 1)
    with torch.no_grad():
        expected = exact(images.double())
        output = quick_forward(model, (28, 28))(images)
        usual = (plain(images).double() - expected).abs().max()
    assert output.isfinite().all()
    assert (output.double() - expected).abs().max() <= 1e-3 + 5 * usual
    for (name, buffer), exact_buffer in zip(model.named_buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(
            buffer.to(exact_buffer.dtype), exact_buffer, rtol=1e-4, atol=1e-5, msg=name
        )


def test_a_backward_pass_that_does_not_follow_its_forward_pass_is_refused():
    model = cnn()
    quick = quick_forward(model, (28, 28))
    images, labels = batch(4)
    first, second = (F.cross_entropy(quick(images), labels) for _ in range(2))
    with pytest.raises(RuntimeError, match="directly after its forward pass"):
        first.backward()
    again = F.cross_entropy(quick(images), labels)
    again.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="directly after its forward pass"):
        again.backward()
    del second


def test_steps_of_several_sizes_follow_each_other():
    model = cnn()
    plain, quick = copy.deepcopy(model), None
    quick = quick_forward(model, (28, 28))
    for count in (6, 3, 6):
        images, labels = batch(count, seed=count)
        output, expected = (
            loss_and_gradients(forward, network, images, labels)[0]
            for forward, network in ((quick, model), (plain, plain))
        )
        assert output == pytest.approx(float(expected), rel=1e-5)


def hooked(model):
    model.features[0].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.hold(features=True, norms=False),
        lambda model: model.hold(features=False, norms=True),
        lambda model: model.double(),
        hooked,
    ],
)
def test_other_states_run_as_they_are(change):
    model = cnn()
    change(model)
    assert quick_forward(model, (28, 28)) is model


@pytest.mark.parametrize(
    "features",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.ReLU()),
        nn.Linear(784, 4),
        nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()),
    ],
)
def test_other_networks_run_as_they_are(features):
    model = Classifier(features, nn.Linear(4, 2), (0.0,), (1.0,))
    assert quick_forward(model, (28, 28)) is model


@pytest.mark.parametrize(
    ("place", "layer"),
    [
        (0, nn.Conv2d(1, 40, 3)),
        (1, nn.BatchNorm2d(40, affine=False)),
        (1, nn.BatchNorm2d(40, track_running_stats=False)),
        (1, nn.BatchNorm2d(40, momentum=None)),
        (2, nn.LeakyReLU()),
        (3, nn.MaxPool2d(2)),
        (3, nn.AvgPool2d(2, padding=1)),
        (3, nn.AvgPool2d(3)),
    ],
)
def test_other_first_layers_do_not_fit(place, layer):
    layers = list(cnn().features)
    assert FirstBlock.fits(layers, 28, 28)
    layers[place] = layer
    assert not FirstBlock.fits(layers, 28, 28)


def test_an_odd_size_does_not_fit():
    assert not FirstBlock.fits(list(cnn().features), 27, 28)
