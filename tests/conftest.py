"""What the tests of the command line share: a tiny data set, made poisons and a runner."""

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from poisonbench.attacks import deep_confuse
from poisonbench.cli.main import main
from poisonbench.data.poison import Poison
from poisonbench.data.splits import Dataset
from poisonbench.models.classifier import Classifier

torch.set_num_threads(1)

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


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POISONBENCH_RESULTS", raising=False)
    monkeypatch.delenv("POISONBENCH_DATA", raising=False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a data set of 270 training, 30 validation and 80 test images."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **tiny_arrays())
    return f"npz:{path}"


@pytest.fixture(scope="module")
def short_targeted() -> Iterator[None]:
    """Targeted attacks and their victims' trainings are short."""
    from targeted_runs import shortened

    with shortened():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a data set for targeted attacks; some test files have another one."""
    from targeted_runs import make_data

    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained() -> Classifier:
    """A network after one epoch, where influences are neither zero nor saturated."""
    from hint_rounds import DATA
    from tiny import recipe, train

    model, _ = train(data=DATA, recipe=recipe(epochs=1))
    return model


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """A data set of 40 training images; some test files have another one."""
    from fake_data import fake_dataset

    return fake_dataset()


@pytest.fixture(scope="module")
def poison(dataset: Dataset) -> Poison:
    """A poison of ten of its images."""
    from fake_data import crafted

    return crafted(dataset)


@pytest.fixture(scope="session")
def pools(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the four attacks' poisons; to be copied, not changed."""
    results = tmp_path_factory.mktemp("pools") / "results"
    with pytest.MonkeyPatch.context() as patch:
        shorten_dc(patch)
        done("craft", "--attack", "mix", "--dataset", tiny, "--rho", "0.6", "--results", results)
    return results


def shorten_dc(patch: pytest.MonkeyPatch) -> None:
    """One round, not a hundred. Poisons are named by it, so whoever uses them needs it too."""
    patch.setitem(deep_confuse.PROFILES["paper"]["mnist"], "rounds", 1)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder that is not there yet."""
    return tmp_path / "results"


@pytest.fixture
def stocked(pools: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder that has the poisons of the default mix and no record."""
    shorten_dc(monkeypatch)
    shutil.copytree(pools, results)
    return results


@pytest.fixture(scope="session")
def artefact(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DURP's poison of the whole tiny data set; to be copied, not changed."""
    results = tmp_path_factory.mktemp("artefact")
    return Path(
        done("craft", "--attack", "durp", "--dataset", tiny, "--results", results).out.strip()
    )


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
