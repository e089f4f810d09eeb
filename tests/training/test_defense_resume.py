"""A run that is stopped and continued ends in the bytes of one that was not, for each defense."""

import pytest
import torch

from helpers.attack_tasks import fake_split, small_classifier
from poisonbench.core.errors import AbortedError, InterruptedRunError
from poisonbench.core.seeds import Seeds
from poisonbench.defenses import (
    at,
    atda,
    cutmix,
    deep_knn,
    epic,
    friends,
    gaussian_blur,
    jpeg,
    mixup,
    orthogonal_projection,
    ueraser,
)
from poisonbench.training.checkpoint import Checkpoint
from poisonbench.training.recipe import Recipe
from poisonbench.training.trainer import Trainer

RECIPE = Recipe(epochs=4, batch_size=16, milestones=(2,), precision="float32")
#: 70 images are 5 batches an epoch: before, at and after the first round's epoch (the second).
STOPS = (3, 5, 6, 12, 17)
#: Its first 20 are those of the network whose features it takes.
MORE_STOPS = {"knn": (21, 22, 24)}
MODULES = {
    "knn": deep_knn,
    "jpeg": jpeg,
    "gaussian-blur": gaussian_blur,
    "orthogonal-projection": orthogonal_projection,
    "ueraser": ueraser,
    "at": at,
    "mixup": mixup,
    "cutmix": cutmix,
}
#: They note nothing.
SILENT = ("ueraser", "at", "mixup", "cutmix")


def build(name):
    if name == "atda":
        return atda.build(atda.Config(steps=3, radius=0.4), RECIPE)
    if name == "friends":
        return friends.build(friends.Config(begin_epoch=1, steps=3), RECIPE)
    if name in MODULES:
        return MODULES[name].build(MODULES[name].Config(), RECIPE)
    return epic.build(epic.Config(fraction=0.3, warmup=1, interval=1), RECIPE)


def run(name, checkpoint=None, stop_after=None):
    model, batches = small_classifier(), 0

    def should_stop():
        nonlocal batches
        batches += 1
        return batches == stop_after

    trainer = Trainer(
        recipe=RECIPE,
        seeds=Seeds(),
        device=torch.device("cpu"),
        checkpoint=checkpoint,
        should_stop=should_stop,
    )
    return model.state_dict(), trainer.fit(model, fake_split(70, 0), fake_split(8, 1), build(name))


@pytest.mark.parametrize("name", ["atda", "friends", "epic", *MODULES])
def test_a_run_that_is_continued_ends_in_the_same_bytes(name, tmp_path):
    weights, result = run(name)
    assert result.notes or name in SILENT
    for stop in (*STOPS, *MORE_STOPS.get(name, ())):
        folder = tmp_path / str(stop)
        with pytest.raises(InterruptedRunError):
            run(name, Checkpoint(folder, "run"), stop)
        continued, again = run(name, Checkpoint(folder, "run"))
        assert again.interruptions == 1
        assert again.curve == result.curve
        assert again.notes == result.notes
        for key, value in weights.items():
            assert torch.equal(continued[key], value), key


def test_a_filter_stopped_in_its_feature_network_continues_that_network(tmp_path):
    """20 batches are the feature network's, then 20 at most the run's."""
    weights, result = run("knn")
    sessions, batches = 0, 0
    while True:
        try:
            continued, again = run("knn", Checkpoint(tmp_path, "run"), 3)
            break
        except InterruptedRunError:
            sessions += 1
            batches += 3
            # The feature network does not start over: it would never end.
            assert batches <= 40
    assert again.interruptions == sessions > 6
    assert (again.curve, again.notes) == (result.curve, result.notes)
    assert all(torch.equal(continued[key], value) for key, value in weights.items())


def test_a_filter_stopped_without_a_checkpoint_has_nothing_to_continue():
    with pytest.raises(AbortedError):
        run("knn", stop_after=3)
