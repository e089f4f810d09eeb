"""The Python API on the tiny data set: what it makes, refuses and reads."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import poisonbench
from helpers.command_line import defend
from helpers.synthetic_runs import make_record, targeted_run
from poisonbench import api
from poisonbench.core.errors import ArtefactError, PoisonbenchError, UsageError
from poisonbench.entries import AttackEntry, DatasetEntry, DefenseEntry
from poisonbench.results.store import Store

LEVEL = 1 / 255


def test_api(tiny, results):
    poison = poisonbench.craft("durp", tiny, results=results, epsilon=8 * LEVEL)
    assert (len(poison), poison.card.levels) == (270, 8)
    (path,) = (results / "poisons").iterdir()
    assert poisonbench.load_poison(path).digest == poison.digest
    assert poisonbench.load_poison(path, tiny).digest == poison.digest
    with pytest.raises(ArtefactError, match="made for another split"):
        poisonbench.load_poison(path, tiny, seed=1)
    settings = {"epochs": 3, "schedule": (1,), "ratio": 0.25}
    record = poisonbench.defend("hint", tiny, poison=path, results=results, **settings)
    assert record.spec.poison.digest == poison.digest
    assert record.spec.config["ratio"] == 0.25
    clean = poisonbench.defend("hint", tiny, rho=0, results=results, **settings)
    assert clean.spec.poison is None
    same = defend(results, tiny, "--clean", "--ratio", "0.25", "--json").json
    assert (same["id"], same["is_new"]) == (clean.id, False)
    frame = poisonbench.records(results, columns="all")
    assert sorted(frame["id"]) == sorted([record.id, clean.id])
    row = frame[frame["id"] == record.id].iloc[0]
    assert row["metrics.test_accuracy"] == record.metrics.test_accuracy
    assert row["spec.config.ratio"] == 0.25
    assert not [name for name in frame.columns if name.startswith("outcomes")]
    outcomes = poisonbench.records(results, outcomes=True).set_index("id").loc[record.id]
    right = outcomes["outcomes.test"]
    assert len(right) == record.labels.sizes.test
    assert right.mean() == record.metrics.test_accuracy
    anew = outcomes["outcomes.test_by_batch_statistics"]
    assert anew.mean() == record.metrics.batch_statistics_accuracy
    curve = [epoch.validation_accuracy for epoch in record.curve]
    if curve.index(max(curve)) == len(curve) - 1:
        assert record.metrics.peak_accuracy == record.metrics.test_accuracy
    assert 0 <= record.metrics.peak_accuracy <= 1


def test_a_poison_and_a_record_know_where_they_are(tiny, results):
    poison = poisonbench.craft("durp", tiny, results=results)
    assert poison.path == results / "poisons" / poison.id
    assert poisonbench.craft("durp", tiny, results=results).path == poison.path
    assert poisonbench.load_poison(poison.path).id == poison.id
    assert repr(poison).startswith(f"Poison {poison.id}: 270 of 270 images of {tiny} by durp")
    record = poisonbench.defend("none", tiny, poison=poison, results=results, epochs=1)
    assert record.spec.poison.digest == poison.digest
    assert record.path == results / "runs" / f"{record.id}.json"
    again = poisonbench.defend("none", tiny, poison=poison.path, results=results, epochs=1)
    assert (again, again.path) == (record, record.path)
    for shown in (repr(poison), repr(record)):
        assert len(shown.splitlines()) <= 3
        assert str(results) in shown
    with pytest.raises(UsageError, match="without a path"):
        poisonbench.defend("none", tiny, poison=replace(poison, path=None), results=results)


def test_the_columns_that_people_use(tiny, results):
    record = poisonbench.defend("none", tiny, attack="durp", rho=0.5, results=results, epochs=1)
    clean = poisonbench.defend("none", tiny, rho=0, results=results, epochs=2)
    frame = poisonbench.records(results).set_index("id")
    assert len(frame.columns) == 20
    row = frame.loc[record.id]
    assert (row["method"], row["attacks"], row["rho"]) == ("none", "durp", 0.5)
    assert (row["dataset"], row["model"]) == (tiny, "mnist-cnn")
    assert row["overrides"] == {"epochs": 1}
    assert row["test_accuracy"] == record.metrics.test_accuracy
    assert row["poison"] == record.spec.poison.digest
    assert row["seconds"] > 0
    assert (frame.loc[clean.id]["attacks"], frame.loc[clean.id]["rho"]) == ("", 0)
    assert len(poisonbench.records(results, columns="all").columns) > 60
    with_outcomes = poisonbench.records(results, outcomes=True)
    assert set(with_outcomes) - set(poisonbench.records(results)) == {
        "outcomes.test",
        "outcomes.test_by_batch_statistics",
        "outcomes.target_prediction",
        "outcomes.target_confidence",
        "outcomes.triggered",
    }


def test_what_a_target_was_taken_for_is_among_the_outcomes(results):
    runs = [targeted_run(True, 0.9), make_record(0.9)]
    for record in runs:
        Store(results).write_record(record)
    frame = poisonbench.records(results, outcomes=True).set_index("id")
    target = runs[0].metrics.target
    row = frame.loc[runs[0].id]
    assert row["outcomes.target_prediction"] == target.prediction
    assert row["outcomes.target_confidence"] == target.confidence
    assert frame.loc[runs[1].id]["outcomes.target_prediction"] != target.prediction


def test_settings_keep_their_type(tiny, results):
    """A whole number is as good as a float, text as good as what it says."""
    first, *others = [
        poisonbench.craft("durp", tiny, results=results, epsilon=epsilon)
        for epsilon in (8 * LEVEL, "8/255", np.float64(8 / 255))
    ]
    assert [other.id for other in others] == [first.id] * 2
    whole = poisonbench.craft("durp", tiny, results=results, epsilon=1)
    assert whole.card.spec.config["epsilon"] == 1.0
    assert whole.id == poisonbench.craft("durp", tiny, results=results, epsilon=1.0).id
    one = poisonbench.defend("none", tiny, attack="durp", rho=1, results=results, epochs=1)
    same = poisonbench.defend("none", tiny, attack="durp", rho=1.0, results=results, epochs=1)
    assert one.id == same.id


def test_numbers_that_are_whole_are_integers(tiny, results):
    """What is not is refused before anything is trained; nothing unreadable is ever written."""
    runs = [
        poisonbench.defend("none", tiny, rho=0, epochs=1, results=results, trial=trial, seed=seed)
        for trial, seed in ((2, 1), (2.0, np.int64(1)), (np.int32(2), 1.0))
    ]
    assert {run.id for run in runs} == {runs[0].id}
    assert list(poisonbench.records(results)["trial"]) == [2]
    poisons = {
        poisonbench.craft("durp", tiny, rho=rho, trial=trial, results=results).id
        for rho, trial in ((0.5, 1), (np.float32(0.5), np.int64(1)))
    }
    assert len(poisons) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (("defend", "none", {name: value}), f"^{name}: expected")
            for name, values in {
                "trial": (1.5, True, "1", None, float("nan")),
                "seed": (1.5, False, "1", [1]),
                "rho": ("0.5", True, float("nan")),
                "save_model": ("no", 1),
                "poison": (5,),
                "device": (None,),
                "profile": (None,),
                "results": (5, "a\0b"),
            }.items()
            for value in values
        ),
        (("defend", None, {}), "^method: expected"),
        (("defend", "none", {"poison": "x", "attack": "pgd"}), "one of attack and poison, got bo"),
        (("defend", "none", {"batch-size": 3}), "got 'batch-size'; write 'batch_size'"),
        (("craft", ["durp", "dap"], {}), "^attack: expected"),
        (("craft", "durp", {"trial": 0.5}), "^trial: expected"),
        (("figure", 2, {}), "^name: expected"),
        (("figure", "2", {"seed": 0.5}), "^seed: expected"),
        (("figure", "2", {"methods": [1]}), "^methods: expected"),
        (("figure", "2", {"pick": "x"}), "^pick: expected one of disagree, random, got 'x'"),
        (("load_poison", 5, {}), "^path: expected"),
    ],
)
def test_arguments_of_another_type_are_refused(call, message, tiny, results):
    function, first, options = call
    data = {} if function == "load_poison" else {"dataset": tiny}
    with pytest.raises(UsageError, match=message):
        getattr(poisonbench, function)(first, **{**data, "results": results, **options})
    assert not results.exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: poisonbench.records(columns="x"), "^columns: expected one of common, all"),
        (lambda: poisonbench.register(None), "^plug_in: expected a Python file or an entry, got N"),
        (lambda: poisonbench.register("no.py"), "^plug_in: expected a Python file that can be imp"),
        (lambda: DefenseEntry("a b", "x"), "^name: expected letters, digits and -"),
        (
            lambda: DatasetEntry("a", "x", presets="mnist"),
            r"presets of a: .*, got 'mnist'; write \(",
        ),
        (
            lambda: AttackEntry("a", "x", trains="no"),
            "trains of a: expected True or False, got 'no'",
        ),
    ],
)
def test_what_other_functions_refuse(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_names_are_a_list_or_a_text_with_commas(tiny, results, monkeypatch):
    given = []
    monkeypatch.setattr(api, "run_program", lambda words: given.append(words) or {})
    for names in (("none", "jpeg"), ["none", "jpeg"], "none, jpeg"):
        poisonbench.assess(tiny, methods=names, attacks=names, results=results)
    assert given[0] == given[1] == given[2]
    assert given[0][given[0].index("--methods") + 1] == "none,jpeg"


def test_a_device_may_be_pytorch_s(tiny, results):
    poison = poisonbench.craft("durp", tiny, results=results, device=torch.device("cpu"))
    assert poison.path.is_dir()


def test_api_mix(tiny, stocked):
    poison = poisonbench.craft("mix", tiny, rho=0.6, results=stocked)
    assert (poison.card.attacks, len(poison)) == (["pgd", "dap", "durp", "dc"], 160)
    assert poison.sources.bincount().tolist() == [40, 40, 40, 40]


def test_api_refusals(tiny, results):
    for call in (
        lambda: poisonbench.craft("durp", tiny, results=results, trial=-1),
        lambda: poisonbench.craft("durp", tiny, results=results, seed=-1),
        lambda: poisonbench.craft("durp", tiny, results=results, rho=0),
        lambda: poisonbench.craft("durp", tiny, results=results, epsilon=float("inf")),
        lambda: poisonbench.craft("durp", tiny, results=results, ratio=0.5),
        lambda: poisonbench.defend("none", tiny, results=results, trial=-1),
        lambda: poisonbench.defend("none", tiny, results=results, rho=1.5),
        lambda: poisonbench.defend("hint", tiny, results=results, schedule=(99,)),
    ):
        with pytest.raises(UsageError):
            call()
    assert not results.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 8}, "durp: epsilon: expected in .*, got 8.0; did you mean epsilon 8/255"),
        ({"epsilon": "much"}, "^epsilon: expected a number such as 0.5 or 8/255, got 'much'"),
        ({"epsilom": 0.1}, "durp has no option epsilom; its own options: epsilon, "),
        ({"rho": 60}, "^rho: expected .* did you mean 0.6"),
        ({"attack": "durpp"}, "one of your own comes with --plugin FILE|did you mean 'durp'"),
    ],
)
def test_api_messages_name_parameters(options, message, tiny, results):
    with pytest.raises(UsageError, match=message):
        poisonbench.craft(**{"attack": "durp", "dataset": tiny, "results": results, **options})


def test_api_parses_texts_before_the_request_is_built(tiny, results, monkeypatch):
    from poisonbench.runs import craft, defend

    def seen(context, request):
        raise UsageError(repr(request))

    monkeypatch.setattr(craft, "craft", seen)
    monkeypatch.setattr(defend, "resolve_run", seen)
    with pytest.raises(UsageError, match=r"'durp': {'epsilon': 0.03137.*, 'distribution': 'sign'}"):
        poisonbench.craft("durp", tiny, results=results, epsilon="8/255", distribution="sign")
    texts = {"ratio": "1/4", "dc.rounds": "3", "target": "7", "milestones": "1,2"}
    with pytest.raises(UsageError) as error:
        poisonbench.defend("hint", tiny, attack="dc", results=results, **texts)
    for value in ("'ratio': 0.25", "'rounds': 3", "'target': 7", "'milestones': (1, 2)"):
        assert value in str(error.value)


def test_api_tells_of_records_it_leaves_out(tiny, results):
    defend(results, tiny, "--clean")
    (results / "runs" / "0.json").write_text("{")
    told = []
    assert len(poisonbench.records(results, told.append)) == 1
    assert len(told) == 1
    assert "0.json" in str(told[0])
    assert len(poisonbench.records(results.with_name("none"))) == 0


def test_api_looks_where_the_command_line_does(tiny, results, monkeypatch):
    monkeypatch.setenv("POISONBENCH_RESULTS", str(results))
    poison = poisonbench.craft("durp", tiny)
    assert [path.parent.parent for path in results.glob("poisons/*/card.json")] == [
        results / "poisons"
    ]
    Store(results).write_record(make_record())
    assert len(poisonbench.records()) == 1
    monkeypatch.setenv("POISONBENCH_DATA", str(results / "elsewhere"))
    with pytest.raises(PoisonbenchError, match="elsewhere"):
        poisonbench.defend("none", "mnist", rho=0)
    assert poison.digest == poisonbench.craft("durp", tiny, results=results).digest
