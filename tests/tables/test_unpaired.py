"""Trials that are done and have no pair, since plain training is on another poison of the draw."""

import json

import pytest

from helpers.command_line import cli
from helpers.synthetic_runs import changed, make_record, targeted_run
from poisonbench.requests import command_of
from poisonbench.results.store import Store
from poisonbench.tables.catalogue import cells, missing_runs
from poisonbench.tables.cells import TARGETED_SAMPLE
from poisonbench.tables.unpaired import unpaired_runs

SAMPLE = "mnist-sample"


def runs(method, digests, start="2025-01-01", **about):
    """One run a trial, trial t on the draw t, whose poison has that digest."""
    about = {"rho": 0.6, "dataset": SAMPLE, "labels": {"is_paper_dataset": False}} | about
    return [
        make_record(method=method, trial=trial, draw=trial, digest=digest, finished=start, **about)
        for trial, digest in enumerate(digests)
    ]


def test_a_trial_on_an_older_poison_than_plain_trainings_is_named():
    records = [*runs("none", ["a", "new", "c"]), *runs("hint", ["a", "old", "c"])]
    (found,) = unpaired_runs("2", records, SAMPLE)
    assert found.text == "hint on pgd+dap+durp+dc at rho 0.6, mnist-sample, trial 1"
    ((plain, own),) = found.runs
    assert (plain.method, own.method) == ("none", "hint")
    assert plain.trial == own.trial == plain.poison.trial == own.poison.trial == 1
    # They are done, so no run is missing.
    assert own not in missing_runs("2", records, SAMPLE)
    assert plain not in missing_runs("2", records, SAMPLE)


@pytest.mark.parametrize(
    "others",
    [
        runs("hint", ["a", "b"]),
        # Without plain training there is nothing to pair with yet: that run is missing.
        runs("hint", ["a", "b", "other"]),
        # Clean runs are on no poison.
        runs("hint", ["x", "y"], rho=0.0),
        # Another share is another poison.
        runs("hint", ["x", "y"], rho=0.2),
    ],
)
def test_what_has_its_pair_or_needs_none_is_not(others):
    records = [*runs("none", ["a", "b"]), *runs("none", ["a", "b"], rho=0.0), *others]
    assert unpaired_runs("2", records, SAMPLE) == []


def test_the_latest_poison_of_each_cell_counts():
    old = [*runs("none", ["old"]), *runs("hint", ["old"])]
    anew = runs("none", ["new"], start="2025-02-02")
    assert unpaired_runs("2", old, SAMPLE) == []
    assert len(unpaired_runs("2", [*old, *anew], SAMPLE)) == 1
    both = [*old, *anew, *runs("hint", ["new"], start="2025-02-02")]
    assert unpaired_runs("2", both, SAMPLE) == []


def test_other_seeds_and_named_methods():
    records = [*runs("none", ["a"], seed=7), *runs("hint", ["b"], seed=7), *runs("friends", ["c"])]
    (found,) = unpaired_runs("2", records, SAMPLE)
    assert [run.seed for pair in found.runs for run in pair] == [7, 7]
    assert unpaired_runs("2", records, SAMPLE, methods=["friends"]) == []


@pytest.mark.parametrize(
    ("key", "number"),
    [("1", 0), ("2", 1), ("4", 0), ("5", 1), ("apbench", 0), ("matrix", 1)],
)
def test_only_tables_that_compare_with_plain_training_name_them(key, number):
    colour = {"dataset": "cifar10@10000", "rho": 1.0, "attacks": ["em"]}
    about = colour if key == "apbench" else {"seconds": 9.0}
    other = "cutmix" if key == "apbench" else "hint"
    records = [*runs("none", ["a"], **about), *runs(other, ["b"], **about)]
    dataset = records[0].labels.dataset
    assert any(cell.select(records) for cell in cells(key, records, dataset))
    assert len(unpaired_runs(key, records, dataset)) == number


def test_a_defense_with_a_pretraining_of_its_own_has_no_pair():
    def found(method):
        plain, other = (
            targeted_run(
                True, attack="bp", scenario="transfer", rho=0.025, dataset=TARGETED_SAMPLE,
                method=name, labels={"is_paper_dataset": False},
            )
            for name in ("none", method)
        )  # fmt: skip
        other = changed(other, spec={"poison": {"digest": "another"}})
        return unpaired_runs("3", [plain, other], TARGETED_SAMPLE)

    assert len(found("knn")) == 1
    assert found("robust-features") == []


def test_missing_says_them_beside_its_lines(results):
    store = Store(results)
    records = [*runs("none", ["a", "new"]), *runs("hint", ["a", "old"])]
    for record in records[:2]:
        store.write_record(record)
    line = ("report", "--missing", "--dataset", SAMPLE, "--results", results)
    before = cli(*line)
    assert "another poison" not in before.err
    for record in records[2:]:
        store.write_record(record)
    after = cli(*line)
    assert len(before.out.splitlines()) - len(after.out.splitlines()) == 2
    assert all(text.startswith("poisonbench defend") for text in after.out.splitlines())
    assert "1 more trial(s) are done, but on another poison" in after.err
    ((plain, own),) = unpaired_runs("2", records, SAMPLE)[0].runs
    commands = [command_of(run, "--results", str(results)) for run in (plain, own)]
    assert after.err.splitlines()[-2:] == commands
    facts = json.loads(cli(*line, "--json", "--quiet").out)
    assert facts["unpaired"] == commands
    assert facts["missing"] == after.out.splitlines()
