"""What runs say in plain words: what a poison did and which defense held. No torch here.

Only runs by a profile's own settings, or in a form of a defense that has a name of its own, speak,
on whatever poison; controls and other settings are in ``report --runs``.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from poisonbench import registry
from poisonbench.core.settings import flag_of, percent_text, value_text
from poisonbench.results.records import RunRecord
from poisonbench.tables import run_groups
from poisonbench.tables.cells import distinct_trials, paired
from poisonbench.tables.paper_table import Records

#: A poison that costs less than this is said to do no harm, and a defense that gains less no good.
LEAST = 0.01

#: What may be set of a poison, besides its attacks' settings.
_OF_POISON = ("poison", "poison_trial", "scenario")

#: Plain training whose batch norm is recalibrated.
_RECALIBRATED = "bn-recalibrate"

#: Digits of a given poison's digest that name it.
_DIGITS = 12

NEXT = (
    "Look next: `poisonbench report --runs` for every run with its settings, `poisonbench inspect "
    "ID` for a run or a poison, `poisonbench list defenses` for what else may hold."
)


def sentences(records: Records, dataset: str | None = None) -> list[str]:
    """Two sentences a poison, in the order of data sets, and one on what to look at next.

    Args:
        records: all that there are.
        dataset: only this one.

    Raises:
        UsageError: no run is on that data set.
    """
    text: list[str] = []
    silent: list[RunRecord] = []
    for name, rows in run_groups.grouped(records, lambda _: True, dataset, "at all").items():
        every = [record for row in rows for record in row]
        runs = list(filter(_speaks, every))
        silent += (run for run in every if not _speaks(run))
        controls: dict[str, list[RunRecord]] = {}
        for run in runs:
            spec = run.spec
            if spec.poison is None and spec.targeting is None and spec.method == "none":
                controls.setdefault(spec.model, []).append(run)
        clean = {model: _accuracy(distinct_trials(group)) for model, group in controls.items()}
        for group in _by_poison([run for run in runs if run.spec.poison is not None]):
            text += _of_poison(f"On {name}, {_made_of(group)}", group, clean)
    return [*text, NEXT] if text else [_nothing_to_say(silent)]


def _nothing_to_say(silent: Sequence[RunRecord]) -> str:
    """What lacks where no poison has plain training, and what there is, set aside for settings."""
    plain = [run for run in silent if run.spec.method == "none" and run.spec.poison is not None]
    if not plain:
        return "No poison has a run of plain training yet."
    flags = sorted({flag_of(name) for run in plain for name in _own_settings(run)})
    return (
        f"{len(plain)} run(s) of plain training on poisons are in settings of their own "
        f"({', '.join(flags)}), of which nothing is said here: `poisonbench report --runs` shows "
        "them. No poison has a run of plain training without such options yet; run `poisonbench "
        "defend --method none` without them, on the poison and on clean data (--clean)."
    )


def _speaks(record: RunRecord) -> bool:
    """Whether nothing was set but the poison, its draw and scenario, or a form of the defense."""
    return not _own_settings(record)


def _own_settings(record: RunRecord) -> list[str]:
    """What was set besides the poison, its draw and scenario, and the form of the defense."""
    method = record.spec.method
    return [
        name
        for name, value in record.labels.overrides.items()
        if not ("." in name or name in _OF_POISON or registry.makes_form(method, name, value))
    ]


def _by_poison(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Group runs by poison: all draws of a crafted one are one, a given artefact is its digest.

    Runs that crafted the poison of an artefact stand beside those that were given it.
    """
    given = {_artefact(run) for run in runs if _is_given(run)}
    groups: dict[tuple[str | None, ...], list[RunRecord]] = {}
    for run in runs:
        if _artefact(run) in given:
            groups.setdefault(_artefact(run), []).append(run)
        if not _is_given(run):
            keys = run_groups.keys_of(run)
            draws = (run.spec.model, _attack(run), str(keys["rho"]), str(keys["scenario"]))
            groups.setdefault(draws, []).append(run)
    return [
        group
        for key, group in groups.items()
        if key in given or not {_artefact(run) for run in group} <= given
    ]


def _is_given(run: RunRecord) -> bool:
    return "poison" in run.labels.overrides


def _artefact(run: RunRecord) -> tuple[str | None, ...]:
    return run.spec.model, run.spec.poison_digest


def _attack(run: RunRecord, *more: str) -> str:
    """The attacks, and what was set of them or is said besides."""
    settings = [
        f"{name} {value_text(value)}" for name, value in run.labels.overrides.items() if "." in name
    ]
    about = ", ".join([*sorted(settings), *more])
    return str(run_groups.keys_of(run)["attack"]) + (f" ({about})" if about else "")


def _made_of(group: Sequence[RunRecord]) -> str:
    """The poison of a group in words; of an artefact its digest, as its runs do not say all."""
    crafted = next((run for run in group if not _is_given(run)), group[0])
    is_artefact = any(map(_is_given, group))
    digest = str(crafted.spec.poison_digest)[:_DIGITS]
    return _attack(crafted, *([f"poison {digest}"] if is_artefact else []))


