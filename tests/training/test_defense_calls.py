"""What the training loop promises to defenses: their calls, what they see, what they may change."""

import inspect
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

from helpers.tiny_training import SHAPE, K, Recorder, network, recipe, split, train, weights_digest
from poisonbench.core.errors import DivergedError, UsageError
from poisonbench.data.splits import Split
from poisonbench.runs.trained_models import _Watcher
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
        with pytest.raises(UsageError, match=r"pixels in \[0, 1\], none over 2 .*keeps_range"):
            train(defense)
    free, watched = (train(one)[0] for one in (FreeLevels(), _Watcher([], FreeLevels())))
    assert weights_digest(free) == weights_digest(watched) != weights_digest(train()[0])


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
