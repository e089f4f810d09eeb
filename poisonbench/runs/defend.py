"""Defending: train on poisoned data under a defense, and record everything about it."""

import inspect
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch
from msgspec import structs
from torch import Tensor

from poisonbench.core.errors import DivergedError, UsageError, check_returned
from poisonbench.core.files import write_bytes
from poisonbench.core.quick_names import split_quick
from poisonbench.core.seeds import Seeds
from poisonbench.core.settings import as_json, flag_of
from poisonbench.data.splits import Dataset, digest_tensors
from poisonbench.defenses.shared.feature_filter import FeatureFilter
from poisonbench.entries import shown_name
from poisonbench.entry_needs import call_text, takes
from poisonbench.models import check_model
from poisonbench.registry import defenses, find, network_name, sources_of
from poisonbench.requests import RunRequest
from poisonbench.results import records
from poisonbench.results.records import RunRecord, read_record
from poisonbench.results.run_keys import record_key, run_key
from poisonbench.runs import trigger, victim
from poisonbench.runs.class_warnings import class_warnings
from poisonbench.runs.context import RunContext, default_model
from poisonbench.runs.environment import environment, peak_memory, reset_peak_memory, utc_now
from poisonbench.runs.filter_scores import filter_report
from poisonbench.runs.kept_models import model_bytes
from poisonbench.runs.method_settings import Settings, read_settings
from poisonbench.runs.poison import ResolvedPoison, resolve_poison
from poisonbench.runs.poisoned_data import PoisonedData, prepare
from poisonbench.runs.shared_copies import SharedCopies
from poisonbench.runs.trained_models import KEPT, LOOP_NUMBER
from poisonbench.specs import DatasetRef, PoisonSpec, RunSpec, TargetingSpec, TrainingSpec
from poisonbench.training import evaluation
from poisonbench.training.hook_checks import check_bytes, extended, misnamed_hooks
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense, Oracle


@dataclass(frozen=True)
class Defended:
    """A kept record; ``is_new`` is false when the run had been done before."""

    record: RunRecord
    is_new: bool


@dataclass(frozen=True)
class ResolvedRun:
    """A run as far as it is known before its poison is crafted.

    The recipe is that of the training on the poisoned data, for which the defense is built; the
    spec is without a crafted poison's digest and without a drawn target.
    """

    request: RunRequest
    dataset: Dataset
    settings: Settings
    recipe: Recipe
    defense: Defense
    poison: ResolvedPoison
    spec: RunSpec

    @property
    def pools(self) -> dict[str, str]:
        """The ids of the attacks' poisons that it needs in the store."""
        pools = self.poison.pools if self.poison.rho else {}
        return {attack: pool.id for attack, pool in pools.items()}

    @property
    def key(self) -> str:
        """The id of the job that it is in a plan."""
        return run_key(self.spec, self.pools)

    @property
    def overrides(self) -> dict[str, Any]:
        """What was chosen apart from the profile, of the method, the network and the poison."""
        chosen = self.settings.overrides | self.poison.overrides
        network, surrogate = self.spec.model, self.request.poison.surrogate
        if network != default_model(self.dataset):
            chosen["model"] = network
        if surrogate not in (None, network):
            chosen["attack_model"] = surrogate
        if self.poison.targeting is not None:
            chosen |= victim.stage_overrides(self.poison.targeting, self.settings)
        return chosen


def defend(context: RunContext, run: ResolvedRun) -> Defended:
    """Train one classifier under a defense, or find the record of having done so.

    Attacks that are missing are crafted and kept; not for a run that is done.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`; nothing half-made is left behind.
    """
    (done,) = find_done(context, [run])
    return craft_and_train(context, run) if done is None else Defended(done, False)


