"""The command that makes a run again, from its record."""

from pathlib import Path
from typing import Any

from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.requests import PoisonRequest, RunRequest, command_of, split_values
from poisonbench.results.records import RunRecord

#: What stands for the folder of a poison that was given, whose place no record knows.
GIVEN = "POISON"

#: What a given poison settles, and an option of its run must not say.
_SETTLED = ("scenario", "target", "intended_class", "poison_class", "targets")


def command_of_run(record: RunRecord) -> str | None:
    """The shell command; ``POISON`` in it is the folder of the poison that the run was given.

    Null where no command can mean what the record says, as its settings are of nothing that it has.
    """
    try:
        request = request_of(record)
    except UsageError:
        return None
    sources = record.labels.source
    parts = [sources.method, sources.model, sources.dataset] if sources else []
    parts += sources.attacks.values() if sources else []
    files = dict.fromkeys(part.file for part in parts if part is not None and part.file)
    plugins = [word for file in files for word in ("--plugin", file)]
    return command_of(request, *plugins)


def request_of(record: RunRecord) -> RunRequest:
    """What was asked for: the settings that differ from the profile, and the poison."""
    spec, labels = record.spec, record.labels
    values = {name: _setting(value) for name, value in labels.overrides.items()}
    is_given = values.pop("poison", None) is not None
    about: dict[str, Any] = {
        "profile": str(values.pop("attack_profile", "paper")),
        "surrogate": values.pop("attack_model", None),
        "selection": values.pop("selection", "stratified"),
    }
    values.pop("poison_trial", None)
    model = values.pop("model", None)
    if is_given:
        values = {name: value for name, value in values.items() if name not in _SETTLED}
        poison = PoisonRequest(attacks=(), path=Path(GIVEN))
    elif spec.poison is not None:
        attacks, draw = tuple(spec.poison.attacks), spec.poison.trial
        # A targeted poison is its trial's own.
        trial = draw if draw is not None and spec.targeting is None else 0
        poison = PoisonRequest(attacks=attacks, rho=spec.rho, trial=trial, **about)
    elif spec.targeting is not None:
        # A control is of no attack: any of the scenario's leads to the same run.
        scenario = spec.targeting.scenario
        values["scenario"] = scenario
        attack = next(
            name
            for name, entry in registry.attacks().items()
            if entry.scenario and scenario not in entry.not_in
        )
        poison = PoisonRequest(attacks=(attack,), rho=0.0, **about)
    else:
        poison = PoisonRequest(attacks=())
    settings, poison = split_values(values, poison)
    return RunRequest(
        method=spec.method,
        dataset=labels.dataset,
        poison=poison,
        profile=labels.profile,
        settings=settings,
        model=model,
        seed=spec.seed,
        trial=spec.trial,
    )


def _setting(value: Any) -> Any:
    """A setting's value out of JSON."""
    return tuple(value) if isinstance(value, list) else value
