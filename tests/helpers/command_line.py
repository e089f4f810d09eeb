"""Command lines in this process: the tiny data that they run on, short settings, plans."""

import io
import json
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poisonbench.attacks import (
    bullseye_polytope,
    convex_polytope,
    deep_confuse,
    feature_collision,
    gradient_matching,
    metapoison,
)
from poisonbench.cli.main import main
from poisonbench.requests import CraftRequest, PoisonRequest, RunRequest
from poisonbench.results.records import read_record
from poisonbench.sweep.plan import Job, make_plan
from poisonbench.training import recipe

#: Short enough for a test, and with an update round of HINT in the middle.
SHORT = ("--epochs", "3", "--schedule", "1")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1, self.out
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def cli(*words: Any) -> Outcome:
    """A command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*words: Any) -> Outcome:
    """A command line that must succeed."""
    outcome = cli(*words)
    assert outcome.code == 0, outcome.err
    return outcome


def defend(results: Path, tiny: str, *words: Any) -> Outcome:
    """A short run of HINT that must succeed."""
    return done(
        "defend", "--method", "hint", *SHORT, "--dataset", tiny, "--results", results, *words
    )


def tiny_arrays(train: int = 300, test: int = 80, side: int = 16) -> dict[str, np.ndarray]:
    """Noise with a bright bar whose place tells the class, four classes."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", train), ("test", test)):
        labels = np.arange(size) % 4
        images = random.integers(0, 120, (size, side, side))
        for image, label in zip(images, labels, strict=True):
            image[4 * label : 4 * label + 4] += 100
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    return arrays


def files_in(folder: Path) -> list[Path]:
    """All files, temporary ones too, relative to the folder."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def shorten_dc(patch: pytest.MonkeyPatch) -> None:
    """One round, not a hundred. Poisons are named by it, so whoever uses them needs it too."""
    patch.setitem(deep_confuse.PROFILES["paper"]["mnist"], "rounds", 1)


def refused(code, results, *words):
    """The one line on stderr of a command that was refused."""
    before = files_in(results) if results.exists() else None
    outcome = cli(words[0], *words[1:], "--results", results)
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    assert (files_in(results) if results.exists() else None) == before
    return outcome.err


def last_line(code, results, *words):
    """The error of a command that has made a remark before."""
    outcome = cli(*words, "--results", results)
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    *_, last = outcome.err.splitlines()
    assert last.startswith("error: ")
    assert outcome.err.count("error: ") == 1
    return last


def job(number, kind="defend", method="hint", **fields):
    if kind == "defend":
        request = RunRequest(method=method, dataset="mnist", trial=number)
    else:
        poison = PoisonRequest(attacks=("pgd",), trial=number)
        request = CraftRequest(dataset="mnist", poison=poison)
    return Job(id=f"{number:016x}", request=request, title=f"{kind} {number}", **fields)


POISON = job(1, "craft", "pgd")
RUNS = [job(number, needs=(POISON.id,)) for number in range(2, 12)]
PLAN = make_plan([*RUNS, POISON, *RUNS])


def lines_of(tiny, methods=("none",), trials=2, attacks="durp", epochs=2, extra=""):
    return [
        f"poisonbench defend --method {method} --dataset {tiny} --attack {attacks} --rho 0.5 "
        f"--epochs {epochs} --trial {trial} {extra}"
        for method in methods
        for trial in range(trials)
    ]


def plan_of(lines, path):
    text = path.with_suffix(".txt")
    text.write_text("\n".join(lines))
    done("sweep", "plan", "--lines", text, "--json", "--output", path)
    return path


def records_of(results):
    paths = sorted((results / "runs").glob("[!.]*.json"))
    return [read_record(path) for path in paths if not path.name.endswith(".failed.json")]


#: The short settings of each attack.
SHORT_ATTACKS = (
    (gradient_matching, {"steps": 2, "restarts": 2}),
    (bullseye_polytope, {"steps": 2, "restarts": 2}),
    (feature_collision, {"steps": 2, "restarts": 2}),
    (convex_polytope, {"steps": 2, "surrogates": 2}),
    (metapoison, {"steps": 2, "surrogates": 2, "inner_batch_size": 48}),
)
SHORT_TRAINING = {"epochs": 2, "learning_rate": 0.05, "momentum": 0.9}

#: Each defense with options that make it do its work in two epochs.
METHODS = {
    "none": (),
    "hint": ("--schedule", "1"),
    "friends": ("--begin-epoch", "1"),
    "atda": ("--steps", "2"),
    "epic": ("--warmup", "1", "--interval", "1"),
}
#: Two poisons of 144 images; transfer sets of four images a class.
RHO = ("--rho", "0.01")


@contextmanager
def shortened():
    """Attacks and trainings on grey images are short; for all commands inside."""
    with pytest.MonkeyPatch.context() as patch:
        for module, settings in SHORT_ATTACKS:
            for name, value in settings.items():
                patch.setitem(module.PROFILES["paper"]["mnist"], name, value)
        for name, value in SHORT_TRAINING.items():
            patch.setitem(recipe.RECIPE_PRESETS["paper"]["mnist"], name, value)
        yield


def make_data(folder):
    """A data set of 144 training, 16 validation and 40 test images of four classes."""
    path = folder / "tiny.npz"
    np.savez(path, **tiny_arrays(train=160, test=40))
    return f"npz:{path}"