def find_done(context: RunContext, runs: Sequence[ResolvedRun]) -> list[RunRecord | None]:
    """The records of runs whose poisons are not in the store, found without crafting them again.

    None where a run has its poisons there, which say whether it is done, or has no record. On
    another kind of processor a poison may come out otherwise: where records are all that is left
    of several, the last run is taken and the others are named.
    """
    store = context.store
    keys = {
        run.key
        for run in runs
        if not all(store.poison_path(pool).exists() for pool in run.pools.values())
    }
    found: dict[str, list[RunRecord]] = {key: [] for key in keys}
    records = store.records(lambda error: context.say(f"warning: {error}")) if keys else []
    for record in sorted(records, key=lambda record: record.environment.finished):
        if (key := record_key(record)) in keys:
            found[key].append(record)
    done: list[RunRecord | None] = []
    for run in runs:
        kept = [
            record
            for record in found.get(run.key, [])
            if not run.request.save_model or store.model_path(record.id).exists()
        ]
        for other in kept[:-1]:
            context.say(
                f"warning: run {other.id} has the same settings and "
                f"{100 * other.metrics.test_accuracy:.2f} %, on a poison that another kind of "
                "processor made of this draw; the run that was done last is shown"
            )
        done.append(kept[-1] if kept else None)
    return done


def craft_and_train(context: RunContext, run: ResolvedRun) -> Defended:
    """:func:`defend` of a run that :func:`find_done` does not find."""
    request, dataset = run.request, run.dataset
    context = context.seeded(request.seed)
    context.store.check_writable()
    data = prepare(context, dataset, run.poison, request.trial)
    # With what is known once the poison is there.
    poison = run.spec.poison and structs.replace(run.spec.poison, digest=data.digest)
    spec = structs.replace(run.spec, poison=poison, goal=data.goal, trigger=data.trigger)
    path, model_path = context.store.run_path(spec.id), context.store.model_path(spec.id)
    if path.exists() and (model_path.exists() or not request.save_model):
        return Defended(read_record(path), False)
    _reveal(run.settings, run.defense, data.is_poison)
    overrides = run.overrides
    made_by = () if spec.poison is None else spec.poison.attacks
    known = sources_of(request.method, made_by, spec.model, dataset.name)
    sources = msgspec.convert(known, records.Sources)
    # A poison may be older than an attack's file is now.
    sources = structs.replace(sources, attacks={**sources.attacks, **data.code})
    labels = records.Labels(
        variant="custom" if overrides else request.profile,
        profile=request.profile,
        overrides=json.loads(json.dumps(overrides)),
        poison=data.origin,
        presets=list(dataset.presets),
        is_paper_dataset=dataset.is_paper,
        dataset=dataset.name,
        source=sources,
        sizes=records.Sizes(
            train=len(dataset.train), validation=len(dataset.validation), test=len(dataset.test)
        ),
        claims=dict(context.claims) or None,
    )
    try:
        record, weights = _train(context, run, spec, data, labels)
    except DivergedError as error:
        context.store.write_failure(spec.id, spec, str(error), error.epoch)
        context.checkpoint(spec.id).discard()
        raise
    if request.save_model:
        write_bytes(model_path, model_bytes(spec.id, weights))
    context.store.write_record(record)
    context.checkpoint(spec.id).discard()
    return Defended(record.kept_at(path), True)


