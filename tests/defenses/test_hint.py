"""HINT against the paper's algorithms recomputed by hand, in float64 and by double backward."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from helpers.defense_problems import BETA, DATA, GAMMA, VALIDATION, pixels, start
from helpers.tiny_training import K, recipe, split, state_of, train
from poisonbench.core.errors import DivergedError
from poisonbench.defenses import hint
from poisonbench.defenses.hint import Config, Hint, select

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
    gradient = flat(
        torch.autograd.grad(F.cross_entropy(model(validation), VALIDATION.labels), head)
    )
    rows = slice(None)
    if config.hessian_set == "selected" and selected is not None:
        rows = selected
    features = model.embed(noisy[rows]).detach()

    def loss(vector):
        weight, bias = vector[:-K].view(K, -1), vector[-K:]
        return F.cross_entropy(features @ weight.T + bias, labels[rows])

    hessian = torch.autograd.functional.hessian(loss, flat(head).detach())
    damped = hessian + config.damping * torch.eye(len(hessian), dtype=torch.float64)
    direction = torch.linalg.solve(damped, gradient)

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
    expected, selected, _ = by_hand(trained, clean, config)
    assert torch.equal(defense.memory["selected"], selected)
    torch.testing.assert_close(pixels(first), expected, rtol=0, atol=2e-5)
    # The second round starts from the first one's noise, on a model that has moved on.
    later, _ = train(data=DATA, recipe=recipe(epochs=2))
    second, _, _ = start(config, later, defense=defense, train=first, epoch=2)
    again, _, _ = by_hand(later, clean, config, before=expected, selected=selected)
    torch.testing.assert_close(pixels(second), again, rtol=0, atol=2e-5)
    fresh, _, _ = by_hand(later, clean, config, selected=selected)
    assert (again - fresh).abs().max() > 1e-3, "the first round's noise must matter here"
    assert notes[0]["max_abs_noise"] == pytest.approx(
        float((expected - clean).abs().max()), abs=1e-5
    )


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
    shifted, _, _ = by_hand(trained, clean, config, gamma=0.01 * factor)
    noise, expected = pixels(train_set) - clean, shifted - clean
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


def test_noise_that_no_number_can_hold_stops_the_run(trained):
    """The clip at beta would make something plausible of it."""
    with pytest.raises(DivergedError, match="finite healthy noise, got inf; lower --gamma"):
        start(Config(gamma=1e300), trained)


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
    proposed = torch.linspace(-0.2, 0.2, 7 * 12).view(7, 3, 2, 2)
    applied = proposed.clamp(-BETA, BETA)
    parts = []
    for size in (7, 3, 1):
        batches = torch.arange(7).split(size)
        tallies = [hint.tally_of(proposed[rows], applied[rows], BETA) for rows in batches]
        parts.append(hint.noise_figures(tallies, 7))
    assert parts[0] == pytest.approx(parts[1], rel=1e-6)
    assert parts[0] == pytest.approx(parts[2], rel=1e-6)
    assert parts[0]["share_clipped_at_beta"] == pytest.approx(
        float((proposed.abs() >= BETA).float().mean())
    )
    assert parts[0]["max_abs_noise"] == pytest.approx(BETA)
