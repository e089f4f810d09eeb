"""Data sets: the sample, the readers, the splits, every bad input, and the data command."""

from __future__ import annotations

import gzip
import http.client
import json
import math
import struct
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from poisonbench.cli.data import app
from poisonbench.data import sample, standard
from poisonbench.data.names import KNOWN, PREFIXES, split_name
from poisonbench.data.sources import describe, load_dataset
from poisonbench.data.splits import hold_out
from poisonbench.errors import ArtefactError, StoreError, UsageError

NOWHERE = Path("no-such-data-root")
SAMPLE_DIGEST = "33d4738d6ef539d654c4fb22888394c471ba3a10747c2135623247c6f3322c7d"


def rng(seed=0):
    return np.random.default_rng(seed)


def pixels(*shape, seed=0):
    return rng(seed).integers(0, 256, shape, dtype=np.uint8)


def arrays(shape=(8, 8), train=60, test=9, classes=3):
    return {
        "x_train": pixels(train, *shape),
        "y_train": np.arange(train) % classes,
        "x_test": pixels(test, *shape, seed=1),
        "y_test": np.arange(test) % classes,
    }


def write_npz(path, **changes):
    np.savez(path, **{k: v for k, v in (arrays() | changes).items() if v is not None})
    return f"npz:{path}"


