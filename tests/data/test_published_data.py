"""CIFAR-100, SVHN, GTSRB, STL-10 and Tiny-ImageNet as their sites publish them, on small files."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from helpers import published_files as write
from poisonbench.core.errors import ArtefactError
from poisonbench.data import cifar100
from poisonbench.data.sources import describe, load_dataset

#: By name, what writes its files, its classes, sizes of train and validation, a shape.
SETS = {
    "cifar100": (write.write_cifar100, 100, (270, 30), (3, 32, 32)),
    "svhn": (write.write_svhn, 10, (90, 10), (3, 32, 32)),
    "gtsrb": (write.write_gtsrb, 43, (78, 8), (3, 32, 32)),
    "stl10": (write.write_stl10, 10, (90, 10), (3, 96, 96)),
}


@pytest.mark.parametrize("name", SETS)
def test_published_files_are_read_as_they_are(tmp_path, name):
    writer, classes, sizes, shape = SETS[name]
    images, labels = writer(tmp_path)
    dataset = load_dataset(name, tmp_path, 0)
    assert (len(dataset.train), len(dataset.validation)) == sizes
    assert dataset.num_classes == classes
    assert dataset.image_shape == shape
    assert dataset.presets == ("cifar10",)
    assert dataset.is_paper is False
    assert np.array_equal(dataset.test.images.numpy(), images)
    assert dataset.test.labels.tolist() == labels.tolist()
    # Held out as of the built-in ones: by class, by the seed, the same from any place.
    held_out = describe(dataset)["class_counts"]["validation"]
    assert max(held_out) - min(held_out) <= 1
    shutil.copytree(tmp_path, tmp_path / "elsewhere" / "data")
    again = load_dataset(name, tmp_path / "elsewhere" / "data", 0)
    assert again.digest == dataset.digest
    assert load_dataset(name, tmp_path, 1).digest != dataset.digest


def test_torchvision_reads_the_same(tmp_path):
    write.write_gtsrb(tmp_path)
    write.write_svhn(tmp_path)
    theirs = torchvision.datasets.GTSRB(tmp_path, split="test")
    ours = load_dataset("gtsrb", tmp_path, 0).test
    assert [label for _, label in theirs] == ours.labels.tolist()
    assert np.array_equal(np.asarray(theirs[7][0]).transpose(2, 0, 1), ours.images[7].numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
        digits = torchvision.datasets.SVHN(tmp_path, split="test")
    ours = load_dataset("svhn", tmp_path, 0).test
    assert np.array_equal(digits.data, ours.images.numpy())
    assert digits.labels.tolist() == ours.labels.tolist()


def test_stl10_has_upright_pictures(tmp_path):
    """The oracle is torchvision's transposition."""
    write.write_stl10(tmp_path)
    raw = np.fromfile(tmp_path / "stl10_binary" / "test_X.bin", np.uint8)
    theirs = np.transpose(raw.reshape(-1, 3, 96, 96), (0, 1, 3, 2))
    assert np.array_equal(load_dataset("stl10", tmp_path, 0).test.images.numpy(), theirs)


def test_both_versions_of_cifar100_are_the_same_data(tmp_path):
    write.write_cifar100(tmp_path / "binary")
    write.write_cifar100_python(tmp_path / "python")
    first, second = (load_dataset("cifar100", tmp_path / kind, 0) for kind in ("binary", "python"))
    assert first.digest == second.digest
    assert first.class_names == second.class_names
    assert first.class_names[7] == "kind_7"


def test_no_code_of_a_pickled_cifar100_runs(tmp_path):
    write.write_cifar100_python(tmp_path)

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(ArtefactError, match=r"cifar-100-python.train.*nothing in it was run"):
        load_dataset("cifar100", tmp_path, 0)
    assert not (tmp_path / "ran").exists()


def test_tiny_imagenet_as_published(tmp_path):
    labels = write.write_tiny_imagenet(tmp_path, classes=10, train=12, test=20)
    dataset = load_dataset("tiny-imagenet", tmp_path, 0)
    assert dataset.image_shape == (3, 64, 64)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (108, 12, 20)
    assert dataset.test.labels.tolist() == labels.tolist()
    assert dataset.class_names[:2] == ("thing 0", "thing 1")
    small = load_dataset("tiny-imagenet@32x32", tmp_path, 0)
    assert small.image_shape == (3, 32, 32)
    assert torch.equal(small.train.labels, dataset.train.labels)
    words = tmp_path / "tiny-imagenet-200" / "words.txt"
    words.write_text("n00000000\tcrane, bird\nn00000001\tcrane, machine\n")
    names = load_dataset("tiny-imagenet", tmp_path, 0).class_names
    assert names[:3] == ("crane (n00000000)", "crane (n00000001)", "n00000002")


