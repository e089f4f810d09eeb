"""``poisonbench selftest``: does what was installed do what it should, here and offline?

Where ``doctor`` looks at the surroundings, this runs the program: command lines in this process,
in a temporary folder, on a part of the embedded sample.
"""

import io
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import resources
from pathlib import Path
from typing import Any

import typer

from poisonbench.cli import common
from poisonbench.cli.doctor import line, row
from poisonbench.core.errors import ArtefactError
from poisonbench.sweep.folder_checks import Check

app = common.command_app()

DATASET = "mnist-sample@200"
CRAFT = ("--attack", "pgd", "--steps", "2", "--epochs", "3")
DEFEND = ("--attack", "pgd", "--pgd.steps", "2", "--pgd.epochs", "3", "--epochs", "6")
DEFENSES = {"none": (), "hint": ("--schedule", "1,3")}
#: Ten classes: plain training on clean images must have learnt more than their chance.
LEARNT = 0.3

#: Files that the program reads out of its own package.
PACKAGED = (
    *("claims.toml", "quickstart.txt", "py.typed", "results/published.toml"),
    *("data/files/mnist-sample.xz", "templates/defense.py.jinja"),
    *("page/templates/page.html", "page/static/page.css", "page/static/start.js"),
)
#: The first draws of a seed, on which every poison, weight and batch rests.
DRAWS = "5f8fc42c797ce480"


@app.command("selftest", cls=common.Command)
def selftest(as_json: common.JsonOption = False) -> None:
    """Check the installation in under a minute, offline: data, a tiny craft and defend, bytes.

    Prints what was checked and the surroundings; exits with 1 when something is amiss.
    """
    from poisonbench.runs.context import find_device
    from poisonbench.runs.self_test import SelfTest, block

    started = time.monotonic()
    checks = []
    folder = Path(tempfile.mkdtemp(prefix="poisonbench-selftest-"))
    try:
        for check in _checks(folder):
            checks.append(check)
            common.say(line(check), quiet=as_json)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    findings = [SelfTest(check.name, check.is_well, check.detail) for check in checks]
    text = block(find_device("cpu"), findings)
    is_well = all(check.is_well for check in checks)
    verdict = f"{'all is well' if is_well else 'SOMETHING IS AMISS'}: {len(checks)} checks, "
    verdict += f"{time.monotonic() - started:.0f} s"
    facts = {"ok": is_well, "checks": list(map(row, checks)), "block": text}
    common.show(facts, [text, "", verdict], as_json)
    if not is_well:
        raise typer.Exit(1)


def _checks(folder: Path) -> Iterator[Check]:
    """The findings, one after the other; those that rest on a command that failed are left out."""
    root = resources.files("poisonbench")
    missing = [name for name in PACKAGED if not root.joinpath(name).is_file()]
    detail = f"missing: {', '.join(missing)}; install poisonbench again"
    yield Check(
        "package data", not missing, detail if missing else f"{len(PACKAGED)} files are there"
    )
    yield _sample(folder)
    draws = _draws()
    detail = f"sha256 {draws}" if draws == DRAWS else f"expected sha256 {DRAWS}, got {draws}"
    yield Check("draws of a seed", draws == DRAWS, detail)
    try:
        yield from _runs(folder)
    except _CommandError as error:
        yield Check("commands", False, str(error))


class _CommandError(Exception):
    """A command that should have gone well, and did not."""


def _sample(folder: Path) -> Check:
    from poisonbench.data.sources import load_dataset

    try:
        dataset = load_dataset("mnist-sample", folder, 0)
    except ArtefactError as error:
        return Check("embedded sample", False, str(error))
    detail = f"{len(dataset.train):,} train images, digest {dataset.digest[:16]}"
    return Check("embedded sample", True, detail)


def _draws() -> str:
    import torch

    from poisonbench.core.seeds import Seeds
    from poisonbench.data.splits import digest_tensors

    generator = Seeds().generator("selftest")
    uniform = torch.rand(100, generator=generator)
    return digest_tensors(uniform, torch.randperm(100, generator=generator))[:16]


def _runs(folder: Path) -> Iterator[Check]:
    """A poison and a run of each defense, twice, in folders of their own; what they must hold."""
    first, again = folder / "first", folder / "again"
    data = ("--dataset", DATASET)
    poison = _done("craft", *CRAFT, *data, "--results", first)
    inspected = _done("inspect", poison["path"], "--results", first)
    budget = poison["max_abs_delta"] <= poison["epsilon"] and poison["num_poisons"] > 0
    detail = f"{poison['num_poisons']} poisons, at most {poison['max_abs_delta']:.4f} of "
    detail += f"{poison['epsilon']:.4f} away, {len(inspected)} properties read back"
    yield Check("budget", budget, detail)
    twin = _done("craft", *CRAFT, *data, "--results", again)
    is_same = (poison["id"], poison["digest"]) == (twin["id"], twin["digest"])
    yield Check("poison, twice", is_same, f"{poison['digest'][:16]}, {twin['digest'][:16]}")
    clean = _done("defend", "--method", "none", "--rho", "0", *data, "--epochs", "6",
                  "--results", first)  # fmt: skip
    accuracy = clean["test_accuracy"]
    detail = f"clean test accuracy {accuracy:.1%}, expected more than {LEARNT:.0%}"
    yield Check("training", accuracy > LEARNT, detail)
    for method, options in DEFENSES.items():
        words = ("defend", "--method", method, *DEFEND, *options, "--rho", "1.0", *data)
        records = []
        for results in (first, again):
            run = _done(*words, "--results", results)
            records.append(json.loads(Path(run["path"]).read_text(encoding="utf-8")))
        parts = [[record[part] for part in ("id", "metrics", "digests")] for record in records]
        detail = f"run {records[0]['id']}, test accuracy {run['test_accuracy']:.1%}, twice"
        yield Check(f"{method}, twice", parts[0] == parts[1], detail)
    yield _edited(Path(poison["path"]), first)


def _edited(path: Path, results: Path) -> Check:
    """One byte of the poison's last image is changed, which its seal must show."""
    file = path / "poison.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, _, err = _call("inspect", path, "--results", results)
    is_refused = code == ArtefactError.exit_code
    return Check("edited poison", is_refused, "refused" if is_refused else f"code {code}: {err}")


def _call(*words: Any) -> tuple[int, str, str]:
    """A command line in this process: its exit code, stdout and stderr."""
    from poisonbench.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue().strip()


def _done(*words: Any) -> dict[str, Any]:
    """The JSON object of a command line that must succeed."""
    code, out, err = _call(*words, "--json")
    if code:
        text = " ".join(map(str, words))
        raise _CommandError(f"expected `poisonbench {text}` to end with 0, got {code}: {err}")
    value: dict[str, Any] = json.loads(out)
    return value
