"""``poisonbench doctor``: is all in place to run here?"""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from packaging.requirements import Requirement

from poisonbench import __version__
from poisonbench.cli import common
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.sweep.folder_checks import Check, check_folder
from poisonbench.sweep.slurm import describe

OLDEST_PYTHON = (3, 11)
UPGRADE = "install poisonbench again, as in the README"


app = common.command_app()


@app.command("doctor", cls=common.Command)
def doctor(
    results: common.ResultsOption = DEFAULT_RESULTS,
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT,
    device: Annotated[
        str | None,
        typer.Option(
            help="Also test this device for two minutes (cuda, cuda:N; cpu: seconds), and print a "
            "block to paste into an issue."
        ),
    ] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Check versions, devices, data, and whether the results folder is safe for many processes.

    Exits with 1 when something is amiss that runs would suffer from. Data sets that have not been
    fetched are no fault. With --device: does it train to the same bytes twice, is bfloat16 as
    accurate as float32, how fast is it.
    """
    tests, text = _self_test(device) if device is not None else ([], "")
    checks = [
        *_versions(),
        *_devices(),
        *_data(data_root),
        *check_folder(results),
        Check("SLURM", True, describe()),
        *tests,
    ]
    is_well = all(check.is_well for check in checks)
    facts = {"ok": is_well, "checks": list(map(row, checks))} | ({"block": text} if text else {})
    common.show(facts, [*map(line, checks), *(["", text] if text else [])], as_json)
    if not is_well:
        raise typer.Exit(1)


def row(check: Check) -> dict[str, Any]:
    """A finding as JSON."""
    return {"name": check.name, "ok": check.is_well, "detail": check.detail}


def line(check: Check) -> str:
    """A finding as a line."""
    return f"{'ok  ' if check.is_well else 'BAD '}{check.name:<20}{check.detail}"


def _self_test(name: str) -> tuple[list[Check], str]:
    """The findings on a device, and the block that has them; a device that is not there is said."""
    from poisonbench.runs.context import find_device
    from poisonbench.runs.self_test import block, run_self_test

    device = find_device(name)
    findings = run_self_test(device)
    checks = [Check(own.name, own.is_well, own.detail) for own in findings]
    return checks, block(device, findings)


def _versions() -> list[Check]:
    """The package, Python, and each package that the metadata ask for, against its bounds."""
    checks = [
        Check("poisonbench", True, f"{__version__}, {Path(__file__).parents[1]}"),
        Check("python", sys.version_info >= OLDEST_PYTHON, platform.python_version()),
    ]
    try:
        requirements = [Requirement(line) for line in requires("poisonbench") or []]
    except PackageNotFoundError:
        text = "run from a folder that was not installed, so versions are not checked"
        return [*checks, Check("packages", True, text)]
    for requirement in requirements:
        # Extras, such as the tools of development, have a marker that is false here.
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            detail = version(requirement.name)
            # A build of one's own or a pre-release counts by its number.
            is_well = requirement.specifier.contains(detail, prereleases=True)
        except PackageNotFoundError:
            detail, is_well = "nothing", False
        if not is_well:
            detail = f"expected {requirement}, found {detail}; {UPGRADE}"
        checks.append(Check(requirement.name, is_well, detail))
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
        is_well, text = True, f"not in {data_root}; `poisonbench data fetch {name}` gets it"
        if is_present(standard, data_root):
            try:
                dataset = load_dataset(name, data_root, 0)
                text = f"{len(dataset.train):,} train images, digest {dataset.digest[:16]}"
            except PoisonbenchError as error:
                is_well, text = False, str(error)
        checks.append(Check(name, is_well, text))
    return checks
