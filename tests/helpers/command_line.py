"""Command lines in this process, and the tiny data that they run on."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poisonbench.attacks import deep_confuse
from poisonbench.cli.main import main

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
