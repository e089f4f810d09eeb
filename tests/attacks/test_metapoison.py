"""MetaPoison: its gradient against finite differences, its unrolling against SGD steps."""

import copy
import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from helpers.attack_tasks import POISONS, SHAPE, SMALL, TARGETS, K, noise_task, small_classifier
from poisonbench.attacks import metapoison as mp
from poisonbench.core.errors import DivergedError
from poisonbench.core.settings import resolve
from poisonbench.data.budget import quantise
from poisonbench.models.classifier import Classifier


def problem(bn: str, unroll: int = 2, size: int = 5):
    """A network in float64, K + 1 batches, a target and its intended class."""
    model = small_classifier().double().train(bn == "batch")
    generator = torch.Generator().manual_seed(5)
    draw = torch.rand(unroll + 1, size, *SHAPE, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K, (unroll + 1, size), generator=generator)
    target = torch.rand(SHAPE, generator=generator, dtype=torch.float64)
    return model, list(zip(draw, labels, strict=True)), target, torch.tensor(2)


def plain_loss(model, batches, target, intended, rate):
    """The same by an optimiser's steps on a copy, one example after the other in the loss."""
    model = copy.deepcopy(model)
    sgd = torch.optim.SGD(model.parameters(), lr=rate)
    losses = []
    for number, (images, labels) in enumerate(batches):
        logits = model(torch.cat([images, target[None]]))
        if number > 0:
            row = logits[-1].tolist()
            own = row.pop(int(intended))
            losses.append(max(max(row) - own, -100))
        sgd.zero_grad()
        F.cross_entropy(logits[:-1], labels).backward()
        sgd.step()
    return sum(losses) / len(losses)


