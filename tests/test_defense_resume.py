"""A run that is stopped and continued ends in the bytes of one that was not, for each defense."""

import pytest
import torch
from fake_data import fake_split, small_classifier

from poisonbench.defenses import atda, epic, friends
from poisonbench.errors import InterruptedRunError
from poisonbench.seeds import Seeds
from poisonbench.training.checkpoint import Checkpoint
from poisonbench.training.fit import fit
from poisonbench.training.recipe import Recipe

RECIPE = Recipe(epochs=4, batch_size=16, milestones=(2,), precision="float32")
#: 70 images are 5 batches an epoch: before, at and after the first round's epoch (the second).
STOPS = (3, 5, 6, 12, 17)


def build(name):
    if name == "atda":
        return atda.build(atda.Config(steps=3, radius=0.4), RECIPE)
    if name == "friends":
        return friends.build(friends.Config(begin_epoch=1, steps=3), RECIPE)
    return epic.build(epic.Config(fraction=0.3, warmup=1, interval=1), RECIPE)


def run(name, checkpoint=None, stop_after=None):
    model, batches = small_classifier(), 0

    def should_stop():
        nonlocal batches
        batches += 1
        return batches == stop_after

    result = fit(
        model,
        fake_split(70, 0),
        fake_split(8, 1),
        RECIPE,
        Seeds(),
        device=torch.device("cpu"),
        defense=build(name),
        checkpoint=checkpoint,
        should_stop=should_stop,
    )
    return model.state_dict(), result


@pytest.mark.parametrize("name", ["atda", "friends", "epic"])
def test_a_run_that_is_continued_ends_in_the_same_bytes(name, tmp_path):
    weights, result = run(name)
    assert result.notes
    for stop in STOPS:
        folder = tmp_path / str(stop)
        with pytest.raises(InterruptedRunError):
            run(name, Checkpoint(folder, "run"), stop)
        continued, again = run(name, Checkpoint(folder, "run"))
        assert again.interruptions == 1
        assert again.curve == result.curve
        assert again.notes == result.notes
        for key, value in weights.items():
            assert torch.equal(continued[key], value), key
