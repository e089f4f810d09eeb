"""Tables of one reading of the mix: runs of two are never in one, and the commands fit."""

import csv
import io
import json
from pathlib import Path

import pytest

from helpers.command_line import cli, done, refused
from helpers.synthetic_runs import changed, hint_run, make_record, request_of, targeted_run
from poisonbench.cli.plan_jobs import plan_lines
from poisonbench.registry import DEFAULT_READING, MIXES, READINGS
from poisonbench.requests import command_of, poison_request, read_mix
from poisonbench.results.store import Store
from poisonbench.tables import catalogue
from poisonbench.tables.comparisons import Standing
from poisonbench.tables.readings import asked_in, reading_of, runs_of
from poisonbench.tables.render import FORMATS, render

ACCURACIES = dict(zip(READINGS, (0.9, 0.7, 0.8, 0.6), strict=True))


def run_in(reading, accuracy=None, *, rho=1.0, **about):
    """A run on a mix as it is crafted in a reading; its digest is the reading's name."""
    mix = READINGS[reading]
    settings = {f"{a}.{name}": v for a, own in mix.settings.items() for name, v in own.items()}
    overrides = {**(settings if rho else {}), **about.pop("overrides", {})}
    return make_record(
        ACCURACIES[reading] if accuracy is None else accuracy,
        rho=rho,
        attacks=mix.attacks,
        variant="custom" if overrides else "paper",
        labels={"overrides": overrides},
        **{"digest": reading, "dataset": "mnist", **about},
    )


def record_of(request, reading):
    """The record that a request of a table's leaves."""
    draw = request.poison.trial
    return run_in(
        reading,
        rho=request.poison.rho,
        method=request.method,
        trial=request.trial,
        dataset=request.dataset,
        draw=draw,
        digest=f"{reading} {request.poison.rho} {draw}",
        overrides={"poison_trial": draw} if draw else {},
    )


CLEAN = make_record(0.99)
EVERY = [CLEAN, *map(run_in, READINGS)]


def measured(reading, records=EVERY, key="2"):
    filled = [
        cell
        for cell in catalogue.build(key, records, "mnist", reading=reading).cells
        if cell.records
    ]
    return {(cell.keys["rho"], cell.keys["method"]): cell.measured.mean for cell in filled}


@pytest.mark.parametrize("reading", READINGS)
def test_a_table_has_the_runs_of_its_reading_and_the_clean_ones(reading):
    assert measured(reading) == {(0.0, "none"): 0.99, (1.0, "none"): ACCURACIES[reading]}
    if reading == DEFAULT_READING:
        assert catalogue.build("2", EVERY) == catalogue.build("2", EVERY, reading=reading)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize(
    "stranger",
    [
        {"overrides": {"durp.epsilon": 0.1}},
        {"overrides": {"ratio": 0.25}},
        {"overrides": {"poison": "artefact"}},
        {"overrides": {"poison_trial": 1}, "draw": 1},
        {"method": "hint"},
        {"rho": 0.6},
        {"dataset": "cifar10"},
    ],
)
def test_other_runs_of_a_reading_stay_out_of_its_cells(reading, stranger):
    record = run_in(reading, 0.1, **{"trial": 1, **stranger})
    assert measured(reading, [*EVERY, record])[1.0, "none"] == ACCURACIES[reading]


@pytest.mark.parametrize("reading", READINGS)
def test_runs_know_their_reading(reading):
    assert reading_of(run_in(reading)) == reading
    assert reading_of(run_in(reading, overrides={"ratio": 0.25})) == reading
    # Of an artefact the record does not say how it was crafted.
    assert reading_of(run_in(reading, overrides={"poison": "artefact"})) is None


@pytest.mark.parametrize("other", [CLEAN, make_record(rho=1.0, attacks=["pgd", "dap"])])
def test_clean_data_and_other_attacks_are_of_no_reading(other):
    assert reading_of(other) is None


def test_the_records_stay_as_they_are_and_keep_their_ids():
    before = run_in("sign")
    (run,) = runs_of([before], "sign")
    assert run.id == before.id
    assert before == run_in("sign")
    assert runs_of(EVERY, DEFAULT_READING) is EVERY


@pytest.mark.parametrize("dataset", ["mnist", "mnist-sample"])
@pytest.mark.parametrize("reading", READINGS)
def test_missing_runs_fill_the_cells_of_their_reading_and_of_no_other(reading, dataset):
    asked = catalogue.missing_runs("2", [], dataset, reading=reading, trials=2)
    requests = [request_of(command_of(request)) for request in asked]
    assert requests == asked
    assert len(set(map(command_of, requests))) == len(requests) == 6 * 5 * 2
    records = [record_of(request, reading) for request in requests]
    for other in READINGS:
        left = catalogue.missing_runs("2", records, dataset, reading=other, trials=2)
        assert len(left) == (0 if other == reading else 5 * 5 * 2)