def _accuracy(runs: Sequence[RunRecord]) -> float:
    return fmean(run.metrics.test_accuracy for run in runs)


def _spared(runs: Sequence[RunRecord]) -> float:
    """What a defense wants much of: accuracy, or the share of targets or triggers that failed."""
    if runs[0].spec.trigger is not None:
        return 1 - _success_rate(runs)
    if runs[0].spec.targeting is None:
        return _accuracy(runs)
    return 1 - fmean(bool(run.metrics.attack_success) for run in runs)


def _success_rate(runs: Sequence[RunRecord]) -> float:
    """The mean attack success rate of runs on a trigger."""
    return fmean(run.metrics.trigger.rate for run in runs if run.metrics.trigger is not None)


def _of_poison(name: str, runs: Sequence[RunRecord], clean: Mapping[str, float]) -> list[str]:
    """What the poison did to plain training, and how the defenses compare; nothing without both."""
    by_defense: dict[str, list[RunRecord]] = {}
    for run in runs:
        label = registry.label_of(run.spec.method, run.spec.setting)
        by_defense.setdefault(label, []).append(run)
    others = {label: distinct_trials(group) for label, group in by_defense.items()}
    plain = others.pop(registry.defenses()["none"].title, None)
    if plain is None:
        return []
    spec = plain[0].spec
    where = f"{name} in {spec.rho * 100:g} % of the training images"
    trials = f"{len(plain)} trial" + ("s" if len(plain) > 1 else ": an example, no finding")
    if spec.targeting is not None:
        hits = sum(bool(run.metrics.attack_success) for run in plain)
        text = [f"{where} hits {hits} of {len(plain)} targets under plain training."]
    elif spec.trigger is not None:
        text = [
            f"{where}, {spec.trigger.text}, has {percent_text(_success_rate(plain))} of the "
            f"{spec.trigger.images_text} test images taken for class {spec.trigger.target_class} "
            "when they bear its trigger, "
            f"under plain training, at {percent_text(_accuracy(plain))} test accuracy ({trials})."
        ]
    elif spec.model not in clean:
        text = [f"{where} leaves plain training at {percent_text(_accuracy(plain))} ({trials})."]
    elif (before := clean[spec.model]) - _accuracy(plain) >= LEAST:
        text = [
            f"{where} takes plain training from {percent_text(before)} down to "
            f"{percent_text(_accuracy(plain))} ({trials})."
        ]
    else:
        text = [
            f"{where} does plain training no harm to speak of: {percent_text(before)} on clean "
            f"data, {percent_text(_accuracy(plain))} on poisoned ({trials})."
        ]
    if not others:
        return text
    comparison = _comparison(others, _spared(plain))
    return [*text, f"{comparison}{_recalibrated(plain, runs, clean.get(spec.model))}."]


def _recalibrated(
    plain: Sequence[RunRecord], runs: Sequence[RunRecord], clean: float | None
) -> str:
    """The share of plain training's loss in accuracy that recalibrating batch norm gives back.

    Of the trials that have both; empty without them, without a clean run or without a loss.
    """
    recalibrated = distinct_trials([run for run in runs if run.spec.method == _RECALIBRATED])
    pairs = paired([recalibrated, plain])
    spec = plain[0].spec
    if not pairs or clean is None or spec.targeting is not None or spec.trigger is not None:
        return ""
    after, before = (_accuracy([pair[side] for pair in pairs]) for side in (0, 1))
    if clean - before < LEAST:
        return ""
    share = round(100 * (after - before) / (clean - before))
    given_back = f"{share} %" if share > 0 else "nothing"
    return (
        f"; recalibrating batch norm on clean images without labels gives back {given_back} of the "
        "accuracy that plain training lost"
    )


def _comparison(others: Mapping[str, Sequence[RunRecord]], plain: float) -> str:
    """Which defenses do better than plain training, the best first, and which do not."""
    values = sorted(((_spared(runs), label) for label, runs in others.items()), reverse=True)
    spec = next(iter(others.values()))[0].spec
    what = " of the targets spared" if spec.targeting is not None else ""
    if spec.trigger is not None:
        what = " of the triggered images spared"
    shown = [
        (value >= plain + LEAST, f"{label} at {percent_text(value)}") for value, label in values
    ]
    better = [text for is_better, text in shown if is_better]
    useless = ", ".join(text for is_better, text in shown if not is_better)
    if not better:
        return (
            f"Of those run no defense is seen to do {100 * LEAST:g} point better than plain "
            f"training: {useless}{what}"
        )
    rest = f", then {', '.join(better[1:])}" if better[1:] else ""
    ending = f"; not a point better than plain training: {useless}" if useless else ""
    return f"Best is {better[0]}{what}{rest}{ending}"
