"""Orthogonal projection: what is taken out, what is kept, and the classifier that says what."""

import pytest
import torch
import torch.nn.functional as F

from helpers.defense_problems import state_for
from helpers.tiny_training import K, batch_rows, network, recipe, split, weights_digest
from helpers.tiny_training import train as tiny_train
from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Split
from poisonbench.defenses import orthogonal_projection as projection
from poisonbench.training.state import TrainingSet

WIDE = (2, 20, 28)


def draws(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_basis_is_orthonormal_and_spans_the_weights():
    weights = draws(4, 27)
    basis = projection.span_of(weights)
    assert (basis.T @ basis - torch.eye(4, dtype=torch.float64)).abs().max() < 1e-12
    coefficients = torch.linalg.lstsq(basis, weights.T).solution
    assert (basis @ coefficients - weights.T).abs().max() < 1e-10


def test_the_span_goes_and_the_rest_stays():
    weights, images = draws(4, 27), draws(10, 3, 3, 3, seed=1)
    basis = projection.span_of(weights)
    left = projection.without_span(images, basis).flatten(1)
    assert (left @ weights.T).abs().max() < 1e-10
    # Directions orthogonal to the span see what they saw.
    whole = torch.linalg.qr(torch.cat([basis, draws(27, 23, seed=2)], 1))[0]
    others = whole[:, 4:]
    assert (left @ others - images.flatten(1) @ others).abs().max() < 1e-10
    again = projection.without_span(left.view(images.shape), basis)
    assert (again.flatten(1) - left).abs().max() < 1e-10


def test_the_classifier_is_plain_sgd_with_two_decays():
    data = split(20)
    train = TrainingSet(data.images, data.labels)
    config = projection.Config(probe_epochs=4, probe_batch_size=8)
    weights = projection.train_probe(train, config, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    layer = torch.nn.Linear(128, K, bias=False)
    layer.weight.data = (torch.rand(K, 128, generator=generator) * 2 - 1) / 128**0.5
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    for _ in range(4):
        for rows in torch.randperm(20, generator=generator).split(8):
            optimizer.zero_grad()
            pixels = data.images[rows].float().flatten(1) / 255
            F.cross_entropy(layer(pixels), data.labels[rows]).backward()
            optimizer.step()
        schedule.step()
    assert (weights - layer.weight).abs().max() < 1e-6


def separable(size=200):
    """Noise of one direction a class, under pixels of another scale."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(size) % K
    content = torch.randint(60, 190, (size, 2, 8, 8), generator=generator)
    marks = torch.randint(0, 2, (K, 2, 8, 8), generator=generator) * 80 - 40
    return TrainingSet((content + marks[labels]).to(torch.uint8), labels)


def test_noise_that_each_class_has_its_own_of_is_removed():
    train = separable()
    notes, config = [], projection.Config(probe_batch_size=32)
    defense = projection.build(config, recipe())
    projected = defense.start_epoch(state_for(network(), train, notes=notes))
    assert projected.images.dtype is torch.float32
    (note,) = notes
    assert note["round"] == "orthogonal-projection"
    assert note["probe_accuracy"] > 0.95
    means = [
        torch.stack([one.pixels(one.labels == k).mean(0).flatten() for k in range(K)])
        for one in (train, projected)
    ]
    spreads = [float((m - m.mean(0)).norm()) for m in means]
    assert spreads[1] < 0.5 * spreads[0]
    change = (projected.images - train.pixels(slice(None))).abs().mean()
    assert note["mean_abs_change"] == pytest.approx(float(change))


def one_pixel_shortcuts():
    """Even images, light or dark, in which one pixel of its class is white or black."""
    generator, labels = torch.Generator().manual_seed(0), torch.arange(80) % K
    images = torch.randint(0, 216, (80, 1, 1, 1), generator=generator)
    images = images + torch.randint(0, 40, (80, *WIDE), generator=generator)
    images[torch.arange(80), :, 0, labels] = (255 * (labels % 2 == 0))[:, None]
    return Split(images.to(torch.uint8), labels)


def test_what_leaves_the_range_is_trained_on_as_it_is():
    """The paper clips nothing, and one-pixel shortcuts end far over 1."""
    data, config, seen = one_pixel_shortcuts(), projection.Config(), []

    class Watched(projection.OrthogonalProjection):
        def perturb_batch(self, state, images, labels):
            seen.extend(zip(batch_rows().tolist(), images, strict=True))
            return images

    tiny_train(Watched(config, recipe()), data=data, recipe=recipe(epochs=1), shape=WIDE)
    train = TrainingSet(data.images, data.labels)
    weights = projection.train_probe(train, config, Seeds().generator("defense", "probe", 0, 0))
    expected = projection.without_span(train.pixels(slice(None)), projection.span_of(weights))
    assert expected.max() > 2
    assert len(seen) == 80
    for row, image in seen:
        assert torch.equal(image, expected[row])


def test_it_happens_once_and_is_the_same_again():
    models = [
        tiny_train(projection.build(projection.Config(probe_epochs=2), recipe()))[0]
        for _ in range(2)
    ]
    assert weights_digest(models[0]) == weights_digest(models[1])
    assert weights_digest(models[0]) != weights_digest(tiny_train()[0])
    train = separable(8)
    state = state_for(network(), train, epoch=1)
    assert projection.build(projection.Config(), recipe()).start_epoch(state) is train


@pytest.mark.parametrize(
    "change", [{"probe_epochs": 0}, {"probe_batch_size": 0}, {"probe_learning_rate": 0.0}]
)
def test_settings_out_of_range_name_the_setting(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}: expected"):
        projection.Config(**change)
