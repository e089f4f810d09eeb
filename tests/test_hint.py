"""HINT against the paper's algorithms recomputed by hand, in float64 and by double backward."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from fake_data import fake_dataset
from tiny import K, recipe, split, state_of, train

from poisonbench.config import as_json
from poisonbench.defenses import hint
from poisonbench.defenses.hint import Config, Hint, NoiseFigures, build, select
from poisonbench.errors import UsageError
from poisonbench.registry import DEFENSES
from poisonbench.runs.settings import read_settings
from poisonbench.seeds import Seeds
from poisonbench.training.state import TrainingSet

DATA, VALIDATION = split(30), split(13, seed=1)
BETA = 16 / 255


@pytest.fixture(scope="module")
def trained():
    """A network after one epoch, where influences are neither zero nor saturated."""
    model, _ = train(data=DATA, recipe=recipe(epochs=1))
    return model


def start(config, model, **options):
    """One scheduled round: the training set, the defense (a fresh one unless given), the notes."""
    notes = []
    defense = options.pop("defense", None) or Hint(config)
    options.setdefault("epoch", defense.config.schedule[0])
    state = state_of(model, DATA, VALIDATION, notes=notes, **options)
    return defense.start_epoch(state), defense, notes


def pixels(train: TrainingSet):
    return train.pixels(slice(None)).double()


# The algorithm, by hand


def by_hand(model, images, config, *, before=None, selected=None, gamma=None):
    """One round on clean images (N, C, H, W) float64: x_hat, the selected rows and the scores.

    Everything by autograd: the head's gradients, its dense Hessian, a linear solve, and for each
    image a double backward.
    """
    model = copy.deepcopy(model).double().eval()
    head = [model.head.weight, model.head.bias]
    labels, noisy = DATA.labels, images if before is None else before

    def flat(gradients):
        return torch.cat([gradients[0].flatten(), gradients[1]])

    validation = VALIDATION.images.double() / 255
    wanted = flat(torch.autograd.grad(F.cross_entropy(model(validation), VALIDATION.labels), head))
    rows = slice(None)
    if config.hessian_set == "selected" and selected is not None:
        rows = selected
    features = model.embed(noisy[rows]).detach()

    def loss(vector):
        weight, bias = vector[:-K].view(K, -1), vector[-K:]
        return F.cross_entropy(features @ weight.T + bias, labels[rows])

    hessian = torch.autograd.functional.hessian(loss, flat(head).detach())
    damped = hessian + config.damping * torch.eye(len(hessian), dtype=torch.float64)
    direction = torch.linalg.solve(damped, wanted)

    scores, maps, losses = [], [], []
    for row in range(len(images)):
        image = noisy[row : row + 1].clone().requires_grad_(True)
        example = F.cross_entropy(model(image), labels[row : row + 1])
        losses.append(float(example.detach()))
        gradients = torch.autograd.grad(example, head, create_graph=True)
        score = -(flat(gradients) * direction).sum()
        scores.append(score.detach())
        maps.append(torch.autograd.grad(score, image)[0][0])
    scores, maps = torch.stack(scores), torch.stack(maps)

    if selected is None:
        count = math.ceil(config.ratio * len(images))
        size = {"influence": scores.abs().tolist(), "loss": losses}[config.select_by]
        by_size = sorted(range(len(images)), key=lambda row: (-size[row], row))
        selected = torch.tensor(sorted(by_size[:count]))
    x_hat = noisy.clone()
    largest = maps.abs().flatten(1).max(1).values[:, None, None, None]
    step = {
        "literal": (config.gamma if gamma is None else gamma) * maps,
        "sign": config.beta * maps.sign(),
        "linf": config.beta * maps / largest,
    }[config.step]
    delta = (noisy - images - step).clamp(-config.beta, config.beta)
    x_hat[selected] = (images + delta)[selected].clamp(0, 1)
    return x_hat, selected, scores


#: Steps so long that some of the noise, not all, is clipped at beta.
GAMMA = 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ratio": 0.21},
        {"ratio": 1.0},
        {"damping": 0.02, "hessian_set": "selected"},
        {"beta": 0.2, "gamma": 0.05},
        {"step": "linf", "beta": 0.1},
        {"step": "sign", "beta": 0.1},
        {"select_by": "loss"},
        {"select_by": "loss", "step": "linf", "ratio": 0.3},
    ],
)
def test_two_rounds_are_the_papers(trained, changes):
    config = Config(**({"gamma": GAMMA, "schedule": (1, 2)} | changes))
    clean = DATA.images.double() / 255
    first, defense, notes = start(config, trained)
    wanted, selected, _ = by_hand(trained, clean, config)
    assert torch.equal(defense.memory["selected"], selected)
    torch.testing.assert_close(pixels(first), wanted, rtol=0, atol=2e-5)
    # The second round starts from the first one's noise, on a model that has moved on.
    later, _ = train(data=DATA, recipe=recipe(epochs=2))
    second, _, _ = start(config, later, defense=defense, train=first, epoch=2)
    again, _, _ = by_hand(later, clean, config, before=wanted, selected=selected)
    torch.testing.assert_close(pixels(second), again, rtol=0, atol=2e-5)
    fresh, _, _ = by_hand(later, clean, config, selected=selected)
    assert (again - fresh).abs().max() > 1e-3, "the first round's noise must matter here"
    assert notes[0]["max_abs_noise"] == pytest.approx(float((wanted - clean).abs().max()), abs=1e-5)


def test_noise_stays_in_its_bounds(trained):
    clean = DATA.images.double() / 255
    for beta, gamma in ((BETA, 0.5), (BETA, 1e4), (0.5, 1e4)):
        config = Config(gamma=gamma, beta=beta, ratio=0.4)
        train_set, defense, _ = start(config, trained)
        noisy, selected = pixels(train_set), defense.memory["selected"]
        assert (noisy - clean).abs().max() <= beta + 1e-7
        assert noisy.min() >= 0
        assert noisy.max() <= 1
        others = torch.ones(30, dtype=torch.bool)
        others[selected] = False
        assert len(selected) == 12
        bytes_as_pixels = (DATA.images.float() / 255)[others]
        assert torch.equal(train_set.images[others], bytes_as_pixels)
        assert torch.equal(train_set.labels, DATA.labels)
        assert (noisy[selected] != clean[selected]).flatten(1).any(1).all()


def test_a_round_leaves_its_inputs_and_the_model_alone(trained):
    before = copy.deepcopy(trained.state_dict())
    trained.train()
    first, defense, _ = start(Config(gamma=GAMMA), trained)
    kept = first.images.clone()
    start(Config(gamma=GAMMA), trained, defense=defense, train=first)
    assert torch.equal(first.images, kept)
    assert torch.equal(DATA.images, split(30).images)
    assert trained.training
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_noise_helps_the_validation_loss_more_than_its_opposite(trained):
    """One small step of training on x_hat against one on the mirrored noise, on all weights."""
    train_set, _, _ = start(Config(gamma=GAMMA, ratio=1.0), trained)
    clean = DATA.images.float() / 255
    delta = train_set.images - clean
    losses = []
    for sign in (1, -1):
        model = copy.deepcopy(trained).eval()
        F.cross_entropy(model(clean + sign * delta), DATA.labels).backward()
        with torch.no_grad():
            for parameter in (model.head.weight, model.head.bias):
                parameter -= 1e-3 * parameter.grad
            validation = VALIDATION.images.float() / 255
            losses.append(float(F.cross_entropy(model(validation), VALIDATION.labels)))
    assert losses[0] < losses[1]


# Selection


@pytest.mark.parametrize(
    ("scores", "ratio", "rows"),
    [
        ([0.1, -3.0, 2.0, -0.5], 0.5, [1, 2]),
        ([0.1, -3.0, 2.0, -0.5], 0.51, [1, 2, 3]),
        ([0.1, -3.0, 2.0, -0.5], 0.01, [1]),
        ([1.0, -1.0, 1.0, -1.0], 0.5, [0, 1]),
        ([0.0, 1.0, -1.0, 1.0], 0.5, [1, 2]),
        ([5.0, 1.0, 1.0, 9.0], 1.0, [0, 1, 2, 3]),
        (None, 1.0, [0, 1, 2]),
    ],
)
def test_select(scores, ratio, rows):
    given = None if scores is None else torch.tensor(scores)
    assert select(given, 3 if scores is None else 4, ratio).tolist() == rows


@pytest.mark.parametrize(("ratio", "size"), [(0.1, 10), (0.3, 10), (0.7, 100), (0.07, 100)])
def test_select_does_not_round_a_whole_number_up(ratio, size):
    """0.07 x 100 is 7.000000000000001 in floating point."""
    assert len(select(torch.arange(float(size)), size, ratio)) == round(ratio * size)


def test_select_breaks_ties_by_row_in_long_lists():
    scores = torch.ones(5000)
    scores[::2] = -1
    assert torch.equal(select(scores, 5000, 0.5), torch.arange(2500))


def test_ratio_1_skips_the_scores(trained, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("scores were computed")

    monkeypatch.setattr(hint, "upweight_influence", refuse)
    _, defense, _ = start(Config(ratio=1.0), trained)
    assert torch.equal(defense.memory["selected"], torch.arange(30))
    with pytest.raises(AssertionError, match="scores"):
        start(Config(ratio=0.9), trained)


def test_the_selection_is_made_once(trained):
    defense = Hint(Config(ratio=0.3, gamma=GAMMA))
    defense.memory["selected"] = torch.tensor([2, 3])
    train_set, _, notes = start(None, trained, defense=defense)
    changed = (train_set.images != DATA.images.float() / 255).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [2, 3]
    assert notes[0]["selected"] == 2


# Extensions


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_selection_by_loss_takes_the_highest_cross_entropies(trained, ratio):
    model = copy.deepcopy(trained).double().eval()
    losses = F.cross_entropy(model(DATA.images.double() / 255), DATA.labels, reduction="none")
    wanted = losses.detach().argsort(descending=True)[: math.ceil(ratio * 30)].sort().values
    _, defense, notes = start(Config(ratio=ratio, select_by="loss"), trained)
    assert torch.equal(defense.memory["selected"], wanted)
    assert notes[0]["selected"] == len(wanted)


def test_selection_at_random_is_drawn_once_from_the_states_generator(trained):
    config = Config(ratio=0.4, select_by="random", schedule=(1, 2))
    order = torch.randperm(30, generator=Seeds().generator("defense", "selection", 1, 0)).tolist()
    wanted = [row for row in range(30) if order[row] >= 18]
    first, defense, _ = start(config, trained)
    assert defense.memory["selected"].tolist() == wanted
    start(config, trained, defense=defense, train=first, epoch=2)
    assert defense.memory["selected"].tolist() == wanted
    _, other, _ = start(config, trained, epoch=2)
    assert other.memory["selected"].tolist() != wanted
    _, influence, _ = start(Config(ratio=0.4), trained)
    assert influence.memory["selected"].tolist() != wanted


MAPS = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(5))
ONES = torch.ones(1, 2, 1, 1)


def test_a_sign_step_moves_each_pixel_by_beta_and_against_the_influence():
    step = hint.noise_step(MAPS, ONES, Config(step="sign"), 0.1)
    assert torch.equal(step, torch.where(MAPS > 0, -BETA, BETA))
    assert hint.noise_step(MAPS * 0, ONES, Config(step="sign"), 0.1).abs().max() == 0


def test_an_linf_step_moves_each_images_largest_pixel_by_beta():
    config = Config(step="linf")
    step = hint.noise_step(MAPS, ONES, config, 0.1)
    assert torch.equal(step.abs().amax((1, 2, 3)), torch.full((6,), BETA))
    for image, influence in zip(step.double(), MAPS.double(), strict=True):
        torch.testing.assert_close(image, -BETA * influence / influence.abs().max())
    # Neither the influence's size nor gamma matters, and no influence is no step.
    torch.testing.assert_close(hint.noise_step(MAPS * 1e-6, ONES, config, 9.0), step)
    assert hint.noise_step(MAPS * 0, ONES, config, 0.1).abs().max() == 0
    # The largest is found after the pixel space's scale.
    scale = torch.tensor([1.0, 100.0]).view(1, 2, 1, 1)
    scaled = hint.noise_step(MAPS, scale, config, 0.1)
    assert torch.equal(scaled.abs().amax((1, 2, 3)), torch.full((6,), BETA))
    assert (scaled[:, 1].abs().amax((1, 2)) == BETA).all()


def test_a_literal_step_is_the_papers():
    assert torch.equal(hint.noise_step(MAPS, ONES, Config(), 0.1), -0.1 * MAPS)


@pytest.mark.parametrize("step", ["sign", "linf"])
def test_steps_of_other_sizes_stay_in_their_bounds(trained, step):
    config = Config(step=step, ratio=0.5, beta=0.1, schedule=(1, 2))
    clean = DATA.images.double() / 255
    train_set, defense, notes = start(config, trained)
    inside = ((clean >= 0.1) & (clean <= 0.9))[defense.memory["selected"]]
    noise = (pixels(train_set) - clean)[defense.memory["selected"]].abs()
    if step == "sign":
        torch.testing.assert_close(noise[inside], torch.full_like(noise[inside], 0.1))
    assert notes[0]["max_abs_noise"] == pytest.approx(0.1)
    assert notes[0]["mean_abs_noise"] == pytest.approx(float(noise.mean()))
    later, _ = train(data=DATA, recipe=recipe(epochs=2))
    again, _, _ = start(config, later, defense=defense, train=train_set, epoch=2)
    for images in (pixels(train_set), pixels(again)):
        assert (images - clean).abs().max() <= 0.1 + 1e-7
        assert images.min() >= 0
        assert images.max() <= 1


@pytest.mark.parametrize(
    ("name", "text"),
    [("select_by", "loss"), ("select_by", "random"), ("step", "sign"), ("step", "linf")],
)
def test_an_extension_is_an_override_and_its_default_is_in_no_spec(name, text):
    settings = hint_settings(("mnist",), "paper", **{name: text})
    assert settings.overrides == {name: text}
    assert as_json(settings.config)[name] == text
    assert set(as_json(Config())) == set(SHARED | PAPER | CODE) | {"schedule", "lissa_scale"}


# Schedule, decay, solvers, storage


def test_an_update_comes_before_its_epoch_counted_from_0():
    class Spy(Hint):
        seen = ()

        def perturb_batch(self, state, images, labels):
            if state.step == 0:
                noisy = state.train.images is not state.original.images
                self.seen = (*self.seen, (state.epoch, noisy, state.train))
            return images

    spy = Spy(Config(schedule=(2, 3, 40), gamma=GAMMA))
    _, result = train(spy, recipe=recipe(epochs=5), data=DATA)
    assert [row["epoch"] for row in result.notes] == [2, 3]
    assert [(epoch, noisy) for epoch, noisy, _ in spy.seen] == [
        (0, False),
        (1, False),
        (2, True),
        (3, True),
        (4, True),
    ]
    sets = [train_set for *_, train_set in spy.seen]
    assert sets[2] is not sets[3]
    assert sets[3] is sets[4]


def test_between_updates_the_set_is_the_same_object(trained):
    state = state_of(trained, DATA, VALIDATION, epoch=3)
    assert Hint(Config(schedule=(2, 4))).start_epoch(state) is state.train


@pytest.mark.parametrize(("epoch", "factor"), [(1, 1.0), (2, 0.1), (3, 0.1)])
def test_gamma_decays_from_its_epoch_on(trained, epoch, factor):
    config = Config(schedule=(1, 2, 3), gamma=0.01, gamma_decay_epoch=2, ratio=1.0, beta=1.0)
    clean = DATA.images.double() / 255
    train_set, _, _ = start(config, trained, epoch=epoch)
    wanted, _, _ = by_hand(trained, clean, config, gamma=0.01 * factor)
    noise, expected = pixels(train_set) - clean, wanted - clean
    assert expected.abs().max() > 1e-3 * factor
    torch.testing.assert_close(noise, expected, rtol=1e-3, atol=2e-7)


def test_the_normalised_gradient_is_smaller_by_the_deviation(trained):
    options = {"ratio": 1.0, "beta": 1.0, "gamma": 0.01}
    clean = DATA.images.double() / 255
    raw, normalised = (
        pixels(start(Config(pixel_space=space, **options), trained)[0]) - clean
        for space in ("raw", "normalised")
    )
    inside = (clean > 0.1) & (clean < 0.9)
    scaled = raw * trained.std.double()
    torch.testing.assert_close(normalised[inside], scaled[inside], rtol=1e-4, atol=2e-7)
    assert not torch.allclose(raw[inside], scaled[inside], rtol=0.1)


def test_lissa_selects_mostly_what_the_exact_solve_does(trained):
    chosen, vectors = {}, {}
    for solver in ("cg", "lissa"):
        config = Config(solver=solver, ratio=0.5, gamma=GAMMA)
        train_set, defense, notes = start(config, trained)
        chosen[solver] = set(defense.memory["selected"].tolist())
        vectors[solver] = notes[0]
        assert notes[0]["solver"] == solver
        assert train_set.images.dtype == torch.float32
    assert len(chosen["cg"] & chosen["lissa"]) >= 13
    assert vectors["cg"]["solver_residual"] <= 1e-5
    assert 1e-5 < vectors["lissa"]["solver_residual"] < 0.5
    assert vectors["lissa"]["solver_iterations"] == 980


def test_lissa_draws_from_the_states_generator(trained):
    config = Config(solver="lissa", lissa_steps=50, gamma=GAMMA, schedule=(1, 2))
    images = [start(config, trained, epoch=epoch)[0].images for epoch in (1, 1, 2)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_bytes_are_truncated_as_in_the_code(trained):
    exact, _, _ = start(Config(gamma=GAMMA, ratio=1.0), trained)
    stored, _, notes = start(Config(gamma=GAMMA, ratio=1.0, storage="uint8"), trained)
    levels = stored.images * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    gap = exact.images * 255 - levels.round()
    assert gap.min() > -1e-3
    assert gap.max() < 1
    assert gap.mean() > 0.3
    noise = stored.images - DATA.images.float() / 255
    assert notes[0]["max_abs_noise"] == pytest.approx(float(noise.abs().max()))


def test_truncation_keeps_every_level_that_has_no_noise():
    levels = torch.arange(256).float() / 255
    assert torch.equal((levels * 255).floor_().div_(255), levels)


# Figures


def test_figures_are_those_of_the_round(trained):
    config = Config(gamma=GAMMA, ratio=0.5)
    train_set, defense, notes = start(config, trained)
    rows = defense.memory["selected"]
    noise = (train_set.images - DATA.images.float() / 255)[rows].abs()
    (row,) = notes
    assert row["round"] == "hint"
    assert row["selected"] == 15
    assert row["max_abs_noise"] == pytest.approx(float(noise.max()))
    assert row["mean_abs_noise"] == pytest.approx(float(noise.mean()), rel=1e-5)
    assert row["share_over_one_level"] == pytest.approx(float((noise >= 1 / 255).float().mean()))
    visible = (noise >= 1 / 255).flatten(1).any(1).float().mean()
    assert row["share_of_images_over_one_level"] == pytest.approx(float(visible))
    clipped = float((noise >= config.beta - 1e-6).float().mean())
    assert 0 < clipped < 1
    # Pixels near 0 or 1 may want more than beta and get less.
    assert clipped <= row["share_clipped_at_beta"] + 1e-6 < clipped + 0.1


def test_figures_do_not_depend_on_the_batches():
    wanted = torch.linspace(-0.2, 0.2, 7 * 12).view(7, 3, 2, 2)
    applied = wanted.clamp(-BETA, BETA)
    parts = []
    for size in (7, 3, 1):
        figures = NoiseFigures(BETA)
        for rows in torch.arange(7).split(size):
            figures.add(wanted[rows], applied[rows])
        parts.append(figures.figures(7))
    assert parts[0] == pytest.approx(parts[1], rel=1e-6)
    assert parts[0] == pytest.approx(parts[2], rel=1e-6)
    assert parts[0]["share_clipped_at_beta"] == pytest.approx(
        float((wanted.abs() >= BETA).float().mean())
    )
    assert parts[0]["max_abs_noise"] == pytest.approx(BETA)


# Settings


def hint_settings(presets, profile, **values):
    entry = next(entry for entry in DEFENSES if entry.name == "hint")
    dataset = dataclasses.replace(fake_dataset(), presets=presets)
    return read_settings(entry, dataset, profile, values)


CODE = {
    "solver": "lissa",
    "hessian_set": "selected",
    "gamma_decay_epoch": 40,
    "pixel_space": "normalised",
    "storage": "uint8",
    "lissa_steps": 980,
    "lissa_batch": 50,
    "lissa_repeats": 1,
}
PAPER = {
    "solver": "cg",
    "hessian_set": "all",
    "gamma_decay_epoch": None,
    "pixel_space": "raw",
    "storage": "float",
}
SHARED = {"ratio": 0.5, "gamma": 0.1, "beta": 16 / 255, "damping": 0.5}


@pytest.mark.parametrize(
    ("profile", "presets", "config", "training"),
    [
        ("paper", ("cifar10",), PAPER | {"schedule": (5, 15, 40)}, {"epochs": 80}),
        ("paper", ("mnist",), PAPER | {"schedule": (5, 15)}, {"epochs": 30, "momentum": 0.0}),
        ("code", ("cifar10",), CODE | {"schedule": (5, 15, 40)}, {"epochs": 80, "momentum": 0.9}),
        ("code", ("mnist",), CODE | {"schedule": (9,)}, {"epochs": 10, "learning_rate": 0.01}),
        ("paper", ("mnist", "mnist-sample"), PAPER | {"schedule": (2, 5)}, {"epochs": 7}),
        ("code", ("mnist", "mnist-sample"), CODE | {"schedule": (9,)}, {"epochs": 10}),
    ],
)
def test_profiles_give_the_papers_and_the_codes_settings(profile, presets, config, training):
    settings = hint_settings(presets, profile)
    for name, value in (SHARED | config).items():
        assert getattr(settings.config, name) == value, name
    for name, value in training.items():
        assert getattr(settings.recipe, name) == value, name
    assert (settings.profile, settings.overrides) == (profile, {})
    # LiSSA's constants amount to the damping: damp 0.01 x scale 50.
    assert settings.config.lissa_scale * 0.01 == settings.config.damping
    assert isinstance(build(settings.config, settings.recipe), Hint)


def test_changed_settings_are_overrides():
    settings = hint_settings(("mnist",), "paper", ratio="0.25", epochs="20")
    assert (settings.config.ratio, settings.recipe.epochs) == (0.25, 20)
    assert settings.overrides == {"ratio": 0.25, "epochs": 20}
    same = hint_settings(("mnist",), "paper", ratio="1/2", schedule="5,15")
    assert same.overrides == {}


def test_an_option_of_neither_lists_the_methods_own():
    with pytest.raises(UsageError, match=r"hint has no option --gama.*--gamma.*did you mean"):
        hint_settings(("mnist",), "paper", gama="0.1")


def test_a_schedule_after_the_last_epoch_is_refused():
    with pytest.raises(ValueError, match="schedule: expected an update before epoch 5"):
        build(Config(schedule=(5, 15)), recipe(epochs=5))
    assert isinstance(build(Config(schedule=(4, 15)), recipe(epochs=5)), Hint)


@pytest.mark.parametrize(
    "changes",
    [
        {"ratio": 0.0},
        {"ratio": 1.01},
        {"ratio": math.nan},
        {"gamma": 0.0},
        {"beta": -0.1},
        {"beta": 1.5},
        {"damping": 0.0},
        {"schedule": ()},
        {"schedule": (0, 5)},
        {"lissa_scale": 0.0},
        {"lissa_steps": 0},
        {"lissa_batch": -1},
        {"lissa_repeats": 0},
    ],
)
def test_values_out_of_range_are_named(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name}: expected"):
        Config(**changes)


def test_one_channel_and_an_untrained_network_work():
    """Shapes other than the fixture's, through the whole loop."""
    defense = Hint(Config(schedule=(1,), ratio=0.3))
    _, result = train(defense, recipe=recipe(epochs=2, augment="crop-flip"), shape=(1, 9, 7))
    assert len(defense.memory["selected"]) == math.ceil(0.3 * 22)
    assert [row["epoch"] for row in result.notes] == [1]