@pytest.mark.parametrize("bn", ["batch", "eval"])
@pytest.mark.parametrize("unroll", [1, 2, 3])
def test_unrolling_is_a_plain_loop_of_sgd_steps(bn, unroll):
    model, batches, target, intended = problem(bn, unroll)
    before = copy.deepcopy(model.state_dict())
    loss = mp.unrolled_loss(model, batches, target, intended, 0.5).item()
    assert loss == pytest.approx(plain_loss(model, batches, target, intended, 0.5), abs=1e-12)
    assert abs(loss - plain_loss(model, batches, target, intended, 0.0)) > 1e-3
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("bn", ["batch", "eval"])
def test_the_meta_gradient_is_the_slope(bn):
    """Finite differences in float64, of the loop of SGD steps, along random directions."""
    model, batches, target, intended = problem(bn)
    moved = batches[0][0].clone().requires_grad_()
    rest = batches[1:]
    loss = mp.unrolled_loss(model, [(moved, batches[0][1]), *rest], target, intended, 0.5)
    (gradient,) = torch.autograd.grad(loss, moved)
    assert gradient.abs().max() > 1e-4
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = torch.randn(moved.shape, generator=generator, dtype=torch.float64)
        ends = [
            plain_loss(
                model,
                [(moved.detach() + sign * 1e-5 * direction, batches[0][1]), *rest],
                target,
                intended,
                0.5,
            )
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_the_margin_leaves_the_intended_class_out_of_the_others():
    """All other logits are negative: a mask of 0 would compete with them."""
    logits = torch.tensor([-3.0, -1.0, 2.0, -2.0])
    assert float(mp.carlini_wagner(logits, torch.tensor(2))) == -3.0
    assert float(mp.carlini_wagner(logits, torch.tensor(3))) == 4.0
    assert float(mp.carlini_wagner(100 * logits, torch.tensor(2))) == -100.0


def test_only_the_first_step_carries_a_gradient(monkeypatch):
    seen = []

    def spy(model, batches, *rest):
        seen.append([images for images, _ in batches])
        return real(model, batches, *rest)

    real = mp.unrolled_loss
    monkeypatch.setattr(mp, "unrolled_loss", spy)
    mp.craft(noise_task(), dataclasses.replace(SMALL, steps=1, unroll=3))
    assert seen
    for first, *later in seen:
        assert first.requires_grad
        assert len(later) == 3
        assert not any(images.requires_grad for images in later)


def test_a_batch_keeps_its_poisons_in_the_steps_that_follow(monkeypatch):
    """The poisons come first, with their labels; the rest is the next clean batch."""
    seen = []

    def spy(model, batches, target, *rest):
        seen.append((batches, target))
        return real(model, batches, target, *rest)

    real = mp.unrolled_loss
    monkeypatch.setattr(mp, "unrolled_loss", spy)
    task = noise_task(slice(0, 1))
    mp.craft(task, dataclasses.replace(SMALL, steps=1))
    total = 0
    for batches, target in seen:
        assert torch.equal(target, task.targets[0])
        assert [len(images) for images, _ in batches] == [8, 8, 8]
        images, labels = batches[0]
        clean = task.train.images.float() / 255
        num_poisons = sum(not any(torch.equal(image, one) for one in clean) for image in images)
        total += num_poisons
        assert num_poisons > 0
        assert (labels[:num_poisons] == 1).all()
        for later, later_labels in batches[1:]:
            assert torch.equal(later[:num_poisons], images[:num_poisons])
            for image, label in zip(later[num_poisons:], later_labels[num_poisons:], strict=True):
                row = next(n for n, one in enumerate(clean) if torch.equal(image, one))
                assert label == task.train.labels[row]
    assert total == POISONS


def places_of(num_rows: int, poisons):
    places = torch.full((num_rows,), -1)
    places[torch.tensor(poisons)] = torch.arange(len(poisons))
    return places


@pytest.mark.parametrize("dense", [None, 2])
def test_an_epoch_has_each_poison_once_and_no_poison_among_its_own_clean_rows(dense):
    places = places_of(41, [3, 8, 20, 33, 40])
    config = dataclasses.replace(SMALL, poisons_per_batch=dense)
    epochs = [
        list(mp.meta_batches(places, config, torch.Generator().manual_seed(seed)))
        for seed in (0, 0, 1)
    ]
    for epoch in epochs:
        assert torch.cat([poisons for poisons, _ in epoch]).sort().values.tolist() == [
            0,
            1,
            2,
            3,
            4,
        ]
        for poisons, rows in epoch:
            assert len(rows) == config.unroll + 1
            assert (places[rows[0]] == -1).all()
            if dense:
                assert len(poisons) in (1, 2)
                assert all(len(clean) == 6 for clean in rows)
                assert len({int(row) for clean in rows for row in clean}) == 18
            else:
                assert len(poisons) + len(rows[0]) in (8, 1)
    first, same, other = (str(epoch) for epoch in epochs)
    assert first == same != other


def test_the_rate_warms_up_and_drops():
    config = mp.Config(craft_rate=1.0)
    rates = [mp.craft_rate(step, config) for step in (0, 3, 4, 19, 20, 39, 40)]
    assert rates == pytest.approx([0.04, 0.64, 1, 1, 0.1, 0.1, 0.01])
    flat = dataclasses.replace(config, warm_up=0, rate_drops=())
    assert {mp.craft_rate(step, flat) for step in range(60)} == {1.0}


def loss_of(task, poisons, target: int, model, config, batches: int = 8):
    """The unrolled loss of one target's poisons, over batches that crafting did not draw."""
    clean = torch.ones(len(task.train), dtype=torch.bool)
    clean[task.rows[target]] = False
    rows = clean.nonzero().flatten()
    losses = []
    for seed in range(batches):
        order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
        steps = [
            (
                torch.cat([poisons[target], task.train.images[part].float() / 255]),
                torch.cat([task.labels[target], task.train.labels[part]]),
            )
            for part in order.split(8)[: config.unroll + 1]
        ]
        rate = config.inner_learning_rate
        losses.append(plain_loss(model, steps, task.targets[target], task.intended[target], rate))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("bn", ["batch", "eval"])
def test_the_unrolled_loss_falls_more_than_by_noise(bn):
    config = dataclasses.replace(SMALL, steps=12, bn=bn, inner_learning_rate=0.3)
    task = noise_task()
    model = small_classifier().train(bn == "batch")
    poisons = mp.craft(task, config)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, task.images.shape, generator=generator) * 2 - 1
    noise = (task.images + config.epsilon * signs).clamp(0, 1)
    for target in range(TARGETS):
        before, noisy, after = (
            loss_of(task, images, target, model, config) for images in (task.images, noise, poisons)
        )
        assert after < before - 0.05
        assert after < noisy - 0.05


