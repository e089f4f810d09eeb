"""Data sets of one's own: npz files and folders of images, and every bad input."""

import os
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.data_files import NOWHERE, arrays, pixels, write_folder, write_image, write_npz
from helpers.handed_on import rezip
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.data.sources import describe, load_dataset
from poisonbench.data.splits import hold_out

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
        ({"y_train": np.array([0] * 58 + [1, 2])}, "a.npz: .* than 2 .* class 1 .* got 1; add"),
        ({"y_train": np.array([object()] * 60)}, "got Object arrays cannot be loaded.*; write"),
        (
            {"x_test": pixels(0, 8, 8), "y_test": np.zeros(0, np.int64)},
            "expected images in the test split, got none",
        ),
        (
            {"x_train": pixels(0, 8, 8), "y_train": np.zeros(0, np.int64)},
            "a.npz: expected images in the train split, got none",
        ),
        (
            {"x_train": pixels(60, 0, 8), "x_test": pixels(9, 0, 8)},
            r"expected images in the train split, got images of shape \(1, 0, 8\)",
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


def npy(header, data=b""):
    """The bytes of an array with a header that its writer would not write."""
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def described(kind="'|u1'", order="False", shape="(60,)"):
    return f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array",
        b"\x93NUMPY\x01\x00",
        npy(""),
        npy("("),
        npy("(" * 3000),
        npy("-" * 5000 + "1"),
        npy("{[]: 3}"),
        npy(described(), bytes(7)),
        npy(described(kind="','"), bytes(60)),
        npy(described(kind="3"), bytes(60)),
        npy(described(kind="'O'"), b"\x80\x04]."),
        npy(described(kind="'<U0'")),
        npy(described(kind="'|V0'")),
        npy(described(kind="'<f8'"), bytes(480)),
        npy(described(kind="'<M8[s]'"), bytes(480)),
        npy(described(kind="[('a', '<i4')]"), bytes(240)),
        npy(described(kind="('<i4', 3)"), bytes(720)),
        npy(described(order="3"), bytes(60)),
        npy(described(shape="(True,)"), bytes(60)),
        npy(described(shape="(-1,)"), bytes(60)),
        npy(described(shape="(10**9,)"), bytes(60)),
        npy(described(shape=f"({10**12},)"), bytes(60)),
        npy(described(shape=f"({10**20},)"), bytes(60)),
    ],
)
@pytest.mark.parametrize("key", ["x_train", "y_test"])
def test_a_damaged_array_within_an_npz_is_refused(tmp_path, key, data):
    """The archive itself is sound."""
    path = tmp_path / "a.npz"
    write_npz(path)
    rezip(path, lambda files: files.update({f"{key}.npy": data}))
    with pytest.raises(ArtefactError, match=re.escape(str(path))):
        load_dataset(f"npz:{path}", NOWHERE, 0)


@pytest.mark.parametrize("position", [4, 8])
def test_an_archive_of_a_later_version_or_another_compression_is_refused(tmp_path, position):
    """What zipfile does not know it says in another way than what is damaged."""
    path = tmp_path / "a.npz"
    write_npz(path)
    data = bytearray(path.read_bytes())
    for start, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        data[data.index(start) + position + shift] = 99
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"expected a \.npz file with the arrays x_train"):
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


def test_names_that_are_no_utf_8(tmp_path):
    """A class of another encoding is shown as far as it can be; a path is refused."""
    other = os.fsdecode(b"caf\xe9")
    dataset = load_dataset(write_folder(tmp_path / "a", (other, "dog")), NOWHERE, 0)
    assert dataset.class_names == ("caf\ufffd", "dog")
    assert (len(dataset.train), dataset.test.labels.tolist()) == (18, [0, 0, 1, 1])
    with pytest.raises(UsageError, match=r"expected a name in UTF-8, got .*rename"):
        load_dataset(write_folder(tmp_path / other), NOWHERE, 0)


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


def test_a_path_without_its_kind_is_told_how_to_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos")
    write_npz(tmp_path / "x.npz")
    for path, name in (("photos", "folder:photos"), ("x.npz", "npz:x.npz")):
        with pytest.raises(UsageError, match=f"write {name} for what is there"):
            load_dataset(path, NOWHERE, 0)
