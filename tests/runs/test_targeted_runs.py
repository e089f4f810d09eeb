"""Targeted attacks through craft and defend, in their scenarios, with every defense."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec import to_builtins

import poisonbench
from helpers.command_line import METHODS, RHO, cli, done, files_in, tiny_arrays
from poisonbench.cli.plan_jobs import plan_lines
from poisonbench.data.artefacts import read_poison
from poisonbench.data.sources import load_dataset
from poisonbench.registry import attacks
from poisonbench.requests import to_words
from poisonbench.results.records import read_record
from poisonbench.results.run_keys import record_key
from poisonbench.results.store import Store
from poisonbench.training import recipe
from poisonbench.training.trainer import Trainer

#: The attacks and their victims in the HINT paper, and beside it.
OWN = {"gm": "scratch", "mp": "scratch", "bp": "transfer", "fc": "transfer"}
BESIDE = {"cp": "transfer", "noise": "scratch"}

pytestmark = pytest.mark.usefixtures("short_targeted")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A results folder that the tests of this file fill."""
    return tmp_path_factory.mktemp("shared") / "results"


def defended(data, results, *words):
    """The record of a run, and what the command printed about it."""
    line = ("defend", *words, "--dataset", data, "--results", results, "--json")
    printed = done(*line).json
    return read_record(Path(printed["path"])), printed


def same_outcome(first, second):
    """What two runs that train on the same bytes share."""
    for part in ("metrics", "curve", "digests", "notes"):
        assert getattr(first, part) == getattr(second, part)


@pytest.mark.parametrize("attack", OWN)
def test_every_defense_meets_the_attack_in_its_scenario(attack, data, shared):
    records = []
    for method, words in METHODS.items():
        line = ("--method", method, *words, "--attack", attack)
        record, printed = defended(data, shared, *line)
        assert printed["is_new"]
        verdict, goal = record.metrics.target, record.spec.goal
        assert goal.scenario == record.spec.targeting.scenario == OWN[attack]
        assert verdict.success == (verdict.prediction == goal.intended_class)
        assert record.metrics.attack_success is verdict.success
        assert printed["attack_success"] is verdict.success
        own, intended = verdict.confidence_of_own_class, verdict.confidence_of_intended_class
        assert 0 <= own <= 1
        assert 0 <= intended <= 1
        assert own + intended <= 1 + 1e-6
        if verdict.success:
            assert intended >= own
        size = 144 if OWN[attack] == "scratch" else 16
        assert record.metrics.poison.count == 2
        assert record.metrics.poison.share == 2 / size
        assert len(record.curve) == 2
        assert record.labels.presets == ["mnist"]
        assert (record.spec.pretraining is not None) == (OWN[attack] != "scratch")
        records.append(record)
    assert len({record.spec.goal for record in records}) == 1
    assert len({record.spec.poison.digest for record in records}) == 1
    assert len({record.digests.initial_weights for record in records}) == 1
    assert len({record.digests.first_batch for record in records}) == 1
    before = files_in(shared)
    line = ("--method", "hint", *METHODS["hint"], "--attack", attack)
    again, printed = defended(data, shared, *line)
    assert not printed["is_new"]
    assert again.id == records[1].id
    assert files_in(shared) == before


@pytest.mark.parametrize("attack", [*OWN, *BESIDE])
def test_every_attack_runs_in_every_scenario_against_the_same_target(attack, data, shared):
    targets = set()
    for scenario in ("scratch", "transfer", "finetune"):
        words = ("--method", "none", "--attack", attack, "--scenario", scenario)
        if scenario in attacks()[attack].not_in:
            outcome = cli("defend", *words, "--dataset", data, "--results", shared)
            assert outcome.code == 2
            assert f"another than transfer with {attack}" in outcome.err
            continue
        record, _ = defended(data, shared, *words)
        goal = record.spec.goal
        assert goal.scenario == scenario
        targets.add((goal.target, goal.intended_class, goal.poison_class))
        origin = record.labels.poison.id
        poison = read_poison(Store(shared).poison_path(origin), load_dataset(data, Path(), 0))
        assert poison.goal == goal
        assert poison.card.attacks == [attack]
        assert poison.card.measured.max_abs_levels > 0
        own = (OWN | BESIDE)[attack]
        assert ("scenario" in record.labels.overrides) == (scenario != own)
    other, _ = defended(data, shared, "--method", "none", "--attack", "noise")
    goal = other.spec.goal
    assert targets == {(goal.target, goal.intended_class, goal.poison_class)}


