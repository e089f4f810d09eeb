"""How the victim of a targeted attack is trained: what is frozen, fresh, shared and judged."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers.attack_tasks import K, fake_dataset, small_classifier
from helpers.command_line import done
from poisonbench.core.seeds import Seeds
from poisonbench.data.artefacts import read_poison
from poisonbench.data.sources import load_dataset
from poisonbench.data.splits import digest_tensors
from poisonbench.data.targets import transfer_counts
from poisonbench.models.classifier import Classifier, initialise
from poisonbench.registry import defenses
from poisonbench.results.records import read_record
from poisonbench.results.store import Store
from poisonbench.runs import trained_models as models_module
from poisonbench.runs.context import RunContext
from poisonbench.runs.method_settings import read_settings
from poisonbench.runs.trained_models import lengthen, model_spec, own_seeds
from poisonbench.runs.victim import judge, stage_recipe
from poisonbench.targeting import Goal, Targeting
from poisonbench.training.recipe import Recipe
from poisonbench.training.trainer import Trainer

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("short_targeted")


@pytest.fixture
def trainings(monkeypatch):
    """Every training from here on: its name, images, the model's state before, its digests."""
    seen = []

    original = Trainer.fit

    def watched(self, model, train, *rest):
        row = {"name": self.name, "train": train, "before": state(model)}
        seen.append(row)
        result = original(self, model, train, *rest)
        row |= {"digests": result.digests, "after": state(model)}
        return result

    monkeypatch.setattr(Trainer, "fit", watched)
    return seen


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def ran(data, results, *words, method="none"):
    """The record of a run."""
    line = ("defend", "--method", method, *words, "--dataset", data, "--results", results)
    return read_record(Path(done(*line, "--json").json["path"]))


def parts(weights):
    """Digests of the features' weights, the features' statistics and the head."""
    statistics = [name for name in weights if "running" in name or "tracked" in name]
    assert len(statistics) >= 3
    groups = {
        "weights": [n for n in weights if n.startswith("features.") and n not in statistics],
        "statistics": statistics,
        "head": [n for n in weights if n.startswith("head.")],
    }
    return {
        group: digest_tensors(*(weights[name].cpu() for name in sorted(names)))
        for group, names in groups.items()
    }


def keys(split):
    return [image.numpy().tobytes() for image in split.images]


@pytest.mark.parametrize(
    ("scenario", "drift", "unchanged"),
    [
        ("transfer", False, {"weights", "statistics"}),
        ("transfer", True, {"weights"}),
        ("finetune", False, {"statistics"}),
        ("finetune", True, set()),
        ("scratch", False, set()),
    ],
)
def test_what_is_frozen_stays_to_the_bit(scenario, drift, unchanged, data, results, trainings):
    words = ("--attack", "noise", "--scenario", scenario, "--save-model", "--weight-decay", "0.1")
    words += ("--norm-drift", "true") if drift else ()
    record = ran(data, results, *words)
    victim = trainings[-1]
    assert victim["name"] == "none"
    before, after = parts(victim["before"]), parts(victim["after"])
    assert {part for part in before if before[part] == after[part]} == unchanged
    kept = load_file(Store(results).model_path(record.id))
    assert parts(kept) == after


@pytest.mark.parametrize("method", ["hint", "friends", "atda", "epic"])
def test_no_defense_thaws_the_features(method, data, results, trainings):
    words = {"hint": ("--schedule", "1"), "friends": ("--begin-epoch", "1"), "atda": ()}
    words["epic"] = ("--warmup", "1", "--interval", "1")
    ran(data, results, "--attack", "bp", *words[method], method=method)
    before, after = parts(trainings[-1]["before"]), parts(trainings[-1]["after"])
    assert trainings[-1]["name"] == method
    assert before["weights"] == after["weights"]
    assert before["statistics"] == after["statistics"]
    assert before["head"] != after["head"]


def test_transfer_starts_with_the_extractor_and_a_new_head(data, results, trainings):
    record = ran(data, results, "--attack", "bp")
    names = [row["name"] for row in trainings]
    assert names == ["surrogate", "extractor", "none"]
    _, extractor, victim = trainings
    ready, start = parts(extractor["after"]), parts(victim["before"])
    assert start["weights"] == ready["weights"]
    assert start["statistics"] == ready["statistics"]
    assert start["head"] not in (ready["head"], parts(extractor["before"])["head"])
    head = nn.Linear(victim["before"]["head.weight"].shape[1], K)
    initialise(head, Seeds(0, 0).generator("transfer head"))
    assert torch.equal(victim["before"]["head.weight"], head.weight)
    assert torch.equal(victim["before"]["head.bias"], head.bias)
    assert record.spec.pretraining == record.spec.training


