"""Every targeted attack against every defense of the paper's tables, at quick size."""

from pathlib import Path

import pytest

from helpers.command_line import done
from helpers.marks import LONG
from poisonbench.results.records import read_record
from poisonbench.tables.cells import TARGETED_SAMPLE

ATTACKS = ("gm", "bp", "fc", "mp")


def run(results, attack, method, *words):
    line = ("defend", "--attack", attack, "--method", method, "--preset", "quick", *words)
    printed = done(*line, "--results", results, "--json", "--quiet").json
    return [read_record(Path(item["path"])) for item in printed.get("runs", [printed])]


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_meet_every_defense_and_lead_to_their_class_where_noise_does_not(attack, tmp_path):
    records = run(tmp_path, attack, "none", "--trials", "3")
    scenario = records[0].spec.targeting.scenario
    controls = run(tmp_path, "noise", "none", "--trials", "3", "--scenario", scenario)
    goals = [record.spec.goal for record in records]
    assert [control.spec.goal for control in controls] == goals
    hits, noise_hits = (
        sum(record.metrics.attack_success for record in part) for part in (records, controls)
    )
    # MetaPoison hits about every other target, and one of these three.
    assert hits >= max(1, noise_hits)
    for record, control in zip(records, controls, strict=True):
        poisoned, noisy = (
            run.metrics.target.confidence_of_intended_class for run in (record, control)
        )
        assert poisoned > noisy

    # Made once, the first trial's poison meets the other defenses too.
    defended = [run(tmp_path, attack, method)[0] for method in ("hint", "epic", "friends", "atda")]
    first = records[0]
    for record in defended:
        assert record.spec.dataset.name == TARGETED_SAMPLE
        assert record.metrics.test_accuracy > 0.6
        assert record.spec.goal == first.spec.goal
        assert record.digests.initial_weights == first.digests.initial_weights
