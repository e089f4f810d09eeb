"""What the training loop promises to defenses: their calls, what they see, what they may change."""

import inspect
from contextlib import nullcontext
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.tiny_training import (
    CPU,
    SHAPE,
    K,
    Recorder,
    network,
    recipe,
    split,
    train,
    weights_digest,
)
from poisonbench.core.errors import DivergedError, UsageError
from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Split
from poisonbench.runs.trained_models import _Watcher
from poisonbench.training.checkpoint import Checkpoint
from poisonbench.training.state import Defense, TrainingSet, TrainingState
from poisonbench.training.trainer import Trainer

# What a defense sees


def test_a_defense_sees_no_test_split_and_no_poison_rows():
    assert [field.name for field in fields(TrainingState)] == [
        "epoch",
        "step",
        "model",
        "original",
        "train",
        "validation",
        "generator",
        "note",
        "train_copy",
        "long_steps",
    ]
    assert [field.name for field in fields(TrainingSet)] == ["images", "labels", "keep"]
    assert [field.name for field in fields(Split)] == ["images", "labels"]
    signatures = inspect.signature(Trainer), inspect.signature(Trainer.fit)
    words = " ".join(name for signature in signatures for name in signature.parameters)
    assert "test" not in words
    assert "poison" not in words


def test_the_state_says_where_training_is():
    recorder = Recorder()
    data, validation = split(), split(12, seed=1)
    train(recorder, data=data, recipe=recipe(epochs=2))
    assert [(state.epoch, state.step) for state in recorder.states] == [(0, 0), (1, 0)]
    state = recorder.states[1]
    assert torch.equal(state.original.images, data.images)
    assert state.train is state.original
    assert torch.equal(state.validation.images, validation.images)
    draws = [torch.rand(3, generator=state.generator("a")) for _ in range(2)]
    assert torch.equal(*draws)
    for other in (state.generator("b"), recorder.states[0].generator("a")):
        assert not torch.equal(torch.rand(3, generator=other), draws[0])


def test_every_epoch_trains_in_train_mode():
    """Whatever mode the model comes in, and whatever mode a defense leaves it in."""

    class Careless(Recorder):
        modes = ()

        def start_epoch(self, state):
            state.model.eval()
            return state.train

        def perturb_batch(self, state, images, labels):
            self.modes = (*self.modes, state.model.training)
            return images

    careless = Careless()
    model, _ = train(careless, recipe=recipe(epochs=2))
    assert careless.modes == (True,) * 6
    assert weights_digest(model) == weights_digest(train(recipe=recipe(epochs=2))[0])


def test_notes_carry_their_epoch():
    class Notes(Defense):
        def start_epoch(self, state):
            state.note({"seen": len(state.train)})
            return state.train

    _, result = train(Notes(), recipe=recipe(epochs=2))
    assert result.notes == [{"epoch": 0, "seen": 22}, {"epoch": 1, "seen": 22}]


def test_a_changed_training_set_lasts_until_it_is_changed_again():
    class Brighten(Recorder):
        def start_epoch(self, state):
            super().start_epoch(state)
            if state.epoch != 1:
                return state.train
            return state.train.with_images(torch.ones(22, *SHAPE))

    defense = Brighten()
    train(defense)
    mean = {epoch: float(images.mean()) for epoch, _, images, _ in defense.batches}
    assert mean[0] < 1
    assert mean[1] == mean[2] == 1
    assert defense.states[2].train is not defense.states[2].original
    assert defense.states[2].original.images.dtype == torch.uint8


class Levels(Defense):
    """Grey levels instead of pixels in [0, 1]."""

    def start_epoch(self, state):
        return state.train.with_images(state.original.images.float())


class FreeLevels(Levels):
    keeps_range = False


def test_grey_levels_are_refused_unless_the_defense_leaves_the_range():
    for defense in (Levels(), _Watcher([], Levels())):
        with pytest.raises(UsageError, match=r"pixels in \[0, 1\], none under -1 .*keeps_range"):
            train(defense)
    free, watched = (train(one)[0] for one in (FreeLevels(), _Watcher([], FreeLevels())))
    assert weights_digest(free) == weights_digest(watched) != weights_digest(train()[0])


def test_batches_of_grey_levels_are_refused_unless_the_defense_leaves_the_range():
    class Batches(Defense):
        def perturb_batch(self, state, images, labels):
            return images * 255

    class Free(Batches):
        keeps_range = False

    for defense in (Batches(), _Watcher([], Batches())):
        with pytest.raises(UsageError, match=r"perturb_batch: expected pixels in \[0, 1\], none"):
            train(defense)
    train(Free(), recipe=recipe(learning_rate=1e-6))


@pytest.mark.parametrize("hook", ["start_epoch", "perturb_batch"])
def test_images_on_another_device_are_refused(hook):
    class Elsewhere(Defense):
        def start_epoch(self, state):
            images = state.train.images
            return state.train.with_images(images.to("meta") if hook == "start_epoch" else images)

        def perturb_batch(self, state, images, labels):
            return images.to("meta")

    with pytest.raises(UsageError, match=rf"{hook}: expected .*, got Tensor .* on meta; mend it"):
        train(Elsewhere())


