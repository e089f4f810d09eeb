"""One cell of a paper's table: which runs belong to it and which commands make them. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, islice
from typing import Any, TypeAlias

from poisonbench import registry
from poisonbench.builtin.datasets import DATASETS
from poisonbench.core.quick_names import same_place, split_quick
from poisonbench.core.seeds import Seeds
from poisonbench.requests import PoisonRequest, RunRequest, Values, split_values
from poisonbench.results.records import Labels, RunRecord
from poisonbench.results.statistics import Proportion, Summary

#: Trials of every cell, as in the paper.
TRIALS = 5

#: The embedded part of MNIST, and the part of that for targeted attacks.
SAMPLE_DATASET = "mnist-sample"
TARGETED_SAMPLE = "mnist-sample@1000"
#: The part of CIFAR-10 that a small network learns on a CPU, for both kinds of attacks.
COLOUR_PART = "cifar10@10000"
#: No paper's data.
SAMPLES = (SAMPLE_DATASET, TARGETED_SAMPLE, COLOUR_PART)

#: How many draws of an untargeted poison the trials share out, where it is not one: trial t trains
#: on draw t modulo this.
DRAWS = {SAMPLE_DATASET: TRIALS, COLOUR_PART: TRIALS}

#: The seed of a poison, and which draw it is.
Draw: TypeAlias = tuple[int, int | None]

#: The digests of poisons by their draw: one draw made on two kinds of processors is two poisons.
Poisons: TypeAlias = Mapping[Draw, str | None]

#: Data sets that a paper trains on, of which only the whole counts.
PAPERS_OWN = frozenset(entry.name for entry in DATASETS if entry.paper_sizes)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The runs that make one cell.

    Attributes:
        rho: poisoned share of the training images, in [0, 1]; 0 is a clean run.
        profile: the defense's.
        overrides: settings that differ from the profile's, by field name, e.g. {"ratio": 0.25};
            "model" is the network and "attack_profile" the attack's.
        names: what names the cell in tables instead of the overrides; empty takes these.
        form: the value of the one setting that makes it a form of the defense with a name of its
            own; its runs are planned where somebody asks for them. Empty of all others.
        attacks: what made the poison, in the order of its shares.
        attack_form: the value of the one setting that makes it a form of the attack with a name of
            its own, planned like the defense's. Empty of all others.
        scenario: how a targeted attack's victim is trained; null for untargeted poisons.
        trials: how many are wanted.
        published: the paper's figure, accuracies as fractions; null where it has none.
        published_success: the paper's targets hit of trials; null where it has none.
        is_timed: whether only runs of one session count, whose seconds mean something.
        device: only runs on this device, as :func:`device_of` words it; null takes all.
    """

    dataset: str
    method: str
    rho: float
    profile: str = "paper"
    overrides: Values = field(default_factory=dict, hash=False)
    names: Mapping[str, Any] = field(default_factory=dict, hash=False)
    form: str = ""
    attacks: tuple[str, ...] = registry.MIX
    attack_form: str = ""
    scenario: str | None = None
    trials: int = TRIALS
    published: Summary | None = None
    published_success: Proportion | None = None
    is_timed: bool = False
    device: str | None = None

    @property
    def keys(self) -> dict[str, Any]:
        """The keys that name the cell in tables."""
        return {
            "dataset": self.dataset,
            "rho": self.rho,
            "method": self.method,
            **(self.names or self.overrides),
        }

    @property
    def against(self) -> str | None:
        """The defense that the poison was crafted against; null of one that is not adaptive."""
        name = self.overrides.get(f"{self.attacks[0]}.against")
        return None if name is None else str(name)

    @property
    def poison_variant(self) -> str:
        """What it is crafted against or the form of its attack; empty of the plain attack."""
        return self.against or self.attack_form

    @property
    def poison_text(self) -> str:
        """The poison as ``--attacks`` names it: ``pgd+dap``, ``pgd:jpeg`` or ``em:class``."""
        return "+".join(self.attacks) + (f":{self.poison_variant}" if self.poison_variant else "")

    @property
    def method_text(self) -> str:
        """The defense as ``--methods`` names it: ``jpeg``, or ``jpeg:10`` of a form of it."""
        return f"{self.method}:{self.form}" if self.form else self.method

    def matches(self, record: RunRecord) -> bool:
        """Whether a run belongs here: the profile's settings in all that is not overridden."""
        spec, targeting = record.spec, record.spec.targeting
        # A targeted attack's clean control is no clean run of an untargeted table.
        scenario = None if targeting is None else targeting.scenario
        # What tells most runs apart comes first: a table asks each of its cells about many runs.
        return (
            spec.method == self.method
            and _same(spec.rho, self.rho)
            and is_run_on(record, self.dataset)
            and self._has_settings(record.labels)
            and (spec.poison is None or spec.poison.attacks == list(self.attacks))
            and scenario == self.scenario
            and (targeting is None or _same(targeting.rho, self.rho))
        )

    def select(
        self, records: Sequence[RunRecord], poisons: Poisons | None = None
    ) -> list[RunRecord]:
        """The cell's runs, one for each (seed, trial), as :func:`distinct_trials` has them."""
        return [run for run in self._distinct(records, poisons) if self._is_of_use(run)]

    def current(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """All of its runs that count, of one trial perhaps several, by when they finished."""
        near = records
        if isinstance(records, IndexedRuns):
            near = records.of(self.method, place_of(self.dataset), self.attacks)
        return _current([record for record in near if self.matches(record)])

    def missing(self, records: Sequence[RunRecord]) -> list[int]:
        """The trials to run, with the default seed, until there are as many as wanted.

        A trial that was run but is of no use here is not asked for again: its record stands.
        """
        runs = list(filter(is_of_plan, self._distinct(records)))
        done = {(run.spec.seed, run.spec.trial) for run in runs}
        free = (trial for trial in count() if (Seeds().root, trial) not in done)
        return list(islice(free, max(0, self.trials - sum(map(self._is_of_use, runs)))))

    def request(self, trial: int) -> RunRequest:
        """What to run for one trial, with the default seed."""
        values = dict(self.overrides)
        model, profile = values.pop("model", None), values.pop("attack_profile", "paper")
        # A targeted attack's own share is its default.
        rho = self.rho if self.scenario is None or self.rho == 0 else None
        draw = trial % draws_on(self.dataset) if self.scenario is None and self.rho else 0
        poison = PoisonRequest(attacks=self.attacks, rho=rho, profile=str(profile), trial=draw)
        settings, poison = split_values(values, poison)
        return RunRequest(
            method=self.method,
            dataset=self.dataset,
            poison=poison,
            profile=self.profile,
            settings=settings,
            model=None if model is None else str(model),
            trial=trial,
        )

    def _distinct(
        self, records: Sequence[RunRecord], poisons: Poisons | None = None
    ) -> list[RunRecord]:
        return distinct_trials(self.current(records), poisons)

    def _is_of_use(self, run: RunRecord) -> bool:
        return (not self.is_timed or is_timed(run)) and self.device in (None, device_of(run))

    def _has_settings(self, labels: Labels) -> bool:
        # Whether a scenario is an override depends on the attack; the spec says which it was.
        free = set() if self.scenario is None else {"scenario"}
        free |= {"poison_trial"} if draws_on(self.dataset) > 1 else set()
        names = set(labels.overrides) - free
        # What differs from a profile without an option of its own shows in the variant alone.
        is_named = labels.variant == self.profile or bool(labels.overrides)
        return (
            labels.profile == self.profile
            and is_named
            and names == set(self.overrides) - free
            and all(_same(labels.overrides[name], self.overrides[name]) for name in names)
        )


class IndexedRuns(tuple[RunRecord, ...]):
    """Run records that are found by method, data and attacks: a table asks each cell for its runs.

    What :func:`place_of` calls a data set is its place here.
    """

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, tuple[str, ...]], list[RunRecord]]:
        found: dict[tuple[str, str, tuple[str, ...]], list[RunRecord]] = {}
        for record in self:
            poison = record.spec.poison
            attacks = () if poison is None else tuple(poison.attacks)
            found.setdefault((record.spec.method, table_name(record), attacks), []).append(record)
        return found

    def of(self, method: str, place: str, attacks: tuple[str, ...]) -> Sequence[RunRecord]:
        """Those of a method there on clean images or on a poison of these attacks."""
        known = self._by_place
        poisoned = known.get((method, place, attacks), []) if attacks else []
        return known.get((method, place, ()), []) + poisoned


