"""Tables of one reading of the mix: which runs are of it, and how they are run. No torch here.

The cells of a table are of the default reading. For another one its runs stand in for theirs, and
what is missing is asked for in that reading.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from msgspec import structs

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.registry import DEFAULT_READING, MIX, READINGS, Mix
from poisonbench.requests import RunRequest
from poisonbench.results.records import Labels, RunRecord
from poisonbench.tables.paper_table import Records


def check_reading(name: str) -> str:
    """The name of a reading, if it is one, and else a UsageError."""
    if name not in READINGS:
        raise UsageError(
            f"--reading: expected one of {', '.join(READINGS)}, got {name!r}"
            f"{did_you_mean(name, READINGS)}"
        )
    return name


def reading_of(record: RunRecord) -> str | None:
    """The reading by which a run's mix was crafted; null of other poisons and given artefacts."""
    poison, overrides = record.spec.poison, record.labels.overrides
    if poison is None or "poison" in overrides:
        return None
    settings = {name: overrides[name] for name in _SETTINGS & overrides.keys()}
    names = (
        name
        for name, mix in READINGS.items()
        if poison.attacks == list(mix.attacks) and settings == _settings(mix)
    )
    return next(names, None)


def made_of(record: RunRecord) -> str:
    """What a run's poison is: its attacks, and the reading of a mix that these do not tell.

    Of an artefact that was given nothing tells it.
    """
    assert record.spec.poison is not None
    attacks, reading = record.spec.poison.attacks, reading_of(record)
    is_known = attacks != list(MIX) or reading in (None, DEFAULT_READING)
    return "+".join(attacks) + ("" if is_known else f", reading {reading}")


def runs_of(records: Records, reading: str) -> Records:
    """The runs on clean data, and those of a reading as if it were the tables' own.

    Of the default reading these are the records as they are.
    """
    if reading == DEFAULT_READING:
        return records
    own = [run for run in records if run.spec.poison is None or reading_of(run) == reading]
    return [run if run.spec.poison is None else _as_default(run) for run in own]


def asked_in(request: RunRequest, reading: str) -> RunRequest:
    """A run of the tables' own mix in another reading; one on clean data as it is."""
    poison, mix = request.poison, READINGS[reading]
    if reading == DEFAULT_READING or poison.rho == 0:
        return request
    settings = {**poison.settings, **mix.settings}
    return replace(request, poison=replace(poison, attacks=mix.attacks, settings=settings))


def without(labels: Labels, names: Collection[str]) -> Labels:
    """Labels as they were, had these settings not been chosen."""
    overrides = {name: value for name, value in labels.overrides.items() if name not in names}
    variant = "custom" if overrides else labels.profile
    return structs.replace(labels, overrides=overrides, variant=variant)


def _as_default(run: RunRecord) -> RunRecord:
    assert run.spec.poison is not None
    poison = structs.replace(run.spec.poison, attacks=list(MIX))
    spec = structs.replace(run.spec, poison=poison)
    return structs.replace(run, spec=spec, labels=without(run.labels, _SETTINGS))


def _settings(mix: Mix) -> dict[str, Any]:
    """What is set of a mix's attacks, as records name it: ``{"durp.distribution": "sign"}``."""
    return {
        f"{attack}.{name}": value
        for attack, values in mix.settings.items()
        for name, value in values.items()
    }


#: By these settings readings of the same attacks are told apart.
_SETTINGS = frozenset(name for mix in READINGS.values() for name in _settings(mix))
