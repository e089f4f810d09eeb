"""Sleeper Agent: its patch by loops, its choice and its steps by finite differences, retraining."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers.attack_tasks import SHAPE, K, fake_split, small_classifier
from poisonbench.attacks import sleeper_agent
from poisonbench.attacks.base import AttackCheckpoint, LabelledImages, TriggerTask
from poisonbench.core.errors import UsageError

TARGET, SOURCE = 2, 1


def drawing(seed=0):
    return torch.Generator().manual_seed(seed)


def config_of(**more):
    defaults = {"brew_augment": "none", "patch": 3, "steps": 6, "step_size": 0.05}
    return sleeper_agent.Config(
        target_class=TARGET, source_class=SOURCE, **(defaults | {"epsilon": 0.1} | more)
    )


def task_of(config, trained=lambda number, poisons: small_classifier(number).double(), **more):
    train = fake_split(40, 0)
    rows = (train.labels == TARGET).nonzero().flatten()
    model = small_classifier().double().requires_grad_(False)
    values = {
        "images": train.images[rows].double() / 255,
        "labels": train.labels[rows],
        "validation": LabelledImages(train.images[:4].double() / 255, train.labels[:4]),
        "num_classes": K,
        "surrogate": lambda: model,
        "untrained": lambda: pytest.fail("no untrained network is needed"),
        "generator": drawing(5),
        "report": lambda done, total: None,
        "rows": rows,
        "train": train,
        "trained": trained,
        "stamp": lambda images: sleeper_agent.stamp(images, config, drawing(9)),
    }
    return TriggerTask(**(values | more))


def gradient_of(model, images, labels):
    """By the weights one after the other, each of them moved."""
    names = [name for name, _ in model.named_parameters()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    slopes, width = [], 1e-6
    for name in names:
        for place in range(state[name].numel()):
            losses = []
            for sign in (1, -1):
                moved = {key: tensor.clone() for key, tensor in state.items()}
                moved[name].view(-1)[place] += sign * width
                logits = torch.func.functional_call(model, moved, (images,))
                losses.append(F.cross_entropy(logits, labels))
            slopes.append((losses[0] - losses[1]) / (2 * width))
    return torch.stack(slopes)


# The patch


def test_the_patch_by_loops():
    """One patch, smooth between four by four colours, at a place of its own on each image."""
    config = config_of(patch=4)
    images = torch.rand(30, 3, 9, 11, generator=drawing(1), dtype=torch.float64)
    stamped = sleeper_agent.stamp(images, config, drawing(2))
    draws = drawing(2)
    # Of the side of the grid itself interpolation leaves the colours as they are.
    patch = torch.rand(1, 3, 4, 4, generator=draws)[0].double()
    places = torch.rand(30, 2, generator=draws)
    corners = set()
    for image, was, place in zip(stamped, images, places, strict=True):
        top, left = int(place[0] * 6), int(place[1] * 8)
        corners.add((top, left))
        expected = was.clone()
        for row in range(4):
            for column in range(4):
                expected[:, top + row, left + column] = patch[:, row, column]
        assert torch.equal(image, expected)
    assert len(corners) > 15
    assert {top for top, _ in corners} == set(range(6))
    assert torch.equal(images, torch.rand(30, 3, 9, 11, generator=drawing(1), dtype=torch.float64))


def test_the_same_patch_is_on_other_images():
    """What was matched in training is what test images bear: alone the places differ."""
    config, grey = config_of(patch=8), torch.full((1, 1, 8, 8), 0.5)
    one = sleeper_agent.stamp(grey, config, drawing(3))
    many = sleeper_agent.stamp(grey.expand(5, 1, 8, 8), config, drawing(3))
    assert torch.equal(many, one.expand(5, 1, 8, 8))
    assert 0 <= float(one.min()) < 0.3 < 0.7 < float(one.max()) <= 1
    with pytest.raises(UsageError, match="--patch: expected at most 8, the image's side, got 9"):
        sleeper_agent.stamp(grey, config_of(patch=9), drawing())


# The choice


def test_the_images_of_the_longest_gradients_are_chosen():
    config = config_of()
    task = task_of(config)
    pairs = zip(task.images, task.labels, strict=True)
    model = task.surrogate()
    lengths = [float(gradient_of(model, image[None], label[None]).norm()) for image, label in pairs]
    longest = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    for count in (0, 1, 4, 10):
        chosen = sleeper_agent.choose(task, config, count).tolist()
        assert chosen == sorted(longest[:count]), f"of {count}"


# The steps


def test_the_first_step_by_finite_differences():
    """From the start that is drawn, by the sign of the slope of 1 - cos.

    The rate of an only step has fallen tenfold three times.
    """
    config = config_of(steps=1, retrainings=0, step_unit="pixel", step_size=10.0)
    task = task_of(config)
    model, base = task.surrogate(), task.images[:2]
    task = replace(task, images=base, labels=task.labels[:2], rows=task.rows[:2])
    train = task.train
    sources = train.images[train.labels == SOURCE].double() / 255
    patched = sleeper_agent.stamp(sources, config, drawing(9))
    goal = gradient_of(model, patched, torch.full((len(patched),), TARGET))

    def loss(images):
        own = gradient_of(model, images, task.labels)
        return 1 - torch.dot(own, goal) / (own.norm() * goal.norm())

    start = torch.randn(1, 2, *SHAPE, generator=drawing(5))[0].mul(0.1).clamp(-0.1, 0.1) + base
    poisons = sleeper_agent.craft(task, config)
    # Of all 256 values a few, each far from a kink of the clamp.
    flat, moved = start.flatten(), poisons.flatten()
    for place in range(5, 256, 50):
        slope = torch.zeros_like(flat)
        slope[place] = 1e-4
        up, down = (loss((flat + sign * slope).view_as(start)) for sign in (1, -1))
        expected = (flat[place] - 0.01 * (up - down).sign()).clamp(
            max(0.0, float(base.flatten()[place]) - 0.1),
            min(1.0, float(base.flatten()[place]) + 0.1),
        )
        assert float(moved[place]) == pytest.approx(float(expected), abs=1e-6)


def test_poisons_come_to_point_the_goal_s_way_within_their_budget():
    calls = []
    config = config_of(steps=40, retrainings=0, epsilon=0.2)
    task = task_of(config, report=lambda done, total: calls.append((done, total)))
    poisons = sleeper_agent.craft(task, config)
    assert calls[-1] == (40, 40)
    assert float((poisons - task.images).abs().max()) <= 0.2 + 1e-12
    assert 0 <= float(poisons.min()) <= float(poisons.max()) <= 1
    model, train = task.surrogate(), task.train
    patched = task.stamp(train.images[train.labels == SOURCE].double() / 255)
    goal = gradient_of(model, patched, torch.full((len(patched),), TARGET))
    before, after = (
        F.cosine_similarity(gradient_of(model, images, task.labels), goal, dim=0)
        for images in (task.images, poisons)
    )
    assert 1 - after < 0.2 * (1 - before)


# Retraining


@pytest.mark.parametrize(
    ("steps", "retrainings", "expected"),
    [
        *((250, 4, [50, 100, 150, 200]), (100, 2, [33, 66]), (10, 0, []), (1, 0, [])),
        *((9, 4, [1, 3, 5, 7]), (5, 4, [1, 2, 3, 4]), (11, 2, [3, 7])),
    ],
)
def test_the_steps_before_which_it_retrains(steps, retrainings, expected):
    """Between equal parts, to a step; of defaults as in algorithm 1, each floor(R / (T + 1))."""
    config = config_of(steps=steps, retrainings=retrainings)
    assert list(config.retraining_steps) == expected


def test_surrogates_are_trained_anew_on_the_poisons_as_they_are():
    seen = []

    def trained(number, poisons):
        seen.append((number, None if poisons is None else poisons.clone()))
        return small_classifier(number).double()

    config = config_of(steps=9, retrainings=2, surrogates=2)
    task = task_of(config, trained)
    poisons = sleeper_agent.craft(task, config)
    assert [number for number, _ in seen] == [1, 2, 3, 4, 5]
    assert seen[0][1] is None
    first, later = seen[1][1], seen[3][1]
    assert torch.equal(first, seen[2][1])
    assert torch.equal(later, seen[4][1])
    assert not torch.equal(first, later)
    # The first three steps are those of a run that ends there, but for the rate's fall.
    assert float((first - task.images).abs().max()) <= 0.1 + 1e-12
    none = sleeper_agent.craft(task_of(config), replace(config, retrainings=0))
    assert not torch.equal(poisons, none)


class _StoppedError(Exception):
    pass


class _Checkpoint(AttackCheckpoint):
    def __init__(self, generator, stop_after):
        self.generator, self.stop_after, self.kept = generator, stop_after, None

    def load(self):
        if self.kept is None:
            return None
        position, tensors, state = self.kept
        self.generator.set_state(state)
        return position, tensors

    def save_if_due(self, position, tensors):
        if position["step"] == self.stop_after:
            copies = {name: tensor.clone() for name, tensor in tensors.items()}
            self.kept, self.stop_after = (position, copies, self.generator.get_state()), -1
            raise _StoppedError


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 8])
def test_stopped_between_retrainings_it_goes_on_to_the_same_bytes(stop_after):
    """The surrogates depend on what they are trained on, as in a run."""

    def trained(number, poisons):
        model = small_classifier(number).double()
        with torch.no_grad():
            model.head.weight += poisons.mean()
        return model

    config = config_of(steps=9, retrainings=2, brew_augment="shift-flip")
    whole = sleeper_agent.craft(task_of(config, trained), config)
    generator = drawing(5)
    checkpoint = _Checkpoint(generator, stop_after)
    with pytest.raises(_StoppedError):
        sleeper_agent.craft(
            task_of(config, trained, generator=generator, checkpoint=checkpoint), config
        )
    generator = checkpoint.generator = drawing(99)
    again = task_of(config, trained, generator=generator, checkpoint=checkpoint)
    assert torch.equal(sleeper_agent.craft(again, config), whole)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"clean_label": False}, "clean_label: expected true"),
        ({"source_class": TARGET}, "source_class: expected another than the target class"),
        ({"restarts": 2}, "restarts: expected 1 with retrainings"),
        ({"steps": 4}, "steps: expected more than retrainings, 4, .*got 4; raise steps or lower"),
        ({"steps": 2, "retrainings": 9}, "steps: expected more than retrainings, 9, .*got 2"),
        ({"patch": 0}, "patch"),
        ({"retrainings": -1}, "retrainings"),
    ],
)
def test_bad_settings(bad, message):
    with pytest.raises(ValueError, match=message):
        sleeper_agent.Config(**({"target_class": TARGET, "source_class": SOURCE} | bad))
