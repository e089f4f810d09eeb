"""Untargeted attacks that are stopped continue to the same bytes, whatever a pass holds."""

import dataclasses
import itertools
from contextlib import suppress

import pytest
import torch

from helpers.attack_tasks import fake_split, small_classifier, task_for
from poisonbench.attacks import delusive_adversarial as dap
from poisonbench.attacks import error_minimising as em
from poisonbench.attacks import pgd
from poisonbench.attacks import robust_error_minimising as rem
from poisonbench.attacks import targeted_adversarial as tap
from poisonbench.attacks.base import AttackCheckpoint
from poisonbench.core.errors import InterruptedRunError
from poisonbench.defenses import friends, hint
from poisonbench.models import classifier


class Stopping(AttackCheckpoint):
    """Saves once, at a call, and stops there; then gives back what it saved."""

    def __init__(self, generator, call):
        self.generator, self.calls, self.saved = generator, call, None

    def load(self):
        if self.saved is None:
            return None
        position, tensors, state = self.saved
        self.generator.set_state(state)
        return position, tensors

    def save_if_due(self, position, tensors):
        self.calls -= 1
        if self.calls == 0:
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
            self.saved = dict(position), tensors, self.generator.get_state()
            raise InterruptedRunError("stopped")


ROUNDS = {"rounds": 3, "steps": 2, "batches": 2, "batch_size": 8, "stop_error": 0.0}


INTERRUPTED = [
    (em, ROUNDS, (1, 2, 4)),
    (em, ROUNDS | {"noise": "class", "share": 0.5}, (1, 10, 25)),
    (rem, {"batches": 3, "batch_size": 64, "noise_steps": 2, "draws": 2}, (1, 3, 4)),
    (tap, {"steps": 2, "restarts": 2}, (1, 2, 3)),
    (tap, {"steps": 2, "restarts": 2, "against": "friends"}, (1, 2, 3)),
    (pgd, {"steps": 2}, (1, 2)),
    (pgd, {"steps": 2, "restarts": 2, "augment": "crop-flip"}, (1, 2, 3, 4, 5)),
]


@pytest.mark.parametrize(("module", "values", "calls"), INTERRUPTED)
def test_it_resumes_to_the_same_bytes(module, values, calls):
    """Three passes of the images, at the size that they have on a CPU."""
    split = fake_split(300, 4)
    images, labels = split.images.float() / 255, split.labels
    model, config = small_classifier(), module.Config(**values, precision="float32")

    def fresh_task(seed=0):
        return dataclasses.replace(
            task_for(model, images, labels, seed=seed), assumed=friends.Config()
        )

    whole = module.craft(fresh_task(), config)
    for call in calls:
        task = fresh_task()
        stopping = Stopping(task.generator, call)
        with pytest.raises(InterruptedRunError):
            module.craft(dataclasses.replace(task, checkpoint=stopping), config)
        again = fresh_task(seed=9)
        stopping.generator = again.generator
        resumed = module.craft(dataclasses.replace(again, checkpoint=stopping), config)
        assert torch.equal(resumed, whole), call


OTHER_PASSES = [
    (em, ROUNDS, (1, 2)),
    (dap, {"steps": 2}, (1, 2)),
    (tap, {"steps": 2, "restarts": 2}, (1, 6, 7, 9)),
    (pgd, {"steps": 2, "restarts": 2, "augment": "crop-flip"}, (1, 5, 6, 9)),
]


@pytest.mark.parametrize(("module", "values", "calls"), OTHER_PASSES)
def test_it_resumes_at_another_pass_size(module, values, calls, monkeypatch):
    """Stopped on a CPU, 125 images a pass, it goes on with a GPU's 500; and the other way round."""
    split = fake_split(600, 4)
    images, labels = split.images.double() / 255, split.labels
    model, config = small_classifier().double(), module.Config(**values, precision="float32")
    whole = module.craft(task_for(model, images, labels), config)
    for call, is_first_large in itertools.product(calls, (False, True)):
        monkeypatch.setattr(classifier, "is_accelerator", lambda device, it=is_first_large: it)
        task = task_for(model, images, labels)
        stopping = Stopping(task.generator, call)
        # The larger passes are fewer.
        with suppress(InterruptedRunError):
            module.craft(dataclasses.replace(task, checkpoint=stopping), config)
        if stopping.saved is None:
            continue
        monkeypatch.setattr(classifier, "is_accelerator", lambda device, it=is_first_large: not it)
        again = task_for(model, images, labels, seed=9)
        stopping.generator = again.generator
        resumed = module.craft(dataclasses.replace(again, checkpoint=stopping), config)
        torch.testing.assert_close(resumed, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_tap_draws_the_same_whatever_a_pass_holds(augment, monkeypatch):
    split = fake_split(700, 4)
    images, labels = split.images.double() / 255, split.labels
    model = small_classifier().double()
    config = tap.Config(steps=2, restarts=2, augment=augment, precision="float32")
    poisons = []
    for is_large in (False, True):
        monkeypatch.setattr(classifier, "is_accelerator", lambda device, it=is_large: it)
        poisons.append(tap.craft(task_for(model, images, labels), config))
    torch.testing.assert_close(*poisons, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("module", "values", "old"),
    [(em, ROUNDS, {"round": 1, "pass": 2}), (tap, {"steps": 2, "restarts": 2}, {"pass": 2})],
)
def test_a_position_of_another_version_is_started_over(module, values, old):
    """It counts passes, of which nobody knows how many images they held."""
    split = fake_split(300, 4)
    images, labels = split.images.float() / 255, split.labels
    model, config = small_classifier(), module.Config(**values, precision="float32")
    whole = module.craft(task_for(model, images, labels), config)
    task = task_for(model, images, labels)
    stopping = Stopping(task.generator, 2)
    with pytest.raises(InterruptedRunError):
        module.craft(dataclasses.replace(task, checkpoint=stopping), config)
    stopping.saved = (old, *stopping.saved[1:])
    again = task_for(model, images, labels)
    stopping.generator = again.generator
    with pytest.warns(UserWarning, match="expected a position of .*images, got .*started over"):
        resumed = module.craft(dataclasses.replace(again, checkpoint=stopping), config)
    assert torch.equal(resumed, whole)


def test_em_against_hint_has_the_same_errors_after_a_resume(monkeypatch):
    """By the error it stops, and HINT's noise, made once a round, is part of what has it."""
    split = fake_split(300, 4)
    images, labels = split.images.float() / 255, split.labels
    model = small_classifier()
    config = em.Config(**ROUNDS, precision="float32", against="hint")
    errors = []

    def recorded(*arguments):
        errors.append(error_of(*arguments))
        return errors[-1]

    def craft(checkpoint=None):
        task = task_for(model, images, labels)
        task = dataclasses.replace(task, assumed=hint.Config(gamma=20.0, beta=0.2))
        if checkpoint is not None:
            checkpoint.generator = task.generator
            task = dataclasses.replace(task, checkpoint=checkpoint)
        errors.clear()
        return em.craft(task, config), list(errors)

    error_of = em._error
    monkeypatch.setattr(em, "_error", recorded)
    whole, expected = craft()
    # Three passes a round: in its middle, in the next one's, and at one's end.
    for call, first in ((4, 1), (5, 1), (8, 2)):
        stopping = Stopping(None, call)
        with pytest.raises(InterruptedRunError):
            craft(stopping)
        resumed, rest = craft(stopping)
        assert rest == expected[first:]
        assert torch.equal(resumed, whole)
