"""FRIENDS against a plain torch.optim.SGD, by hand, and inside the training loop."""

import pytest
import torch

from helpers.attack_tasks import fake_split, frozen, small_classifier
from helpers.defense_problems import pixel_classifier, state_for
from poisonbench.core.errors import DivergedError
from poisonbench.core.settings import resolve
from poisonbench.defenses import friends
from poisonbench.training.recipe import RECIPE_PRESETS, Recipe
from poisonbench.training.state import TrainingSet

RECIPE = Recipe(epochs=8)


def training_set(size=20):
    split = fake_split(size, 0)
    return TrainingSet(split.images, split.labels)


def problem(size=7):
    """Images with pixels at 0 and 1, and first noise that reaches over zeta, in float64."""
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(size, 2, 8, 8, dtype=torch.float64, generator=generator)
    images = (images * 1.4 - 0.2).clamp(0, 1)
    start = torch.rand(images.shape, dtype=torch.float64, generator=generator) * 0.2 - 0.1
    return small_classifier(3).double(), images, start


def plain_sgd(model, image, start, config):
    """One image with torch's own optimiser and both terms of the loss written out."""
    noise = torch.nn.Parameter(start.clone())
    rate = config.noise_learning_rate / 128
    optimizer = torch.optim.SGD([noise], lr=rate, momentum=0.9, nesterov=True)
    with torch.no_grad():
        before = model(image[None])[0].softmax(0)
    for _ in range(config.steps):
        clipped = noise.clamp(-config.zeta, config.zeta)
        after = model((image + clipped).clamp(0, 1)[None])[0].softmax(0)
        divergence = (before * (before / after).log()).sum()
        loss = divergence - config.magnitude_weight * (clipped**2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return noise.detach().clamp(-config.zeta, config.zeta)


@pytest.mark.parametrize("weight", [0.0, 1.0, 10.0])
def test_noise_is_that_of_torchs_optimizer_one_image_at_a_time(weight):
    model, images, start = problem()
    config = friends.Config(steps=12, magnitude_weight=weight, zeta=0.05)
    with frozen(model):
        noise = friends.friendly_noise(model, images, start, config)
    expected = [plain_sgd(model, x, e, config) for x, e in zip(images, start, strict=True)]
    torch.testing.assert_close(noise, torch.stack(expected), rtol=0, atol=1e-12)
    assert (noise - start.clamp(-0.05, 0.05)).abs().mean() > 1e-3
    assert noise.abs().max() == 0.05


def test_the_first_step_goes_down_the_kl_from_clean_to_noisy():
    # For logits equal to pixels the gradient of KL(p || q) is q - p; that of KL(q || p) is not.
    # A first Nesterov step is 1 + 0.9 times the gradient.
    model = pixel_classifier(3).double()
    images = torch.tensor([[0.2, 0.5, 0.9]], dtype=torch.float64)[:, :, None, None]
    start = torch.tensor([[0.04, -0.05, 0.01]], dtype=torch.float64)[:, :, None, None]
    config = friends.Config(steps=1, magnitude_weight=0.0, zeta=1.0, noise_learning_rate=64.0)
    clean, noisy = (x.flatten(1).softmax(1) for x in (images, images + start))
    expected = start - 0.5 * 1.9 * (noisy - clean)[:, :, None, None]
    with frozen(model):
        noise = friends.friendly_noise(model, images, start, config)
    torch.testing.assert_close(noise, expected, rtol=0, atol=1e-14)


def friendly_set(monkeypatch, batch, train, **settings):
    """Friendly images of a training set when the noise is made in batches of a size."""
    monkeypatch.setattr(friends, "pass_size", lambda images, gradients: batch)
    config = friends.Config(**{"begin_epoch": 1, "steps": 5} | settings)
    notes = []
    state = state_for(small_classifier(3), train, epoch=1, notes=notes)
    return friends.build(config, RECIPE).start_epoch(state), notes


def test_any_batch_size_makes_the_same_noise(monkeypatch):
    train = training_set()
    whole, notes = friendly_set(monkeypatch, 20, train)
    for batch in (1, 7):
        parts, others = friendly_set(monkeypatch, batch, train)
        torch.testing.assert_close(parts.images, whole.images, rtol=0, atol=1e-6)
        assert others[0]["mean_abs_noise"] == pytest.approx(notes[0]["mean_abs_noise"], rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 100.0])
def test_friendly_images_stay_in_range_and_within_zeta(monkeypatch, weight):
    train = training_set()
    made_set, notes = friendly_set(
        monkeypatch, 20, train, magnitude_weight=weight, zeta=12 / 255, steps=20
    )
    moved = made_set.images - train.images / 255
    assert made_set.images.min() >= 0
    assert made_set.images.max() <= 1
    assert 0 < moved.abs().max() <= 12 / 255 + 1e-6
    assert notes[0]["round"] == "friends"
    assert notes[0]["mean_abs_noise"] == pytest.approx(float(moved.abs().mean()), rel=1e-4)
    assert (notes[0]["share_clipped_at_zeta"] > 0.9) == (weight == 100.0)
    assert torch.equal(made_set.labels, train.labels)


