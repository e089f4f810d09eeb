"""Controls: what they train on, against a loop by hand, and who is told of the poisons."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from helpers.command_line import cli, done
from helpers.synthetic_runs import changed
from helpers.tiny_training import BASE, network, recipe, split, state_of, train
from poisonbench import registry
from poisonbench.core.errors import InterruptedRunError, UsageError
from poisonbench.core.seeds import Seeds
from poisonbench.data.artefacts import read_poison
from poisonbench.data.sources import load_dataset
from poisonbench.defenses import clean_only, none
from poisonbench.entries import DefenseEntry
from poisonbench.results.records import read_record
from poisonbench.tables import catalogue
from poisonbench.training.checkpoint import Checkpoint
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense, Oracle, TrainingState
from poisonbench.training.trainer import Trainer

DATA, VALIDATION = split(22), split(12, seed=1)
POISONED = torch.tensor([0, 3, 4, 9, 10, 11, 15, 20])


def mask(rows=POISONED, size=22):
    is_poison = torch.zeros(size, dtype=torch.bool)
    is_poison[rows] = True
    return is_poison


def told(is_poison):
    defense = clean_only.build(clean_only.Config(), recipe())
    defense.reveal(is_poison)
    return defense


def record_of(summary, results):
    return read_record(results / "runs" / f"{summary['id']}.json")


def run(results, tiny, method, *words):
    words = ("--dataset", tiny, "--results", results, "--epochs", "2", "--json", *words)
    return record_of(done("defend", "--method", method, *words).json, results)


def by_hand(data, rows_of_epoch, settings=BASE):
    """Plain SGD with momentum on the given rows, written out; the model's state at the end."""
    model = network().train()
    parameters = list(model.parameters())
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    for epoch in range(settings["epochs"]):
        rate = settings["learning_rate"] * 0.1 ** sum(m <= epoch for m in settings["milestones"])
        rows = rows_of_epoch(epoch)
        for start in range(0, len(rows), settings["batch_size"]):
            batch = torch.tensor(rows[start : start + settings["batch_size"]])
            loss = F.cross_entropy(model(data.images[batch].float() / 255), data.labels[batch])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient, v in zip(parameters, gradients, velocity, strict=True):
                    decayed = gradient + settings["weight_decay"] * parameter
                    v.mul_(settings["momentum"]).add_(decayed)
                    parameter -= rate * (decayed + settings["momentum"] * v)
    return model.state_dict()


# Clean only


def test_clean_only_is_plain_training_on_the_clean_rows_by_hand():
    poisons = set(POISONED.tolist())

    def rows_of_epoch(epoch):
        order = torch.randperm(22, generator=Seeds().generator("batches", epoch)).tolist()
        return [row for row in order if row not in poisons]

    model, _ = train(told(mask()), data=DATA)
    expected = by_hand(DATA, rows_of_epoch)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5, msg=key)


def test_clean_only_never_touches_a_poison():
    """Other pixels in the poisons' places give the same bytes."""
    other = split(22)
    other.images[POISONED] = 255 - other.images[POISONED]
    (first, _), (second, _) = (train(told(mask()), data=data) for data in (DATA, other))
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])


def test_without_poisons_clean_only_is_plain_training_in_bytes():
    control, result = train(told(mask([])), data=DATA)
    plain, plain_result = train(data=DATA)
    assert result.curve == plain_result.curve
    assert result.digests == plain_result.digests
    for key, value in plain.state_dict().items():
        assert torch.equal(value, control.state_dict()[key])


def test_clean_only_after_the_first_epoch_leaves_the_set_as_it_is():
    state = state_of(network(), DATA, VALIDATION, epoch=1)
    assert told(mask()).start_epoch(state) is state.train


def test_poisons_alone_are_refused():
    with pytest.raises(ValueError, match="got poisons alone; choose a smaller --rho"):
        told(mask(range(22)))


def test_a_run_of_clean_only_removes_the_poisons_and_nothing_else(tiny, results):
    record = run(results, tiny, "clean-only", "--attack", "durp", "--rho", "0.5")
    kept = [row.images for row in record.curve]
    assert kept == [135, 135]
    speed = sum(kept) / record.cost.seconds.training
    assert record.cost.images_per_second == pytest.approx(speed)
    report = record.metrics.filter
    assert (report.poisons_removed, report.num_poisons) == (135, 135)
    assert (report.clean_removed, report.num_clean) == (0, 135)
    assert (report.precision, report.recall, report.f1) == (1.0, 1.0, 1.0)
    none = run(results, tiny, "none", "--attack", "durp", "--rho", "0.5")
    assert record.digests.initial_weights == none.digests.initial_weights
    assert record.curve != none.curve


def test_a_clean_run_of_clean_only_is_plain_training(tiny, results):
    control, none = (run(results, tiny, method, "--clean") for method in ("clean-only", "none"))
    assert control.id != none.id
    assert (control.curve, control.digests) == (none.curve, none.digests)
    assert control.metrics.test_accuracy == none.metrics.test_accuracy


def test_a_run_on_poisons_alone_is_a_usage_error_and_leaves_no_record(tiny, artefact, results):
    words = ("--dataset", tiny, "--results", results, "--poison", artefact)
    outcome = cli("defend", "--method", "clean-only", *words)
    assert outcome.code == 2
    assert "clean-only: expected clean images to train on" in outcome.err
    assert not (results / "runs").exists()


