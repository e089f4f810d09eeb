"""A last batch of one image, for networks that cannot be trained on it and for those that can."""

import pytest
import torch
from torch import nn

from helpers.tiny_training import CPU, SHAPE, K, Recorder, recipe, split, watched_rows
from helpers.tiny_training import network as plain_network
from poisonbench.core.errors import DivergedError, InterruptedRunError, UsageError
from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import digest_tensors
from poisonbench.defenses import at, atda, cutmix, mixup, ueraser
from poisonbench.models.classifier import Classifier, initialise
from poisonbench.models.norms import norms_of
from poisonbench.training.checkpoint import Checkpoint
from poisonbench.training.evaluation import right_by_batch_statistics
from poisonbench.training.trainer import Trainer


def pooled_network() -> Classifier:
    """Its last batch norm sees one value of each image."""
    features = nn.Sequential(
        nn.Conv2d(SHAPE[0], 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(6, 8, 1),
        nn.BatchNorm2d(8),
        nn.Flatten(),
    )
    model = Classifier(features, nn.Linear(8, K), (0.4, 0.5), (0.2, 0.3))
    initialise(model, torch.Generator().manual_seed(0))
    return model


def fit(defense=None, *, model=None, size=17, settings=None, **options):
    """Batches are of 8 images."""
    model = pooled_network() if model is None else model
    trainer = Trainer(recipe=settings or recipe(), seeds=Seeds(), device=CPU, **options)
    with watched_rows():
        return model, trainer.fit(model, split(size), split(12, seed=1), defense)


class Keep(Recorder):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def start_epoch(self, state):
        return state.train.with_keep(torch.arange(len(state.train)) < self.count)


def sizes_of(recorder):
    return [len(rows) for epoch, rows, *_ in recorder.batches if epoch == 0]


@pytest.mark.parametrize(
    ("size", "sizes"), [(16, [8, 8]), (17, [8, 9]), (18, [8, 8, 2]), (9, [9]), (8, [8])]
)
def test_a_last_row_alone_joins_the_batch_before(size, sizes):
    joined, plain = Recorder(), Recorder()
    model, result = fit(joined, size=size)
    fit(plain, model=plain_network(), size=size)
    assert sizes_of(joined) == sizes
    for epoch in range(3):
        assert torch.equal(joined.rows(epoch), plain.rows(epoch))
    assert {int(norm.num_batches_tracked) for norm in norms_of(model)} == {3 * len(sizes)}
    assert result.digests["first_batch"] == digest_tensors(joined.batches[0][1])


def test_a_network_that_takes_one_image_gets_it_alone():
    plain, held = Recorder(), Recorder()
    fit(plain, model=plain_network())
    assert sizes_of(plain) == [8, 8, 1]
    model = pooled_network()
    model.hold(features=True, norms=True)
    fit(held, model=model)
    assert sizes_of(held) == [8, 8, 1]


def test_so_it_is_of_the_rows_that_a_defense_keeps():
    part = Keep(9)
    fit(part, size=20)
    assert sizes_of(part) == [9]
    with pytest.raises(DivergedError, match=r"two images to train on in epoch 1, .* got one"):
        fit(Keep(1))
    _, result = fit(Keep(1), model=plain_network())
    assert [row["images"] for row in result.curve] == [1, 1, 1]


def test_a_copy_is_trained_so_too():
    class Copying(Recorder):
        def start_epoch(self, state):
            if state.epoch == 0:
                state.train_copy("copy", split(9, seed=2))
            return state.train

    fit(Copying(), settings=recipe(epochs=1))


def test_a_recalibration_by_one_image_is_refused_before_the_training():
    """Where batch norm takes none; 0.05 of 12 validation images are one."""
    seen = Recorder()
    with pytest.raises(UsageError, match=r"--recalibrate: .* two validation images .* one of 12"):
        fit(seen, settings=recipe(recalibrate=0.05))
    assert not seen.batches
    fit(settings=recipe(recalibrate=0.1))
    fit(model=plain_network(), settings=recipe(recalibrate=0.05))


def test_a_single_test_image_has_no_statistics_where_batch_norm_takes_none():
    images = split(2, seed=1), split(1, seed=1)
    for network, is_known in ((pooled_network(), (True, False)), (plain_network(), (True, True))):
        for one, known in zip(images, is_known, strict=True):
            right = right_by_batch_statistics(network, one, torch.Generator().manual_seed(0))
            assert (right is not None) == known


DEFENSES = {
    "ueraser": (ueraser, {"form": "max", "draws": 2}),
    "atda": (atda, {"steps": 2}),
    "at": (at, {"steps": 2}),
    "mixup": (mixup, {}),
    "cutmix": (cutmix, {}),
}


@pytest.mark.parametrize("name", DEFENSES)
def test_defenses_of_batches_work_on_such_data(name):
    module, changes = DEFENSES[name]
    _, result = fit(module.build(module.Config(**changes), recipe()))
    assert len(result.curve) == 3
    if name == "atda":
        assert [note["epoch"] for note in result.notes] == [0, 1, 2]


def test_a_run_that_is_stopped_there_continues_to_the_same_bytes(tmp_path):
    whole, _ = fit()
    for stop in (1, 2, 3):
        batches = iter(range(1, 100))
        checkpoint = Checkpoint(tmp_path / str(stop), "run")
        with pytest.raises(InterruptedRunError):
            fit(checkpoint=checkpoint, should_stop=lambda: next(batches) == stop)  # noqa: B023
        continued, _ = fit(checkpoint=checkpoint)
        for one, other in zip(
            continued.state_dict().values(), whole.state_dict().values(), strict=True
        ):
            assert torch.equal(one, other)
