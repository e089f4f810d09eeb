"""Recalibrated batch norm against statistics that are computed by hand."""

import copy

import pytest
import torch
from torch import nn

from helpers.attack_tasks import fake_split, small_classifier
from poisonbench.models.norms import norms_of, recalibrate


def batches(count=250):
    return (fake_split(count, 0, (2, 8, 8)).images.float() / 255).tensor_split(3)


def drifted(model):
    for norm in norms_of(model):
        norm.running_mean.fill_(7.0)
        norm.running_var.fill_(0.01)
    return model


def test_statistics_are_the_mean_of_the_batches_own():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).double()
    with torch.no_grad():
        outputs = [model[0](images.double()) for images in batches()]
    means = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    variances = torch.stack([out.var((0, 2, 3)) for out in outputs]).mean(0)
    model.float()
    recalibrate(drifted(model), batches())
    assert torch.allclose(model[1].running_mean.double(), means, rtol=1e-4, atol=1e-5)
    assert torch.allclose(model[1].running_var.double(), variances, rtol=1e-4)


def test_what_drifted_in_the_statistics_is_undone_and_weights_stay():
    model = small_classifier()
    before = copy.deepcopy(model)
    recalibrate(model, batches())
    again = drifted(copy.deepcopy(model))
    recalibrate(again, batches())
    for (name, one), other in zip(
        model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    for one, other in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_and_what_is_held_stay(training):
    model = small_classifier()
    model.hold(features=True, norms=True)
    model.train(training)
    modes = [module.training for module in model.modules()]
    momenta = [norm.momentum for norm in norms_of(model)]
    before = norms_of(model)[0].running_mean.clone()
    recalibrate(model, batches())
    assert [module.training for module in model.modules()] == modes
    assert [norm.momentum for norm in norms_of(model)] == momenta
    assert not torch.equal(norms_of(model)[0].running_mean, before)
