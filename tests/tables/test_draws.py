"""Verdicts where trials have draws of the poison of their own, or share one."""

from dataclasses import replace

import pytest

from helpers.claimed_runs import IMAGES, accuracy_claim, cell, gain_runs
from helpers.synthetic_runs import make_record, missing_commands, request_of
from poisonbench.requests import command_of
from poisonbench.results.statistics import Summary
from poisonbench.results.verdicts import Basis
from poisonbench.tables.cells import TRIALS, distinct_trials, is_of_plan
from poisonbench.tables.layout import show_measured
from poisonbench.tables.measured import compare_accuracy


def test_two_root_seeds_are_two_poisons():
    """Six trials that agree, of two poisons: one sample of six would be sure."""
    gains = (40, 45, 50)
    records = [r for seed in (0, 7) for r in gain_runs(gains, seed=seed, digest=f"p{seed}")]
    finding = accuracy_claim(6).judge(records)
    assert finding.judgement.basis == Basis(poisons=2, seeds=6, images=IMAGES)
    one = accuracy_claim(3).judge(records[:6])
    assert one.verdict == "reproduced"
    shown = [
        make_record(value, rho=0.6, seed=seed, trial=trial, digest=f"p{seed}")
        for seed, values in ((0, (0.95, 0.951, 0.949)), (7, (0.91, 0.911, 0.909)))
        for trial, value in enumerate(values)
    ]
    compared = compare_accuracy({}, shown, Summary(0.95, 0.001, 5), trials=6)
    assert (compared.measured.n, compared.measured.mean) == (2, pytest.approx(0.93))
    assert compared.judgement.basis == Basis(poisons=2, seeds=6)
    assert show_measured(compared) == "93.00±2.83 (2 poisons, 6 runs)"
    short = compare_accuracy({}, shown, None, trials=10)
    assert show_measured(short) == "93.00±2.83 (2 poisons, 6 of 10 runs)"
    assert compared.verdict == "inconclusive"


def sample_runs(gain_of, trials=range(TRIALS), draw_of=lambda trial: trial):
    """Trials on ``mnist-sample``, each on its draw."""
    return [
        run
        for trial in trials
        for run in gain_runs(
            [gain_of(trial)],
            dataset="mnist-sample",
            trial=trial,
            draw=draw_of(trial),
            digest=f"p{draw_of(trial)}",
            labels={"overrides": {"poison_trial": draw_of(trial)} if draw_of(trial) else {}},
        )
    ]


def test_trials_of_the_sample_train_on_draws_of_their_own():
    planned = cell("hint", dataset="mnist-sample")
    requests = [planned.request(trial) for trial in range(7)]
    assert [request.poison.trial for request in requests] == [0, 1, 2, 3, 4, 0, 1]
    words = command_of(requests[3])
    assert "--poison-trial 3" in words
    assert request_of(words) == requests[3]
    clean = cell("hint", dataset="mnist-sample", rho=0.0)
    others = [clean.request(3), cell("hint").request(3)]
    assert [request.poison.trial for request in others] == [0, 0]


def test_a_claim_of_the_sample_rests_on_its_poisons():
    claim = accuracy_claim(dataset="mnist-sample")
    finding = claim.judge(sample_runs(lambda trial: 60 + trial))
    assert finding.verdict == "reproduced"
    assert finding.judgement.basis == Basis(poisons=5, seeds=5, images=IMAGES)
    # Ten trials are two seeds a poison.
    twice = claim.judge(
        sample_runs(lambda trial: 60 + trial, range(10), draw_of=lambda trial: trial % 5)
    )
    assert twice.trials == 10
    larger = replace(claim, trials=10)
    ten = larger.judge(
        sample_runs(lambda trial: 60 + trial, range(10), draw_of=lambda trial: trial % 5)
    )
    assert ten.judgement.basis == Basis(poisons=5, seeds=10, images=IMAGES)
    # Poisons that differ are few, however many seeds agree on each.
    apart = larger.judge(
        sample_runs(
            lambda trial: 60 + 200 * (-1) ** (trial % 5),
            range(10),
            draw_of=lambda trial: trial % 5,
        )
    )
    assert apart.verdict == "inconclusive"


def test_trials_on_another_draw_are_shown_and_not_judged():
    """As of records from before the trials had draws of their own."""
    old = sample_runs(lambda trial: 60, range(TRIALS), draw_of=lambda trial: 0)
    finding = accuracy_claim(dataset="mnist-sample").judge(old)
    assert (finding.trials, finding.verdict) == (5, "incomplete")
    assert finding.judgement.basis == Basis(poisons=1, seeds=5, images=IMAGES)
    own = sample_runs(lambda trial: 60, range(3))
    hint = [run for run in (*old, *own) if run.spec.method == "hint"]
    kept = distinct_trials(hint)
    assert [run.spec.poison.trial for run in kept] == [0, 1, 2, 0, 0]
    assert [is_of_plan(run) for run in kept] == [True, True, True, False, False]
    planned = cell("hint", dataset="mnist-sample")
    assert [run.id for run in planned.select([*old, *own])] == [run.id for run in kept]
    assert planned.missing([*old, *own]) == [3, 4]
    commands = [
        command
        for command in missing_commands("2", [*old, *own], "mnist-sample")
        if "hint" in command and "--rho 0.6" in command
    ]
    assert [command.split("--rho 0.6 ")[1] for command in commands] == [
        "--poison-trial 3 --trial 3",
        "--poison-trial 4 --trial 4",
    ]
