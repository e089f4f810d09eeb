"""The overview: what was run, headlines, the matrix, and clean against worst accuracy with cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup, escape

from poisonbench import registry
from poisonbench.core.settings import percent_text
from poisonbench.page.groups import Entry, Row
from poisonbench.page.plots import axis_over
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Proportion, Summary
from poisonbench.tables.all_runs import DIGITS
from poisonbench.tables.cells import device_of, is_timed, paired
from poisonbench.tables.comparisons import Block, Comparison, Table
from poisonbench.tables.gains import LEAST, Gain, gain_of
from poisonbench.tables.layout import DASH, show_measured

#: Lower ends of the classes of colour, worst first; accuracies crowd at the top.
SHADES = (0.0, 0.3, 0.5, 0.7, 0.85, 0.93, 0.96, 0.98, 0.99)

_MOST_HEADLINES = 3


@dataclass(frozen=True)
class Shaded:
    """One cell of the matrix.

    Attributes:
        text: what it shows.
        shade: number of its colour, 0 the worst; null without runs.
        run: the id of the run that it opens.
        count: how many runs it averages.
        comparison: the figure.
    """

    text: str = ""
    shade: int | None = None
    run: str = ""
    count: int = 0
    method: str = ""
    comparison: Comparison | None = None


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Attack x defense on one data set; a row's cells are in the order of the columns."""

    dataset: str
    quantity: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Row, tuple[Shaded, ...]], ...]

    @property
    def table(self) -> Table:
        """The same as text."""
        lines = [(row.title, *(cell.text or DASH for cell in cells)) for row, cells in self.rows]
        comparisons = [
            cell.comparison for _, cells in self.rows for cell in cells if cell.comparison
        ]
        block = Block(
            title=f"{self.dataset}: {self.quantity}",
            columns=("trained on", *self.columns),
            rows=tuple(lines),
            keys=1,
            cells=tuple(comparisons),
        )
        note = "Percent: mean±sample standard deviation (trials), each defense by its own settings."
        return Table(key="matrix", title="Attacks against defenses", blocks=(block,), notes=(note,))


@dataclass(frozen=True, kw_only=True)
class Tradeoff:
    """One defense, or form of it, on one data set: what it keeps, what it costs.

    Attributes:
        clean: mean accuracy on clean data; null without a run.
        worst: the lowest of the mean accuracies on the poisons that all defenses have.
        worst_row: where it is that low.
        ratio: seconds over those of plain training; null where none of the same device is timed.
    """

    label: str
    method: str
    clean: float | None
    worst: float
    worst_row: Row
    ratio: float | None
    poisons: int


def matrices(rows: Sequence[Row]) -> list[Matrix]:
    """The matrix of each data set: of accuracy, and of success where there are targets."""
    made = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        for is_targeted in (False, True):
            own = [r for r in rows if r.dataset == dataset and r.is_targeted is is_targeted]
            own = [row for row in own if any(entry.is_plain for entry in row.entries)]
            if own:
                made.append(_matrix(dataset, own, is_targeted=is_targeted))
    return made


def _matrix(dataset: str, rows: Sequence[Row], *, is_targeted: bool) -> Matrix:
    used = {e.label: e.method for row in rows for e in row.entries if e.is_plain}
    order = list(registry.defenses())
    labels = sorted(
        used, key=lambda label: (order.index(used[label]) if used[label] in order else 999, label)
    )
    lines = []
    for row in rows:
        entries = {entry.label: entry for entry in row.entries if entry.is_plain}
        cells = tuple(_shaded(entries.get(label), row, is_targeted) for label in labels)
        lines.append((row, cells))
    quantity = "targets hit" if is_targeted else "test accuracy"
    return Matrix(dataset=dataset, quantity=quantity, columns=tuple(labels), rows=tuple(lines))


def _shaded(entry: Entry | None, row: Row, is_targeted: bool) -> Shaded:
    if entry is None or not entry.trials:
        return Shaded()
    figure = entry.success if is_targeted else entry.accuracy
    measured = figure.measured
    good = 0.0
    if isinstance(measured, Proportion):
        good = 1 - measured.rate
    elif isinstance(measured, Summary):
        good = measured.mean
    return Shaded(
        text=show_measured(figure),
        shade=sum(good >= start for start in SHADES) - 1,
        run=entry.trials[0].id,
        count=len(entry.trials),
        method=entry.method,
        comparison=figure,
    )


@dataclass(frozen=True)
class Headline:
    """A sentence, what it is of, and the row that it is made from."""

    text: str
    context: str
    row: Row