# Plain training with the validation images


def with_validation():
    return none.build(none.Config(with_validation=True), recipe())


def test_the_validation_images_come_after_the_training_images():
    data = load_dataset("mnist-sample", Path("unused"), 0)
    extended = with_validation().extend(data.train, data.validation)
    assert len(extended) == len(data.train) + 1000
    start = len(data.train)
    assert torch.equal(extended.images[:start], data.train.images)
    assert torch.equal(extended.labels[:start], data.train.labels)
    assert torch.equal(extended.images[start:], data.validation.images)
    assert torch.equal(extended.labels[start:], data.validation.labels)
    assert none.build(none.Config(), recipe()).extend(data.train, data.validation) is data.train


def test_it_is_plain_training_on_all_rows_by_hand():
    defense = with_validation()
    together = defense.extend(DATA, VALIDATION)
    model, _ = train(defense, data=together)
    expected = by_hand(
        together,
        lambda epoch: torch.randperm(34, generator=Seeds().generator("batches", epoch)).tolist(),
    )
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5, msg=key)


def test_a_run_trains_on_the_poisoned_and_the_validation_images(
    tiny, artefact, results, monkeypatch
):
    seen = []

    original = Trainer.fit

    def watched(self, model, train, *rest):
        seen.append(train)
        return original(self, model, train, *rest)

    monkeypatch.setattr(Trainer, "fit", watched)
    words = ("--poison", artefact)
    control = run(results, tiny, "none", *words, "--with-validation", "true")
    plain = run(results, tiny, "none", *words)
    data = load_dataset(tiny, results, 0)
    poisoned = read_poison(artefact, data).apply(data.train)
    assert [len(train) for train in seen] == [300, 270]
    assert torch.equal(seen[0].images[:270], poisoned.images)
    assert torch.equal(seen[0].images[270:], data.validation.images)
    assert control.digests.initial_weights == plain.digests.initial_weights
    assert control.digests.first_batch != plain.digests.first_batch
    assert control.curve != plain.curve
    assert control.labels.overrides["with_validation"] is True
    assert control.labels.variant == "custom"
    assert control.spec.config == {"with_validation": True}
    assert plain.spec.config == {}
    assert "with_validation" not in plain.labels.overrides


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_a_longer_run_that_is_continued_ends_in_the_same_bytes(tmp_path, augment):
    defense = with_validation()
    together = defense.extend(DATA, VALIDATION)
    settings = recipe(augment=augment)
    model, result = train(defense, data=together, recipe=settings)
    batches = iter(range(1, 100))
    checkpoint = Checkpoint(tmp_path / "run", "run")
    with pytest.raises(InterruptedRunError):
        train(
            with_validation(),
            data=together,
            recipe=settings,
            checkpoint=checkpoint,
            should_stop=lambda: next(batches) == 7,
        )
    again, continued = train(
        with_validation(), data=together, recipe=settings, checkpoint=checkpoint
    )
    assert continued.interruptions == 1
    assert continued.curve == result.curve
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


# Who is told


@pytest.mark.parametrize("entry", registry.DEFENSES, ids=lambda entry: entry.name)
def test_only_what_the_registry_calls_an_oracle_can_be_told(entry):
    module = entry.load()
    defense = module.build(module.Config(), Recipe())
    assert isinstance(defense, Oracle) == entry.oracle
    assert entry.oracle == (entry.name == "clean-only")
    assert entry.oracle == ("(oracle)" in entry.label)


def test_a_defense_has_no_place_for_poisons():
    names = {field.name for field in dataclasses.fields(TrainingState)} | set(dir(Defense()))
    assert not [name for name in names if "poison" in name or name == "reveal"]


def test_a_plug_in_that_calls_itself_an_oracle_is_not_told(tiny, results, monkeypatch):
    class Curious(Oracle):
        was_told = False

        def reveal(self, is_poison):
            self.was_told = True

    curious = Curious()
    monkeypatch.setattr(clean_only, "build", lambda config, recipe: curious)
    plug_in = DefenseEntry("curious", "wants to know", module=clean_only.__name__)
    monkeypatch.setattr(registry, "_registered", [])
    with pytest.raises(UsageError, match="no plug-in is told which are poisons"):
        registry.register(dataclasses.replace(plug_in, oracle=True))
    registry.register(plug_in)
    run(results, tiny, "curious", "--attack", "durp", "--rho", "0.5")
    assert not curious.was_told
    run(results, tiny, "clean-only", "--attack", "durp", "--rho", "0.5")
    assert curious.was_told


def test_tables_ask_for_no_oracle_where_all_is_poisoned(tiny, results):
    record = run(results, tiny, "clean-only", "--clean")
    ran = [
        changed(
            record, spec={"dataset": {"name": "mnist-sample"}}, labels={"dataset": "mnist-sample"}
        )
    ]
    rhos = [c.rho for c in catalogue.cells("2", ran, "mnist-sample") if c.method == "clean-only"]
    assert rhos == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert "clean-only" not in {cell.method for cell in catalogue.cells("2", (), "mnist-sample")}