def test_the_extractor_sees_no_image_of_the_transfer_set(data, results, trainings):
    """Every pixel of the tiny data set is noise, so that images tell rows."""
    record = ran(data, results, "--attack", "bp")
    dataset = load_dataset(data, Path(), 0)
    poison = read_poison(Store(results).poison_path(record.labels.poison.id))
    _, extractor, victim = trainings
    clean = keys(dataset.train)
    counts = transfer_counts(dataset.train.labels, 0.1)
    assert counts.tolist() == [4] * K
    assert len(victim["train"]) == int(counts.sum())
    assert torch.bincount(victim["train"].labels).tolist() == counts.tolist()
    own = set(keys(victim["train"]))
    poisoned = {image.numpy().tobytes() for image in poison.images}
    assert poisoned <= own
    places = {clean.index(key) for key in own - poisoned} | set(poison.indices.tolist())
    assert len(places) == len(own)
    rest = [key for row, key in enumerate(clean) if row not in places]
    assert keys(extractor["train"]) == rest


def test_defenses_share_the_extractor_and_trials_do_not(data, results, trainings):
    for method, words in (("none", ()), ("epic", ("--warmup", "1")), ("hint", ("--schedule", "1"))):
        ran(data, results, "--attack", "bp", *words, method=method)
    assert [row["name"] for row in trainings] == ["surrogate", "extractor", "none", "epic", "hint"]
    victims = trainings[2:]
    assert len({row["digests"]["initial_weights"] for row in victims}) == 1
    assert len({row["train"].digest() for row in victims}) == 1
    ran(data, results, "--attack", "bp", "--trial", "1")
    assert [row["name"] for row in trainings[5:]] == ["extractor", "none"]
    assert parts(trainings[6]["before"])["head"] != parts(victims[0]["before"])["head"]
    assert trainings[5]["digests"]["initial_weights"] != trainings[1]["digests"]["initial_weights"]


def test_a_filter_of_a_finetuned_network_trains_no_copy_for_the_features_of_its_start(
    data, results, trainings
):
    words = ("--attack", "noise", "--scenario", "finetune", "--fraction", "0.1")
    record = ran(data, results, *words, "--features-from", "start", method="l2")
    assert [row["name"] for row in trainings] == ["pretrained", "l2"]
    assert record.labels.overrides["features_from"] == "start"
    assert record.metrics.filter.clean_removed > 0
    copied = ran(data, results, *words, method="l2")
    assert len(trainings) == 4
    assert "features_from" not in copied.labels.overrides
    assert copied.curve != record.curve


def test_finetuning_starts_from_the_clean_model(data, results, trainings):
    record = ran(data, results, "--attack", "noise", "--scenario", "finetune")
    pretrained, victim = trainings
    assert pretrained["name"] == "pretrained"
    dataset = load_dataset(data, Path(), 0)
    assert pretrained["train"].digest() == dataset.train.digest()
    assert parts(victim["before"]) == parts(pretrained["after"])
    assert len(victim["train"]) == len(dataset.train)
    assert victim["train"].digest() != dataset.train.digest()
    training, before = record.spec.training, record.spec.pretraining
    assert (training.epochs, training.learning_rate) == (8, 0.01)
    assert (before.epochs, before.learning_rate) == (2, 0.05)
    assert len(record.curve) == 8


def test_settings_that_were_given_hold_for_the_second_stage_too(data):
    dataset = load_dataset(data, Path(), 0)
    given = read_settings(defenses()["none"], dataset, "paper", {"epochs": 5})
    recipe = stage_recipe(Targeting(scenario="finetune"), given)
    assert (recipe.epochs, recipe.learning_rate) == (5, 0.01)
    for scenario in ("scratch", "transfer"):
        assert stage_recipe(Targeting(scenario=scenario), given) == given.recipe


def test_from_scratch_starts_at_initial_weights(data, results, trainings):
    record = ran(data, results, "--attack", "noise", "--rho", "0")
    (victim,) = trainings
    clean = ran(data, results, "--clean")
    assert record.digests.initial_weights == clean.digests.initial_weights
    assert victim["train"].digest() == load_dataset(data, Path(), 0).train.digest()
    assert record.curve == clean.curve


# Seeds


@pytest.mark.parametrize("attack", ["gm", "cp"])
def test_victim_and_attacker_share_no_seed(attack, data, results, trainings):
    """Not one initial weight and not one batch, in any trial, of surrogates, controls, victims."""
    for trial in ("0", "1"):
        words = ("--attack", attack, "--targets", "easy", "--trial", trial)
        ran(data, results, *words, "--scenario", "scratch")
    names = [row["name"] for row in trainings]
    assert names.count("control") == 3
    assert names.count("surrogate") == {"gm": 1, "cp": 2}[attack]
    assert names.count("none") == 2
    for part in ("initial_weights", "first_batch"):
        assert len({row["digests"][part] for row in trainings}) == len(trainings)


def test_seeds_of_an_attackers_models_are_of_their_own(data, tmp_path):
    dataset = load_dataset(data, Path(), 0)
    context = RunContext(Store(tmp_path), tmp_path, CPU, seed=4)
    recipe = read_settings(defenses()["none"], dataset, "paper", {}).recipe
    specs = [
        model_spec(context, dataset, recipe, kind, trial, None, number)
        for kind in ("surrogate", "control")
        for trial in (0, 1)
        for number in range(3)
    ]
    victims = [Seeds(4, trial) for trial in (0, 1)]
    seeds = [seeds.seed("initial weights") for seeds in (*map(own_seeds, specs), *victims)]
    assert len(set(seeds)) == len(seeds)