def write_image(path, size=(6, 5), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode in ("L", "1") else (size[1], size[0], 3)
    Image.fromarray(pixels(*shape, seed=seed)).convert(mode).save(path)
    return path


def write_folder(root, classes=("cat", "dog"), train=10, test=2, **image):
    for part, count in (("train", train), ("test", test)):
        for label in classes:
            for row in range(count):
                write_image(root / part / label / f"{row:02}.png", seed=row, **image)
    return f"folder:{root}"


def idx_bytes(array):
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def write_idx_root(root, folder="MNIST/raw", packed=False, train=100, test=20):
    (root / folder).mkdir(parents=True, exist_ok=True)
    contents = (
        pixels(train, 28, 28),
        (np.arange(train) % 10).astype(np.uint8),
        pixels(test, 28, 28, seed=1),
        (np.arange(test) % 10).astype(np.uint8),
    )
    for name, array in zip(standard.IDX_FILES, contents, strict=True):
        data = idx_bytes(array)
        if packed:
            (root / folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (root / folder / name).write_bytes(data)
    return contents


# The embedded sample


def test_sample_sizes_balance_and_digest():
    dataset = load_dataset("mnist-sample", NOWHERE, 0)
    facts = describe(dataset)
    assert facts["sizes"] == {"train": 10_000, "validation": 1_000, "test": 2_000}
    assert facts["class_counts"] == {
        "train": [1000] * 10,
        "validation": [100] * 10,
        "test": [200] * 10,
    }
    assert facts["image_shape"] == [1, 28, 28]
    assert facts["presets"] == ["mnist", "mnist-sample"]
    assert facts["mean"] == [0.0]
    assert facts["std"] == [1.0]
    assert facts["is_paper"] is False
    assert facts["digest"] == SAMPLE_DIGEST
    assert json.loads(json.dumps(facts)) == facts
    # MNIST's own statistics: a wrong file or a wrong layout would be far from them.
    assert float(dataset.train.images.float().mean()) == pytest.approx(255 * 0.1307, rel=0.01)


def test_sample_images_are_distinct_digits_in_place():
    dataset = load_dataset("mnist-sample", NOWHERE, 0)
    rows = torch.cat([dataset.train.images, dataset.validation.images]).flatten(1)
    assert len(np.unique(rows.numpy(), axis=0)) == len(rows)
    # Labels follow from positions, so a nearest-class-mean classifier must find them.
    means = torch.stack(
        [dataset.train.images[dataset.train.labels == k].float().mean(0) for k in range(10)]
    )
    distances = torch.cdist(dataset.test.images.float().flatten(1), means.flatten(1))
    assert float((distances.argmin(1) == dataset.test.labels).float().mean()) > 0.75


def test_sample_does_not_depend_on_the_seed_and_loads_quickly():
    started = time.perf_counter()
    digest = load_dataset("mnist-sample", NOWHERE, 5).digest
    assert time.perf_counter() - started < 2.0
    assert digest == SAMPLE_DIGEST


def test_a_damaged_sample_is_refused(monkeypatch):
    monkeypatch.setattr(sample, "SHA256", "0" * 64)
    with pytest.raises(ArtefactError, match=r"sha256 000000000000, got sha256.*install"):
        load_dataset("mnist-sample", NOWHERE, 0)
    monkeypatch.setattr(sample, "FILE_NAME", "absent.xz")
    with pytest.raises(ArtefactError, match="got no file"):
        load_dataset("mnist-sample", NOWHERE, 0)


# Holding out


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(7, 30), min_size=1, max_size=6),
    size=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_hold_out_partitions_and_balances(counts, size, seed):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    kept, held_out = hold_out(labels, size, seed, "any")
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    assert held_out.tolist() == sorted(held_out.tolist())
    assert kept.tolist() == sorted(kept.tolist())
    shares = torch.bincount(labels[held_out], minlength=len(counts))
    assert int(shares.sum()) == size
    assert int(shares.max() - shares.min()) <= 1
    again = hold_out(labels, size, seed, "any")
    assert torch.equal(again[0], kept)
    assert torch.equal(again[1], held_out)


def test_hold_out_depends_on_seed_and_data_set_alone():
    labels = torch.arange(1000) % 10
    draws = [hold_out(labels, 100, seed, name)[1] for seed, name in ((0, "a"), (1, "a"), (0, "b"))]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_hold_out_of_too_few_images():
    labels = torch.tensor([0] * 50 + [1])
    with pytest.raises(ArtefactError, match=r"more than 2 training images of class 1.*got 1; add"):
        hold_out(labels, 4, 0, "small")


def test_the_seed_moves_the_validation_split_but_not_the_test_split(tmp_path):
    name = write_npz(tmp_path / "a.npz")
    first, again, other = (load_dataset(name, NOWHERE, seed) for seed in (0, 0, 1))
    assert first.digest == again.digest
    assert first.validation.digest() != other.validation.digest()
    assert first.test.digest() == other.test.digest()


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
    known = standard.STANDARD["mnist"]
    monkeypatch.setitem(
        standard.STANDARD, "mnist", type(known)(**(vars(known) | {"paper_sizes": (100, 20)}))
    )
    assert load_dataset("mnist", tmp_path, 0).is_paper is True
    assert standard.STANDARD["cifar10"].paper_sizes == (50_000, 10_000)
    assert standard.STANDARD["fashion-mnist"].paper_sizes is None
    assert known.paper_sizes == (60_000, 10_000)


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
    said = []
    dataset = load_dataset("mnist", tmp_path / "new", 0, download=True, say=said.append)
    assert len(dataset.train) == 90
    assert said == [f"downloading mnist to {tmp_path / 'new' / 'MNIST/raw'}"]
    assert files_under(tmp_path) == sorted(f"new/MNIST/raw/{f}" for f in standard.IDX_FILES)
    fake_mnist.error = AssertionError("must not be asked again")
    load_dataset("mnist", tmp_path / "new", 0, download=True, say=said.append)
    assert "nothing to download" in said[-1]


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
    said = []
    load_dataset("mnist-sample", tmp_path, 0, download=True, say=said.append)
    assert said == ["mnist-sample comes with the package; nothing to download"]
    with pytest.raises(UsageError, match="expected a data set that can be downloaded"):
        load_dataset("npz:a.npz", tmp_path, 0, download=True)


# Names


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnst", "did you mean 'mnist'"),
        ("cifar-10", "did you mean 'cifar10'"),
        ("flder:a", "did you mean 'folder'"),
        ("imagenet", "got 'imagenet'"),
        ("mnist:a", "got 'mnist:a'"),
        ("", "got ''"),
    ],
)
def test_unknown_name_lists_the_known_ones(name, hint):
    with pytest.raises(UsageError) as error:
        load_dataset(name, NOWHERE, 0)
    message = str(error.value)
    assert hint in message
    assert all(known in message for known in [*KNOWN, "npz:PATH", "folder:PATH"])


@pytest.mark.parametrize("name", ["npz", "npz:", "folder:"])
def test_prefix_without_a_path(name):
    with pytest.raises(UsageError, match="write the path behind the colon"):
        load_dataset(name, NOWHERE, 0)


def test_split_name():
    assert split_name("mnist") == ("mnist", "")
    assert split_name("npz:c:/a.npz") == ("npz", "c:/a.npz")
    assert set(KNOWN) == {*standard.STANDARD, "mnist-sample"}