def test_the_command_says_what_became_of_the_target(data, shared):
    line = ("defend", "--method", "none", "--attack", "noise", "--dataset", data)
    record, _ = defended(data, shared, *line[1:5])
    goal, verdict = record.spec.goal, record.metrics.target
    assert (
        f"test image {goal.target} (class {goal.target_class}, intended "
        f"{goal.intended_class}) taken for class {verdict.prediction}: the attack "
        f"{'succeeds' if verdict.success else 'fails'}, "
    ) in done(*line, "--results", shared).out


def test_a_clean_control_has_the_target_and_no_poison(data, results):
    for scenario in ("scratch", "transfer"):
        words = ("--method", "none", "--attack", "bp", "--rho", "0", "--scenario", scenario)
        record, printed = defended(data, results, *words)
        assert record.spec.poison is None
        assert printed["rho"] == 0
        assert record.metrics.poison is None
        assert record.metrics.target.success is record.metrics.attack_success
        assert not (results / "poisons").exists()
        poisoned, _ = defended(data, results, *words[:4], "--scenario", scenario)
        assert record.spec.goal == poisoned.spec.goal
        shutil.rmtree(results / "poisons")


@pytest.mark.parametrize(("attack", "scenario"), [("gm", "scratch"), ("bp", "transfer")])
def test_an_artefact_trains_as_its_attack_does(attack, scenario, data, shared):
    line = ("craft", "--attack", attack, "--dataset", data, "--results", shared, "--json")
    crafted = done(*line).json
    assert crafted["goal"]["scenario"] == scenario
    record, _ = defended(data, shared, "--method", "none", "--attack", attack)
    given, _ = defended(data, shared, "--method", "none", "--poison", crafted["path"])
    assert record.labels.poison.id == crafted["id"]
    assert given.spec.goal == record.spec.goal
    assert to_builtins(record.spec.goal) == crafted["goal"]
    same_outcome(given, record)
    assert given.labels.overrides["poison"] == "artefact"
    # Of another trial's victim.
    other, _ = defended(
        data, shared, "--method", "none", "--poison", crafted["path"], "--trial", "1"
    )
    assert other.spec.goal == record.spec.goal
    assert other.digests.initial_weights != record.digests.initial_weights


def test_trials_in_one_call_are_those_of_single_calls(data, results, tmp_path):
    """A target's poisons do not depend on what is crafted beside it."""
    line = ("craft", "--attack", "gm", "--dataset", data, "--json", "--results")
    together = done(*line, results, "--trials", "3").json["poisons"]
    assert [item["is_new"] for item in together] == [True] * 3
    assert len({item["goal"]["target"] for item in together}) > 1
    for trial in (2, 0):
        alone = done(*line, tmp_path / "alone", "--trial", trial).json
        assert alone["id"] == together[trial]["id"]
        assert alone["digest"] == together[trial]["digest"]
    shutil.rmtree(together[1]["path"])
    again = done(*line, results, "--trials", "3").json["poisons"]
    assert [item["is_new"] for item in again] == [False, True, False]
    assert [item["digest"] for item in again] == [item["digest"] for item in together]


def test_trials_of_defend_have_targets_of_their_own(data, shared):
    line = ("defend", "--method", "none", "--attack", "noise", "--trials", "3", "--json")
    runs = done(*line, "--dataset", data, "--results", shared).json["runs"]
    records = [read_record(Path(run["path"])) for run in runs]
    assert len({record.spec.goal for record in records}) == 3
    assert [record.spec.poison.trial for record in records] == [0, 1, 2]