@pytest.mark.parametrize(("shift", "fits"), [(-0.9, True), (-1.1, False), (1, True), (1.1, False)])
def test_noise_may_reach_over_the_edges_and_not_far(shift, fits):
    class Shifted(Defense):
        def start_epoch(self, state):
            pixels = torch.linspace(0, 1, 22 * 2 * 8 * 8).view(22, *SHAPE)
            return state.train.with_images(pixels + shift)

    with nullcontext() if fits else pytest.raises(UsageError, match="pixels in"):
        train(Shifted(), recipe=recipe(epochs=1))


# What is left in the state and the memory


class Acting(Defense):
    """Does something in one of the hooks, at a step."""

    def __init__(self, act, hook="start_epoch", step=0):
        super().__init__()
        self.act, self.hook, self.step = act, hook, step

    def start_epoch(self, state):
        if self.hook == "start_epoch":
            self.act(self, state)
        return state.train

    def perturb_batch(self, state, images, labels):
        if self.hook == "perturb_batch" and state.step == self.step:
            self.act(self, state)
        return images


def remember(name, value):
    return lambda defense, state: defense.memory.update({name: value})


def note(row):
    return lambda defense, state: state.note(row)


def other_head(defense, state):
    state.model.head = torch.nn.Linear(54, K)


def zeroed(choose):
    return lambda defense, state: choose(state).zero_()


@pytest.mark.parametrize("hook", ["start_epoch", "perturb_batch"])
@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (remember("a", 3), UsageError, r"memory\['a'\]: expected a tensor by a name, got int"),
        (remember(3, torch.ones(1)), UsageError, r"memory\[3\]: expected a tensor by a name"),
        (remember("keep", torch.ones(3) > 0), UsageError, r"\(22,\) torch.bool, got Tensor \(3,"),
        (remember("keep", torch.ones(22)), UsageError, r"\(22,\) torch.bool, got .* torch.float32"),
        (remember("selected", torch.tensor([])), UsageError, r"\(S,\) torch.int64, got"),
        (remember("selected", torch.tensor([0, 22])), UsageError, r"rows in 0\.\.21, got 22"),
        (remember("selected", torch.tensor([-1])), UsageError, r"rows in 0\.\.21, got -1"),
        (note([1]), UsageError, "expected a dictionary, got list"),
        (note({"a": torch.ones(1)}), UsageError, "JSON values as 'a', got Tensor"),
        (note({"b": object}), UsageError, "JSON values as 'b', got type"),
        (note({"c": np.float32("nan")}), DivergedError, "expected finite numbers as 'c', got"),
        (note({"d": [float("inf")]}), DivergedError, r"expected finite numbers as 'd', got \[inf"),
        (
            note({"classes_spared": [K]}),
            UsageError,
            "classes in 0..3 as 'classes_spared'",
        ),
        (lambda defense, state: state.model.half(), UsageError, "float32, got some of torch.fl"),
        (other_head, UsageError, "the parameters that it had, .* got other ones or another"),
        (zeroed(lambda state: state.original.images), UsageError, "got a change in place"),
        (zeroed(lambda state: state.original.labels), UsageError, "got a change in place"),
        (zeroed(lambda state: state.validation.labels), UsageError, "got a change in place"),
    ],
)
def test_what_a_hook_must_not_leave_is_one_line_after_its_first_call(act, error, message, hook):
    batches = []
    with pytest.raises(error, match=f"^own: .*{message}") as raised:
        train(Acting(act, hook), name="own", report=lambda *words: batches.append(words))
    assert "\n" not in str(raised.value)
    assert batches == []


def test_what_a_state_says_is_not_set_by_a_defense():
    def swap(defense, state):
        state.model = network()

    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'model'"):
        train(Acting(swap, "start_epoch"), name="own")


@pytest.mark.parametrize("stop", [True, False])
def test_a_memory_that_cannot_be_kept_is_told_when_it_would_be(stop, tmp_path):
    """Before it is saved, and at the end of the epoch."""
    defense = Acting(remember("a", 3), "perturb_batch", step=2)
    checkpoint = Checkpoint(tmp_path, "run")
    with pytest.raises(UsageError, match="expected a tensor by a name"):
        train(defense, checkpoint=checkpoint, should_stop=lambda: stop and defense.memory)
    assert not checkpoint.exists()