@pytest.mark.parametrize("name", [*SETS, "tiny-imagenet"])
def test_absent_files_are_named_with_the_remedy(tmp_path, name):
    with pytest.raises(ArtefactError) as error:
        load_dataset(name, tmp_path, 0)
    message = str(error.value)
    assert f"poisonbench data fetch {name} --data-root {tmp_path}" in message
    assert "http" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_the_one_file_that_is_missing_is_named(tmp_path):
    write.write_svhn(tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(ArtefactError, match=r"found no test_32x32\.mat; run"):
        load_dataset("svhn", tmp_path, 0)


@pytest.mark.parametrize(
    ("name", "path", "content", "message"),
    [
        (
            "cifar100",
            "cifar-100-binary/test.bin",
            b"x" * 3075,
            r"records of 3,074 bytes, got 3,075",
        ),
        ("cifar100", "cifar-100-binary/test.bin", b"", r"test\.bin: expected records"),
        ("cifar100", "cifar-100-binary/train.bin", b"\xff" * 3074, "labels up to 255"),
        ("cifar100", "cifar-100-binary/fine_label_names.txt", b"a b", "expected 100 class names"),
        ("svhn", "train_32x32.mat", b"MATLAB 5.0 MAT-file", r"train_32x32\.mat: expected a MATLAB"),
        ("svhn", "test_32x32.mat", b"", r"test_32x32\.mat: expected a MATLAB"),
        ("gtsrb", "gtsrb/GTSRB/Training/00007/00001.ppm", b"P6 9", r"00007.00001\.ppm: expected a"),
        (
            "gtsrb",
            "gtsrb/GT-final_test.csv",
            b"a,b\n1,2\n",
            r"test\.csv: expected columns Filename",
        ),
        ("gtsrb", "gtsrb/GT-final_test.csv", b"Filename;ClassId\na.ppm;43\n", "not in 0..42"),
        ("gtsrb", "gtsrb/GT-final_test.csv", b"Filename;ClassId\na.ppm;4\n", r"a\.ppm: expected a"),
        (
            "stl10",
            "stl10_binary/train_X.bin",
            b"x" * 99,
            r"27,648 bytes for each .* got 99 for 100",
        ),
        ("stl10", "stl10_binary/test_y.bin", b"\x0b" * 20, "labels in 1..10, got 11 to 11"),
        ("stl10", "stl10_binary/class_names.txt", b"a b", "expected 10 names, got 2"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, path, content, message):
    SETS[name][0](tmp_path)
    (tmp_path / path).write_bytes(content)
    with pytest.raises(ArtefactError, match=message):
        load_dataset(name, tmp_path, 0)


def test_a_matlab_file_of_something_else_is_refused(tmp_path):
    from scipy.io import savemat

    write.write_svhn(tmp_path)
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((8, 8, 3, 4), np.uint8), "y": np.ones(4)})
    with pytest.raises(ArtefactError, match=r"\(32, 32, 3, N\) and y of 1..10, got .*\(8, 8, 3, 4"):
        load_dataset("svhn", tmp_path, 0)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (
            "val/val_annotations.txt",
            b"val_0.JPEG\tn999\t0\n",
            "line 1: expected a file and a class",
        ),
        ("val/val_annotations.txt", b"", "expected a line a picture"),
        ("wnids.txt", b"n00000000\nn00000000\n", "2 names of which 1 differ"),
        ("wnids.txt", b"n77777777\n", r"n77777777.images: expected pictures"),
        ("val/images/val_1.JPEG", b"\xff\xd8\xff", r"val_1\.JPEG: expected a readable image"),
    ],
)
def test_damaged_tiny_imagenet(tmp_path, path, content, message):
    write.write_tiny_imagenet(tmp_path, classes=2, train=2, test=4, side=8)
    (tmp_path / "tiny-imagenet-200" / path).write_bytes(content)
    with pytest.raises(ArtefactError, match=message):
        load_dataset("tiny-imagenet", tmp_path, 0)


# Fetching


class _Site:
    """Stands for torchvision's classes and its download of archives: writes what a site sends."""

    calls = 0

    def __init__(self, writer):
        self.writer = writer

    def __call__(self, address, root=None, **options):
        type(self).calls += 1
        folder = Path(root if str(address).startswith("http") else address)
        if not any(folder.iterdir()):
            self.writer(folder)


@pytest.mark.parametrize("name", [*SETS, "tiny-imagenet"])
def test_fetch_puts_the_files_where_they_are_read(tmp_path, monkeypatch, name):
    writer = SETS[name][0] if name in SETS else write.write_tiny_imagenet
    site = _Site(
        lambda root: writer(root, **({"classes": 4, "side": 8} if name not in SETS else {}))
    )
    for owner in ("GTSRB", "STL10", "SVHN"):
        monkeypatch.setattr(torchvision.datasets, owner, site)
    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", site)
    remarks = []
    load_dataset(name, tmp_path / "new", 0, download=True, say=remarks.append)
    assert remarks[0].startswith(f"downloading {name} to ")
    calls = _Site.calls
    load_dataset(name, tmp_path / "new", 0, download=True, say=remarks.append)
    assert "nothing to download" in remarks[1]
    assert _Site.calls == calls
    assert not list((tmp_path / "new").glob(".fetch-*"))


def test_a_broken_download_leaves_nothing(tmp_path, monkeypatch):
    def broken(address, root, md5):
        assert md5 == cifar100.MD5
        (Path(root) / "cifar-100-binary").mkdir()
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", broken)
    with pytest.raises(ArtefactError, match=r"corrupted.*or download it on another machine"):
        load_dataset("cifar100", tmp_path, 0, download=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