def test_names_and_command_need_no_torch():
    code = "import sys, poisonbench.data.names, poisonbench.cli.data; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# npz


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(4, 6), (4, 6, 1), (4, 6, 3)]),
    train=st.integers(20, 60),
    classes=st.integers(2, 4),
    kind=st.sampled_from([np.uint8, np.int32, np.int64]),
    column=st.booleans(),
)
def test_npz_round_trip(tmp_path_factory, shape, train, classes, kind, column):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    data = arrays(shape, train=train, classes=classes)
    labels = data["y_train"].astype(kind)
    np.savez(path, **(data | {"y_train": labels[:, None] if column else labels}))
    dataset = load_dataset(f"npz:{path}", NOWHERE, 3)
    kept, held_out = hold_out(torch.from_numpy(data["y_train"]), max(1, train // 10), 3, "npz")
    nchw = data["x_train"].reshape(train, 4, 6, -1).transpose(0, 3, 1, 2)
    assert np.array_equal(dataset.train.images.numpy(), nchw[kept.numpy()])
    assert np.array_equal(dataset.validation.images.numpy(), nchw[held_out.numpy()])
    assert dataset.train.labels.tolist() == data["y_train"][kept.numpy()].tolist()
    assert dataset.class_names == tuple(map(str, range(classes)))
    assert dataset.name == f"npz:{path}"
    assert dataset.is_paper is False
    assert dataset.presets == (("cifar10",) if shape[-1] == 3 else ("mnist",))


def test_statistics_of_own_colour_images(tmp_path):
    images = pixels(60, 8, 8, 3)
    images[..., 1] = 51
    name = write_npz(tmp_path / "a.npz", x_train=images, x_test=pixels(9, 8, 8, 3))
    dataset = load_dataset(name, NOWHERE, 0)
    train = dataset.train.images.double() / 255
    assert dataset.mean == tuple(round(float(train[:, c].mean()), 4) for c in range(3))
    assert dataset.mean[1] == 0.2
    assert dataset.std[1] == 1.0
    assert dataset.std[0] == round(float(train[:, 0].std(correction=0)), 4)


def test_the_path_does_not_change_the_split(tmp_path):
    names = [write_npz(tmp_path / file) for file in ("a.npz", "b.npz")]
    assert len({load_dataset(name, NOWHERE, 0).digest for name in names}) == 1


FLOATS = {"x_train": np.zeros((60, 8, 8), np.float32)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "got x_train, y_train, x_test without y_test; rename or add"),
        (FLOATS, "expected images of type uint8 .*, got float32; scale"),
        ({"x_train": pixels(60, 2, 8, 8)}, r"C 1 or 3, got \(60, 2, 8, 8\); reshape"),
        ({"x_train": pixels(60, 8)}, r"C 1 or 3, got \(60, 8\)"),
        ({"y_train": np.zeros(59, np.int64)}, r"each of 60 images, got labels of shape \(59,\)"),
        ({"y_train": np.zeros((60, 3), np.int64)}, r"got labels of shape \(60, 3\)"),
        ({"y_train": np.zeros(60)}, "got labels of shape .* float64; store integers"),
        ({"y_train": np.arange(60) % 3 + 1}, "every label of 0..K-1, got 1, 2, 3; number"),
        ({"y_train": np.arange(60) % 3 - 1}, "every label of 0..K-1, got -1, 0, 1; number"),
        ({"y_train": np.zeros(60, np.int64)}, "at least 2 classes in train, got 1; add"),
        ({"y_test": np.full(9, 3)}, "expected labels in 0..2, got 3 in test"),
        ({"x_test": pixels(9, 7, 8)}, r"images of one size, got \(1, 8, 8\) in train and \(1, 7"),
        ({"y_train": np.array([0] * 58 + [1, 2])}, "more than 2 .* of class 1 .* got 1; add"),
        ({"y_train": np.array([object()] * 60)}, "got Object arrays cannot be loaded.*; write"),
        (
            {"x_test": pixels(0, 8, 8), "y_test": np.zeros(0, np.int64)},
            "expected images in the test split, got none",
        ),
        (
            {"x_train": pixels(0, 8, 8), "y_train": np.zeros(0, np.int64)},
            "at least 2 classes in train, got 0",
        ),
    ],
)
def test_bad_npz(tmp_path, changes, message):
    name = write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(ArtefactError, match=message):
        load_dataset(name, NOWHERE, 0)


def test_npz_that_is_absent_or_something_else(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(ArtefactError, match=r"expected a \.npz file at .*, found none; check"):
        load_dataset(f"npz:{path}", NOWHERE, 0)
    write_npz(path)
    whole = path.read_bytes()
    for content in (b"", b"PK\x03\x04", b"\x80\x04K\x01.", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ArtefactError, match=r"expected a \.npz file with the arrays x_train"):
            load_dataset(f"npz:{path}", NOWHERE, 0)
    with path.open("wb") as file:
        np.save(file, pixels(3, 4, 4))
    with pytest.raises(ArtefactError, match="got a single array"):
        load_dataset(f"npz:{path}", NOWHERE, 0)


# Folders


def test_folder_of_colour_images(tmp_path):
    name = write_folder(tmp_path)
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("skipped")
    dataset = load_dataset(name, NOWHERE, 0)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.image_shape == (3, 5, 6)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 2, 4)
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert dataset.presets == ("cifar10",)
    assert np.array_equal(
        dataset.test.images[1].numpy(), pixels(5, 6, 3, seed=1).transpose(2, 0, 1)
    )
    assert describe(dataset)["class_counts"]["train"] == [9, 9]