def resolve_run(context: RunContext, request: RunRequest) -> ResolvedRun:
    """A run with everything read and checked; nothing is crafted or trained for it.

    Raises:
        UsageError: options that do not fit the method, the poison or the data set, or bad values.
        ArtefactError: an unreadable data set or poison, or one made for something else.
    """
    context = context.seeded(request.seed)
    dataset = context.dataset(request.dataset)
    entry = find("a defense", defenses(), request.method)
    entry.check_images(dataset.image_shape)
    poison = resolve_poison(context, dataset, request)
    settings = read_settings(entry, dataset, request.profile, request.settings, request.model)
    targeting = poison.targeting
    scenario = "scratch" if targeting is None else targeting.scenario
    try:
        recipe = victim.stage_recipe(targeting, settings)
        defense: Defense = settings.module.build(settings.config, recipe)
        fits = isinstance(defense, Defense) and hasattr(defense, "memory")  # type: ignore[redundant-expr]
        check_returned("build", fits, "a Defense whose __init__ calls super().__init__()", defense)
        _check_hooks(defense)
        if poison.rho == 1 and targeting is None:
            # Before the poison is crafted.
            _reveal(settings, defense, torch.ones(len(dataset.train), dtype=torch.bool))
        defense.check_run(scenario, settings.given)
    except ValueError as error:
        raise UsageError(f"{entry.name}: {error}") from None
    for name in misnamed_hooks(defense):
        context.say(f"warning: {entry.name}: nothing calls {name}; rename it, a helper with a _")
    network = network_name(request.model) if request.model else default_model(dataset)
    check_model(
        network,
        dataset.image_shape,
        recalibrating=flag_of("recalibrate") if recipe.recalibrate else None,
    )
    has_stages = scenario != "scratch"
    spec = RunSpec(
        loop=LOOP_NUMBER,
        dataset=DatasetRef(name=_kind_of(dataset), digest=dataset.digest),
        poison=poison.spec,
        method=entry.name,
        version=settings.module.VERSION,
        config=as_json(settings.config),
        model=network,
        seed=context.seed,
        trial=request.trial,
        targeting=None if targeting is None else TargetingSpec(**as_json(targeting)),
        pretraining=TrainingSpec(**as_json(settings.pretraining)) if has_stages else None,
        stage=victim.STAGE_NUMBER if has_stages else None,
        training=TrainingSpec(**as_json(recipe)),
    )
    return ResolvedRun(request, dataset, settings, recipe, defense, poison, spec)


def _check_hooks(defense: Defense) -> None:
    """Raise UsageError unless each hook can be called with what a run gives it."""
    plain = Defense()
    for name, hook in inspect.getmembers(plain, inspect.ismethod):
        own, count = getattr(defense, name), len(inspect.signature(hook).parameters)
        if not name.startswith("_") and not takes(count)(own):
            raise UsageError(f"build: expected {call_text(hook)}, got {call_text(own)}; mend it")


def _kind_of(dataset: Dataset) -> str:
    """The data set's name without a path, and without the preset that its settings show."""
    return split_quick(dataset.name)[0].partition(":")[0]


def _reveal(settings: Settings, defense: Defense, is_poison: Tensor) -> None:
    """Tell a defense which images are poisons, if it is one of our controls that may know."""
    if settings.entry.oracle and isinstance(defense, Oracle):
        try:
            defense.reveal(is_poison)
        except ValueError as error:
            raise UsageError(f"{settings.entry.name}: {error}") from None