def draws_on(dataset: str) -> int:
    """How many draws of an untargeted poison the trials on a data set share out."""
    return TRIALS if split_quick(dataset)[1] else DRAWS.get(dataset, 1)


def is_of_plan(record: RunRecord) -> bool:
    """Whether a run's poison is a draw that its trial is planned on, or a given artefact.

    Where trials share out draws a plan for claims may give each a draw of its own.
    """
    spec = record.spec
    if spec.poison is None or spec.poison.trial is None or spec.targeting is not None:
        return True
    draw, draws = spec.poison.trial, draws_on(table_name(record))
    return draw == spec.trial % draws or (draws > 1 and draw == spec.trial)


def distinct_trials(
    records: Sequence[RunRecord], poisons: Poisons | None = None
) -> list[RunRecord]:
    """The records of one cell that may be averaged together: one for each (seed, trial).

    Only the newest training loop, recipe of the method and recipe of a targeted attack count; of
    the runs on one draw of the poison those on the poison of the run finished last (a targeted
    poison is the trial's own), or on the draw's in ``poisons`` where some are; of a trial on
    several draws the planned one, its own before a shared one; of a trial that was repeated, the
    run finished last (so a result does not depend on the order of reading).
    """
    current = _current(records)
    held = {(draw_of(record), record.spec.poison_digest) for record in current}
    on = {draw_of(record): record.spec.poison_digest for record in current}
    on |= {draw: digest for draw, digest in (poisons or {}).items() if (draw, digest) in held}
    by_trial = {
        (record.spec.seed, record.spec.trial): record
        for record in sorted(
            current, key=lambda run: (is_of_plan(run), draw_of(run)[1] == run.spec.trial)
        )
        if record.spec.poison_digest == on[draw_of(record)]
    }
    return [by_trial[key] for key in sorted(by_trial)]


