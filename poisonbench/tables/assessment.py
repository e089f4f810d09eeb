"""What the runs of an assessment say, in five sentences.

The sentences are on untargeted attacks, on a targeted one, on the defense that holds best, on what
that costs, and on how sure all this is. Differences are those of verdicts (docs/verdicts.md), with
their 95 % intervals; a word for harm or help stands only where a test at 5 % finds one, corrected
by Holm for the attacks, or the pairs of attack and defense, that it was picked from. No torch here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from statistics import fmean
from typing import TypeVar

from poisonbench import registry
from poisonbench.results.estimates import Estimate
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import SIGNIFICANCE, wilson
from poisonbench.results.verdicts import LEAST_ACCURACY, ClaimRule, detectable, holm
from poisonbench.tables.assessment_plan import NOISE, TRUSTING, Matrix
from poisonbench.tables.cells import TRIALS, Cell, device_of, is_timed, of_newest_data, paired
from poisonbench.tables.evidence import accuracy_gain, distinct_targets
from poisonbench.tables.gains import gain_of, levels
from poisonbench.tables.measured import share_hit
from poisonbench.tables.paper_table import Records

K = TypeVar("K", bound=Hashable)

#: Test images under which a test set is called small: one of them is a tenth of a point.
SMALL_TEST = 1000

#: The head of a sentence on a single trial.
_EXAMPLE = "An example and no finding"


def assess(matrix: Matrix, records: Records) -> list[str]:
    """Five sentences on what the runs say; those without runs say so."""
    return _Assessment(matrix, of_newest_data(records)).sentences()


class _Assessment:
    """The runs of a matrix, and sentences on them."""

    def __init__(self, matrix: Matrix, records: Records) -> None:
        self.matrix, self.records = matrix, records
        self.clean = self._runs(matrix.cell("none", None))
        self.hurt = {
            attack: runs
            for attack in matrix.untargeted
            if attack != NOISE and (runs := self._runs(matrix.cell("none", attack)))
        }
        #: The attack that leaves plain training least.
        self.strongest = min(self.hurt, key=lambda name: _mean(self.hurt[name]), default=None)

    def _runs(self, cell: Cell) -> list[RunRecord]:
        return cell.select(self.records)

    def sentences(self) -> list[str]:
        """All five."""
        best = self._best()
        return [self.vulnerable(), self.targeted(), self.helped(best), self.cost(best), self.sure()]

    def vulnerable(self) -> str:
        """What the strongest untargeted attack does to plain training."""
        if self.strongest is None or not self.clean:
            return "Untargeted poison: no runs of plain training on clean and on poisoned images."
        losses = {name: _loss(self.clean, runs) for name, runs in self.hurt.items()}
        attacked, loss = self.hurt[self.strongest], losses[self.strongest]
        sharp = certain(losses).get(self.strongest, False)
        head = "Vulnerable" if sharp else _EXAMPLE if loss is None else "No harm is shown"
        picked = f", the strongest of {len(losses)} attacks" if len(losses) > 1 else ""
        text = (
            f"{head}: with untargeted poison in every training image, by {_title(self.strongest)}"
            f"{picked}, plain training gets {_percent(_mean(attacked))} of the test images right "
            f"instead of {_percent(_mean(self.clean))}, "
            + _difference("a loss of", _mean(self.clean) - _mean(attacked), loss)
        )
        if loss is not None and not sharp:
            text += ", which may be chance"
        if noise := self._runs(self.matrix.cell("none", NOISE)):
            text += "; " + _difference(
                "noise of the same size, the control, costs",
                _mean(self.clean) - _mean(noise),
                _loss(self.clean, noise),
            )
        return text + "."

    def targeted(self) -> str:
        """What targeted attacks do to plain training and under the defenses."""
        parts = [text for name in self.matrix.targeted if (text := self._hits(name))]
        if not parts:
            return "Targeted poison: no runs; nothing is said of it."
        return f"Targeted poison: {'; '.join(parts)}."

    def _hits(self, attack: str) -> str:
        cell = self.matrix.cell("none", attack)
        runs = self._on_targets(cell)
        share = share_hit(runs)
        if share is None:
            return ""
        low, high = wilson(share.successes, share.trials)
        text = (
            f"{_title(attack)}, with poisons in {100 * cell.rho:g} % of the images, has "
            f"{share.successes} of {share.trials} targets taken for its class under plain training "
            f"[{100 * low:.0f}, {100 * high:.0f} %]"
        )
        goals = {_goal(run) for run in runs}
        controls = {_goal(run): run for run in self._runs(self.matrix.without_poison(attack))}
        shared = [controls[goal] for run in runs if (goal := _goal(run)) in controls]
        if shared:
            anyway = sum(bool(run.metrics.attack_success) for run in shared)
            text += f", {anyway} of {len(shared)} without any poison"
        defended = {
            method: own
            for method in self.matrix.methods
            if method != "none"
            and (
                own := share_hit(
                    [
                        run
                        for run in self._on_targets(self.matrix.cell(method, attack))
                        if _goal(run) in goals
                    ]
                )
            )
        }
        if defended:
            text += ", " + ", ".join(
                f"{own.successes} of {own.trials} under {registry.form_label(method)}"
                for method, own in defended.items()
            )
        return text

    def _on_targets(self, cell: Cell) -> list[RunRecord]:
        """A targeted cell's runs, one a target."""
        return [run for (run,) in distinct_targets([(run,) for run in self._runs(cell)])]

    def _best(self) -> str | None:
        """The defense with the best worst case on the attacks that plain training has runs on."""
        worst = {
            method: min(_mean(runs) for runs in rows)
            for method in self.matrix.methods
            if method != "none"
            and all(rows := [self._runs(self.matrix.cell(method, name)) for name in self.hurt])
            and rows
        }
        return max(worst, key=lambda method: worst[method], default=None)

    def helped(self, best: str | None) -> str:
        """What the best defense holds against the strongest attack."""
        if best is None or self.strongest is None:
            return "Defenses: none has runs on all of the poisons."
        plain = self.hurt[self.strongest]
        defended = {
            (attack, method): runs
            for attack in self.hurt
            for method in self.matrix.methods
            if method != "none" and (runs := self._runs(self.matrix.cell(method, attack)))
        }
        # The strongest attack is picked by the figures that the gains are over.
        pairs = {key: _gain(runs, self.hurt[key[0]]) for key, runs in defended.items()}
        own = {name: runs for (attack, name), runs in defended.items() if attack == self.strongest}
        gains = {name: pairs[self.strongest, name] for name in own}
        helping = {
            name
            for (attack, name), sure in certain(pairs).items()
            if sure and attack == self.strongest
        }
        attack, label = _title(self.strongest), registry.form_label(best)
        shared = gain_of(own[best], plain)
        if shared is None:
            return f"{label} has no run on the same poison of {attack} as plain training."
        # Over the pairs that the interval is of; a filter alone has none that share the batches.
        held, base = levels(paired([own[best], plain]) or shared.pairs)
        several = f", of {len(own)} defenses the one with the best worst case as observed,"
        head = label + several * (len(own) > 1)
        if gains[best] is None:
            head += ", as an example and no finding"
        else:
            head += " helped" if best in helping else " is not shown to help"
        text = (
            f"{head}: against {attack} it holds {_percent(held)} where plain training has "
            f"{_percent(base)}, " + _difference("a gain of", held - base, gains[best])
        )
        rows = {name: _mean(self._runs(self.matrix.cell(best, name))) for name in self.hurt}
        worst = min(rows, key=lambda name: rows[name])
        if worst != self.strongest:
            text += f"; its own worst case is {_title(worst)} with {_percent(rows[worst])}"
        others = [registry.form_label(name) for name in own if name != best and name in helping]
        if others:
            text += f"; {' and '.join(others)} also help{'s' * (len(others) == 1)} against {attack}"
        trusted = self._runs(self.matrix.trusted(self.strongest)) if best in TRUSTING else []
        if trusted:
            text += (
                f"; plain training that is given its {trusted[0].labels.sizes.validation:,} "
                f"trusted images as well has {_percent(_mean(trusted))}"
            )
        return text + "."

    def cost(self, best: str | None) -> str:
        """What the best defense costs, in accuracy on clean data and in time."""
        own = [] if best is None else self._runs(self.matrix.cell(best, None))
        if best is None or not own or not self.clean:
            return "Cost: no runs of a defense and of plain training on clean data."
        evidence, shared = _gain(own, self.clean), gain_of(own, self.clean)
        if shared is None:
            return "Cost: no trial has a defense and plain training on clean data."
        gain = shared.points if evidence is None else evidence.effect
        if gain < 0:
            evidence = _gain(self.clean, own)
        text = _difference(
            f"On clean data {registry.form_label(best)} {'loses' if gain < 0 else 'gains'}",
            abs(gain),
            evidence,
        )
        if evidence is not None and evidence.interval()[0] <= 0:
            text += ", which may be chance"
        pairs = paired([own, self.clean])
        ratios = [
            one.cost.seconds.total / other.cost.seconds.total
            for one, other in pairs
            if is_timed(one) and is_timed(other) and device_of(one) == device_of(other)
        ]
        if ratios:
            seconds = fmean(run.cost.seconds.total for run in own)
            text += (
                f"; it takes {fmean(ratios):.1f} times as long as plain training ({seconds:.1f} s)"
            )
        return text + "."

    def sure(self) -> str:
        """What the figures rest on, and what they leave open."""
        runs = self.clean or [run for group in self.hurt.values() for run in group]
        if not runs:
            return "Certainty: there are no runs, so nothing is known."
        sizes, trials = runs[0].labels.sizes, len(runs)
        test, point = sizes.test, 100 / sizes.test
        text = (
            f"This rests on {trials} trial{'s' * (trials != 1)} and {test:,} test images "
            f"(one is {point:.2g} point{'s' * (point != 1)})"
        )
        few = ["few trials"] * (trials < TRIALS) + ["a small test set"] * (test < SMALL_TEST)
        text += f": {' and '.join(few)}" if few else ""
        if trials < 2:
            text += "; one trial is an example and no finding"
        elif self.strongest is not None:
            evidence = _loss(self.clean, self.hurt[self.strongest])
            least = None if evidence is None else detectable(evidence, ClaimRule())
            if least is not None:
                text += (
                    f", in which a true loss under about {100 * least:.0f} points would be missed "
                    "more often than one time in five"
                )
        missing = sum(len(cell.missing(self.records)) for cell in self.matrix.cells)
        text += f"; {missing} planned run(s) are missing" if missing else ""
        return text + (
            "; brackets are 95 % intervals, and all holds for this network, this training and "
            "these attacks alone: an attacker who knows the defense was not tried."
        )


