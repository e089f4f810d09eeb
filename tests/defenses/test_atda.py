"""The friendly search against the sequential rule, one example at a time, in float64."""

import pytest
import torch
import torch.nn.functional as F

from helpers.attack_tasks import K, fake_split, frozen, small_classifier
from helpers.defense_problems import state_for
from poisonbench.core.seeds import Seeds
from poisonbench.core.settings import resolve
from poisonbench.defenses import atda
from poisonbench.models.folding import folded
from poisonbench.training.projected_gradient import Ball, ProjectedGradient
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import TrainingSet
from poisonbench.training.trainer import Trainer

RECIPE = Recipe(epochs=6, batch_size=16, milestones=(), augment="none", precision="float32")
NORMS = {
    "l2": atda.Config(norm="l2", radius=0.4, steps=9, step_ratio=0.2),
    "linf": atda.Config(norm="linf", radius=0.04, steps=9, step_ratio=0.2),
}
norms = pytest.mark.parametrize("norm", NORMS)


def problem(norm):
    """A model that is right about most images but not by much, in float64."""
    model = small_classifier(4).double()
    generator = torch.Generator().manual_seed(6)
    base = torch.rand(24, 2, 8, 8, dtype=torch.float64, generator=generator)
    base = (base * 1.2 - 0.1).clamp(0, 1)
    with frozen(model):
        labels = model(base).argmax(1)
    labels[::8] = (labels[::8] + 1) % K
    return model, base, labels, ball(NORMS[norm]).random_start(base, generator)


def ball(config):
    return Ball(config.radius, config.norm)


def search(model, base, labels, start, config, tau, precision="float32"):
    """Where a batch's search ends, and the steps of all its examples together."""
    stop = atda.EarlyStop(labels, tau)
    search = ProjectedGradient(ball(config), config.steps, config.step_ratio, precision)
    points = search.perturb_batch(model, base, labels, start, stop)
    return points, stop.steps


def step(points, base, gradient, config):
    moved = ball(config).step(points, gradient, config.step_ratio)
    return ball(config).project(moved, base)


def one_by_one(model, base, labels, start, config, tau):
    """The rule of the FAT code, for each example by itself: its last point and its steps."""
    points, steps = [], []
    for center, label, point in zip(base, labels, start, strict=True):
        counter, taken = tau, 0
        for _ in range(config.steps):
            image = point.clone().requires_grad_(True)
            logits = model(image[None])
            if int(logits.argmax()) != int(label):
                if counter == 0:
                    break
                counter -= 1
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, label[None]), image)
            length = config.step_ratio * config.radius
            if config.norm == "linf":
                point = point + length * gradient.sign()
                low, high = center - config.radius, center + config.radius
                point = torch.where(point < low, low, torch.where(point > high, high, point))
            else:
                offset = point + length * gradient / gradient.norm() - center
                if offset.norm() > config.radius:
                    offset = config.radius * offset / offset.norm()
                point = center + offset
            point = point.clamp(0, 1)
            taken += 1
        points.append(point)
        steps.append(taken)
    return torch.stack(points), steps


@norms
@pytest.mark.parametrize("tau", [0, 1, 2])
def test_all_at_once_is_the_sequential_rule(norm, tau):
    model, base, labels, start = problem(norm)
    config = NORMS[norm]
    with frozen(model):
        points, steps = one_by_one(model, base, labels, start, config, tau)
        together, taken = search(model, base, labels, start, config, tau)
        alone = [
            search(model, *(part[row : row + 1] for part in (base, labels, start)), config, tau)
            for row in range(len(base))
        ]
    assert [count for _, count in alone] == steps
    assert taken == sum(steps)
    assert len(set(steps)) > 2
    if norm == "linf":
        assert torch.equal(together, points)
    torch.testing.assert_close(together, points, rtol=0, atol=1e-13)


@norms
def test_results_are_in_the_order_of_the_batch(norm):
    model, base, labels, start = problem(norm)
    order = torch.randperm(len(base), generator=torch.Generator().manual_seed(0))
    with frozen(model):
        points, _ = search(model, base, labels, start, NORMS[norm], 1)
        mixed, _ = search(model, base[order], labels[order], start[order], NORMS[norm], 1)
    torch.testing.assert_close(mixed, points[order], rtol=0, atol=1e-13)


