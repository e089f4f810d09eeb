"""The training loop against plain ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.tiny_training import CPU, Recorder, network, recipe, split, train, weights_digest
from poisonbench.core.errors import AbortedError, DivergedError
from poisonbench.core.seeds import Seeds
from poisonbench.core.settings import as_json
from poisonbench.data.splits import digest_tensors
from poisonbench.defenses import hint
from poisonbench.models.classifier import Classifier
from poisonbench.runs.trained_models import _Watcher
from poisonbench.training.augmentation import PADDING, CropFlip
from poisonbench.training.evaluation import accuracy, right_answers, right_by_batch_statistics
from poisonbench.training.precision import network_precision
from poisonbench.training.state import Defense
from poisonbench.training.trainer import Trainer

# Reproducibility and common random numbers


def test_the_same_spec_gives_the_same_bytes():
    settings = recipe(augment="crop-flip")
    first, one = train(recipe=settings)
    torch.rand(5)
    second, two = train(recipe=settings)
    assert weights_digest(first) == weights_digest(second)
    assert (one.curve, one.digests) == (two.curve, two.digests)


@pytest.mark.parametrize("other", [Seeds(0, 1), Seeds(1, 0)])
def test_another_trial_or_seed_changes_everything_random(other):
    runs = []
    for seeds in (Seeds(0, 0), other):
        recorder = Recorder()
        _, result = train(recorder, seeds=seeds, recipe=recipe(augment="crop-flip", epochs=1))
        by_row = {}
        for _, rows, images, _ in recorder.batches:
            by_row.update(zip(rows.tolist(), images, strict=True))
        runs.append((result, torch.stack([by_row[row] for row in sorted(by_row)])))
    (one, images), (two, other_images) = runs
    assert one.digests["initial_weights"] != two.digests["initial_weights"]
    assert one.digests["first_batch"] != two.digests["first_batch"]
    assert not torch.equal(images, other_images)


def test_digests_are_of_what_they_name():
    recorder = Recorder()
    model = network(Seeds(4, 2))
    _, result = train(recorder, seeds=Seeds(4, 2), recipe=recipe(epochs=1))
    assert result.digests == {
        "initial_weights": weights_digest(model),
        "first_batch": digest_tensors(recorder.batches[0][1]),
    }


class DropAfterFirst(Recorder):
    def start_epoch(self, state):
        super().start_epoch(state)
        keep = torch.ones(len(state.train), dtype=torch.bool)
        keep[::3] = state.epoch == 0
        return state.train.with_keep(keep)


def test_defenses_of_a_trial_share_all_until_they_act():
    """Weights, batches, augmentation and so the first epoch's loss are equal to the last bit."""
    settings = recipe(augment="crop-flip", epochs=2)
    runs = [
        train(defense, recipe=settings)[1]
        for defense in (
            None,
            Recorder(),
            DropAfterFirst(),
            hint.Hint(hint.Config(schedule=(1,), gamma=10.0)),
        )
    ]
    assert all(run.digests == runs[0].digests for run in runs)
    assert all(run.curve[0] == runs[0].curve[0] for run in runs)
    # And they did act afterwards.
    assert runs[2].curve[1] != runs[0].curve[1]
    assert runs[3].curve[1] != runs[0].curve[1]


def test_each_epoch_has_another_order_and_covers_every_row_once():
    recorder = Recorder()
    train(recorder)
    orders = [recorder.rows(epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(22)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert [len(rows) for _, rows, *_ in recorder.batches] == [8, 8, 6] * 3


# The loop against plain ones


def plain_loop(model, data, recorder, settings):
    """SGD written out, over the batches that the recorder saw."""
    images, labels = data.images.double() / 255, data.labels
    velocity = {}
    means = []
    for epoch in range(settings.epochs):
        rate = settings.learning_rate
        for milestone in settings.milestones:
            rate /= 10 if epoch >= milestone else 1
        total = 0.0
        model.train()
        batches = [rows for number, rows, *_ in recorder.batches if number == epoch]
        for step, rows in enumerate(batches):
            if settings.rate_schedule == "one-cycle":
                over = settings.cycle_epochs or settings.epochs
                done = epoch + (step + 0.5) / len(batches)
                rate = np.interp(done, [0, over / 4, over], [0, settings.learning_rate, 0])
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    step = weight.grad + settings.weight_decay * weight
                    if settings.momentum:
                        moved = settings.momentum * velocity.get(name, 0) + step
                        velocity[name] = moved
                        step = step + settings.momentum * moved
                    weight -= rate * step
            total += loss.item() * len(rows)
        means.append(total / len(data))
    return means


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.0, "weight_decay": 0.0, "milestones": ()},
        {"milestones": ()},
        {"weight_decay": 0.05, "milestones": (1,)},
        {"epochs": 3, "milestones": (1, 2)},
        {"epochs": 3, "milestones": (), "rate_schedule": "one-cycle"},
        {"milestones": (1,), "rate_schedule": "one-cycle", "cycle_epochs": 5},
    ],
)
def test_fit_is_a_plain_loop(changes):
    settings = recipe(**({"epochs": 2} | changes))
    data, recorder = split(), Recorder()
    reference = network().double()
    model, result = train(recorder, recipe=settings, data=data)
    means = plain_loop(reference, data, recorder, settings)
    expected = reference.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(
            value.to(expected[name].dtype), expected[name], rtol=0, atol=3e-6
        )
    assert [row["loss"] for row in result.curve] == pytest.approx(means, abs=1e-6)
    assert [row["epoch"] for row in result.curve] == list(range(1, settings.epochs + 1))
    validation = accuracy(model, split(12, seed=1))
    assert result.curve[-1]["validation_accuracy"] == validation