def headlines(rows: Sequence[Row]) -> list[Headline]:
    """Sentences on the poisons that hurt plain training most.

    Each names the defense that gains most over plain training on the same poison and trials. Those
    of more such trials go first: one trial is an example and no finding.
    """
    hurt = []
    for row in rows:
        plain = row.plain
        clean: Entry | None = next(
            (
                other.plain
                for other in rows
                if not other.rho
                and not other.scenario
                and (other.dataset, other.digest, other.model)
                == (row.dataset, row.digest, row.model)
            ),
            None,
        )
        if row.is_targeted or not row.rho or plain is None or clean is None:
            continue
        loss = _mean(clean) - _mean(plain)
        gains = [
            (gain.points, entry.label, gain)
            for entry in row.entries
            if entry.is_plain
            and entry.method != "none"
            and (gain := gain_of(entry.trials, plain.trials))
        ]
        if loss >= LEAST and gains:
            _, label, best = max(gains, key=lambda one: one[:2])
            hurt.append((min(len(best.pairs), 5), loss, row, clean, label, best))
    hurt.sort(key=lambda one: (-one[0], -one[1], one[2].id))
    return [
        _headline(row, clean, label, best)
        for _, _, row, clean, label, best in hurt[:_MOST_HEADLINES]
    ]


def _headline(row: Row, clean: Entry, label: str, best: Gain) -> Headline:
    """Of the best defense, over the trials that it shares with plain training."""
    if best.is_better:
        text = (
            f"{label} holds {percent_text(best.own)} where plain training falls to "
            f"{percent_text(best.base)}"
        )
    else:
        text = (
            f"No defense helps where plain training falls to {percent_text(best.base)}; the "
            f"best, {label}, reaches {percent_text(best.own)}"
        )
    trusted = next((e for e in row.entries if e.label.endswith("(with_validation=True)")), None)
    if trusted is not None and trusted.method == "none":
        images = trusted.trials[0].labels.sizes.validation
        alone = gain_of(trusted.trials, [plain for _, plain in best.pairs])
        if alone is not None:
            some = "" if len(alone.pairs) == len(best.pairs) else f" ({_trials(alone)})"
            text += (
                f"; the {images:,} trusted images alone, added to plain training, give "
                f"{percent_text(alone.own)}{some}"
            )
    about = (row.dataset + ", " + row.title, _trials(best))
    context = "; ".join((*about, f"{percent_text(_mean(clean))} on clean data"))
    return Headline(text + ".", context, row)


def _trials(gain: Gain) -> str:
    return f"{len(gain.pairs)} trial{'s' * (len(gain.pairs) != 1)}"


def tradeoffs(rows: Sequence[Row]) -> dict[str, list[Tradeoff]]:
    """By data set, plain training and the defenses that were run on the same poisons.

    Worst cases compare only on the same poisons. So defenses join, those with most poisons first,
    as long as two poisons are left that all have; others are left out. Networks, and data sets of
    one name, do not compare: each has lines of its own, by its name where there are several.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if not row.scenario:
            groups.setdefault((row.dataset, row.model, row.digest), []).append(row)
    found = {key: lines for key, own in groups.items() if (lines := _tradeoffs(own))}
    made = {}
    for (dataset, model, digest), lines in found.items():
        others = [key for key in found if key[0] == dataset]
        parts = [model] if len({key[1] for key in others}) > 1 else []
        parts += [f"data {digest[:DIGITS]}"] if len({key[2] for key in others}) > 1 else []
        made[dataset + (f" ({', '.join(parts)})" if parts else "")] = lines
    return made


def _tradeoffs(own: Sequence[Row]) -> list[Tradeoff]:
    poisoned = [row for row in own if row.rho and row.plain is not None]
    # By label: forms of a defense are defenses of their own.
    having: dict[str, list[Row]] = {}
    for row in poisoned:
        for entry in row.entries:
            if entry.is_plain:
                having.setdefault(entry.label, []).append(row)
    clean_runs = {
        entry.label: entry for row in own if not row.rho for entry in row.entries if entry.is_plain
    }
    plain = next((row.plain.label for row in poisoned if row.plain), None)
    shared = list(poisoned)
    chosen: list[str] = []
    for label in sorted(having, key=lambda name: (name != plain, -len(having[name]))):
        left = [row for row in shared if row in having[label]]
        if len(left) >= (1 if len(chosen) < 2 else min(2, len(shared))):
            shared = left
            chosen.append(label)
    if not shared:
        return []
    lines = []
    for label in chosen:
        entries = [(row, one) for row in shared if (one := row.entry(label))]
        row, worst = min(entries, key=lambda one: (_mean(one[1]), one[0].id))
        clean = clean_runs.get(label)
        lines.append(
            Tradeoff(
                label=label,
                method=worst.method,
                clean=None if clean is None else _mean(clean),
                worst=_mean(worst),
                worst_row=row,
                ratio=_time_ratio(label, poisoned),
                poisons=len(shared),
            )
        )
    return lines


def _time_ratio(label: str, rows: Sequence[Row]) -> float | None:
    """Mean seconds over plain training's of the same trial and device."""
    ratios = []
    for row in rows:
        entry, plain = row.entry(label), row.plain
        if entry is None or plain is None:
            continue
        ratios += [
            run.cost.seconds.total / base.cost.seconds.total
            for run, base in paired([entry.trials, plain.trials])
            if is_timed(run) and is_timed(base) and device_of(run) == device_of(base)
        ]
    return fmean(ratios) if ratios else None


