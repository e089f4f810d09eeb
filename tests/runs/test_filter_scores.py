"""What a record says of a filter: against loops over the images, and in a run."""

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.command_line import done
from poisonbench.data.artefacts import read_poison
from poisonbench.data.sources import load_dataset
from poisonbench.results.records import read_record
from poisonbench.runs.filter_scores import filter_report

COUNTS = ("poisons_removed", "num_poisons", "clean_removed", "num_clean")


def by_loop(keep, is_poison, labels, num_classes):
    rows = list(zip(keep, is_poison, labels, strict=True))
    hits = sum(p and not k for k, p, _ in rows)
    misses = sum(p and k for k, p, _ in rows)
    false_alarms = sum(not p and not k for k, p, _ in rows)
    precision = hits / (hits + false_alarms) if hits + false_alarms else None
    recall = hits / (hits + misses) if hits + misses else None
    f1 = None
    if hits + misses + false_alarms:
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0

    def counts(group):
        return {
            "poisons_removed": sum(p and not k for k, p, _ in group),
            "num_poisons": sum(p for _, p, _ in group),
            "clean_removed": sum(not p and not k for k, p, _ in group),
            "num_clean": sum(not p for _, p, _ in group),
        }

    per_class = [counts([row for row in rows if row[2] == c]) for c in range(num_classes)]
    return {
        **counts(rows),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "per_class": per_class,
    }


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), min_size=1))
@settings(max_examples=60, deadline=None)
def test_the_report_is_the_loops(rows):
    keep, is_poison, labels = ([row[part] for row in rows] for part in range(3))
    scores = filter_report(torch.tensor(keep), torch.tensor(is_poison), torch.tensor(labels), 5)
    report, by_hand = msgspec.to_builtins(scores), by_loop(keep, is_poison, labels, 5)
    for name in ("precision", "recall", "f1"):
        score, expected = report.pop(name), by_hand.pop(name)
        assert score == (None if expected is None else pytest.approx(expected))
    assert report == by_hand


def test_tensors_of_several_lengths_are_refused():
    three, four = torch.ones(3, dtype=torch.bool), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"got \(3,\), \(3,\) and \(4,\)"):
        filter_report(three, three, four, 2)


def test_the_record_says_what_epic_dropped(tiny, results):
    words = ("--dataset", tiny, "--results", results, "--json", "--attack", "durp", "--rho", "0.5")
    summary = done(
        *("defend", "--method", "epic", "--epochs", "2", "--warmup", "1", "--interval", "1"),
        *("--fraction", "0.4", *words),
    ).json
    record = read_record(results / "runs" / f"{summary['id']}.json")
    report, data = record.metrics.filter, load_dataset(tiny, results, 0)
    poison = read_poison(results / "poisons" / record.labels.poison.id, data)
    assert report.num_poisons == len(poison) == 135
    assert report.num_clean == 270 - len(poison)
    (note,) = record.notes
    removed = report.poisons_removed + report.clean_removed
    assert removed == note["dropped"] > 0
    poisoned = torch.bincount(data.train.labels[poison.indices], minlength=4).tolist()
    assert [row.num_poisons for row in report.per_class] == poisoned
    for name in COUNTS:
        assert sum(getattr(row, name) for row in report.per_class) == getattr(report, name)


@pytest.mark.parametrize("method", ["none", "epic"])
def test_without_a_poison(tiny, results, method):
    """A filter's clean drops count; a defense that filters nothing has no report."""
    words = ("--clean", "--dataset", tiny, "--results", results, "--json", "--epochs", "2")
    words += ("--warmup", "1", "--fraction", "0.4") if method == "epic" else ()
    summary = done("defend", "--method", method, *words).json
    report = read_record(results / "runs" / f"{summary['id']}.json").metrics.filter
    if method == "none":
        assert report is None
    else:
        assert (report.num_poisons, report.num_clean) == (0, 270)
        assert report.clean_removed > 0
        assert (report.precision, report.recall, report.f1) == (0.0, None, 0.0)
