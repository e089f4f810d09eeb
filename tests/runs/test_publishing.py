"""Several processes that make one poison or one model at the same time: one of them is kept."""

from pathlib import Path

import pytest
import torch

from helpers.attack_tasks import crafted
from helpers.command_line import done
from poisonbench.core.errors import ArtefactError
from poisonbench.core.files import publish_folder
from poisonbench.data.artefacts import poison_files, read_poison
from poisonbench.data.exchange import exchange_files
from poisonbench.data.poison import assemble
from poisonbench.data.sources import load_dataset
from poisonbench.results.records import read_record
from poisonbench.results.store import Store
from poisonbench.runs import poison as poison_module
from poisonbench.runs.context import RunContext
from poisonbench.runs.importing import import_exchange
from poisonbench.runs.poison import publish

CPU = torch.device("cpu")


@pytest.fixture
def context(tmp_path):
    return RunContext(Store(tmp_path), tmp_path, CPU)


def raced(monkeypatch, first, dataset, pool):
    """Let another process publish a poison right before ours is put into the same place."""

    def publish_second(target, files):
        if target.name == pool:
            publish_folder(target, poison_files(first, dataset))
        return publish_folder(target, files)

    monkeypatch.setattr(poison_module, "publish_folder", publish_second)


def test_the_second_of_two_poisons_gives_way_to_the_first(context, dataset, poison, monkeypatch):
    # What another device may have crafted of the same spec.
    first = crafted(dataset, seed=4)
    assert first.id == poison.id
    assert first.digest != poison.digest
    raced(monkeypatch, first, dataset, poison.id)
    got = publish(context, poison, dataset)
    assert not got.is_new
    assert got.poison.digest == first.digest
    kept = read_poison(context.store.poison_path(poison.id), dataset)
    assert kept.digest == first.digest
    assert torch.equal(got.poison.images, kept.images)
    assert [path.name for path in kept.path.parent.iterdir()] == [poison.id]


def test_a_run_that_was_second_trains_on_what_is_kept(tiny, tmp_path, monkeypatch):
    """Its record, the mix and the pool in the folder are of the same images."""
    words = ("--attack", "durp", "--dataset", tiny)
    path = Path(done("craft", *words, "--results", tmp_path / "first").out.strip())
    dataset = load_dataset(tiny, Path(), 0)
    own = read_poison(path, dataset)
    images = own.images.clone()
    images[0] = dataset.train.images[own.indices[0]]
    card = own.card
    first = assemble(
        own.indices,
        images,
        own.sources,
        dataset,
        attacks=card.attacks,
        epsilon=card.epsilon,
        spec=card.spec,
    )
    assert first.digest != own.digest
    raced(monkeypatch, first, dataset, first.id)
    line = ("defend", "--method", "none", *words, "--epochs", "1", "--rho", "1")
    kept = tmp_path / "second"
    record = read_record(Path(done(*line, "--results", kept, "--json").json["path"]))
    mixed = read_poison(Store(kept).poison_path(record.labels.poison.id), dataset)
    pool = read_poison(Store(kept).poison_path(first.id), dataset)
    assert pool.digest == first.digest
    assert mixed.card.spec.pools == {"durp": first.digest}
    assert record.spec.poison_digest == mixed.digest == first.digest


def test_an_imported_poison_is_not_taken_for_another_of_its_id(context, dataset, poison, tmp_path):
    path = tmp_path / "poison.npz"
    ((_, data),) = exchange_files(poison, dataset, "npz")
    path.write_bytes(data)
    context._datasets[dataset.name, 0] = dataset
    publish(context, crafted(dataset, seed=4), dataset)
    with pytest.raises(ArtefactError, match="got other images of the same settings"):
        import_exchange(context, path, "npz", dataset.name)
    other = RunContext(Store(tmp_path / "other"), tmp_path, CPU, _datasets=context._datasets)
    assert import_exchange(other, path, "npz", dataset.name).poison.digest == poison.digest
    assert not import_exchange(other, path, "npz", dataset.name).is_new
