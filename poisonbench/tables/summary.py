"""What runs say in plain words: what a poison did and which defense held. No torch here.

Only runs by a profile's own settings speak, on whatever poison; controls and other settings are in
``report --runs``.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from poisonbench import registry
from poisonbench.core.settings import percent_text
from poisonbench.results.records import RunRecord
from poisonbench.tables import run_groups
from poisonbench.tables.cells import distinct_trials
from poisonbench.tables.paper_table import Records

#: A poison that costs less than this is said to do no harm, and a defense that gains less no good.
LEAST = 0.01

#: What may be set of a poison, besides its attacks' settings.
_OF_POISON = ("poison_trial", "scenario")

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
    for name, rows in run_groups.grouped(records, _speaks, dataset, "at all").items():
        runs = [record for row in rows for record in row]
        controls: dict[str, list[RunRecord]] = {}
        poisons: dict[tuple[str, ...], dict[str, list[RunRecord]]] = {}
        for record in runs:
            label = registry.label_of(record.spec.method, record.spec.config)
            if record.spec.poison is not None:
                poisons.setdefault(_poison(record), {}).setdefault(label, []).append(record)
            elif record.spec.targeting is None and record.spec.method == "none":
                controls.setdefault(record.spec.model, []).append(record)
        clean = {model: _accuracy(distinct_trials(runs)) for model, runs in controls.items()}
        for by_defense in poisons.values():
            trials = {label: distinct_trials(runs) for label, runs in by_defense.items()}
            text += _of_poison(name, trials, clean)
    return [*text, NEXT] if text else ["No poison has a run of plain training yet."]


def _speaks(record: RunRecord) -> bool:
    """Whether nothing was set but the poison: its attacks' settings, its draw, its scenario."""
    return all("." in name or name in _OF_POISON for name in record.labels.overrides)


def _poison(record: RunRecord) -> tuple[str, ...]:
    keys = run_groups.keys_of(record)
    return record.spec.model, _made_of(record), str(keys["rho"]), str(keys["scenario"])


def _made_of(record: RunRecord) -> str:
    """The attacks, and what was set of them."""
    settings = [f"{name} {value}" for name, value in record.labels.overrides.items() if "." in name]
    attack = str(run_groups.keys_of(record)["attack"])
    return attack + (f" ({', '.join(sorted(settings))})" if settings else "")


def _accuracy(runs: Sequence[RunRecord]) -> float:
    return fmean(run.metrics.test_accuracy for run in runs)


def _spared(runs: Sequence[RunRecord]) -> float:
    """What a defense wants much of: accuracy, or of targeted poisons the share that failed."""
    if runs[0].spec.targeting is None:
        return _accuracy(runs)
    return 1 - fmean(bool(run.metrics.attack_success) for run in runs)


def _of_poison(
    dataset: str, by_defense: Mapping[str, Sequence[RunRecord]], clean: Mapping[str, float]
) -> list[str]:
    """What the poison did to plain training, and how the defenses compare; nothing without both."""
    plain_label = registry.defenses()["none"].title
    others = {label: runs for label, runs in by_defense.items() if label != plain_label}
    plain = by_defense.get(plain_label)
    if plain is None:
        return []
    spec = plain[0].spec
    where = f"On {dataset}, {_made_of(plain[0])} in {spec.rho * 100:g} % of the training images"
    trials = f"{len(plain)} trial" + ("s" if len(plain) > 1 else ": an example, no finding")
    if spec.targeting is not None:
        hits = sum(bool(run.metrics.attack_success) for run in plain)
        text = [f"{where} hits {hits} of {len(plain)} targets under plain training."]
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
    return text + ([_comparison(others, _spared(plain))] if others else [])


def _comparison(others: Mapping[str, Sequence[RunRecord]], plain: float) -> str:
    """Which defenses do better than plain training, the best first, and which do not."""
    values = sorted(((_spared(runs), label) for label, runs in others.items()), reverse=True)
    is_targeted = next(iter(others.values()))[0].spec.targeting is not None
    what = " of the targets spared" if is_targeted else ""
    shown = [
        (value >= plain + LEAST, f"{label} at {percent_text(value)}") for value, label in values
    ]
    better = [text for is_better, text in shown if is_better]
    useless = ", ".join(text for is_better, text in shown if not is_better)
    if not better:
        return f"Of those run no defense is seen to do better than plain training: {useless}{what}."
    rest = f", then {', '.join(better[1:])}" if better[1:] else ""
    ending = f"; no better than plain training: {useless}" if useless else ""
    return f"Best is {better[0]}{what}{rest}{ending}."