# Judging


class Says(nn.Module):
    """A model that gives the same logits to every image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits.expand(len(images), -1)


@pytest.mark.parametrize(
    ("logits", "prediction", "success"),
    [
        ((0.0, 1.0, 3.0, 2.0), 2, True),
        ((0.0, 3.0, 1.0, 2.0), 1, False),
        ((0.0, 1.0, 2.0, 3.0), 3, False),
        ((0.0, 3.0, 3.0, 0.0), 1, False),
    ],
)
def test_success_is_the_intended_class_and_nothing_else(logits, prediction, success):
    goal = Goal(1, 1, 2, 2, "scratch", "random")
    verdict = judge(Says(logits), fake_dataset(), goal, CPU)
    assert verdict.prediction == prediction
    assert verdict.success is success
    shares = torch.tensor(logits).softmax(0)
    assert verdict.confidence_of_own_class == pytest.approx(float(shares[1]))
    assert verdict.confidence_of_intended_class == pytest.approx(float(shares[2]))


def test_the_target_itself_is_judged_in_eval_mode():
    model, dataset = small_classifier(), fake_dataset()
    for row in range(len(dataset.test)):
        goal = Goal(row, 1, 2, 2, "scratch", "random")
        pixels = dataset.test.images[row : row + 1].float() / 255
        with torch.no_grad():
            expected = model(pixels).softmax(1)[0]
        verdict = judge(model.train(), dataset, goal, CPU)
        model.eval()
        assert verdict.prediction == int(expected.argmax())
        assert verdict.confidence_of_own_class == pytest.approx(float(expected[1]), rel=1e-5)


def test_the_record_has_the_verdict_of_the_last_epochs_model(data, results):
    record = ran(data, results, "--attack", "bp", "--save-model")
    dataset = load_dataset(data, Path(), 0)
    model = models_module.read_model(
        RunContext(Store(results), Path(), CPU),
        Store(results).model_path(record.id),
        record.spec.model,
        dataset,
    )
    assert judge(model, dataset, record.spec.goal, CPU) == record.metrics.target


# Parts that are held


def held(features, norms):
    model = small_classifier()
    model.hold(features=features, norms=norms)
    return model


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_held_norms_stay_in_eval_mode_whatever_is_called(norm):
    middle = norm(4)
    features = (nn.Flatten(), nn.Linear(3, 4), middle) if norm is nn.BatchNorm1d else (middle,)
    model = Classifier(nn.Sequential(*features), nn.Linear(4, 2), (0.0,), (1.0,))
    model.train()
    model.hold(features=False, norms=True)
    assert not middle.training
    for mode in (True, False, True):
        model.train(mode)
        assert model.head.training is mode
        assert middle.training is False
    model.hold(features=False, norms=False)
    assert middle.training


def test_holding_features_leaves_the_head_to_train():
    model = held(features=True, norms=False)
    needs = {name: value.requires_grad for name, value in model.named_parameters()}
    assert needs == {name: name.startswith("head.") for name in needs}
    model.hold(features=False, norms=False)
    assert all(value.requires_grad for value in model.parameters())


# Models that are kept


def test_states_after_epochs_come_back_in_the_order_asked(data, tmp_path):
    dataset = load_dataset(data, Path(), 0)
    context = RunContext(Store(tmp_path), tmp_path, CPU)
    recipe = replace(read_settings(defenses()["none"], dataset, "paper", {}).recipe, epochs=2)
    spec = model_spec(context, dataset, recipe, "surrogate", 0, None)
    asked = {"seeds": own_seeds(spec), "epochs": (2, 0, 2, 1)}
    models = models_module.trained_models(context, dataset, recipe, spec, **asked)
    digests = [digest_tensors(*model.state_dict().values()) for model in models]
    assert len(digests) == 4
    assert digests[0] == digests[2]
    assert len(set(digests)) == 3
    (last,) = models_module.trained_models(context, dataset, recipe, spec, seeds=own_seeds(spec))
    assert digest_tensors(*last.state_dict().values()) == digests[0]
    blank = models_module.fresh_network(dataset, spec.model, own_seeds(spec))
    assert digest_tensors(*blank.state_dict().values()) == digests[1]
    assert not any(p.requires_grad for model in models for p in model.parameters())
    twice = {"seeds": own_seeds(spec), "epochs": (2, 2)}
    assert len(models_module.trained_models(context, dataset, recipe, spec, **twice)) == 2


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(None, (15, (6, 9, 13))), (60, (60, (24, 36, 52))), (2, (2, (1, 1, 2)))],
)
def test_a_stage_of_another_length_keeps_its_schedule_in_proportion(epochs, expected):
    recipe = lengthen(Recipe(epochs=15, milestones=(6, 9, 13)), epochs)
    assert (recipe.epochs, recipe.milestones) == expected