@norms
def test_a_counter_that_never_runs_out_is_plain_ascent(norm):
    model, base, labels, start = problem(norm)
    config = NORMS[norm]
    with frozen(model):
        plain, steps = search(model, base, labels, start, config, None)
        patient, as_many = search(model, base, labels, start, config, config.steps)
    assert steps == as_many == config.steps * len(base)
    assert torch.equal(plain, patient)


def test_plain_ascent_in_linf_is_the_projected_gradient_of_the_attacks():
    model, base, labels, start = problem("linf")
    ascent = ProjectedGradient(Ball(0.04), steps=9, step_ratio=0.2)
    expected, _ = ascent.perturb(model, base, labels, start=start)
    with frozen(model):
        points, _ = search(model, base, labels, start, NORMS["linf"], None)
    assert torch.equal(points, expected)


@norms
def test_misclassified_at_the_start_stays_there_and_costs_nothing(norm):
    model, base, _, start = problem(norm)
    with frozen(model):
        wrong = (model(start).argmax(1) + 1) % K
        points, steps = search(model, base, wrong, start, NORMS[norm], 0)
    assert steps == 0
    assert torch.equal(points, start)


@norms
def test_a_step_ends_in_the_ball_and_in_range(norm):
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(50, 2, 8, 8, dtype=torch.float64, generator=generator)
    gradient = torch.randn(base.shape, dtype=torch.float64, generator=generator)
    points = (base + 0.1 * torch.randn(base.shape, dtype=torch.float64, generator=generator)).clamp(
        0, 1
    )
    config = NORMS[norm]
    moved = step(points, base, gradient, config)
    size = (moved - base).abs().amax((1, 2, 3))
    if norm == "l2":
        size = (moved - base).flatten(1).norm(dim=1)
    assert bool((size <= config.radius * (1 + 1e-12)).all())
    assert size.max() == pytest.approx(config.radius, rel=0.05)
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_a_step_inside_the_ball_has_its_length():
    base = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    gradient = torch.tensor([[[[3.0, -4.0], [0.0, 0.0]]]], dtype=torch.float64)
    config = atda.Config(norm="l2", radius=0.5, step_ratio=0.2)
    moved = step(base, base, gradient, config) - base
    assert moved.flatten().tolist() == pytest.approx([0.06, -0.08, 0, 0])
    config = atda.Config(norm="linf", radius=0.5, step_ratio=0.2)
    moved = step(base, base, gradient, config) - base
    assert moved.flatten().tolist() == pytest.approx([0.1, -0.1, 0, 0])


@norms
def test_an_example_without_gradient_stays(norm):
    base = torch.full((2, 1, 2, 2), 0.5)
    assert torch.equal(step(base, base, torch.zeros_like(base), NORMS[norm]), base)


def test_l2_starts_on_the_sphere():
    base = torch.full((64, 2, 8, 8), 0.5, dtype=torch.float64)
    start = ball(NORMS["l2"]).random_start(base, torch.Generator().manual_seed(0))
    offset = (start - base).flatten(1)
    assert torch.allclose(offset.norm(dim=1), torch.full((64,), 0.4, dtype=torch.float64))
    direction = offset / offset.norm(dim=1, keepdim=True)
    assert (direction @ direction.T).fill_diagonal_(0).abs().max() < 0.5


def test_linf_starts_uniformly_in_the_ball():
    base = torch.full((64, 2, 8, 8), 0.5, dtype=torch.float64)
    offset = ball(NORMS["linf"]).random_start(base, torch.Generator().manual_seed(0)) - base
    assert 0.0399 < offset.abs().max() <= 0.04
    assert offset.var() == pytest.approx(0.04**2 / 3, rel=0.05)


@norms
def test_starts_are_in_range(norm):
    base = torch.rand(16, 2, 8, 8).round()
    start = ball(NORMS[norm]).random_start(base, torch.Generator().manual_seed(0))
    assert start.min() == 0
    assert start.max() == 1


@pytest.mark.parametrize(
    ("epochs", "changes"), [(120, {0: 0, 49: 0, 50: 1, 89: 1, 90: 2, 119: 2}), (1, {0: 0})]
)
def test_tau_grows_as_in_the_fat_code(epochs, changes):
    assert {epoch: atda.tau(epoch, epochs) for epoch in changes} == changes


def batch(size=16):
    split = fake_split(size, 0)
    train = TrainingSet(split.images, split.labels)
    return train, train.pixels(slice(None)), train.labels