def _train(
    context: RunContext, run: ResolvedRun, spec: RunSpec, data: PoisonedData, labels: records.Labels
) -> tuple[RunRecord, dict[str, Tensor]]:
    """Train and evaluate: the record, and the weights."""
    settings, defense, recipe, dataset = run.settings, run.defense, run.recipe, run.dataset
    started, clock = utc_now(), time.monotonic()
    # Before the run: a checkout may move on while it lasts.
    surroundings = environment(context.device, recipe.precision)
    reset_peak_memory(context.device)
    clean = dataset.validation
    given = (data.train.images, data.train.labels, clean.images, clean.labels)
    is_plug_in = settings.entry.plug_in is not None
    before = digest_tensors(*given) if is_plug_in else ""
    train = extended(defense, data.train, clean, dataset.num_classes)
    seeds = Seeds(context.seed, spec.trial)
    classifier = victim.start_of_stage(context, run, data.rows)
    context.say(
        f"training {settings.entry.name} on {shown_name(dataset.name)}, "
        f"{describe_poison(spec.poison)}, trial {spec.trial}"
    )
    trainer = context.trainer(recipe, seeds, spec.id, settings.entry.name)
    copies = SharedCopies(context, spec, surroundings)
    if isinstance(defense, FeatureFilter):
        trainer = replace(trainer, train_copy=copies)
    result = trainer.fit(classifier, train, dataset.validation, defense, len(data.train))
    if is_plug_in:
        # The next trial in this process would be given what it wrote.
        check_bytes(settings.entry.name, given, before)
    tested = time.monotonic()
    test = dataset.test.to(context.device)
    right = evaluation.right_answers(classifier, test)
    by_class = evaluation.accuracy_by_class(right, test.labels, dataset.num_classes)
    goal = data.goal
    answer = None if goal is None else victim.judge(classifier, dataset, goal, context.device)
    on_trigger = hit = None
    if data.trigger is not None and data.triggered is not None:
        on_trigger, hit = trigger.judge(classifier, data.triggered, data.trigger, context.device)
    done = time.monotonic()
    seconds = {**result.seconds, "test": done - tested}
    images = sum(row.get("images", len(train)) for row in result.curve)
    # Not timed: diagnostics, which no method needs.
    right_anew = evaluation.right_by_batch_statistics(
        classifier, test, seeds.generator("batches of the test split")
    )
    weights = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    classifier.load_state_dict(result.peak)
    at_peak = _share(evaluation.right_answers(classifier, test))
    keep = defense.memory.get("keep")
    record = RunRecord(
        id=spec.id,
        spec=spec,
        labels=labels,
        metrics=records.Metrics(
            test_accuracy=_share(right),
            batch_statistics_accuracy=None if right_anew is None else _share(right_anew),
            peak_accuracy=at_peak,
            per_class_accuracy=by_class,
            validation_accuracy=result.curve[-1]["validation_accuracy"],
            attack_success=answer.success if answer else None,
            target=answer,
            trigger=on_trigger,
            poison=_poison_share(data, defense),
            filter=None
            if keep is None
            else filter_report(keep.cpu(), data.is_poison, data.train.labels, dataset.num_classes),
        ),
        outcomes=records.Outcomes(
            test=records.Bits.pack(right.tolist()),
            test_by_batch_statistics=None
            if right_anew is None
            else records.Bits.pack(right_anew.tolist()),
            triggered=None if hit is None else records.Bits.pack(hit.tolist()),
        ),
        curve=msgspec.convert(result.curve, list[records.Epoch]),
        notes=result.notes,
        digests=records.Digests(**result.digests),
        cost=records.Cost(
            seconds=records.Seconds(**seconds, total=sum(seconds.values())),
            session_seconds=done - clock + copies.seconds,
            # Those that a defense dropped are not among them.
            images_per_second=float(images) / max(result.seconds["training"], 1e-9),
            peak_memory_bytes=peak_memory(context.device),
            interruptions=result.interruptions,
        ),
        environment=records.Environment(
            **surroundings, plan=context.plan, started=started, finished=utc_now()
        ),
        warnings=class_warnings(dataset, by_class, result.notes),
    )
    weights |= {} if keep is None else {KEPT: keep}
    return record, {key: value.cpu().contiguous() for key, value in weights.items()}


def _share(is_right: Tensor) -> float:
    return float(is_right.double().mean())


def _poison_share(data: PoisonedData, defense: Defense) -> records.PoisonShare | None:
    """Score the defense by the poisons' rows, which it never saw."""
    if data.digest is None:
        return None
    is_poison, selected = data.is_poison, defense.memory.get("selected")
    count = int(is_poison.sum())
    return records.PoisonShare(
        count=count,
        share=count / len(is_poison),
        share_of_selected=None
        if selected is None or len(selected) == 0
        else float(is_poison[selected.cpu()].float().mean()),
    )


def describe_poison(poison: PoisonSpec | None) -> str:
    """A poison in words: ``"pgd+dap at rho 0.6"``."""
    return f"{'+'.join(poison.attacks)} at rho {poison.rho:g}" if poison else "clean"