def _current(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Those of the newest numbers, by when they finished."""
    newest = max(map(_version, records), default=None)
    current = [record for record in records if _version(record) == newest]
    return sorted(current, key=lambda record: (record.environment.finished, record.id))


def _version(record: RunRecord) -> tuple[int, int, int]:
    """The numbers of loop, method and targeted attack; digests tell untargeted poisons apart."""
    spec, origin = record.spec, record.labels.poison
    pools = origin.pools.values() if spec.targeting is not None and origin is not None else ()
    return (
        spec.loop,
        spec.version,
        max((pool.spec.version for pool in pools), default=0),
    )


def draw_of(record: RunRecord) -> Draw:
    """The seed and the draw of its poison, of a targeted one its trial; null of clean data."""
    spec = record.spec
    if spec.targeting is not None:
        return spec.seed, spec.trial
    return spec.seed, None if spec.poison is None else spec.poison.trial


def is_run_on(record: RunRecord, dataset: str) -> bool:
    """Whether this is a run on that data set, the whole of it for a paper's."""
    is_whole = dataset not in PAPERS_OWN or record.labels.is_paper_dataset
    return is_whole and table_name(record) == place_of(dataset)


def place_of(dataset: str) -> str:
    """A data set as :func:`table_name` has it of its runs."""
    return same_place(dataset) if is_own(dataset) else dataset


def is_own(dataset: str) -> bool:
    """Whether a name has a path or the settings for a CPU, so that specs do not tell all of it."""
    return ":" in dataset or split_quick(dataset)[1] is not None


def table_name(record: RunRecord) -> str:
    """What tables know a run's data set by: the spec's name, or that with its path and settings."""
    written = record.labels.dataset
    return same_place(written) if is_own(written) else record.spec.dataset.name


def of_newest_data(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Leave out runs on earlier contents of a path: of each name those like the run last finished.

    The path may have been written to between two runs, which then do not compare.
    """
    newest = {
        table_name(run): run.spec.dataset.digest
        for run in sorted(records, key=lambda run: (run.environment.finished, run.id))
    }
    return [
        run
        for run in records
        if not is_own(run.labels.dataset) or run.spec.dataset.digest == newest[table_name(run)]
    ]


def is_timed(record: RunRecord) -> bool:
    """Whether a run's seconds can be compared: a known device, and never interrupted.

    A run that was killed and continued has more seconds than the session that finished it.
    """
    cost = record.cost
    is_of_one_session = cost.interruptions == 0 and cost.session_seconds >= cost.seconds.total > 0
    return device_of(record) is not None and is_of_one_session


def device_of(record: RunRecord) -> str | None:
    """What a run's speed depends on besides the run, in words; null where that is not known.

    Seconds compare with none but the same device's: the device, processor, threads, precision and
    versions of torch and CUDA.
    """
    about = record.environment
    if not about.processor:
        return None
    parts = [
        "" if about.device == "cpu" else about.device,
        about.processor,
        f"{about.threads} thread(s)",
        about.precision,
        f"torch {about.torch}",
        f"CUDA {about.cuda}" if about.cuda else "",
    ]
    return ", ".join(filter(None, parts))


def paired(
    groups: Sequence[Sequence[RunRecord]], *, same_poison: bool = True, same_batch: bool = True
) -> list[tuple[RunRecord, ...]]:
    """The runs that differ in nothing but the group: one a group in each tuple.

    They share seed, trial, training loop, data set, initial weights and first batch.

    Args:
        groups: each with one run for a (seed, trial), as :meth:`Cell.select` gives them.
        same_poison: whether they share the poison as well; false where the groups are poison
            ratios.
        same_batch: whether they share the first batch; false where one may leave images out.
    """
    tables = [
        {_circumstances(record, same_poison, same_batch): record for record in group}
        for group in groups
    ]
    shared = [key for key in tables[0] if all(key in table for table in tables)] if tables else []
    return [tuple(table[key] for table in tables) for key in shared]


def _circumstances(record: RunRecord, same_poison: bool, same_batch: bool) -> tuple[Any, ...]:
    spec, digests = record.spec, record.digests
    poison = spec.poison_digest if same_poison else None
    shared = digests.initial_weights, digests.first_batch if same_batch else ""
    return spec.seed, spec.trial, spec.loop, spec.dataset.digest, poison, *shared


def _same(first: Any, second: Any) -> bool:
    """Whether two values are equal, or two numbers as near as rounding may bring them."""
    if isinstance(first, int | float) and isinstance(second, int | float):
        return math.isclose(first, second, rel_tol=1e-6)
    return bool(first == second)
