"""``poisonbench verify``: do recorded runs again, and say what agrees."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from poisonbench.cli import common
from poisonbench.cli.answers import answer
from poisonbench.cli.session import ContextOptions, open_context
from poisonbench.core.errors import (
    AbortedError,
    ArtefactError,
    InterruptedRunError,
    PoisonbenchError,
    StoreError,
    UsageError,
)
from poisonbench.core.settings import parse_value
from poisonbench.page.repeat import request_of
from poisonbench.requests import CraftRequest, RunRequest
from poisonbench.results.merging import MergedRecords
from poisonbench.results.records import RunRecord, read_record
from poisonbench.results.store import Store
from poisonbench.results.submissions import add_records

if TYPE_CHECKING:
    from poisonbench.results.verification import Comparison
    from poisonbench.runs.context import RunContext

_Poison = Literal["again", "kept"]

#: Exit codes beside 0: a figure differs, runs could not be repeated, records that were refused.
DIFFERS, NOT_REPEATED, REFUSED = 3, 4, ArtefactError.exit_code

app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class _VerifyOptions(ContextOptions):
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN_ID|PATH...",
            help="Runs of --results by id or the beginning of one, records, results folders, "
            "submissions or folders of them; all of --results if not said.",
        ),
    ] = None
    scratch: Path = common.option(
        Path("verified"),
        "Folder that runs and poisons are made in again; what is done there is not done again.",
        metavar="FOLDER",
    )
    poison: str = common.option(
        "again", "again: craft poisons anew; kept: take those of the results folder."
    )
    sample: int | None = common.option(
        None, "Only so many of the runs, drawn by --seed.", metavar="N", min=1
    )
    within: int = common.option(
        0, "Exit with 0 where at most so many test images a run come out otherwise.", min=0
    )
    plugin: common.PluginOption = None


@dataclass(frozen=True)
class _Verified:
    """A run that was repeated, or why it could not be.

    Attributes:
        file: where the record lies, if other files state other figures of the same run.
    """

    record: RunRecord
    file: Path | None
    comparison: "Comparison | None"
    reason: str = ""


@app.command("verify", cls=common.Command)
@common.takes(_VerifyOptions)
def verify(options: _VerifyOptions) -> None:
    """Do recorded runs again, and say whether the same comes out, and what differs.

    Records are left as they are. Exit codes: 0 all the same to the last digit (or within --within
    images), 3 a run differs, 65 a record was refused, 4 a run could not be repeated.

    poisonbench verify docs/records --sample 5
    """
    kind = parse_value(options.poison, _Poison, "--poison")
    if options.seed and options.sample is None:
        raise UsageError(
            "--seed: expected it with --sample, which it draws, got it alone; records say their own"
        )
    refused: list[str] = []

    def note(error: ArtefactError) -> None:
        refused.append(str(error))
        common.say_left_out(error)

    folders = [Path(text) for text in options.targets or () if Path(text).is_dir()]
    kept = [Store(folder) for folder in dict.fromkeys([options.results, *folders])]
    _check_scratch(options.scratch, kept)
    merged = MergedRecords()
    if not options.targets:
        add_records(merged, options.results, note)
    for text in options.targets or ():
        _add_named(merged, text, options.results, note)
    chosen = drawn(merged.in_order(), options.sample, options.seed)
    ids = {record.id for record in chosen}
    for contradiction in merged.contradictions:
        if contradiction.run in ids:
            both = f"{contradiction.file} {contradiction.relation} {contradiction.taken}"
            common.say(f"{both}; both are compared with the run done again")
        else:
            note(ArtefactError(str(contradiction)))
    if not chosen and not refused:
        raise UsageError(
            f"expected run records, got none in {', '.join(options.targets or [])}"
            f"{'' if options.targets else options.results}; make some with `poisonbench defend`"
        )
    with open_context(options) as context:
        context.store = Store(options.scratch)
        _say_cost(context, chosen, takes_kept=kind == "kept")
        verified = []
        for number, record in enumerate(chosen, 1):
            context.say(f"{number} of {len(chosen)}: {record.id}")
            for one in _verify_each(context, merged.statements(record.id), kept, kind == "kept"):
                verified.append(one)
                if not options.json:
                    _print(one)
    counts = Counter(_state(one) for one in verified)
    summary = f"{counts['same']} same, {counts['differs']} differ, {counts['not repeated']} not "
    summary += f"repeated, {len(refused)} refused; repeated in {options.scratch}"
    if options.json:
        runs = [_json(one) for one in verified]
        common.print_json({"runs": runs, "refused": refused, "scratch": str(options.scratch)})
    else:
        answer(summary)
    differing = [
        one
        for one in verified
        if one.comparison is not None and not one.comparison.is_within(options.within)
    ]
    code = NOT_REPEATED if counts["not repeated"] else 0
    code = REFUSED if refused else code
    code = DIFFERS if differing else code
    if code:
        raise typer.Exit(code)


def _check_scratch(scratch: Path, kept: Sequence[Store]) -> None:
    """A run that is found where it was recorded would be compared with itself."""
    for store in kept:
        if scratch.resolve() == store.root.resolve():
            raise UsageError(
                f"--scratch: expected another folder than that of the records, got {scratch}; "
                "leave it out or name an empty one"
            )
    if scratch.exists() and not scratch.is_dir():
        raise UsageError(f"--scratch: expected a folder, got the file {scratch}; name another")


def _add_named(merged: MergedRecords, text: str, results: Path, note: Any) -> None:
    """Add the records that a word of the line names.

    Raises:
        ArtefactError: there is no such run or file, or the record is refused.
    """
    path, store = Path(text), Store(results)
    if text and path.exists():
        if path.is_file() and path.suffix == ".json":
            merged.add(read_record(path), path)
        else:
            add_records(merged, path, note)
        return
    paths = [file for file in store.record_paths() if file.stem.startswith(text)]
    if len(paths) != 1:
        remedy = "write more of it" if paths else "name the records' folder by --results"
        raise ArtefactError(
            f"expected a path, or the beginning of one run's id in {store.root / 'runs'}, got "
            f"{text!r}, which {len(paths)} runs have; {remedy}"
        )
    merged.add(read_record(paths[0]), paths[0])


def drawn(records: list[RunRecord], sample: int | None, seed: int) -> list[RunRecord]:
    """Some of the records, in order of id; a larger sample has those of a smaller one."""
    if sample is None:
        return records

    def place(record: RunRecord) -> str:
        return hashlib.sha256(f"verify {seed} {record.id}".encode()).hexdigest()

    return sorted(sorted(records, key=place)[:sample], key=lambda record: record.id)


def _say_cost(context: "RunContext", records: Sequence[RunRecord], *, takes_kept: bool) -> None:
    """What the repetition will take, before anything is done."""
    seconds = sum(record.cost.seconds.total for record in records)
    text = f"{len(records)} run(s), which took {_duration(seconds)} when they were recorded"
    requests: dict[str, CraftRequest] = {}
    for record in records:
        request, origin = _request(record), record.labels.poison
        if request is None or origin is None or request.poison.path is not None:
            continue
        for name, pool in request.crafted.pools().items():
            if name in origin.pools:
                poison_id = origin.pools[name].id
                requests[poison_id] = CraftRequest(
                    dataset=request.dataset, poison=pool, seed=request.seed
                )
    missing = {key: one for key, one in requests.items() if not _is_made(context, key)}
    if missing and not takes_kept:
        estimate = _crafting_seconds(context, missing)
        about = "" if estimate is None else f", about {_duration(estimate)} on this CPU"
        text += f"; {len(missing)} poison(s) are crafted again first{about}"
    context.say(text)


def _is_made(context: "RunContext", poison_id: str) -> bool:
    return context.store.poison_path(poison_id).exists()


def _crafting_seconds(context: "RunContext", requests: dict[str, CraftRequest]) -> float | None:
    """Estimated from passes timed here; null where a data set or method is not here."""
    from poisonbench.core.devices import is_accelerator
    from poisonbench.runs.estimates import Estimator

    if is_accelerator(context.device):
        return None
    estimator = Estimator(context, times=True)
    try:
        estimates = [estimator.of(request).seconds for request in requests.values()]
    except PoisonbenchError:
        return None
    return sum(seconds for seconds in estimates if seconds is not None)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _request(record: RunRecord) -> RunRequest | None:
    """What was asked for; null where no request can say it here."""
    try:
        return request_of(record)
    except UsageError:
        return None


def _verify_each(
    context: "RunContext",
    statements: Sequence[tuple[RunRecord, Path]],
    kept: Sequence[Store],
    takes_kept: bool,
) -> Iterator[_Verified]:
    """Repeat a run and compare it with each record of it; one that fails stops no other.

    It is done once, with as many threads as the first of them had.
    """
    from poisonbench.runs.repeating import repeat

    for record, file in statements:
        named, homes = (file, _homes(file, kept)) if len(statements) > 1 else (None, kept)
        try:
            request = request_of(record)
            comparison = repeat(context, record, request, kept, homes, takes_kept=takes_kept)
            yield _Verified(record, named, comparison)
        except (InterruptedRunError, AbortedError, StoreError):
            # They would end every other run too.
            raise
        except PoisonbenchError as error:
            yield _Verified(record, named, None, f"{error}{_origin(record)}")


def _homes(file: Path, kept: Sequence[Store]) -> list[Store]:
    """The results folders that a record lies in, whose kept model is the one that it tells of."""
    place = file.resolve()
    return [store for store in kept if place.is_relative_to(store.root.resolve())]


def _origin(record: RunRecord) -> str:
    """The files that a run's code came from, which --plugin must name."""
    source = record.labels.source
    parts = [source.method, source.model, source.dataset] if source else []
    parts += source.attacks.values() if source else []
    files = dict.fromkeys(part.file for part in parts if part is not None and part.file)
    return f" (it was run with --plugin {' --plugin '.join(files)})" if files else ""


