"""``poisonbench doctor``: is all in place to run here?"""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from packaging.requirements import Requirement

from poisonbench import __version__
from poisonbench.cli.common import (
    Command,
    DataRootOption,
    JsonOption,
    ResultsOption,
    command_app,
    print_json,
)
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.sweep.folder_checks import Check, check_folder
from poisonbench.sweep.slurm import describe

OLDEST_PYTHON = (3, 11)
UPGRADE = "install poisonbench again, as in the README"


app = command_app()


@app.command("doctor", cls=Command)
def doctor(
    results: ResultsOption = DEFAULT_RESULTS,
    data_root: DataRootOption = DEFAULT_DATA_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Check versions, devices, data, and whether the results folder is safe for many processes.

    Exits with 1 when something is amiss that runs would suffer from. Data sets that have not been
    fetched are no fault.
    """
    checks = [
        *_versions(),
        *_devices(),
        *_data(data_root),
        *check_folder(results),
        Check("SLURM", True, describe()),
    ]
    if as_json:
        rows = [{"name": c.name, "ok": c.is_well, "detail": c.detail} for c in checks]
        print_json({"ok": all(check.is_well for check in checks), "checks": rows})
    else:
        for check in checks:
            print(f"{'ok  ' if check.is_well else 'BAD '}{check.name:<20}{check.detail}")
    if not all(check.is_well for check in checks):
        raise typer.Exit(1)


def _versions() -> list[Check]:
    """The package, Python, and each package that the metadata ask for, against its bounds."""
    checks = [
        Check("poisonbench", True, f"{__version__}, {Path(__file__).parents[1]}"),
        Check("python", sys.version_info >= OLDEST_PYTHON, platform.python_version()),
    ]
    try:
        wanted = [Requirement(line) for line in requires("poisonbench") or []]
    except PackageNotFoundError:
        text = "run from a folder that was not installed, so versions are not checked"
        return [*checks, Check("packages", True, text)]
    # Extras, such as the tools of development, have a marker that is false here.
    for requirement in (one for one in wanted if one.marker is None or one.marker.evaluate()):
        name = requirement.name
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "nothing"
        # A build of one's own or a pre-release counts by its number.
        is_well = found != "nothing" and requirement.specifier.contains(found, prereleases=True)
        detail = found if is_well else f"expected {requirement}, found {found}; {UPGRADE}"
        checks.append(Check(name, is_well, detail))
    return checks


def _devices() -> list[Check]:
    """The processors and GPUs, each GPU by a product of matrices."""
    mine = getattr(os, "sched_getaffinity", None)
    count = len(mine(0)) if mine else os.cpu_count() or 1
    checks = [Check("cpu", True, f"{count} processors, {platform.machine()}")]
    try:
        import torch
    except (ImportError, OSError) as error:
        return [*checks, Check("gpu", False, f"torch cannot be imported: {error}")]
    if not torch.cuda.is_available():
        return [*checks, Check("gpu", True, "none; --device cpu is used")]
    for number in range(torch.cuda.device_count()):
        name = f"cuda:{number}"
        try:
            ones = torch.ones((64, 64), device=name)
            works = float((ones @ ones).sum()) == 64**3
            memory = torch.cuda.get_device_properties(number).total_memory / 2**30
            detail: Any = f"{torch.cuda.get_device_name(number)}, {memory:.0f} GiB"
        except RuntimeError as error:
            works, detail = False, str(error).splitlines()[0]
        checks.append(Check(name, works, detail))
    return checks


def _data(data_root: Path) -> list[Check]:
    """The data sets of the data root; one that is there must be whole. None without torch."""
    if find_spec("torch") is None:
        return []
    from poisonbench.core.errors import PoisonbenchError
    from poisonbench.data.sources import load_dataset
    from poisonbench.data.standard import STANDARD, is_present

    checks = []
    for name, standard in STANDARD.items():
        if not is_present(standard, data_root):
            text = f"not in {data_root}; `poisonbench data fetch {name}` gets it"
            checks.append(Check(name, True, text))
            continue
        try:
            dataset = load_dataset(name, data_root, 0)
            text = f"{len(dataset.train):,} train images, digest {dataset.digest[:16]}"
            checks.append(Check(name, True, text))
        except PoisonbenchError as error:
            checks.append(Check(name, False, str(error)))
    return checks
