"""MNIST, Fashion-MNIST and CIFAR-10: their files, fetching them, and the data command."""

import http.client
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from typer.testing import CliRunner

from helpers.data_files import NOWHERE, arrays, idx_bytes, pixels, write_idx_root, write_npz
from poisonbench import registry
from poisonbench.cli.data import app
from poisonbench.core.errors import ArtefactError, StoreError, UsageError
from poisonbench.data import standard
from poisonbench.data.sources import describe, load_dataset
from poisonbench.data.splits import hold_out

# MNIST, Fashion-MNIST, CIFAR-10


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "folder", "first_class"),
    [("mnist", "MNIST/raw", "0"), ("fashion-mnist", "FashionMNIST/raw", "T-shirt/top")],
)
def test_idx_root(tmp_path, name, folder, first_class, packed):
    contents = write_idx_root(tmp_path, folder, packed)
    dataset = load_dataset(name, tmp_path, 0)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (90, 10, 20)
    assert dataset.class_names[0] == first_class
    assert dataset.presets == ("mnist",)
    assert dataset.is_paper is False
    assert np.array_equal(dataset.test.images[:, 0].numpy(), contents[2])
    assert dataset.test.labels.tolist() == contents[3].tolist()
    kept, held_out = hold_out(torch.from_numpy(contents[1].astype(np.int64)), 10, 0, name)
    assert np.array_equal(dataset.train.images[:, 0].numpy(), contents[0][kept.numpy()])
    assert np.array_equal(dataset.validation.images[:, 0].numpy(), contents[0][held_out.numpy()])


def test_idx_files_read_as_torchvision_reads_them(tmp_path):
    write_idx_root(tmp_path)
    theirs = torchvision.datasets.MNIST(tmp_path, train=False)
    ours = load_dataset("mnist", tmp_path, 0).test
    assert torch.equal(ours.images[:, 0], theirs.data)
    assert torch.equal(ours.labels, theirs.targets)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], r"expected 78400 bytes for shape \(100, 28, 28\), got 78399"),
        (lambda data: b"", "of an empty file; delete it and fetch it again"),
        (lambda data: b"<html>" + data, "got the first bytes 3c68746d"),
    ],
)
def test_damaged_idx(tmp_path, damage, message):
    write_idx_root(tmp_path)
    path = tmp_path / "MNIST/raw" / standard.IDX_FILES[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtefactError, match=message):
        load_dataset("mnist", tmp_path, 0)


def test_damaged_gz(tmp_path):
    write_idx_root(tmp_path, packed=True)
    path = tmp_path / "MNIST/raw" / f"{standard.IDX_FILES[0]}.gz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ArtefactError, match=r"train-images.*expected an IDX file, got.*fetch it"):
        load_dataset("mnist", tmp_path, 0)


def test_labels_of_another_length(tmp_path):
    write_idx_root(tmp_path)
    labels = np.zeros(7, np.uint8)
    (tmp_path / "MNIST/raw" / standard.IDX_FILES[1]).write_bytes(idx_bytes(labels))
    with pytest.raises(ArtefactError, match="one integer label for each of 100 images, got"):
        load_dataset("mnist", tmp_path, 0)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_absent_data_says_which_files_go_where(tmp_path, name):
    with pytest.raises(ArtefactError) as error:
        load_dataset(name, tmp_path, 0)
    message = str(error.value)
    assert f"poisonbench data fetch {name} --data-root {tmp_path}" in message
    assert str(tmp_path / standard.STANDARD[name].folder) in message
    assert all(file in message for file in standard.STANDARD[name].files)
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_cifar_from_npz(tmp_path):
    data = arrays((32, 32, 3), train=100, test=20, classes=10)
    np.savez(tmp_path / "cifar10.npz", **(data | {"y_train": data["y_train"][:, None]}))
    dataset = load_dataset("cifar10", tmp_path, 0)
    assert dataset.image_shape == (3, 32, 32)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (90, 10, 20)
    assert dataset.mean == (0.4914, 0.4822, 0.4465)
    assert dataset.std == (0.2023, 0.1994, 0.2010)
    assert dataset.presets == ("cifar10",)
    assert dataset.class_names[3] == "cat"
    assert np.array_equal(dataset.test.images.numpy(), data["x_test"].transpose(0, 3, 1, 2))


def test_cifar_npz_of_another_size(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays((8, 8, 3), classes=10))
    with pytest.raises(ArtefactError, match=r"\(N, 32, 32, 3\), got .*\(3, 8, 8\)"):
        load_dataset("cifar10", tmp_path, 0)


def test_cifar_batches_through_torchvision(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in standard.CIFAR_FILES:
        (folder / file).write_bytes(b"not a batch")
    with pytest.raises(ArtefactError, match="published MD5 sums, got others; delete the folder"):
        load_dataset("cifar10", tmp_path, 0)

    class Batches:
        def __init__(self, root, train):
            assert root == tmp_path
            self.data = pixels(100 if train else 20, 32, 32, 3)
            self.targets = [row % 10 for row in range(len(self.data))]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Batches)
    assert len(load_dataset("cifar10", tmp_path, 0).train) == 90


