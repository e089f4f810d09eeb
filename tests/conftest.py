"""What the tests of the command line share: a tiny data set, made poisons and a runner."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.command_line import done, shorten_dc, tiny_arrays
from poisonbench.data.poison import Poison
from poisonbench.data.splits import Dataset
from poisonbench.models.classifier import Classifier

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave long tests out, unless they are asked for."""
    if "POISONBENCH_LONG" not in os.environ:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long: POISONBENCH_LONG=1"))


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
    from helpers.command_line import shortened

    with shortened():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a data set for targeted attacks; some test files have another one."""
    from helpers.command_line import make_data

    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained() -> Classifier:
    """A network after one epoch, where influences are neither zero nor saturated."""
    from helpers.defense_problems import DATA
    from helpers.tiny_training import recipe, train

    model, _ = train(data=DATA, recipe=recipe(epochs=1))
    return model


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """A data set of 40 training images; some test files have another one."""
    from helpers.attack_tasks import fake_dataset

    return fake_dataset()


@pytest.fixture(scope="module")
def poison(dataset: Dataset) -> Poison:
    """A poison of ten of its images."""
    from helpers.attack_tasks import crafted

    return crafted(dataset)


@pytest.fixture(scope="session")
def pools(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the four attacks' poisons; to be copied, not changed."""
    results = tmp_path_factory.mktemp("pools") / "results"
    with pytest.MonkeyPatch.context() as patch:
        shorten_dc(patch)
        done("craft", "--attack", "mix", "--dataset", tiny, "--rho", "0.6", "--results", results)
    return results


@pytest.fixture
def undeclared(monkeypatch: pytest.MonkeyPatch) -> None:
    """All claims are judged at their tables' own number of trials."""
    from poisonbench.tables import declared

    monkeypatch.setattr(declared, "shipped", lambda: ())


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