def test_given_targets_are_used(data, results):
    words = ("--target", "5", "--intended-class", "3", "--poison-class", "2")
    record, _ = defended(data, results, "--method", "none", "--attack", "noise", *words)
    goal = record.spec.goal
    assert (goal.target, goal.target_class, goal.targets) == (5, 1, "given")
    assert (goal.intended_class, goal.poison_class) == (3, 2)
    assert {"target", "intended_class", "poison_class"} <= set(record.labels.overrides)
    assert record.labels.variant == "custom"
    labels = load_dataset(data, Path(), 0).train.labels
    (path,) = (results / "poisons").iterdir()
    assert set(labels[read_poison(path).indices].tolist()) == {2}


def test_easy_targets_are_chosen_by_clean_models_once(data, results):
    line = ("--method", "none", "--attack", "noise", "--targets", "easy")
    record, _ = defended(data, results, *line)
    assert record.spec.goal.targets == "easy"
    assert len(list((results / "models").iterdir())) == 3
    stamps = {path: path.stat().st_mtime_ns for path in (results / "models").iterdir()}
    clean, _ = defended(data, results, *line, "--rho", "0")
    assert clean.spec.goal == record.spec.goal
    assert {path: path.stat().st_mtime_ns for path in (results / "models").iterdir()} == stamps


@pytest.mark.parametrize("targets", ["random", "easy"])
def test_what_only_the_victim_knows_does_not_change_the_poison(targets, data, results, monkeypatch):
    if targets == "easy":
        # Clean models must get some test images right.
        monkeypatch.setitem(recipe.RECIPE_PRESETS["paper"]["mnist"], "epochs", 12)
    line = ("--method", "none", "--attack", "bp", "--targets", targets)
    plain, _ = defended(data, results, *line)
    for change in (("--norm-drift", "true"), ("--transfer-share", "0.3"), ("--epochs", "1")):
        record, _ = defended(data, results, *line, *change)
        assert record.id != plain.id
        assert record.spec.poison == plain.spec.poison
        assert record.spec.goal == plain.spec.goal
        control, _ = defended(data, results, *line, *change, "--rho", "0")
        assert control.spec.goal == plain.spec.goal
        assert record.labels.poison.id == plain.labels.poison.id
    assert len(list((results / "poisons").iterdir())) == 1


def test_a_defense_knows_the_epochs_of_the_stage_that_it_defends(data, results):
    words = ("--method", "epic", "--attack", "bp", "--warmup", "1", "--interval", "2")
    record, _ = defended(data, results, *words, "--stage-epochs", "6")
    assert record.spec.training.epochs == 6
    assert [note["epoch"] for note in record.notes if note["round"] == "epic"] == [1, 3, 5]
    line = ("defend", "--attack", "bp", "--dataset", data, "--results", results)
    for method in (("hint", "--schedule", "1"), ("friends", "--begin-epoch", "1")):
        outcome = cli(*line, "--stage-epochs", "1", "--method", *method)
        assert outcome.code == 2, outcome.err


def test_a_setting_that_is_given_holds_in_the_second_stage(data, results):
    words = ("--method", "none", "--attack", "noise", "--scenario", "finetune")
    plain, _ = defended(data, results, *words)
    assert plain.spec.training.learning_rate == 0.01
    # The recipe's own value, which the scenario would change.
    given, _ = defended(data, results, *words, "--learning-rate", "0.05")
    assert given.spec.training.learning_rate == 0.05
    assert given.labels.overrides["learning_rate"] == 0.05
    assert "learning_rate" not in plain.labels.overrides


def test_all_trials_are_checked_before_the_first_is_trained(data, results):
    words = ("--method", "none", "--attack", "noise", "--trials", "3", "--target", "99999")
    outcome = cli("defend", *words, "--dataset", data, "--results", results)
    assert outcome.code == 2
    assert not results.exists() or files_in(results) == []