_SIZE, _EDGE = (440, 300), (58, 16, 14, 46)


def tradeoff_plot(lines: Sequence[Tradeoff]) -> Markup:
    """Clean accuracy across, worst-case accuracy up, cost as the area of the mark."""
    points = [line for line in lines if line.clean is not None]
    if len(points) < 2:
        return Markup("")
    across = axis_over([100 * line.clean for line in points if line.clean is not None])
    up = axis_over([100 * line.worst for line in points])
    left, right = _EDGE[0], _SIZE[0] - _EDGE[1]
    top, bottom = _EDGE[2], _SIZE[1] - _EDGE[3]
    columns = [(tick, across.place(tick, left, right)) for tick in across.ticks]
    levels = [(tick, up.place(tick, bottom, top)) for tick in up.ticks]
    grid = "".join(f"M{x:.1f},{top}V{bottom}" for _, x in columns)
    grid += "".join(f"M{left},{y:.1f}H{right}" for _, y in levels)
    parts = [f'<path class="grid" d="{grid}"/>']
    parts += [
        f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>'
        for tick, x in columns
    ]
    parts += [
        f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick, y in levels
    ]
    parts.append(
        f'<text class="name" x="{(left + right) / 2}" y="{_SIZE[1] - 10}" text-anchor="middle">'
        "accuracy on clean data, %</text>"
        f'<text class="name" transform="translate(14,{(top + bottom) / 2}) rotate(-90)" '
        'text-anchor="middle">worst-case accuracy, %</text>'
    )
    for number, line in enumerate(points):
        x = across.place(100 * (line.clean or 0), left, right)
        y = up.place(100 * line.worst, bottom, top)
        radius = 7 * min(max(line.ratio or 1.0, 0.5), 16.0) ** 0.5
        cost = "" if line.ratio is None else f", {line.ratio:.1f} times plain training's time"
        title = escape(
            f"{line.label}: {percent_text(line.clean or 0)} clean, {percent_text(line.worst)} "
            f"worst case{cost}"
        )
        parts.append(
            f'<a class="bubble s{number % 7}" href="#{line.worst_row.id}" aria-label="{title}">'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
            f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{number + 1}</text>'
            f"<title>{title}</title></a>"
        )
    keys = "".join(
        f'<li class="s{number % 7}"><b>{number + 1}</b> {escape(line.label)}'
        + ("" if line.ratio is None else f", {line.ratio:.2f} times the time")
        + "</li>"
        for number, line in enumerate(points)
    )
    return Markup(
        f'<svg class="plot" viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" role="group" '
        f'aria-label="Clean accuracy against worst-case accuracy">{"".join(parts)}</svg>'
        f'<ol class="legend numbered">{keys}</ol>'
    )


def facts(records: Sequence[RunRecord], rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What was run, on what, when."""
    devices = {
        f"{record.environment.device} ({record.environment.processor or 'processor not known'})"
        for record in records
    }
    attacks = {name for r in records if r.spec.poison for name in r.spec.poison.attacks}
    times = sorted(
        time for r in records for time in (r.environment.started, r.environment.finished) if time
    )
    hours = sum(record.cost.seconds.total for record in records) / 3600
    poisons = {r.spec.poison_digest for r in records if r.spec.poison_digest}
    return [
        ("runs", f"{len(records):,}, {hours:,.1f} hours of training"),
        ("data sets", _list({record.labels.dataset for record in records})),
        ("attacks", _list(attacks)),
        ("poisons trained on", f"{len(poisons):,}"),
        ("defenses", _list({registry.label_of(r.spec.method, r.spec.setting) for r in records})),
        ("devices", _list(devices)),
        ("when", " to ".join(dict.fromkeys((times[0][:10], times[-1][:10]))) if times else DASH),
        ("poisonbench", _list({record.environment.poisonbench for record in records})),
        ("torch", _list({record.environment.torch for record in records})),
    ]


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or DASH


def _mean(entry: Entry) -> float:
    return fmean(run.metrics.test_accuracy for run in entry.trials)
