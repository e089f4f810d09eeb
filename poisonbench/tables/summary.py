"""What runs say in plain words: what a poison did and which defense held. No torch here.

Only runs by a profile's own settings, or in a form of a defense that has a name of its own, speak,
on whatever poison; controls and other settings are in ``report --runs``.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from poisonbench import registry
from poisonbench.core.settings import flag_of, percent_text, value_text
from poisonbench.results.records import RunRecord
from poisonbench.tables import remarks, run_groups
from poisonbench.tables.cells import distinct_trials, of_newest_data, paired, table_name
from poisonbench.tables.gains import LEAST, Gain, gain_of
from poisonbench.tables.paper_table import Records

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
    names: set[str] = set()
    current = of_newest_data(records)
    for name, rows in run_groups.grouped(current, lambda _: True, dataset, "at all").items():
        every = [record for row in rows for record in row]
        names |= {table_name(record) for record in every}
        runs = list(filter(_speaks, every))
        silent += (run for run in every if not _speaks(run))
        controls: dict[tuple[str, str], list[RunRecord]] = {}
        for run in runs:
            spec = run.spec
            if spec.poison is None and spec.targeting is None and spec.method == "none":
                controls.setdefault(_of_training(run), []).append(run)
        clean = {key: _accuracy(distinct_trials(group)) for key, group in controls.items()}
        for group in _by_poison([run for run in runs if run.spec.poison is not None]):
            text += _of_poison(f"On {name}, {_made_of(group)}", group, clean)
    earlier = remarks.earlier_contents(sorted(names), current, records)
    return [*text, *earlier, NEXT] if text else [_nothing_to_say(silent), *earlier]


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
        if not (
            # A control has no poison, though an attack's setting makes it.
            ("." in name and not (name.endswith(".control") and value))
            or name in _OF_POISON
            or registry.makes_form(method, name, value)
        )
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


def _of_training(run: RunRecord) -> tuple[str, str]:
    """What plain training on clean data shares with that on a poison."""
    return run.spec.model, _profile(run)


def _profile(run: RunRecord) -> str:
    """The profile as labels show it; empty of the paper's."""
    profile = run.labels.profile
    return "" if profile in ("paper", "") else f" (profile={profile})"


def _spared(run: RunRecord) -> float:
    """What a defense wants much of: accuracy, or the share of targets or triggers that failed."""
    if run.metrics.trigger is not None:
        return 1 - run.metrics.trigger.rate
    if run.spec.targeting is None:
        return run.metrics.test_accuracy
    return 1.0 - bool(run.metrics.attack_success)


def _success_rate(runs: Sequence[RunRecord]) -> float:
    """The mean attack success rate of runs on a trigger."""
    return fmean(run.metrics.trigger.rate for run in runs if run.metrics.trigger is not None)


def _of_poison(
    name: str, runs: Sequence[RunRecord], clean: Mapping[tuple[str, str], float]
) -> list[str]:
    """What the poison did to plain training, and how the defenses compare; nothing without both."""
    plains: dict[str, list[RunRecord]] = {}
    by_defense: dict[str, list[RunRecord]] = {}
    for run in runs:
        if run.spec.method == "none":
            plains.setdefault(_profile(run), []).append(run)
        else:
            label = registry.label_of(run.spec.method, run.spec.setting) + _profile(run)
            by_defense.setdefault(label, []).append(run)
    # The paper's profile, whose name is empty, comes first.
    controls = {profile: distinct_trials(plains[profile]) for profile in sorted(plains)}
    if not controls:
        return []
    profile, plain = next(iter(controls.items()))
    training = f"plain training{profile}"
    gains = {
        label: gain_of(distinct_trials(group), controls.get(_profile(group[0]), plain), _spared)
        for label, group in by_defense.items()
    }
    spec = plain[0].spec
    where = f"{name} in {spec.rho * 100:g} % of the training images"
    trials = f"{len(plain)} trial" + ("s" if len(plain) > 1 else ": an example, no finding")
    if spec.targeting is not None:
        hits = sum(bool(run.metrics.attack_success) for run in plain)
        text = [f"{where} hits {hits} of {len(plain)} targets under {training}."]
    elif spec.trigger is not None:
        text = [
            f"{where}, {spec.trigger.text}, has {percent_text(_success_rate(plain))} of the "
            f"{spec.trigger.images_text} test images taken for class {spec.trigger.target_class} "
            "when they bear its trigger, "
            f"under {training}, at {percent_text(_accuracy(plain))} test accuracy ({trials})."
        ]
    elif (before := clean.get(_of_training(plain[0]))) is None:
        text = [f"{where} leaves {training} at {percent_text(_accuracy(plain))} ({trials})."]
    elif before - _accuracy(plain) >= LEAST:
        text = [
            f"{where} takes {training} from {percent_text(before)} down to "
            f"{percent_text(_accuracy(plain))} ({trials})."
        ]
    else:
        text = [
            f"{where} does {training} no harm to speak of: {percent_text(before)} on clean "
            f"data, {percent_text(_accuracy(plain))} on poisoned ({trials})."
        ]
    if not gains:
        return text
    given_back = _recalibrated(plain, runs, clean.get(_of_training(plain[0])))
    return [*text, f"{_comparison(gains, plain[0])}{given_back}."]


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


def _comparison(gains: Mapping[str, Gain | None], plain: RunRecord) -> str:
    """Which defenses do better than plain training, the best first, and which do not.

    Each by its pairs with plain training alone: another draw of a poison may be another level.
    """
    what = " of the targets spared" if plain.spec.targeting is not None else ""
    if plain.spec.trigger is not None:
        what = " of the triggered images spared"
    found = {label: gain for label, gain in gains.items() if gain is not None}
    ranked = sorted(found, key=lambda label: (-found[label].points, -found[label].own, label))
    better = [label for label in ranked if found[label].is_better]
    useless = [label for label in ranked if not found[label].is_better]

    def told(labels: Sequence[str], over: str = "") -> list[str]:
        parts = [(label, found[label]) for label in labels]
        return [
            f"{label} at {percent_text(gain.own)}{what if over else ''} "
            f"({100 * gain.points:+.2f} points{over}, {gain.pairs_text})"
            for label, gain in parts
        ]

    same = "the same target" if plain.spec.targeting is not None else "the same poison"
    over = f" over plain training on {same}"
    unpaired = sorted(label for label, gain in gains.items() if gain is None)
    ending = f"; no run on {same} as plain training's: {', '.join(unpaired)}" if unpaired else ""
    if not ranked:
        return f"No defense has a run on {same} as plain training: {', '.join(unpaired)}"
    if not better:
        shown = ", ".join([*told(useless[:1], over), *told(useless[1:])])
        return (
            f"Of those run no defense is seen to do {100 * LEAST:g} point better than plain "
            f"training: {shown}{ending}"
        )
    rest = f", then {', '.join(told(better[1:]))}" if better[1:] else ""
    worse = [label for label in useless if found[label].points < 0]
    little = [label for label in useless if label not in worse]
    for words, labels in (("worse", worse), ("less than a point better", little)):
        ending = f"; {words}: {', '.join(told(labels))}{ending}" if labels else ending
    return f"Best is {told(better[:1], over)[0]}{rest}{ending}"