def test_friendly_noise_is_made_once_after_its_epochs_on_the_given_images():
    train, model = training_set(), small_classifier(3)
    defense = friends.build(friends.Config(begin_epoch=2, steps=2), RECIPE)
    for epoch in (0, 1, 3, 7):
        assert defense.start_epoch(state_for(model, train, epoch=epoch)) is train
    first = defense.start_epoch(state_for(model, train, epoch=2)).images
    assert first.dtype == torch.float32
    again = defense.start_epoch(state_for(model, train, epoch=2)).images
    assert torch.equal(first, again)
    other = defense.start_epoch(state_for(model, train, epoch=2, trial=1)).images
    assert not torch.equal(first, other)


def test_making_noise_leaves_the_model_as_it_was():
    model = small_classifier().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    defense = friends.build(friends.Config(begin_epoch=0, steps=2), RECIPE)
    defense.start_epoch(state_for(model, training_set()))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_without_friendly_noise_the_images_stay():
    train = training_set()
    defense = friends.build(friends.Config(friendly=False, begin_epoch=99), RECIPE)
    for epoch in range(8):
        assert defense.start_epoch(state_for(small_classifier(), train, epoch=epoch)) is train


def random_noise(kind, epoch=0, step=0, trial=0, size=200):
    images = torch.full((size, 2, 8, 8), 0.5, dtype=torch.float64)
    defense = friends.build(friends.Config(random_noise=kind, mu=0.2), RECIPE)
    state = state_for(None, training_set(), epoch=epoch, step=step, trial=trial)
    return defense.perturb_batch(state, images, torch.zeros(size)) - images


def test_bernoulli_noise_is_plus_or_minus_mu():
    noise = random_noise("bernoulli")
    assert torch.allclose(noise.abs(), torch.full_like(noise, 0.2), atol=1e-12)
    assert abs((noise > 0).double().mean() - 0.5) < 0.02
    # Pixels and channels are drawn one by one.
    signs = noise.sign().flatten(1)
    assert (signs.T @ signs / len(signs)).fill_diagonal_(0).abs().max() < 0.4


def test_uniform_noise_fills_its_range():
    noise = random_noise("uniform")
    assert noise.abs().max() <= 0.2
    assert abs(noise.mean()) < 0.004
    assert noise.var() == pytest.approx(0.2**2 / 3, rel=0.03)


def test_gaussian_noise_has_mu_for_its_deviation():
    noise = random_noise("gaussian")
    assert abs(noise.mean()) < 0.006
    assert noise.std() == pytest.approx(0.2, rel=0.03)
    assert noise.abs().max() > 0.6


def test_no_random_noise_gives_the_batch_back():
    assert float(random_noise("none").abs().max()) == 0


@pytest.mark.parametrize("kind", ["bernoulli", "uniform", "gaussian"])
def test_random_noise_is_fresh_for_each_batch_and_the_same_again(kind):
    first = random_noise(kind, epoch=3, step=5)
    assert torch.equal(first, random_noise(kind, epoch=3, step=5))
    for other in ({"epoch": 3, "step": 6}, {"epoch": 4, "step": 5}):
        assert not torch.equal(first, random_noise(kind, **other))
    assert not torch.equal(first, random_noise(kind, epoch=3, step=5, trial=1))


def test_random_noise_is_not_clipped():
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 2, 8, 8)
    defense = friends.build(friends.Config(mu=0.1), RECIPE)
    noisy = defense.perturb_batch(state_for(None, training_set()), images, torch.zeros(2))
    assert noisy.min() < 0
    assert noisy.max() > 1


def test_the_profiles_differ_where_paper_and_code_do():
    def settings(profile, *presets):
        config = resolve(
            friends.Config,
            friends.PROFILES,
            profile=profile,
            presets=presets,
            overrides={},
            owner="friends",
        )
        recipe = resolve(
            Recipe, RECIPE_PRESETS, profile="paper", presets=presets, overrides={}, owner="friends"
        )
        friends.build(config, recipe)
        return config.begin_epoch, config.steps, config.magnitude_weight, config.mu * 255

    assert settings("paper", "cifar10") == (5, 20, 10, 16)
    assert settings("code", "cifar10") == (5, 30, 1, 8)
    assert settings("paper", "mnist", "mnist-sample") == (2, 20, 10, 16)
    assert settings("code", "mnist", "mnist-sample") == (2, 30, 1, 8)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"begin_epoch": -1}, "begin_epoch: expected 0 or more, got -1"),
        ({"begin_epoch": 8}, "begin_epoch: expected under 8, got 8"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"noise_learning_rate": 0.0}, "noise_learning_rate: expected over 0, got 0.0"),
        ({"magnitude_weight": -1.0}, "magnitude_weight: expected 0 or more, got -1.0"),
        ({"zeta": 1.5}, r"zeta: expected in \[0, 1\], got 1.5"),
        ({"mu": -0.1}, r"mu: expected in \[0, 1\], got -0.1"),
        ({"friendly": False, "random_noise": "none"}, "random_noise: expected some without"),
    ],
)
def test_settings_out_of_range_say_what_was_expected(settings, text):
    with pytest.raises(ValueError, match=text):
        friends.build(friends.Config(**settings), RECIPE)


def test_noise_that_diverges_names_its_setting():
    """The clamp at zeta would hide it."""
    model = small_classifier()
    defense = friends.build(friends.Config(begin_epoch=0, noise_learning_rate=1e30), RECIPE)
    with pytest.raises(DivergedError, match="--noise-learning-rate"):
        defense.start_epoch(state_for(model, training_set()))