def _mean(runs: Iterable[RunRecord]) -> float:
    return fmean(run.metrics.test_accuracy for run in runs)


def _loss(clean: Records, poisoned: Records) -> Estimate | None:
    """Accuracy on clean data minus that on poisoned, of the same trials."""
    return accuracy_gain(paired([clean, poisoned], same_poison=False), LEAST_ACCURACY)


def _gain(first: Records, second: Records) -> Estimate | None:
    """Accuracy of the first runs minus the second ones', of the same trials and poisons."""
    return accuracy_gain(paired([first, second]), LEAST_ACCURACY)


def certain(evidence: Mapping[K, Estimate | None]) -> dict[K, bool]:
    """By key, whether a difference over 0 is certain at 5 % for all of them together."""
    known = {name: one for name, one in evidence.items() if one is not None}
    adjusted = holm([one.p_above(0.0) for one in known.values()])
    return {name: p < SIGNIFICANCE for name, p in zip(known, adjusted, strict=True)}


def _goal(run: RunRecord) -> tuple[int, int]:
    goal, _ = run.on_target
    return goal.target, goal.intended_class


def _title(attack: str) -> str:
    return registry.attacks()[attack].title


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _difference(what: str, effect: float, evidence: Estimate | None) -> str:
    """``a loss of 20.1 points [11.2, 29.0]`` of the evidence; without it the effect alone."""
    text = f"{what} {_points(effect if evidence is None else evidence.effect)} points"
    if evidence is None:
        return f"{text} (no interval)"
    low, high = (_points(min(1.0, max(-1.0, end))) for end in evidence.interval())
    return f"{text} [{low}, {high}]"


def _points(share: float) -> str:
    """A difference in points; of none no sign."""
    return f"{round(100 * share, 1) + 0.0:.1f}"