def test_memory_and_notes_that_fit_are_left_as_they_are():
    row = {"a": np.float32(0.5), "b": np.int64(2), "c": [np.bool_(True)], "d": {"e": None}}
    act = note(row)
    defense = Acting(lambda *words: (act(*words), remember("keep", torch.arange(22) > 3)(*words)))
    remembered = torch.tensor([21, 0])
    defense.memory = {"selected": remembered, "rest": torch.ones(2, 2)}
    model, result = train(defense, recipe=recipe(epochs=1))
    assert result.notes == [{"epoch": 0, "a": 0.5, "b": 2, "c": [True], "d": {"e": None}}]
    assert [type(value) for value in result.notes[0].values()] == [int, float, int, list, dict]
    assert defense.memory["selected"] is remembered
    assert weights_digest(model) == weights_digest(train(recipe=recipe(epochs=1))[0])


def test_the_rows_of_a_memory_are_those_that_a_defense_was_given():
    defense, given, validation = Acting(remember("keep", torch.ones(20) > 0)), 20, split(12, seed=1)
    trainer = Trainer(recipe=recipe(epochs=1), seeds=Seeds(), device=CPU)
    trainer.fit(network(), split(22), validation, defense, given)
    with pytest.raises(UsageError, match=r"\(22,\) torch.bool, got Tensor \(20,\)"):
        trainer.fit(network(), split(22), validation, defense)


class NotFinite(Defense):
    keeps_range = False

    def __init__(self, hook):
        super().__init__()
        self.hook = hook

    def start_epoch(self, state):
        pixels = state.train.pixels(slice(None))
        return state.train.with_images(pixels / 0) if self.hook == "start_epoch" else state.train

    def perturb_batch(self, state, images, labels):
        return images * float("nan") if self.hook == "perturb_batch" else images

    def batch_loss(self, state, logits, labels):
        loss = super().batch_loss(state, logits, labels)
        return loss * float("inf") if self.hook == "batch_loss" else loss


@pytest.mark.parametrize(
    ("hook", "remedy"),
    [
        ("start_epoch", "mend start_epoch, whose images are not finite"),
        ("perturb_batch", "mend perturb_batch, whose first images are not finite"),
        ("batch_loss", "mend batch_loss, whose first loss is not finite"),
    ],
)
def test_a_loss_that_is_not_finite_names_the_hook_that_began_it(hook, remedy):
    with pytest.raises(DivergedError, match=f"finite training loss, got .* in epoch 1; {remedy}"):
        train(NotFinite(hook))


# Dropped rows


class Keep(Recorder):
    def __init__(self, keep):
        super().__init__()
        self.keep = keep

    def start_epoch(self, state):
        return state.train.with_keep(self.keep)


def test_dropped_rows_are_never_trained_on_and_move_nothing_else():
    keep = torch.arange(22) % 3 != 1
    settings = recipe(augment="crop-flip", epochs=2)
    everything, part = Recorder(), Keep(keep)
    train(everything, recipe=settings)
    train(part, recipe=settings)
    for epoch in range(2):
        order = everything.rows(epoch)
        assert torch.equal(part.rows(epoch), order[keep[order]])
    # Each row that stays is augmented as before.
    views = {}
    for epoch, rows, images, _ in everything.batches:
        views.update({(epoch, row): view for row, view in zip(rows.tolist(), images, strict=True)})
    for epoch, rows, images, labels in part.batches:
        for row, view, label in zip(rows.tolist(), images, labels, strict=True):
            assert torch.equal(view, views[epoch, row])
            assert int(label) == row % K


def test_the_loss_of_a_part_is_its_mean():
    """A run on the kept rows reports their mean loss, not the sum over a larger count."""
    keep = torch.zeros(22, dtype=torch.bool)
    keep[:8] = True
    settings = recipe(epochs=1, batch_size=8)
    part = Keep(keep)
    _, result = train(part, recipe=settings)
    data, model = split(), network()
    rows = part.batches[0][1]
    loss = F.cross_entropy(model(data.images[rows].float() / 255), data.labels[rows])
    assert len(part.batches) == 1
    assert result.curve[0]["loss"] == pytest.approx(loss.item(), abs=1e-6)


def test_a_defense_that_drops_every_row_is_named_as_the_cause():
    with pytest.raises(DivergedError, match=r"epoch 1, got none: the defense dropped them all"):
        train(Keep(torch.zeros(22, dtype=torch.bool)))


# Changed batches


class Blank(Defense):
    def perturb_batch(self, state, images, labels):
        return torch.zeros_like(images)


def test_what_perturb_batch_returns_is_trained_on():
    blank = Split(torch.zeros(22, *SHAPE, dtype=torch.uint8), split().labels)
    model, result = train(Blank())
    plain, expected = train(data=blank)
    assert weights_digest(model) == weights_digest(plain)
    assert result.curve == expected.curve


def test_perturb_batch_is_called_only_where_it_is_overridden(monkeypatch):
    def refuse(self, state, images, labels):
        raise AssertionError("the base class's hook was called in the loop")

    class OnlyEpochs(Defense):
        def start_epoch(self, state):
            return state.train

    monkeypatch.setattr(Defense, "perturb_batch", refuse)
    train(OnlyEpochs(), recipe=recipe(epochs=1))
    called = Recorder()
    train(called, recipe=recipe(epochs=1))
    assert len(called.batches) == 3