@norms
def test_the_search_leaves_the_model_as_it_was(norm):
    model = small_classifier().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train, images, labels = batch()
    given = images.clone()
    defense = atda.build(NORMS[norm], RECIPE)
    perturbed = defense.perturb_batch(state_for(model, train), images, labels)
    assert not perturbed.requires_grad
    assert torch.equal(images, given)
    assert not torch.equal(perturbed, images)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_starts_are_fresh_for_each_batch_and_the_same_again():
    train, images, labels = batch()

    def perturbed(**place):
        defense = atda.build(NORMS["l2"], RECIPE)
        return defense.perturb_batch(state_for(small_classifier(), train, **place), images, labels)

    first = perturbed(epoch=1, step=2)
    assert torch.equal(first, perturbed(epoch=1, step=2))
    for place in ({"epoch": 1, "step": 3}, {"epoch": 0, "step": 2}):
        assert not torch.equal(first, perturbed(**place))
    assert not torch.equal(first, perturbed(epoch=1, step=2, trial=1))


def test_the_search_in_bfloat16_stays_close_and_keeps_pixels_in_float32():
    model, base, labels, start = problem("l2")
    model, base, start = model.float(), base.float(), start.float()
    with frozen(model):
        wide, _ = search(model, base, labels, start, NORMS["l2"], None)
        narrow, _ = search(model, base, labels, start, NORMS["l2"], None, "bfloat16")
    assert narrow.dtype == torch.float32
    assert (narrow - wide).flatten(1).norm(dim=1).max() < 0.1


class Counted(atda.AdversarialTraining):
    """Counts the steps by itself."""

    def perturb_batch(self, state, images, labels):
        self.mean = getattr(self, "mean", [0.0] * self.recipe.epochs)
        config, patience = self.config, atda.tau(state.epoch, self.recipe.epochs)
        start = ball(config).random_start(images, state.generator("start"))
        points, steps = search(folded(state.model), images, labels, start, config, patience)
        self.mean[state.epoch] += steps / len(state.train)
        assert torch.equal(super().perturb_batch(state, images, labels), points)
        return points


@pytest.mark.parametrize("size", [64, 70])
def test_every_epoch_notes_the_mean_number_of_steps(size):
    defense = Counted(NORMS["l2"], RECIPE)
    model = small_classifier()
    trainer = Trainer(recipe=RECIPE, seeds=Seeds(), device=torch.device("cpu"))
    result = trainer.fit(model, fake_split(size, 0), fake_split(8, 1), defense)
    assert [note["epoch"] for note in result.notes] == list(range(6))
    means = [note["mean_steps"] for note in result.notes]
    assert means == pytest.approx(defense.mean)
    assert all(0 <= mean <= 9 for mean in means)
    assert max(means) > 0


def test_profiles():
    def settings(profile):
        config = resolve(
            atda.Config,
            atda.PROFILES,
            profile=profile,
            presets=("cifar10",),
            overrides={},
            owner="atda",
        )
        length = config.radius * config.step_ratio
        return config.norm, config.radius, config.steps, pytest.approx(length), config.early_stop

    assert settings("paper") == ("l2", 0.25, 7, 0.05, True)
    assert settings("linf") == ("linf", 16 / 255, 10, 4 / 255, True)
    assert settings("code") == ("l2", 0.5, 7, 0.1, False)


def test_without_early_stopping_all_steps_are_taken():
    train, images, labels = batch()
    config = atda.Config(norm="l2", radius=0.4, steps=5, early_stop=False)
    notes = []
    state = state_for(small_classifier(), train, notes=notes)
    atda.build(config, RECIPE).perturb_batch(state, images, labels)
    assert notes == [{"round": "atda", "mean_steps": 5.0}]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"radius": 0.0}, r"radius: expected in \(0, 1e30\], got 0.0"),
        ({"radius": 1e300}, r"radius: expected in \(0, 1e30\], got 1e\+300"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"step_ratio": 0.0}, r"step_ratio: expected in \(0, 2\], got 0.0"),
        ({"step_ratio": 2.5}, r"step_ratio: expected in \(0, 2\], got 2.5"),
    ],
)
def test_settings_out_of_range_say_what_was_expected(settings, text):
    with pytest.raises(ValueError, match=text):
        atda.Config(**settings)