@pytest.mark.parametrize(("features", "norms"), [(True, True), (True, False), (False, True)])
def test_the_curve_of_fixed_features_is_that_of_whole_passes(features, norms, monkeypatch):
    """Validation images are embedded once where that cannot change, and only there."""
    calls = []
    embed = Classifier.embed

    def watched(model, images):
        calls.append(len(images))
        return embed(model, images)

    curves = []
    for cached in (True, False):
        model = network()
        model.hold(features=features, norms=norms)
        if not cached:
            monkeypatch.setattr(Classifier, "has_fixed_features", False)
        else:
            monkeypatch.setattr(Classifier, "embed", watched)
        trainer = Trainer(recipe=recipe(epochs=3), seeds=Seeds(), device=CPU)
        result = trainer.fit(model, split(), split(12, seed=1))
        if cached:
            evaluations = calls.count(12)
            monkeypatch.undo()
        curves.append(result.curve)
    assert curves[0] == curves[1]
    assert evaluations == (1 if features and norms else 3)


def test_one_cycle_rises_in_a_quarter_of_the_epochs_and_ends_at_zero():
    settings = recipe(epochs=8, rate_schedule="one-cycle", learning_rate=0.4)
    rates = [settings.rate_at(done) for done in (0, 1, 2, 5, 8, 9)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0, 0])


def test_a_recipe_without_a_schedule_steps_and_names_none():
    assert [recipe().rate_at(done) for done in (0, 1.99, 2, 2.5)] == [
        0.1,
        0.1,
        0.1 * 0.1,
        0.1 * 0.1,
    ]
    assert not {"rate_schedule", "cycle_epochs"} & set(as_json(recipe()))


@pytest.mark.parametrize("schedule", ["steps", "one-cycle"])
def test_the_first_epochs_are_those_of_the_whole(schedule):
    """By the weights at the start of the third epoch."""
    whole = recipe(epochs=4, milestones=(1,), rate_schedule=schedule)
    watcher = _Watcher([2], Defense())
    train(watcher, recipe=whole)
    first, _ = train(recipe=whole.first_epochs(2))
    kept = {key.removeprefix("2."): value for key, value in watcher.seen.items()}
    assert digest_tensors(*kept.values()) == weights_digest(first)
    assert whole.first_epochs(3).first_epochs(2) == whole.first_epochs(2)


def test_the_first_epochs_are_not_recalibrated_but_the_whole_is():
    """The whole recalibrates after its last epoch, so that a part of it has other statistics."""
    whole = recipe(epochs=3, recalibrate=1.0)
    watcher = _Watcher([2], Defense())
    last, _ = train(watcher, recipe=whole)
    first, _ = train(recipe=whole.first_epochs(2))
    kept = {key.removeprefix("2."): value for key, value in watcher.seen.items()}
    assert digest_tensors(*kept.values()) == weights_digest(first)
    assert weights_digest(train(recipe=whole.first_epochs(3))[0]) == weights_digest(last)
    assert weights_digest(last) != weights_digest(train(recipe=recipe(epochs=3))[0])


def test_a_cycle_without_one_cycle_is_refused():
    with pytest.raises(ValueError, match="cycle_epochs: expected it with rate_schedule one-cycle"):
        recipe(cycle_epochs=3)


def test_fit_learns():
    model, result = train(recipe=recipe(epochs=8, milestones=()))
    assert result.curve[-1]["loss"] < 0.1 < result.curve[0]["loss"]
    assert accuracy(model, split(40, seed=5)) == 1


def test_bfloat16_trains_like_float32():
    losses = {}
    for precision in ("float32", "bfloat16"):
        _, result = train(recipe=recipe(precision=precision, learning_rate=0.02))
        losses[precision] = [row["loss"] for row in result.curve]
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_precision_is_chosen_or_found():
    assert network_precision(CPU, "float32") is torch.float32
    assert network_precision(CPU, "bfloat16") is torch.bfloat16