def test_the_python_interface(data, shared):
    line = ("craft", "--attack", "fc", "--dataset", data, "--results", shared, "--json")
    crafted = done(*line).json
    poison = poisonbench.craft("fc", data, results=shared)
    assert poison.digest == crafted["digest"]
    assert poison.goal is not None
    record = poisonbench.defend("none", data, attack="fc", results=shared)
    same, _ = defended(data, shared, "--method", "none", "--attack", "fc")
    assert record == same
    given = poisonbench.defend("none", data, attack="noise", target=5, results=shared)
    assert given.spec.goal.target == 5


# Bad input

GM = "defend --method none --attack gm "
CRAFT_GM = "craft --attack gm "


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        (CRAFT_GM + "--target 40", "--target|0..39|got 40"),
        (CRAFT_GM + "--target -1", "target|0 or more|-1"),
        (CRAFT_GM + "--target x", "--target|whole number|'x'"),
        (CRAFT_GM + "--intended-class 4", "--intended-class|0..3|got 4"),
        (CRAFT_GM + "--poison-class 4", "--poison-class|0..3|got 4"),
        (CRAFT_GM + "--target 5 --intended-class 1", "--intended-class|another class|image 5"),
        (CRAFT_GM + "--rho 0.3", "--rho|at most 36 poisons|got 44"),
        (CRAFT_GM + "--rho 0", "--rho|(0, 1]|got 0"),
        (CRAFT_GM + "--rho 1.5", "--rho|(0, 1]|1.5"),
        (CRAFT_GM + "--scenario transfers", "scratch, transfer|did you mean 'transfer'"),
        (CRAFT_GM + "--targets hard", "random, easy|'hard'"),
        ("craft --attack bp --scenario transfer --rho 0.05", "at most 4 poisons|places|got 8"),
        (CRAFT_GM + "--scenario transfer --transfer-share 1", "transfer_share|(0, 1)|1"),
        (CRAFT_GM + "--transfer-share 0.2", "--transfer-share|--scenario transfer|scratch"),
        (CRAFT_GM + "--norm-drift true", "norm_drift|got scratch"),
        (CRAFT_GM + "--selection uniform", "--selection|an untargeted attack|gm"),
        ("craft --attack gm+bp", "untargeted attacks to mix|gm"),
        ("craft --attack pgd --scenario transfer", "pgd has no option --scenario"),
        ("craft --attack durp --target 5", "durp has no option --target"),
        (GM + "--target 40", "--target|0..39|got 40"),
        (GM + "--target 40 --rho 0 --targets easy", "--target|0..39|got 40"),
        (GM + "--intended-class 4 --rho 0 --targets easy", "--intended-class|0..3|got 4"),
        (GM + "--target 5 --intended-class 1", "--intended-class|another class|image 5"),
        (GM + "--rho 0.3", "--rho|at most 36 poisons|got 44"),
        (GM + "--rho 0.3 --targets easy", "--rho|at most 36 poisons|got 44"),
        (GM + "--poison-trial 1", "--poison-trial|an untargeted attack|gm"),
        (GM + "--selection uniform", "--selection|an untargeted attack|gm"),
        (GM + "--scenari transfer", "none has no option --scenari"),
        ("defend --method none --attack pgd --scenario transfer", "targeted attack|got pgd"),
        ("defend --method none --attack mix --target 3", "--target|got pgd+dap+durp+dc"),
        ("defend --method none --clean --scenario transfer", "--scenario|got --clean"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(line, fragments, data, results):
    outcome = cli(*line.split(), "--dataset", data, "--results", results)
    assert outcome.code == 2, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    assert not results.exists() or files_in(results) == []
    for fragment in fragments.split("|"):
        assert fragment in outcome.err


@pytest.fixture(scope="module")
def artefacts(data, tmp_path_factory):
    """Paths of a poison for each scenario, and of an untargeted one."""
    results = tmp_path_factory.mktemp("artefacts")
    line = ("craft", "--dataset", data, "--results", results, "--attack")
    paths = {"untargeted": done(*line, "durp").out.strip()}
    for scenario in ("scratch", "transfer"):
        paths[scenario] = done(*line, "noise", *RHO, "--scenario", scenario).out.strip()
    return paths


@pytest.mark.parametrize(
    ("name", "words", "code", "fragments"),
    [
        ("scratch", "--scenario transfer", 65, "made for scenario transfer|scratch"),
        ("transfer", "--scenario scratch", 65, "made for scenario scratch|transfer"),
        ("transfer", "--scenario nowhere", 2, "--scenario|scratch, transfer, finetune|'nowhere'"),
        ("untargeted", "--scenario transfer", 2, "--scenario|a targeted attack"),
        ("scratch", "--target 5", 2, "--target|--poison, which settles it"),
        ("scratch", "--intended-class 1", 2, "--intended-class|--poison, which settles it"),
        ("scratch", "--targets easy", 2, "--targets|--poison, which settles it"),
        ("scratch", "--rho 0.2", 2, "--rho|--poison"),
        ("scratch", "--norm-drift true", 2, "norm_drift|scratch"),
        ("transfer", "--transfer-share 0.02", 2, "--transfer-share|2 poisons|got 1"),
    ],
)
def test_what_an_artefact_settles(name, words, code, fragments, data, artefacts, results):
    line = ("defend", "--method", "none", "--poison", artefacts[name], *words.split())
    outcome = cli(*line, "--dataset", data, "--results", results)
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    assert outcome.err.count("\n") == 1
    assert not results.exists() or files_in(results) == []
    for fragment in fragments.split("|"):
        assert fragment in outcome.err


def test_an_artefact_of_a_test_image_that_is_another_elsewhere(artefacts, tmp_path, results):
    arrays = tiny_arrays(train=160, test=40)
    arrays["y_test"] = np.roll(arrays["y_test"], 1)
    np.savez(tmp_path / "rolled.npz", **arrays)
    line = ("defend", "--method", "none", "--poison", artefacts["scratch"])
    outcome = cli(*line, "--dataset", f"npz:{tmp_path / 'rolled.npz'}", "--results", results)
    assert outcome.code == 65
    assert "made for another split" in outcome.err
    assert not results.exists() or files_in(results) == []


def test_no_model_is_trained_for_a_plan(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", None)
    line = f"poisonbench defend --method hint --attack gm --targets easy --dataset {data} "
    plan = plan_lines([line + "--schedule 1"], tmp_path)
    assert [job.kind for job in plan.jobs] == ["craft", "defend"]


# Sweeps


def test_a_plans_ids_are_those_of_its_poisons_and_records(data, artefacts, results, tmp_path):
    method = "poisonbench defend --method none "
    lines = [
        method + "--attack gm --trials 2",
        method + "--attack bp --norm-drift true --model mnist-cnn --seed 3",
        method + "--attack noise --targets easy --rho 0.02 --trial 1",
        method + "--attack noise --intended-class 1 --poison-class 2 --scenario finetune",
        method + "--attack gm --rho 0",
        method + f"--poison {artefacts['transfer']}",
    ]
    plan = plan_lines([f"{line} --dataset {data}" for line in lines], tmp_path)
    jobs = {kind: plan.only(kind) for kind in ("craft", "defend")}
    assert (len(jobs["craft"]), len(jobs["defend"])) == (5, 7)
    for job in plan.jobs:
        done(*to_words(job.request), "--results", results)
        if job.kind == "craft":
            assert (results / "poisons" / job.id).is_dir()
    assert {path.name for path in (results / "poisons").iterdir()} == {
        job.id for job in jobs["craft"]
    }
    keys = [record_key(record) for record in Store(results).records(pytest.fail)]
    assert sorted(keys) == sorted(job.id for job in jobs["defend"])


def test_a_plan_refuses_a_bad_target(data, tmp_path):
    path = tmp_path / "lines"
    path.write_text(f"poisonbench defend --method none --attack gm --target 40 --dataset {data}")
    outcome = cli("sweep", "plan", "--lines", path, "--json")
    assert (outcome.code, outcome.out) == (2, "")
    assert "line 1: --target: expected a row" in outcome.err
