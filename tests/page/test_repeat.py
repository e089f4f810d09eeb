"""The command that repeats a run, from its record."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.attack_tasks import fake_dataset
from helpers.command_line import defend, done
from helpers.synthetic_runs import make_record, request_of, targeted_run
from poisonbench import registry
from poisonbench.cli.session import ContextOptions, open_context
from poisonbench.core.settings import as_json
from poisonbench.page.repeat import command_of_run
from poisonbench.page.repeat import request_of as request_in
from poisonbench.requests import MIX
from poisonbench.results.records import read_record
from poisonbench.results.store import Store
from poisonbench.runs.defend import resolve_run
from poisonbench.runs.method_settings import read_settings

RECORDS = Path(__file__).parents[2] / "docs" / "records"


def spec_again(command, results):
    """The spec of the run that a command asks for, before its poison is crafted."""
    with open_context(ContextOptions(results=results, quiet=True)) as context:
        return resolve_run(context, request_of(command)).spec


@pytest.mark.parametrize(
    "words",
    [
        ("--clean",),
        ("--attack", "durp", "--rho", "0.5", "--beta", "12/255", "--trial", "3"),
        ("--attack", "durp", "--durp.epsilon", "12/255", "--poison-trial", "1"),
        ("--attack", "durp", "--selection", "uniform", "--seed", "7"),
        ("--attack", "durp", "--profile", "code"),
    ],
)
def test_the_command_leads_to_the_same_run(words, tiny, results):
    defend(results, tiny, *words)
    (path,) = Store(results).record_paths()
    record = read_record(path)
    spec = spec_again(command_of_run(record), results)
    digest = record.spec.poison_digest
    assert (spec.poison is None) is (digest is None)
    again = {**vars_of(spec), "poison": None if spec.poison is None else vars_of(spec.poison)}
    poison = None if digest is None else {**vars_of(record.spec.poison), "digest": None}
    assert again == {**vars_of(record.spec), "poison": poison}


def vars_of(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_a_given_poison_has_a_stand_in(tiny, artefact, results):
    done(
        *("defend", "--method", "none", "--epochs", "1", "--dataset", tiny),
        *("--poison", artefact, "--results", results),
    )
    (path,) = Store(results).record_paths()
    command = command_of_run(read_record(path))
    assert "--poison POISON" in command
    again = command.replace("POISON", str(artefact))
    assert spec_again(again, results).id == read_record(path).id


def test_a_mix_by_default_is_not_named():
    command = command_of_run(make_record(rho=0.6, method="hint", trial=2))
    request = request_of(command)
    assert request.poison.attacks == MIX
    assert (request.poison.rho, request.trial, request.method) == (0.6, 2, "hint")
    assert "--attack" not in command


@pytest.mark.parametrize("scenario", ["scratch", "transfer", "finetune"])
def test_a_clean_control_takes_any_attack_of_its_scenario(scenario):
    request = request_of(command_of_run(targeted_run(False, scenario=scenario, clean=True)))
    assert request.poison.rho == 0
    assert request.poison.targeting["scenario"] == scenario
    assert scenario not in request.poison.targeted.not_in


def test_a_method_of_a_file_needs_the_file():
    source = {"file": "my method.py", "sha256": "0"}
    parts = {"method": source, "attacks": {}, "model": None, "dataset": None}
    words = shlex.split(command_of_run(make_record(labels={"source": parts})))
    assert words[-2:] == ["--plugin", "my method.py"]


def test_the_shipped_records_have_commands_of_the_same_settings():
    for record in Store(RECORDS).records(pytest.fail):
        request = request_of(command_of_run(record))
        assert (request.method, request.trial) == (record.spec.method, record.spec.trial)
        assert request.dataset == record.labels.dataset
        own = {name for name in record.labels.overrides if name in record.spec.config}
        assert own <= set(request.settings)


@pytest.mark.parametrize(
    ("name", "presets"),
    [
        ("mnist", ("mnist",)),
        ("mnist-sample", ("mnist", "mnist-sample")),
        ("cifar10@10000", ("cifar10", "cifar10@10000")),
    ],
)
def test_what_a_shipped_record_does_not_name_is_what_the_presets_are_today(name, presets):
    """Else its command repeats something else, and tables show it as the preset's."""
    dataset = replace(fake_dataset(), name=name, presets=presets)
    records = [run for run in Store(RECORDS).records(pytest.fail) if run.labels.dataset == name]
    assert len(records) > 100
    presets_of: dict[str, dict] = {}

    def today(entry, profile, values, model):
        key = f"{entry.name} {profile} {values} {model}"
        if key not in presets_of:
            presets_of[key] = as_json(read_settings(entry, dataset, profile, values, model).config)
        return presets_of[key]

    other = {}
    for record in records:
        run, pools = request_in(record), record.labels.poison and record.labels.poison.pools
        method = registry.defenses()[run.method]
        settings = [(record.spec.config, today(method, run.profile, run.settings, run.model))]
        for attack, part in run.poison.pools().items() if pools else ():
            values, entry = part.settings.get(attack, {}), registry.attacks()[attack]
            preset = today(entry, part.profile, values, part.surrogate)
            settings.append((pools[attack].spec.config, preset))
        for config, preset in settings:
            # A setting that came later was not there to be recorded.
            shared = config.keys() & preset.keys()
            other |= {key: record.id for key in shared if config[key] != preset[key]}
    # DC had 6 rounds on the sample, and 16 since; findings say so where they use these runs.
    assert other.keys() <= ({"rounds"} if name == "mnist-sample" else set()), other


def test_settings_of_an_attack_that_the_poison_is_not_made_of_have_no_command():
    labels = {"overrides": {"dc.rounds": 5}}
    assert command_of_run(make_record(rho=0.6, attacks=["pgd"], labels=labels)) is None
