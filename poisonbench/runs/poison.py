"""A poison before anything is crafted: its attacks fully set, or its artefact read; the store."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.core.files import publish_folder
from poisonbench.core.seeds import Seeds
from poisonbench.core.settings import flag_of, options_of
from poisonbench.data.artefacts import poison_files, read_poison
from poisonbench.data.poison import Poison, make_poison
from poisonbench.data.splits import Dataset
from poisonbench.data.targets import check_target
from poisonbench.registry import attacks
from poisonbench.requests import DEFAULT_RHO, PoisonRequest, RunRequest, Values
from poisonbench.runs.context import RunContext
from poisonbench.runs.method_settings import differing, typed_values
from poisonbench.runs.pools import Pool, resolve_pools
from poisonbench.specs import CodeSource, PoisonSpec
from poisonbench.targeting import Goal, Targeting, Trigger, own_targeting


@dataclass(frozen=True)
class Crafted:
    """A poison in the store; ``is_new`` is false when it was there already."""

    poison: Poison
    is_new: bool


@dataclass(frozen=True)
class ResolvedPoison:
    """All that is known of a poison before it is crafted: its artefact, or what it is made of.

    ``rho`` is the poisoned share of the training images, 0 of clean data; None is every image,
    crafted by one attack. Of a targeted poison there is the targeting, and which of its settings
    the user set apart from the defaults.
    """

    request: PoisonRequest
    rho: float | None
    artefact: Poison | None = None
    pools: Mapping[str, Pool] = field(default_factory=dict)
    targeting: Targeting | None = None
    targeting_overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> PoisonSpec | None:
        """What a run's spec says of it; a crafted poison's digest is not known yet."""
        request, artefact = self.request, self.artefact
        if artefact is None and not self.rho:
            return None
        is_mixed = artefact is None and self.targeting is None
        return PoisonSpec(
            attacks=list(request.attacks) if artefact is None else artefact.card.attacks,
            rho=self.rho or 0.0,
            selection=request.selection if is_mixed else None,
            trial=request.trial if artefact is None else None,
            profile=None if request.profile == "paper" else request.profile,
            digest=None if artefact is None else artefact.digest,
        )

    @property
    def overrides(self) -> dict[str, Any]:
        """What was chosen apart from the paper's poison: a paper's table takes none of it."""
        request = self.request
        chosen: dict[str, Any] = {}
        if self.artefact is not None:
            chosen["poison"] = "artefact"
        elif self.rho != 0:
            if request.selection != "stratified":
                chosen["selection"] = request.selection
            if self.targeting is None and request.trial != 0:
                chosen["poison_trial"] = request.trial
            for name, pool in self.pools.items():
                overrides = pool.settings.overrides
                chosen |= {f"{name}.{setting}": value for setting, value in overrides.items()}
        if request.profile != "paper":
            chosen["attack_profile"] = request.profile
        return {**chosen, **self.targeting_overrides}


def resolve_crafting(
    context: RunContext, dataset: Dataset, poison: PoisonRequest, *, is_for_run: bool = False
) -> ResolvedPoison:
    """A poison to craft, with every setting read: nothing is crafted or trained for it.

    One that is for a run has its attack's name before the options that messages name.

    Raises:
        UsageError: options that do not fit the attacks or each other, or bad values.
    """
    entry = poison.targeted
    if entry is None:
        _refuse_targeting(poison, poison.text)
        _check_surrogate(poison, "--model")
        rho = 1.0 if poison.rho is None and len(poison.attacks) > 1 else poison.rho
        if poison.has_trigger:
            rho = poison.trigger_rho
        if rho is None and poison.selection != "stratified":
            raise UsageError(
                "--selection: expected it with --rho, got it without, where every image is "
                "poisoned; add --rho or leave it out"
            )
        pools = resolve_pools(context, dataset, poison, rho=rho, is_for_run=is_for_run)
        return ResolvedPoison(poison, rho, pools=pools)
    if poison.selection != "stratified":
        raise UsageError(
            f"--selection: expected an untargeted attack, got {entry.name}, whose poisons are of "
            "one class; leave it out"
        )
    values = {**poison.targeting, **({} if poison.rho is None else {"rho": poison.rho})}
    # The paper's scenario, or another for a data set too small for that.
    by_preset = entry.scenario_by_preset
    fitting = [by_preset[preset] for preset in dataset.presets if preset in by_preset]
    targeting, overrides = _read_targeting(values, dataset, [entry.scenario, *fitting][-1])
    scenario = targeting.scenario
    if scenario in entry.not_in:
        others = [other.name for other in attacks().values() if other.scenario == scenario]
        raise UsageError(
            f"--scenario: expected another than {scenario} with {entry.name}, which "
            f"{entry.not_in[scenario]}; choose {' or '.join(others)}, made for it"
        )
    pools = resolve_pools(context, dataset, poison, targeting, is_for_run=is_for_run)
    check_target(dataset, targeting, Seeds(context.seed, poison.trial))
    return ResolvedPoison(poison, targeting.rho, None, pools, targeting, overrides)


def resolve_poison(context: RunContext, dataset: Dataset, run: RunRequest) -> ResolvedPoison:
    """What a run trains on, with every setting read and the artefact that a path names.

    Raises:
        UsageError: options that do not fit the poison, or bad values.
        ArtefactError: an unreadable poison, or one made for another scenario than asked for.
    """
    poison = run.crafted
    _check_surrogate(run.poison, "--attack-model")
    if poison.path is not None:
        return _resolve_artefact(context, dataset, poison)
    entry = poison.targeted
    if entry is None:
        _refuse_targeting(poison, poison.text)
        if poison.profile != "paper":
            raise UsageError(
                "--attack-profile: expected a targeted attack, got "
                f"{'+'.join(poison.attacks) or 'clean data'}; leave it out"
            )
        rho = float(DEFAULT_RHO if poison.rho is None else poison.rho) if poison.attacks else 0.0
        if poison.has_trigger:
            rho = poison.trigger_rho
        pools = resolve_pools(context, dataset, poison, rho=rho, is_for_run=True) if rho > 0 else {}
        return ResolvedPoison(poison, rho, pools=pools)
    if run.poison.trial:
        raise UsageError(
            f"--poison-trial: expected an untargeted attack, got {entry.name}, whose poison is "
            "the trial's own; leave it out"
        )
    return resolve_crafting(context, dataset, poison, is_for_run=True)


def publish_pool(
    context: RunContext,
    dataset: Dataset,
    pool: Pool,
    images: Tensor,
    rows: Tensor,
    goal: Goal | Trigger | None = None,
    pattern: Tensor | None = None,
) -> Crafted:
    """Put what an attack crafted of these rows into the store; see :func:`publish`.

    Parameters: what the artefact holds.
    """
    entry, config = pool.settings.entry, pool.settings.config
    labels = None
    if isinstance(goal, Trigger) and goal.labels == "dirty":
        labels = torch.full((len(rows),), goal.target_class)
    poison = make_poison(
        images,
        rows,
        dataset,
        attack=entry.name,
        epsilon=config.budget,
        spec=pool.spec,
        norm=config.norm,
        goal=goal,
        labels=labels,
        code={entry.name: CodeSource(**entry.source.as_json())} if entry.plug_in else None,
    )
    return publish(context, replace(poison, pattern=pattern), dataset)


def publish(context: RunContext, poison: Poison, dataset: Dataset) -> Crafted:
    """Put a poison into the store, or find it there.

    Of two processes that craft one poison, both get what the first has put there: on a device that
    doesn't compute the same bits twice theirs differ, and a record must be of the one that is kept.
    """
    path = context.store.poison_path(poison.id)
    if path.exists() or not publish_folder(path, poison_files(poison, dataset)):
        return stored(context, poison.id, dataset)
    return Crafted(replace(poison, path=path), True)


def found(context: RunContext, pool: Pool, dataset: Dataset) -> Crafted:
    """An attack's poison that lies in the store; says so if another text of a file crafted it.

    Raises:
        ArtefactError: see :func:`stored`.
    """
    crafted, entry = stored(context, pool.id, dataset), pool.settings.entry
    made_by, source = (crafted.poison.card.code or {}).get(entry.name), entry.source
    if source.path and made_by is not None and made_by.sha256 != source.version:
        context.say(
            f"warning: poison {pool.id} was crafted with another {source.name}; raise its VERSION"
        )
    return crafted


def stored(context: RunContext, poison_id: str, dataset: Dataset) -> Crafted:
    """A poison that lies in the store.

    Raises:
        ArtefactError: see :func:`poisonbench.data.artefacts.read_poison`, or it is another poison.
    """
    path = context.store.poison_path(poison_id)
    poison = read_poison(path, dataset)
    if poison.id != poison_id:
        raise ArtefactError(
            f"{path}: expected the poison of that id, got {poison.id}; rename the folder to its "
            "own id, or delete it"
        )
    return Crafted(poison, False)


def _check_surrogate(poison: PoisonRequest, flag: str) -> None:
    if poison.surrogate and not any(attacks()[name].has_network for name in poison.attacks):
        raise UsageError(
            f"{flag}: expected an attack with a surrogate, got {poison.text}; leave it out"
        )


def _resolve_artefact(
    context: RunContext, dataset: Dataset, poison: PoisonRequest
) -> ResolvedPoison:
    """An artefact that a path names, and what it leaves open of its targeting."""
    assert poison.path is not None
    if poison.profile != "paper":
        raise UsageError(
            "--attack-profile: expected it with --attack, got it with --poison, which was made by "
            "one; leave it out"
        )
    artefact = context.artefact(poison.path, dataset)
    rho = len(artefact) / len(dataset.train)
    goal = artefact.goal
    if goal is None:
        _refuse_targeting(poison, str(poison.path))
        return ResolvedPoison(poison, rho, artefact)
    scenario = poison.targeting.get("scenario", goal.scenario)
    if scenario != goal.scenario:
        raise ArtefactError(
            f"{poison.path}: expected a poison made for scenario {scenario}, got one for "
            f"{goal.scenario}; leave --scenario out or craft one for it"
        )
    settled: Values = {
        "rho": rho,
        "target": goal.target,
        "intended_class": goal.intended_class,
        "poison_class": goal.poison_class,
    }
    for name in (*settled, "targets"):
        if name in poison.targeting:
            raise UsageError(
                f"{flag_of(name)}: expected it with --attack, got it with --poison, "
                "which settles it; leave it out"
            )
    values = {**poison.targeting, **settled, "scenario": goal.scenario}
    targeting, overrides = _read_targeting(values, dataset, goal.scenario)
    return ResolvedPoison(poison, rho, artefact, {}, targeting, overrides)


def _refuse_targeting(poison: PoisonRequest, source: str) -> None:
    """Raise UsageError if there are targeting settings beside what has no target."""
    for name in poison.targeting:
        raise UsageError(
            f"{flag_of(name)}: expected a targeted attack, got {source}, which has no "
            "target or scenario; leave it out"
        )


def _read_targeting(
    values: Values, dataset: Dataset, scenario: str
) -> tuple[Targeting, dict[str, Any]]:
    """Targeting settings with what the data set has of its own, and those set apart from these.

    The scenario is the attack's.
    """
    given = typed_values(values, options_of(Targeting), "a targeted attack")
    chosen = given.get("scenario", scenario)
    if "transfer_share" in given and chosen != "transfer":
        raise UsageError(
            f"--transfer-share: expected --scenario transfer, got {chosen}; leave it out"
        )
    targeting = own_targeting(dataset.presets, chosen, given)
    # What a scenario's preset says goes with the scenario, which is compared by itself.
    overrides = differing(targeting, own_targeting(dataset.presets, chosen))
    overrides.pop("rho", None)
    return targeting, overrides | ({"scenario": chosen} if chosen != scenario else {})
