"""Accuracies of a trained network, by kept and by batch statistics."""

import copy

import pytest
import torch
from torch import nn

from helpers.tiny_training import K, network, recipe, split, train, weights_digest
from poisonbench.data.splits import Split
from poisonbench.training import evaluation
from poisonbench.training.evaluation import (
    accuracy,
    accuracy_by_class,
    logits_of,
    right_answers,
    right_by_batch_statistics,
    stratified_batches,
)


def test_accuracy_is_counted_image_by_image(monkeypatch):
    model, _ = train(recipe=recipe(epochs=1))
    data = split(23, seed=8)
    data = Split(data.images, torch.where(data.labels == 2, 0, data.labels))
    one = copy.deepcopy(model).eval()
    right, of_class = [], {k: [] for k in range(K)}
    for image, label in zip(data.images, data.labels.tolist(), strict=True):
        with torch.no_grad():
            hit = int(one(image[None].float() / 255).argmax()) == label
        right.append(hit)
        of_class[label].append(hit)
    share = sum(right) / 23
    assert 0 < share < 1
    monkeypatch.setattr(evaluation, "pass_size", lambda images, gradients: 5)
    model.train()
    assert accuracy(model, data) == pytest.approx(share, abs=1e-7)
    answers = right_answers(model, data)
    assert answers.tolist() == right
    by_class = accuracy_by_class(answers, data.labels, K)
    assert by_class == pytest.approx([sum(v) / len(v) if v else 0 for v in of_class.values()])
    assert by_class[2] == 0
    # Neither the mode nor batch norm's statistics moved.
    assert model.training
    before = weights_digest(one)
    logits_of(model, data.images)
    assert weights_digest(model) == before


def test_logits_of_bytes_and_of_pixels_agree():
    model = network().eval()
    images = split(6).images
    torch.testing.assert_close(logits_of(model, images), logits_of(model, images.float() / 255))


def test_batch_statistics_are_those_of_the_batch_at_hand():
    model, _ = train()
    data = split(250)
    generator = torch.Generator().manual_seed(3)
    batches = stratified_batches(data.labels, generator)
    before = weights_digest(model)
    right = right_by_batch_statistics(model, data, torch.Generator().manual_seed(3))
    assert weights_digest(model) == before
    naive = copy.deepcopy(model).train()
    for rows in batches:
        with torch.no_grad():
            predicted = naive(data.images[rows].float() / 255).argmax(1)
        assert (predicted == data.labels[rows]).tolist() == right[rows].tolist()
    # Other running statistics change the usual answers and not these.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 3
    same = right_by_batch_statistics(model, data, torch.Generator().manual_seed(3))
    assert same.tolist() == right.tolist()
    assert right_answers(model, data).double().mean() < right.double().mean()


def test_a_network_without_batch_norm_has_no_batch_statistics():
    model, data = network(), split(30)
    model.features[1] = nn.Identity()
    assert right_by_batch_statistics(model, data, torch.Generator()) is None


@pytest.mark.parametrize("size", [1, 99, 151, 1_000])
def test_stratified_batches_hold_each_row_once_and_each_class_evenly(size):
    labels = torch.arange(size) % 3 // 2  # two thirds of class 0
    batches = stratified_batches(labels, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(batches).tolist()) == list(range(size))
    for rows in batches:
        share = len(rows) / size
        for label in (0, 1):
            expected = share * int((labels == label).sum())
            assert abs(int((labels[rows] == label).sum()) - expected) <= 1