@pytest.mark.parametrize("key", ["1", "4", "5"])
def test_every_table_of_the_mix_has_readings(key):
    runs = [hint_run(0.9, seconds=9.0), hint_run(0.8, seconds=9.0, trial=1)]
    own = changed(runs[1], labels={"overrides": {"durp.distribution": "sign"}, "variant": "custom"})
    used = {
        reading: {
            run
            for cell in catalogue.build(key, [runs[0], own], "mnist", reading=reading).cells
            for run in cell.records
        }
        for reading in READINGS
    }
    assert used == {"uniform": {runs[0].id}, "sign": {own.id}, "gaussian": set(), "no-durp": set()}


def test_both_ways_to_name_a_reading_are_one_run():
    for name, mix in MIXES.items():
        given = poison_request(read_mix("+".join(mix.attacks)), {}, rho=1.0)[1]
        (request,) = {request_of(f"poisonbench defend --method none --attack {name} --rho 1.0")}
        plain = request_of("poisonbench defend --method none --rho 1.0")
        assert request.poison == asked_in(plain, mix.name).poison
        assert (request.poison == given) == (not mix.settings)
    lines = [
        f"poisonbench defend --method hint --rho 1.0 {words} --preset quick"
        for words in ("--attack mix-sign", "--attack mix --durp.distribution sign")
    ]
    plans = [plan_lines([line], Path("data")) for line in lines]
    assert plans[0].digest == plans[1].digest
    assert plans[0].digest != plan_lines([lines[0].replace("-sign", "")], Path("data")).digest


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("reading", READINGS)
def test_every_format_names_the_reading(kind, reading):
    text = render(catalogue.build("2", EVERY, "mnist", reading=reading), kind)
    if kind == "csv":
        assert {row["reading"] for row in csv.DictReader(io.StringIO(text))} == {reading}
    else:
        assert f"reading {reading} ({READINGS[reading].reading})" in text
    if kind == "json":
        assert json.loads(text)["reading"] == reading


def test_published_figures_stand_beside_any_reading():
    (cell,) = [
        cell
        for cell in catalogue.build("2", EVERY, "mnist", reading="sign").cells
        if cell.keys["rho"] == 1 and cell.keys["method"] == "none"
    ]
    assert (cell.measured.mean, cell.published.mean) == (0.7, 0.7462)


def test_claims_are_declared_of_the_default_reading_alone():
    for reading in READINGS:
        standings = {
            finding.standing
            for finding in catalogue.build("2", [], "mnist", reading=reading).findings
        }
        assert (Standing.DECLARED in standings) == (reading == DEFAULT_READING)


def test_the_note_counts_the_runs_of_other_readings():
    note = catalogue.build("2", EVERY, "mnist", reading="no-durp").notes[-1]
    assert "3 other run(s)" in note
    assert "(1 of reading uniform, 1 of reading sign, 1 of reading gaussian; --runs)." in note
    assert "(--reading no-durp --missing)" in note


def test_tables_of_targets_and_of_chosen_poisons_have_no_reading():
    for table in (
        catalogue.build("3", [targeted_run(True)]),
        catalogue.build("2", EVERY, poisons={"a": "pgd"}),
    ):
        assert table.reading is None
        assert "reading" not in table.title
        assert "reading" not in render(table, "csv").splitlines()[0].split(",")


# The commands


def test_report_takes_a_reading(results):
    for run in EVERY:
        Store(results).write_record(run)
    words = ("report", "--dataset", "mnist", "--results", results, "--reading")
    shown = done(*words, "sign").out
    assert "70.00 (1 of 5)" in shown
    assert "90.00" not in shown
    commands = done(*words, "no-durp", "--missing", "--quiet").out.splitlines()
    assert len(commands) == 150 - 2
    assert sum("--attack pgd+dap+dc" in command for command in commands) == 125 - 1
    outcome = cli(*words, "sign", "--check")
    assert outcome.code == 4
    assert f"{len(commands)} run(s) missing" in outcome.err


def test_sweep_plan_takes_a_reading(results, tmp_path):
    words = ("sweep", "plan", "--dataset", "mnist-sample", "--methods", "hint", "--trials", "1")
    words = (*words, "--reading", "sign", "--results", results)
    commands = done(*words).out.splitlines()
    assert sum("--durp.distribution sign" in command for command in commands) == 5
    plan = json.loads(done(*words, "--json").out)
    (durp,) = [job for job in plan["jobs"] if job["title"] == "poison durp mnist-sample"]
    assert durp["request"]["poison"]["settings"] == {"durp": {"distribution": "sign"}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "--reading", "sing"), "did you mean 'sign'"),
        (("report", "--reading", "mix"), "expected one of uniform, sign, gaussian, no-durp"),
        (("report", "--reading", "sign", "--table", "3"), "tables 1, 2, 4, 5"),
        (("report", "--reading", "sign", "--runs"), "--runs without --reading"),
        (("report", "--reading", "sign", "--poison", "a" * 12), "--poison without --reading"),
        (("sweep", "plan", "--reading", "sing"), "did you mean 'sign'"),
        (("sweep", "plan", "--reading", "sign", "--table", "3"), "tables 1, 2, 4, 5"),
        (("sweep", "plan", "--reading", "sign", "--for-claims"), "--for-claims without --reading"),
        (("sweep", "plan", "--reading", "sign", "--lines", "-"), "--lines without --reading"),
    ],
)
def test_what_makes_no_sense_is_refused(results, words, message):
    assert message in refused(2, results, *words)
