"""Which runs a figure shows: those that are named, or those of a targeted attack in Table III."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from poisonbench.core.errors import ArtefactError
from poisonbench.data.splits import Dataset
from poisonbench.registry import defenses, find
from poisonbench.requests import command_of
from poisonbench.results.records import RunRecord, read_record
from poisonbench.runs.context import RunContext
from poisonbench.tables.cells import distinct_trials, is_run_on
from poisonbench.tables.table3 import Row, make_cell


def named_run(context: RunContext, dataset: Dataset, run: str) -> RunRecord:
    """The record of a run on a data set that kept its model.

    Raises:
        ArtefactError: there is none.
    """
    path = context.store.run_path(run)
    if not path.is_file():
        raise ArtefactError(f"expected the id of a run in {path.parent}, got {run!r}")
    record = read_record(path)
    if not is_on(record, dataset):
        raise ArtefactError(
            f"{path}: expected a run on this {dataset.name}, got one on "
            f"{record.labels.dataset} with other images or another split; choose its own "
            f"--dataset and --seed {record.spec.seed}"
        )
    if not context.store.model_path(run).is_file():
        raise ArtefactError(
            f"expected the model of run {run} in {context.store.root / 'models'}, got none; run "
            "its `poisonbench defend` command again with --save-model"
        )
    return record


def is_on(record: RunRecord, dataset: Dataset) -> bool:
    """Whether a run was trained and tested on these images."""
    return record.spec.dataset.digest == dataset.digest


def runs_of_row(
    context: RunContext,
    records: Sequence[RunRecord],
    dataset: Dataset,
    row: Row,
    methods: Sequence[str],
) -> dict[str, list[RunRecord]]:
    """The runs of a row by defense, one for each (seed, trial); its targets are the data set's.

    Without methods, all defenses that have runs are taken.

    Raises:
        UsageError: unknown defense.
        ArtefactError: no runs, or none of a defense that is named; says what makes one.
    """
    own = [
        record
        for record in records
        if is_run_on(record, dataset.name) and is_on(record, dataset) and record.metrics.target
    ]
    known = defenses()
    names = [find("a defense", known, name).name for name in methods] or list(known)
    cells = {name: make_cell(dataset.name, row, name) for name in names}
    runs = {name: cell.select(own) for name, cell in cells.items()}
    missing = [name for name in names if not runs[name]]
    if missing and (methods or len(missing) == len(names)):
        command = command_of(cells[missing[0]].request(0), *context.folder_options)
        raise ArtefactError(
            f"expected a run of {missing[0]} under {row.attack} on {dataset.name} "
            f"({row.training}), got none; make it with `{command}`"
        )
    return {name: group for name, group in runs.items() if group}


def models_of_row(
    context: RunContext,
    records: Sequence[RunRecord],
    dataset: Dataset,
    row: Row,
    methods: Sequence[str],
    trial: int,
) -> list[RunRecord]:
    """The runs of a row's trial that kept their models; say how to make those that others lack.

    Parameters as of :func:`runs_of_row`; the seed of the runs is the context's.

    Raises:
        UsageError: unknown defense.
        ArtefactError: no model, or none of a defense that is named; says what makes one.
    """
    try:
        runs = runs_of_row(context, records, dataset, row, methods)
    except ArtefactError as error:
        raise ArtefactError(f"{error}; add --save-model") from None
    of_trial = {
        method: [run for run in group if (run.spec.seed, run.spec.trial) == (context.seed, trial)]
        for method, group in runs.items()
    }
    requests = {name: make_cell(dataset.name, row, name).request(trial) for name in runs}
    commands = {
        name: command_of(
            replace(request, save_model=True, seed=context.seed), *context.folder_options
        )
        for name, request in requests.items()
    }
    where = f" under {row.attack} on {dataset.name} ({row.training}, trial {trial})"
    return kept_models(context, of_trial, commands, where, are_named=bool(methods))[0]


def kept_models(
    context: RunContext,
    runs: Mapping[str, Sequence[RunRecord]],
    commands: Mapping[str, str],
    where: str,
    instead: str = "",
    *,
    are_named: bool,
) -> tuple[list[RunRecord], dict[str, str]]:
    """Each method's run that tables take, if it kept its model; of others the command they lack.

    Methods that have no command are passed over. Messages say ``where`` a model is missing, and
    what one may do ``instead`` of the command.

    Raises:
        ArtefactError: no model, or none of a method although all were named; says what makes one.
    """
    first = {method: distinct_trials(group)[:1] for method, group in runs.items()}
    kept = {
        method: run
        for method, group in first.items()
        for run in group
        if context.store.model_path(run.id).is_file()
    }
    lacking = {name: command for name, command in commands.items() if name in runs.keys() - kept}
    for method, command in lacking.items():
        if are_named or not kept:
            raise ArtefactError(
                f"expected a model of {method}{where}, got none; make it with `{command}`{instead}"
            )
        context.say(f"left out: {method} has no model{where}; make it with `{command}`{instead}")
    return list(kept.values()), lacking