def test_each_craft_step_uses_every_network_at_another_age():
    asked, used = [], []

    class Watched(Classifier):
        def forward(self, images):
            used.append((*self.age, self.training))
            return super().forward(images)

    def snapshots(number, ends):
        asked.append((number, list(ends)))
        models = []
        for end in ends:
            model = small_classifier(10 * number + end)
            model.__class__ = Watched
            model.age = (number, end)
            models.append(model)
        return models

    config = dataclasses.replace(SMALL, start="staggered", surrogates=3, steps=4, bn="batch")
    mp.craft(noise_task(slice(0, 1), snapshots=snapshots), config)
    assert asked == [(number, [0, 1, 2]) for number in range(3)]
    ages = [age for age, _ in itertools.groupby(used)]
    assert ages == [(j, (j + c) % 3, True) for c in range(4) for j in range(3)]


def test_the_finetuning_form_takes_trained_networks_in_eval_mode():
    asked = []

    def snapshots(number, ends):
        asked.append((number, list(ends)))
        return [small_classifier(number)]

    mp.craft(noise_task(snapshots=snapshots), dataclasses.replace(SMALL, steps=1, surrogates=2))
    assert asked == [(0, [4]), (1, [4])]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"poisons_per_batch": 2},
        {"craft_optimizer": "adam", "craft_rate": 200 / 255, "warm_up": 2, "rate_drops": (3,)},
        {"start": "staggered", "surrogates": 2, "bn": "batch"},
    ],
)
def test_the_budget_holds_exactly_and_every_poison_moves(changes):
    config = dataclasses.replace(SMALL, steps=4, epsilon=8 / 255, **changes)
    task = noise_task()
    poisons = mp.craft(task, config)
    assert poisons.shape == task.images.shape
    assert poisons.dtype == torch.float32
    assert not poisons.requires_grad
    assert poisons.min() >= 0
    assert poisons.max() <= 1
    moved = (poisons - task.images).abs()
    assert float(moved.max()) <= config.epsilon + 1e-6
    assert (moved.flatten(2).amax(2) > 0.9 * config.epsilon).all()
    for target in range(TARGETS):
        base = task.train.images[task.rows[target]]
        rounded = quantise(poisons[target], base, config.epsilon)
        assert int((rounded.int() - base.int()).abs().max()) == 8


def test_targets_side_by_side_are_as_one_by_one():
    config = dataclasses.replace(SMALL, steps=3, start="staggered", surrogates=2, bn="batch")
    together = mp.craft(noise_task(), config)
    alone = [mp.craft(noise_task(slice(row, row + 1)), config) for row in range(TARGETS)]
    assert torch.equal(together, torch.cat(alone))


def test_a_seed_decides_the_poisons():
    first, same, other = (
        mp.craft(noise_task(seeds=seeds), dataclasses.replace(SMALL, steps=2))
        for seeds in ((3, 4), (3, 4), (5, 6))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_it_reports_each_network_of_each_step():
    calls = []
    config = dataclasses.replace(SMALL, steps=2, surrogates=3)
    mp.craft(noise_task(report=lambda done, total: calls.append((done, total))), config)
    assert calls == [(done, 6) for done in range(1, 7)]


def test_steps_to_infinity_are_named():
    with pytest.raises(DivergedError, match="craft step 1; lower --inner-learning-rate"):
        mp.craft(noise_task(), dataclasses.replace(SMALL, inner_learning_rate=1e30))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0}, "epsilon: expected in"),
        ({"color": -0.1}, "color: expected in"),
        ({"color": 0.33}, "budget of at most 1"),
        ({"smoothness": -1}, "smoothness"),
        ({"steps": 0}, "steps"),
        ({"surrogates": 0}, "surrogates"),
        ({"unroll": 0}, "unroll"),
        ({"craft_rate": 0}, "craft_rate"),
        ({"inner_learning_rate": -1}, "inner_learning_rate"),
        ({"warm_up": -1}, "warm_up"),
        ({"rate_drops": (0,)}, "rate_drops"),
        ({"inner_batch_size": 1}, "inner_batch_size"),
        ({"poisons_per_batch": 0}, "poisons_per_batch"),
        ({"poisons_per_batch": 125}, "poisons_per_batch"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        mp.Config(**changes)


def test_the_defaults_are_the_papers_and_the_small_sample_fine_tunes():
    config = mp.Config()
    assert (config.surrogates, config.unroll, config.steps) == (24, 2, 60)
    assert config.budget == config.epsilon == 8 / 255
    presets = ("mnist", "mnist-sample", "mnist-sample@1000")
    small = resolve(
        mp.Config, mp.PROFILES, profile="paper", presets=presets, overrides={}, owner="mp"
    )
    assert (small.start, small.bn, small.inner_learning_rate) == ("trained", "eval", 0.01)