def test_folder_of_grey_images_and_a_mixed_one(tmp_path):
    name = write_folder(tmp_path, mode="L")
    write_image(tmp_path / "train" / "cat" / "bits.png", mode="1")
    grey = load_dataset(name, NOWHERE, 0)
    assert grey.image_shape == (1, 5, 6)
    assert grey.presets == ("mnist",)
    assert grey.mean == (0.0,)
    assert np.array_equal(grey.test.images[0, 0].numpy(), pixels(5, 6))
    write_image(tmp_path / "test" / "dog" / "colour.BMP")
    assert load_dataset(name, NOWHERE, 0).image_shape == (3, 5, 6)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "bmp", "webp", "PNG"])
def test_folder_file_types(tmp_path, suffix):
    name = write_folder(tmp_path)
    write_image(tmp_path / "test" / "cat" / f"z.{suffix}")
    assert len(load_dataset(name, NOWHERE, 0).test) == 5


def test_folder_with_images_of_mixed_sizes(tmp_path):
    name = write_folder(tmp_path)
    odd = write_image(tmp_path / "test" / "dog" / "odd.png", size=(7, 5))
    first = tmp_path / "train" / "cat" / "00.png"
    with pytest.raises(ArtefactError) as error:
        load_dataset(name, NOWHERE, 0)
    assert f"got 6x5 in {first} and 7x5 in {odd}; resize" in str(error.value)


def test_folder_with_a_broken_image(tmp_path):
    name = write_folder(tmp_path, size=(64, 64))
    path = tmp_path / "train" / "dog" / "03.png"
    whole = path.read_bytes()
    for content in (b"", b"not an image", whole[:40], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ArtefactError, match=r"dog.03\.png: expected a readable image, got"):
            load_dataset(name, NOWHERE, 0)


def test_folder_with_a_deep_image(tmp_path):
    name = write_folder(tmp_path)
    deep = Image.fromarray(np.zeros((5, 6), np.uint16))
    deep.save(tmp_path / "train" / "dog" / "deep.png")
    with pytest.raises(ArtefactError, match=r"deep\.png: expected an image of 8 bits a channel"):
        load_dataset(name, NOWHERE, 0)


def test_folder_with_an_unknown_test_class(tmp_path):
    name = write_folder(tmp_path)
    write_image(tmp_path / "test" / "cow" / "a.png")
    with pytest.raises(ArtefactError, match=r"class of train \(cat, dog\), got 'cow'; rename"):
        load_dataset(name, NOWHERE, 0)


def test_folders_that_are_missing_or_empty(tmp_path):
    name = f"folder:{tmp_path}"
    with pytest.raises(ArtefactError, match=r"expected a folder .*train .*found none; make"):
        load_dataset(name, NOWHERE, 0)
    (tmp_path / "train").mkdir()
    with pytest.raises(ArtefactError, match="train: expected one folder of images a class, got an"):
        load_dataset(name, NOWHERE, 0)
    write_image(tmp_path / "train" / "cat" / "a.png")
    with pytest.raises(ArtefactError, match=r"expected a folder .*test .*found none"):
        load_dataset(name, NOWHERE, 0)
    write_folder(tmp_path)
    (tmp_path / "train" / "emu").mkdir()
    with pytest.raises(ArtefactError, match=r"emu: expected images \(\.png.*got none; add"):
        load_dataset(name, NOWHERE, 0)


def test_folder_of_one_class(tmp_path):
    with pytest.raises(ArtefactError, match="at least 2 classes in train, got 1"):
        load_dataset(write_folder(tmp_path, classes=("cat",)), NOWHERE, 0)


# The command


def run(*words):
    return CliRunner().invoke(app, list(words), catch_exceptions=True)


def test_data_list():
    result = run("list")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in [*KNOWN, "npz:PATH", "folder:PATH"])
    listed = json.loads(run("list", "--json").stdout)
    assert listed["datasets"] == KNOWN
    assert set(listed["prefixes"]) == {f"{prefix}:PATH" for prefix in PREFIXES}


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
