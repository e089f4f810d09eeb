"""The Python API on the tiny data set: what it makes, refuses and reads."""

import pytest

import poisonbench
from helpers.command_line import defend
from helpers.synthetic_runs import make_record
from poisonbench.core.errors import ArtefactError, PoisonbenchError, UsageError
from poisonbench.results.store import Store

LEVEL = 1 / 255


def test_api(tiny, results):
    poison = poisonbench.craft("durp", tiny, results=results, epsilon=8 * LEVEL)
    assert (len(poison), poison.card["levels"]) == (270, 8)
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
    frame = poisonbench.records(results)
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


def test_api_mix(tiny, stocked):
    poison = poisonbench.craft("mix", tiny, rho=0.6, results=stocked)
    assert (poison.card["attacks"], len(poison)) == (["pgd", "dap", "durp", "dc"], 160)
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
    made = poisonbench.craft("durp", tiny)
    assert [path.parent.parent for path in results.glob("poisons/*/card.json")] == [
        results / "poisons"
    ]
    Store(results).write_record(make_record())
    assert len(poisonbench.records()) == 1
    monkeypatch.setenv("POISONBENCH_DATA", str(results / "elsewhere"))
    with pytest.raises(PoisonbenchError, match="elsewhere"):
        poisonbench.defend("none", "mnist", rho=0)
    assert made.digest == poisonbench.craft("durp", tiny, results=results).digest