@pytest.mark.parametrize(
    ("processor", "found"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, torch.bfloat16),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, torch.float32),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_a_processor_is_quicker_in_it(processor, found, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    assert network_precision(CPU, "auto") is found


def test_a_loss_that_is_not_finite_names_the_learning_rate():
    with pytest.raises(DivergedError, match=r"epoch 1.*--learning-rate") as caught:
        train(recipe=recipe(learning_rate=1e30))
    assert caught.value.epoch == 1


def test_a_copy_that_diverges_fails_the_epoch_before_which_it_was_trained():
    class Copies(Defense):
        def start_epoch(self, state):
            if state.epoch == 1:
                state.model.head.weight.data[0, 0] = float("nan")
                state.train_copy("features", split())
            return state.train

    with pytest.raises(
        DivergedError, match="copy trained for features, in its epoch 1: "
    ) as caught:
        train(Copies())
    assert caught.value.epoch == 2


def test_a_network_that_the_last_step_spoiled_is_no_result():
    """With one batch an epoch the loss is still finite: it was taken before the step."""
    with pytest.raises(DivergedError, match=r"finite outputs.*--learning-rate") as caught:
        train(recipe=recipe(learning_rate=1e30, batch_size=10_000, epochs=1))
    assert caught.value.epoch == 1


def test_a_network_whose_outputs_are_not_finite_has_no_accuracy():
    model, _ = train()
    model.head.weight.data[0, 0] = float("inf")
    generator = torch.Generator()
    for measure in (
        accuracy,
        right_answers,
        lambda *of: right_by_batch_statistics(*of, generator),
    ):
        with pytest.raises(DivergedError, match="--learning-rate"):
            measure(model, split(20))


def test_progress_counts_every_batch():
    seen = []
    train(report=lambda *words: seen.append(words), name="phase")
    assert [done for _, done, _, _ in seen] == list(range(1, 10))
    assert {(name, total) for name, _, total, _ in seen} == {("phase", 9)}
    assert seen[-1][3] == "epoch 3/3"


def test_the_peak_is_the_state_of_the_first_best_epoch_by_validation(monkeypatch):
    reached = iter([0.25, 0.75, 0.5, 0.75])
    states = []

    def scripted(self):
        states.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        return next(reached)

    monkeypatch.setattr("poisonbench.training.trainer._Run._validation_accuracy", scripted)
    model, result = train(Defense(), recipe=recipe(epochs=4))
    assert [row["validation_accuracy"] for row in result.curve] == [0.25, 0.75, 0.5, 0.75]
    assert all(torch.equal(result.peak[name], tensor) for name, tensor in states[1].items())
    assert weights_digest(model) == digest_tensors(*states[3].values())
    assert weights_digest(model) != digest_tensors(*result.peak.values())


def test_a_stop_without_a_checkpoint_aborts():
    asked = []
    with pytest.raises(AbortedError):
        train(should_stop=lambda: asked.append(1) or len(asked) == 4)
    assert len(asked) == 4


def test_seconds_are_booked_by_phase():
    _, result = train()
    assert set(result.seconds) == {"training", "defense", "validation"}
    assert all(value > 0 for value in result.seconds.values())


# Augmentation


def naive_crop_flip(images, shifts, flips):
    out = []
    for image, (down, right), flip in zip(images, shifts.tolist(), flips.tolist(), strict=True):
        height, width = image.shape[1:]
        padded = torch.zeros(len(image), height + 2 * PADDING, width + 2 * PADDING)
        padded[:, PADDING : PADDING + height, PADDING : PADDING + width] = image
        crop = padded[:, down : down + height, right : right + width]
        out.append(crop.flip(2) if flip else crop)
    return torch.stack(out)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 10)])
def test_crop_flip_is_the_naive_loop(shape):
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(900, *shape, generator=generator)
    draws = CropFlip.draw(900, generator, CPU)
    rows = torch.randperm(900, generator=generator)[:300]
    out = draws(images[rows], rows)
    assert torch.equal(out, naive_crop_flip(images[rows], draws.shifts[rows], draws.flips[rows]))
    # All 81 shifts and both flips occur.
    assert len({tuple(shift) for shift in draws.shifts.tolist()}) == 81
    assert 380 < int(draws.flips.sum()) < 520


def test_the_middle_crop_without_a_flip_is_the_image():
    images, rows = torch.rand(5, 2, 8, 8), torch.arange(5)
    same = CropFlip(torch.full((5, 2), PADDING), torch.zeros(5, dtype=torch.bool))
    assert torch.equal(same(images, rows), images)
    mirrored = CropFlip(same.shifts, torch.ones(5, dtype=torch.bool))
    assert torch.equal(mirrored(images, rows), images.flip(3))


def test_batches_are_perturbed_after_augmentation():
    recorder, data, seeds = Recorder(), split(), Seeds()
    train(recorder, data=data, recipe=recipe(augment="crop-flip", epochs=2), seeds=seeds)
    for epoch in range(2):
        draws = CropFlip.draw(22, seeds.generator("augmentation", epoch), CPU)
        for number, rows, images, labels in recorder.batches:
            if number == epoch:
                clean = data.images[rows].float() / 255
                expected = naive_crop_flip(clean, draws.shifts[rows], draws.flips[rows])
                assert torch.equal(images, expected)
                assert torch.equal(labels, data.labels[rows])


# Evaluation
