"""``poisonbench defend``: train under a defense."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from poisonbench.cli import common
from poisonbench.cli.answers import answer
from poisonbench.cli.long_work import remark_on_long_work
from poisonbench.cli.method_options import CONTEXT, MethodCommand, method_settings, named_mix
from poisonbench.cli.planned_job import check_job
from poisonbench.cli.session import RunOptions, choose_dataset, open_context
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import parse_value
from poisonbench.entries import shown_name
from poisonbench.registry import Mix, plugin_files
from poisonbench.requests import RunRequest, Sampling, Values, poison_request, read_method
from poisonbench.results.records import ClaimLabel, RunRecord
from poisonbench.results.statistics import wilson

if TYPE_CHECKING:
    from poisonbench.runs.defend import Defended


app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class DefendOptions(RunOptions):
    """The options of ``defend``."""

    method: str = common.option(
        MISSING, "One of `poisonbench list defenses`, or a form of one: jpeg:10."
    )
    dataset: common.DatasetOption = None
    attack: str | None = common.option(None, common.ATTACK_HELP)
    poison: Path | None = common.option(None, "A poison artefact to train on, as it is.")
    clean: bool = common.option(False, "Train on clean data.")
    rho: float | None = common.option(
        None,
        "Share of poisoned images; 0.6 by default, 0.01 of a targeted attack, its "
        "paper's of a trigger.",
    )
    trial: int = common.option(0, "Which trial, from 0.", min=0)
    trials: int | None = common.option(None, "Run this many trials, from --trial on.", min=1)
    poison_trial: int = common.option(0, "Which draw of the poison.", min=0)
    attack_profile: str = common.option("paper", "A targeted attack's, e.g. fc's watermark.")
    attack_model: str | None = common.option(
        None, "Network of the attack's surrogate; by default the run's."
    )
    save_model: bool = common.option(False, "Keep the trained weights, as safetensors.")
    plan: str | None = common.option(None, "The sweep's plan, for the record.", hidden=True)


@app.command("defend", cls=MethodCommand, context_settings=CONTEXT)
@common.takes(DefendOptions)
def defend(ctx: typer.Context, options: DefendOptions) -> None:
    """Train a classifier on poisoned data under a defense; a record in the results folder.

    Poisons that are missing are crafted first and kept. A run that is done is not done again.

    An attack's surrogate has the network of the run. Options of the training recipe are the
    run's alone, so that runs share one poison; an attack's own options, and its surrogate's
    recipe, take the attack's name: --pgd.epochs 3

    poisonbench defend --method hint --ratio 0.5
    """
    done = run(read_requests(options, method_settings(ctx), named_mix(ctx)), options, options.plan)
    if options.json:
        common.print_items("runs", [_summary(item) for item in done], options.trials is None)


def read_requests(options: DefendOptions, values: Values, mix: Mix | None) -> list[RunRequest]:
    """The runs that a line asks for, one a trial; raises UsageError for a bad value."""
    sources = {"--attack": options.attack, "--poison": options.poison}
    given = [flag for flag, value in sources.items() if value is not None]
    given += ["--clean"] if options.clean else []
    if len(given) > 1:
        raise UsageError(f"expected one of --attack, --poison and --clean, got {', '.join(given)}")
    settings, poison = poison_request(
        mix,
        values,
        path=options.poison,
        rho=options.rho,
        selection=parse_value(options.selection, Sampling, "--selection"),
        trial=options.poison_trial,
        profile=options.attack_profile,
        surrogate=options.attack_model,
    )
    method, settings = read_method(options.method, settings)
    request = RunRequest(
        method=method,
        dataset=choose_dataset(options.dataset, options.preset, options.quiet, options.attack),
        poison=poison,
        profile=options.profile,
        settings=settings,
        model=options.model,
        seed=options.seed,
        trial=options.trial,
        save_model=options.save_model,
    )
    return [request.at(options.trial + number) for number in range(options.trials or 1)]


def run(
    requests: Sequence[RunRequest],
    options: RunOptions,
    plan: str | None = None,
    claims: Mapping[str, ClaimLabel] | None = None,
    job: str | None = None,
) -> "list[Defended]":
    """Train what is asked for, or find it, and print a line on each unless it shall be JSON.

    All of them, of one seed, are checked before the first is trained; ``plan`` is the digest of
    the sweep's plan, ``claims`` the declared ones that it serves, and ``job`` the id of each there.
    """
    from poisonbench.runs.defend import Defended, craft_and_train, find_done, resolve_run

    done = []
    with open_context(options, plan, claims) as context:
        every = [resolve_run(context, request) for request in requests]
        for resolved in every:
            check_job(job, resolved.key)
        found = find_done(context, every)
        left = [run for run, record in zip(every, found, strict=True) if record is None]
        remark_on_long_work(
            context,
            [run.request for run in left],
            [run.poison for run in left],
            max((run.recipe.epochs for run in left), default=0),
        )
        for resolved, record in zip(every, found, strict=True):
            if record is None:
                done.append(craft_and_train(context, resolved))
            else:
                done.append(Defended(record, False))
            if not options.json:
                _print_line(done[-1], options.quiet)
    return done


def _print_line(item: "Defended", quiet: bool) -> None:
    from poisonbench.runs.defend import describe_poison

    record = item.record
    if not item.is_new:
        common.say("done before; here is its record", quiet=quiet)
        source = repr(record.labels.source)
        for path, digest in plugin_files().items():
            if (name := Path(path).name) in source and digest not in source:
                common.say(f"warning: done with another {name}; raise its VERSION", quiet=quiet)
    accuracy = 100 * record.metrics.test_accuracy
    answer(
        f"{record.spec.method} on {shown_name(record.labels.dataset)}, "
        f"{describe_poison(record.spec.poison)}, trial {record.spec.trial}: "
        f"test accuracy {accuracy:.2f} %, {_verdict(record)}"
        f"{record.cost.seconds.total:.0f} s, {record.path}"
    )
    for sentence in record.warnings:
        common.say(f"warning: {sentence}", quiet=quiet)


def _verdict(record: RunRecord) -> str:
    """``"target 17 taken for class 3: the attack succeeds, "``; empty when untargeted.

    Of a trigger ``"877 of 900 other images with the trigger taken for class 0: ..., "``.
    """
    trigger, hits = record.spec.trigger, record.metrics.trigger
    if trigger is not None and hits is not None:
        low, high = wilson(hits.successes, hits.count)
        return (
            f"{hits.successes:,} of {hits.count:,} {trigger.images_text} images with the trigger "
            "taken for class "
            f"{trigger.target_class}: attack success {100 * hits.rate:.2f} % "
            f"[{100 * low:.1f}, {100 * high:.1f}], "
        )
    if record.spec.targeting is None:
        return ""
    goal, answer = record.on_target
    if record.spec.poison is None:
        outcome = "no attack"
    else:
        outcome = "the attack succeeds" if answer.success else "the attack fails"
    return (
        f"test image {goal.target} (class {goal.target_class}, intended "
        f"{goal.intended_class}) taken for class {answer.prediction}: {outcome}, "
    )


def _summary(item: "Defended") -> dict[str, Any]:
    record = item.record
    return {
        "id": record.id,
        "path": str(record.path),
        "method": record.spec.method,
        "dataset": record.spec.dataset.name,
        "rho": record.spec.rho,
        "trial": record.spec.trial,
        "test_accuracy": record.metrics.test_accuracy,
        "attack_success": record.metrics.attack_success,
        **_trigger_success(record),
        "seconds": record.cost.seconds.total,
        "is_new": item.is_new,
    }


def _trigger_success(record: RunRecord) -> dict[str, Any]:
    """The attack success rate of a trigger with Wilson's interval; nothing without one."""
    trigger, hits = record.spec.trigger, record.metrics.trigger
    if trigger is None or hits is None:
        return {}
    return {
        "attack_success_rate": hits.rate,
        "attack_success_interval": list(wilson(hits.successes, hits.count)),
        "poison_labels": trigger.labels,
    }
