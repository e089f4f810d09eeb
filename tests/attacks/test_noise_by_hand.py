"""LSP, AR and REM as their papers' steps say, redone by hand from the same draws."""

import math

import pytest
import torch

from helpers.attack_tasks import small_classifier, task_for
from poisonbench.attacks import ar, lsp
from poisonbench.attacks import robust_error_minimising as rem

K = 3


def task_of(images, labels):
    return task_for(small_classifier().requires_grad_(True), images, labels, seed=3)


@pytest.fixture
def images():
    return 0.4 + 0.2 * torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    return torch.tensor([2, 0, 1, 1, 0, 2, 0, 1, 2])


def test_lsp_draws_around_a_centre_by_a_matrix_of_its_class(images, labels):
    """10 and -10 for centres, uniform on [-1, 1] for matrices, patches of 2 x 2 of one value."""
    task = task_of(images, labels)
    cells, draws = 16, torch.Generator().manual_seed(3)
    classes = task.num_classes
    bits = torch.randint(0, 2, (classes, cells), generator=draws)
    assert len(bits.unique(dim=0)) == classes
    matrices = 2 * torch.rand(classes, cells, cells, generator=draws) - 1
    expected = images.clone()
    for label in range(K):
        rows = [row for row in range(9) if labels[row] == label]
        normal = torch.randn(len(rows), cells, generator=draws)
        for row, own in zip(rows, normal, strict=True):
            point = own @ matrices[label] + 10 * (2.0 * bits[label] - 1)
            noise = torch.empty(8, 8)
            for i in range(8):
                for j in range(8):
                    noise[i, j] = point[4 * (i // 2) + j // 2]
            expected[row] += 0.3 * noise / noise.norm()
    poisoned = lsp.craft(task, lsp.Config(patch=2, epsilon=0.3))
    assert torch.allclose(poisoned, expected.clamp(0, 1), rtol=0, atol=1e-5)


def test_ar_takes_filters_of_short_fields_that_earlier_ones_respond_to(monkeypatch):
    """Of 192 of the paper's 3,072 values: norms up to 50 / 4, responses from 10 / 16 on."""
    norms = torch.tensor([[12.4, 1.0, math.nan, 12.4], [12.4, 12.6, 1.0, 12.4], [12.4, 1, 1, 12.4]])
    responses = {1: 0.62, 2: 0.63}
    asked = []

    def fields(start, filters):
        unit = torch.ones(3, 8, 8) / math.sqrt(192)
        return unit[..., None] * norms.flatten()

    def response(field, earlier):
        asked.append(float(field.norm()))
        return responses[len(asked)]

    monkeypatch.setattr(ar, "_CANDIDATES", 4)
    monkeypatch.setattr(ar, "fields", fields)
    monkeypatch.setattr(ar, "response", response)
    found = ar.find_filters(2, (3, 8, 8), torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(0)
    taps = torch.randn(4, 3, 9, generator=draws)
    torch.randn(3, 12, 12, 3, 4, generator=draws)
    again = torch.randn(4, 3, 9, generator=draws)
    # The second and third have a long field; the last is too like the first, the next is not.
    assert len(asked) == 2
    for filters, own in ((found[0], taps[0]), (found[1], again[0])):
        own[:, 8] = 0
        assert torch.allclose(filters.flatten(1), own / own.sum(1, keepdim=True))


def test_rem_trains_on_attacked_views_of_its_noisy_images_at_falling_rates(
    images, labels, monkeypatch
):
    config = rem.Config(batches=5, batch_size=4, learning_rate=0.1, precision="float32")
    steps = []
    monkeypatch.setattr(rem.RobustNoise, "minimise", lambda self, network, x, y: x + 0.03)
    monkeypatch.setattr(rem.RobustNoise, "augmented", lambda self, x: x.flip(-1))
    monkeypatch.setattr(rem.RobustNoise, "attacked", lambda self, network, x, y: 0.5 * x)
    monkeypatch.setattr(
        rem.TrainedNetwork, "step", lambda self, x, y, rate: steps.append((x, y, rate))
    )
    poisoned = rem.craft(task_of(images, labels), config)
    possible = 0.5 * (images + 0.03).flip(-1)
    for seen, own_labels, _ in steps:
        distances = (seen[:, None] - possible).abs().amax((2, 3, 4))
        assert float(distances.amin(1).max()) < 1e-6
        assert torch.equal(own_labels, labels[distances.argmin(1)])
    # A tenth after two and after four fifths of the batches.
    assert [rate for *_, rate in steps] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert torch.allclose(poisoned, images + 0.03)