def test_the_paper_sizes_make_it_the_papers(tmp_path, monkeypatch):
    write_idx_root(tmp_path)
    entries = {entry.name: entry for entry in registry.DATASETS}
    small = replace(entries["mnist"], paper_sizes=(100, 20))
    monkeypatch.setattr(registry, "DATASETS", (small,))
    assert load_dataset("mnist", tmp_path, 0).is_paper is True
    assert entries["cifar10"].paper_sizes == (50_000, 10_000)
    assert entries["fashion-mnist"].paper_sizes is None
    assert entries["mnist"].paper_sizes == (60_000, 10_000)


# Fetching


class FakeMNIST:
    """Stands for torchvision's class: writes the files, or fails half-way."""

    error = None

    def __init__(self, root, train, download):
        assert download
        folder = Path(root) / "MNIST" / "raw"
        folder.mkdir(parents=True)
        if self.error is not None:
            (folder / standard.IDX_FILES[0]).write_bytes(b"half")
            raise self.error
        write_idx_root(Path(root))
        (folder / "train-images-idx3-ubyte.gz").write_bytes(b"packed")
        print("100%", file=sys.stderr)


@pytest.fixture
def fake_mnist(monkeypatch):
    fake = type("MNIST", (FakeMNIST,), {})
    monkeypatch.setattr(torchvision.datasets, "MNIST", fake)
    return fake


def files_under(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_fetch_moves_the_files_in_place(tmp_path, fake_mnist):
    remarks = []
    dataset = load_dataset("mnist", tmp_path / "new", 0, download=True, say=remarks.append)
    assert len(dataset.train) == 90
    assert remarks == [f"downloading mnist to {tmp_path / 'new' / 'MNIST/raw'}"]
    assert files_under(tmp_path) == sorted(f"new/MNIST/raw/{f}" for f in standard.IDX_FILES)
    fake_mnist.error = AssertionError("must not be asked again")
    load_dataset("mnist", tmp_path / "new", 0, download=True, say=remarks.append)
    assert "nothing to download" in remarks[-1]


@pytest.mark.parametrize(
    "error",
    [
        URLError("no route to host"),
        RuntimeError("Error downloading:\nno route to host"),
        TimeoutError("no route to host"),
        http.client.RemoteDisconnected("no route to host"),
    ],
)
def test_failed_download(tmp_path, fake_mnist, error):
    fake_mnist.error = error
    with pytest.raises(ArtefactError) as caught:
        load_dataset("mnist", tmp_path, 0, download=True)
    message = str(caught.value)
    assert "no route to host" in message
    assert str(tmp_path / "MNIST/raw") in message
    assert "\n" not in message
    assert files_under(tmp_path) == []


def test_interrupted_download_leaves_nothing_to_read(tmp_path, fake_mnist):
    fake_mnist.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        load_dataset("mnist", tmp_path, 0, download=True)
    with pytest.raises(ArtefactError, match="poisonbench data fetch"):
        load_dataset("mnist", tmp_path, 0)


def test_fetch_to_where_nothing_can_be_written(tmp_path, fake_mnist):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="expected a folder to write at"):
        load_dataset("mnist", tmp_path / "file", 0, download=True)


def test_only_what_can_be_fetched_is(tmp_path):
    remarks = []
    load_dataset("mnist-sample", tmp_path, 0, download=True, say=remarks.append)
    assert remarks == ["mnist-sample comes with the package; nothing to download"]
    with pytest.raises(UsageError, match="expected a data set that can be downloaded"):
        load_dataset("npz:a.npz", tmp_path, 0, download=True)


# The command


def run(*words):
    return CliRunner().invoke(app, list(words), catch_exceptions=True)


def test_data_list():
    result = run("list")
    assert result.exit_code == 0
    names = ["mnist", "cifar10", "fashion-mnist", "mnist-sample"]
    assert all(name in result.stdout for name in [*names, "npz:PATH", "folder:PATH"])
    listed = json.loads(run("list", "--json").stdout)
    published = ["cifar100", "svhn", "gtsrb", "stl10", "tiny-imagenet"]
    assert set(listed["datasets"]) == {*names, *published}
    prefixes = {"npz:PATH", "folder:PATH", "torchvision:NAME", "hf:PATH"}
    assert set(listed["prefixes"]) == prefixes


def test_data_show(tmp_path):
    name = write_npz(tmp_path / "a.npz")
    result = run("show", name)
    assert result.exit_code == 0
    assert load_dataset(name, NOWHERE, 0).digest in result.stdout
    facts = json.loads(run("show", name, "--json", "--seed", "4").stdout)
    assert facts == describe(load_dataset(name, NOWHERE, 4))
    assert math.prod(facts["image_shape"]) == 64


def test_data_show_never_downloads(tmp_path, fake_mnist):
    fake_mnist.error = AssertionError("downloaded")
    result = run("show", "mnist", "--data-root", str(tmp_path))
    assert isinstance(result.exception, ArtefactError)
    assert result.stdout == ""


def test_data_fetch(tmp_path, fake_mnist):
    result = run("fetch", "mnist", "--data-root", str(tmp_path), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["sizes"] == {"train": 90, "validation": 10, "test": 20}
    assert "downloading mnist" in result.stderr
    assert "100%" in result.stderr
    quiet = run("fetch", "mnist", "--data-root", str(tmp_path / "other"), "--quiet")
    assert quiet.stderr == ""
    assert "validation" in quiet.stdout