def _state(verified: _Verified) -> str:
    if verified.comparison is None:
        return "not repeated"
    return "same" if verified.comparison.is_same else "differs"


def _print(verified: _Verified) -> None:
    record, comparison = verified.record, verified.comparison
    name = f"{record.id} {record.spec.method} on {record.labels.dataset}"
    name += "" if verified.file is None else f", by {verified.file}"
    if comparison is None:
        answer(f"{name}: not repeated: {verified.reason}")
        return
    answer(f"{name}: {comparison.verdict}")
    if comparison.figures:
        answer(f"  differing figures: {', '.join(_figures(comparison))}")
    text = comparison.causes_text
    if text:
        answer(f"  {'otherwise than recorded' if comparison.is_same else 'likely causes'}: {text}")
    elif comparison.figures:
        answer("  likely causes: nothing that the record states differs here")


def _figures(comparison: "Comparison") -> list[str]:
    """The differing figures by name, those of the curve as one."""
    fields = [".".join(one.field.split(".")[:2]) for one in comparison.figures]
    epochs = [int(name.split(".")[1]) + 1 for name in fields if name.startswith("curve.")]
    others = dict.fromkeys(name for name in fields if not name.startswith("curve."))
    return [*others] + ([f"the curve from epoch {min(epochs)} on"] if epochs else [])


def _json(verified: _Verified) -> dict[str, Any]:
    record, comparison = verified.record, verified.comparison
    fields: dict[str, Any] = {
        "id": record.id,
        "file": None if verified.file is None else str(verified.file),
        "method": record.spec.method,
        "dataset": record.labels.dataset,
        "state": _state(verified).replace(" ", "_"),
        "reason": verified.reason or None,
    }
    if comparison is None:
        return fields
    return fields | {
        "repeated_id": comparison.repeated.id,
        "verdict": comparison.verdict,
        "test_images_otherwise": comparison.images,
        "triggered_images_otherwise": comparison.triggered,
        "test_accuracy": [
            comparison.recorded.metrics.test_accuracy,
            comparison.repeated.metrics.test_accuracy,
        ],
        "figures": [_difference(one) for one in comparison.figures],
        "causes": [
            {"cause": cause, "fields": [_difference(one) for one in differences]}
            for cause, differences in comparison.causes.items()
        ],
    }


def _difference(one: Any) -> dict[str, Any]:
    return {"field": one.field, "recorded": one.recorded, "repeated": one.repeated}
