"""torchvision:NAME, and images that are cut and scaled to a size."""

import inspect

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps

from helpers.data_files import (
    NOWHERE,
    arrays,
    pixels,
    write_folder,
    write_idx_root,
    write_image,
    write_npz,
)
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.data.names import split_pixels, split_size
from poisonbench.data.pictures import scaled
from poisonbench.data.sources import describe, load_dataset
from poisonbench.data.splits import RawData, Split, hold_out_fifth
from poisonbench.data.torchvision_sets import PARTS

# torchvision:NAME


@pytest.mark.parametrize("name", PARTS)
def test_every_set_of_the_table_takes_its_arguments(name):
    source = getattr(torchvision.datasets, name)
    for arguments in PARTS[name]:
        inspect.signature(source).bind("root", **arguments)


def test_a_set_that_is_divided(tmp_path):
    contents = write_idx_root(tmp_path, "KMNIST/raw")
    dataset = load_dataset("torchvision:KMNIST", tmp_path, 0)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (90, 10, 20)
    assert dataset.class_names == tuple(torchvision.datasets.KMNIST.classes)
    assert np.array_equal(dataset.test.images[:, 0].numpy(), contents[2])
    assert dataset.test.labels.tolist() == contents[3].tolist()
    assert dataset.presets == ("mnist",)
    small = load_dataset("torchvision:KMNIST@14x14", tmp_path, 0)
    assert small.image_shape == (1, 14, 14)


def test_a_set_that_is_not_divided_gives_a_fifth_of_each_class(tmp_path):
    for label, kind in enumerate(("Forest", "River", "Lake")):
        for row in range(10 + 5 * label):
            path = tmp_path / "eurosat" / "2750" / kind / f"{kind}_{row}.jpg"
            write_image(path, size=(64, 64), seed=row)
    dataset = load_dataset("torchvision:EuroSAT", tmp_path, 0)
    assert dataset.class_names == ("Forest", "Lake", "River")
    assert describe(dataset)["class_counts"]["test"] == [2, 4, 3]
    assert dataset.image_shape == (3, 64, 64)
    other = load_dataset("torchvision:EuroSAT", tmp_path, 3)
    assert torch.equal(dataset.test.images, other.test.images)
    (tmp_path / "eurosat" / "2750" / "Lake" / "Lake_4.jpg").write_bytes(b"no image")
    with pytest.raises(ArtefactError, match=r"EuroSAT, all, image \d+: expected a readable image"):
        load_dataset("torchvision:EuroSAT", tmp_path, 0)


def test_absent_and_unknown_sets_of_torchvision(tmp_path):
    with pytest.raises(ArtefactError) as error:
        load_dataset("torchvision:KMNIST", tmp_path, 0)
    command = f"poisonbench data fetch torchvision:KMNIST --data-root {tmp_path}"
    assert command in str(error.value)
    with pytest.raises(UsageError, match=r"among torchvision:CIFAR10,.*did you mean 'KMNIST'"):
        load_dataset("torchvision:KMINST", tmp_path, 0)
    with pytest.raises(UsageError, match=r"torchvision:NAME"):
        load_dataset("torchvision:", tmp_path, 0)


def test_fetch_asks_torchvision_for_each_part(tmp_path, monkeypatch):
    asked = []

    class Fake:
        classes = ("zero", "one")

        def __init__(self, root, train, download=False):
            asked.append((train, download))

        def __len__(self):
            return 20

        def __getitem__(self, row):
            return Image.fromarray(pixels(4, 4, seed=row)), row % 2

    monkeypatch.setattr(torchvision.datasets, "USPS", Fake)
    dataset = load_dataset("torchvision:USPS", tmp_path, 0, download=True)
    assert asked == [(True, True), (False, True), (True, False), (False, False)]
    assert dataset.class_names == ("zero", "one")

    class NotHere(Fake):
        def __init__(self, root, split, download=False):
            raise RuntimeError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "DTD", NotHere)
    with pytest.raises(ArtefactError, match="expected torchvision to download it, got: no route"):
        load_dataset("torchvision:DTD", tmp_path, 0, download=True)


def test_a_set_that_torchvision_does_not_download(tmp_path):
    with pytest.raises(ArtefactError, match=r"does not download it; try again, or put its files"):
        load_dataset("torchvision:FER2013", tmp_path, 0, download=True)


def test_the_fifth_that_is_held_out():
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] * 26)
    split = Split(torch.arange(39, dtype=torch.uint8).view(39, 1, 1, 1), labels)
    train, test = hold_out_fifth(split, "x")
    assert torch.bincount(test.labels).tolist() == [2, 1, 5]
    rows = torch.cat([train.images, test.images]).flatten()
    assert torch.equal(rows.sort().values, split.images.flatten())
    with pytest.raises(ArtefactError, match="at least 2 images of class 1"):
        hold_out_fifth(split.rows(torch.tensor([0, 1, 10])), "x")


# Sizes


@pytest.mark.parametrize(
    ("name", "pixels_of", "size_of"),
    [
        ("mnist", ("mnist", None), ("mnist", None)),
        ("mnist@1000", ("mnist@1000", None), ("mnist", 1000)),
        ("gtsrb@48x40", ("gtsrb", (48, 40)), ("gtsrb@48x40", None)),
        ("gtsrb@48x40@500", ("gtsrb@48x40@500", None), ("gtsrb@48x40", 500)),
        ("folder:a@b/c@64x64", ("folder:a@b/c", (64, 64)), ("folder:a@b/c@64x64", None)),
        ("folder:a@32x32/", ("folder:a@32x32/", None), ("folder:a@32x32/", None)),
        ("folder:a@5", ("folder:a@5", None), ("folder:a@5", None)),
    ],
)
def test_names_with_sizes(name, pixels_of, size_of):
    assert split_pixels(name) == pixels_of
    assert split_size(name) == size_of


@pytest.mark.parametrize("name", ["mnist@5@6", "mnist@a", "mnist@8x8x8", "mnist@-1", "mnist@8x8@0"])
def test_other_names_are_refused(name):
    with pytest.raises(UsageError, match="expected a number of training images behind the @"):
        split_size(name)


@pytest.mark.parametrize("name", ["folder:a@0x8", "folder:a@8x2000"])
def test_sizes_out_of_bounds_are_refused(name):
    with pytest.raises(UsageError, match="of 1 to 1024 pixels behind the @"):
        load_dataset(name, NOWHERE, 0)


def test_pictures_of_many_sizes_are_cut_and_scaled(tmp_path):
    """The oracle is Pillow's own fit, of the middle of each picture."""
    name = write_folder(tmp_path, size=(30, 20))
    odd = write_image(tmp_path / "test" / "dog" / "odd.png", size=(9, 17))
    with pytest.raises(ArtefactError, match=r"write folder:.*@32x32 to have all cut and scaled"):
        load_dataset(name, NOWHERE, 0)
    dataset = load_dataset(f"{name}@12x10", NOWHERE, 0)
    assert dataset.image_shape == (3, 10, 12)
    assert dataset.name == f"{name}@12x10"
    expected = ImageOps.fit(Image.open(odd), (12, 10), Image.Resampling.BICUBIC)
    assert np.array_equal(dataset.test.images[-1].numpy(), np.asarray(expected).transpose(2, 0, 1))
    # 30 x 20 as 10 x 10: the middle 20 columns, no squeezing; bicubic looks two pixels further.
    square = load_dataset(f"{name}@10x10", NOWHERE, 0).test.images[0].numpy().transpose(1, 2, 0)
    middle = Image.fromarray(pixels(20, 30, 3, seed=0)[:, 5:25])
    expected = np.asarray(middle.resize((10, 10), Image.Resampling.BICUBIC))
    assert np.array_equal(square[:, 2:-2], expected[:, 2:-2])


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_arrays_are_scaled_in_the_same_way(tmp_path, shape):
    data = arrays(shape)
    name = write_npz(tmp_path / "a.npz", **data)
    dataset = load_dataset(f"{name}@5x6", NOWHERE, 0)
    first = ImageOps.fit(Image.fromarray(data["x_test"][0]), (5, 6), Image.Resampling.BICUBIC)
    ours = dataset.test.images[0].permute(1, 2, 0).numpy().reshape(6, 5, *shape[2:])
    assert np.array_equal(ours, np.asarray(first))
    # The same rows are held out, at its own size nothing changes, and a grey image stays grey.
    whole = load_dataset(name, NOWHERE, 0)
    assert torch.equal(dataset.train.labels, whole.train.labels)
    assert load_dataset(f"{name}@8x8", NOWHERE, 0).digest == whole.digest
    assert dataset.image_shape[0] == (1 if len(shape) == 2 else 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_arrays_keep_their_channels_when_they_are_scaled(channels):
    """Each is scaled by itself: none becomes another's, and none is taken for transparency."""
    train, test = (
        Split(torch.from_numpy(pixels(count, channels, 8, 10, seed=count)), torch.arange(count))
        for count in (4, 3)
    )
    small = scaled(RawData(train, test), (5, 6))
    for before, after in ((train, small.train), (test, small.test)):
        assert after.images.shape == (len(before), channels, 6, 5)
        assert torch.equal(after.labels, before.labels)
        for image, whole in zip(after.images.numpy(), before.images.numpy(), strict=True):
            for ours, channel in zip(image, whole, strict=True):
                one = ImageOps.fit(Image.fromarray(channel), (5, 6), Image.Resampling.BICUBIC)
                assert np.array_equal(ours, np.asarray(one))
    same = scaled(RawData(train, test), (10, 8))
    assert torch.equal(same.train.images, train.images)


def test_arrays_without_images_are_refused_with_a_size_as_without(tmp_path):
    empty = {"x_test": pixels(0, 8, 8), "y_test": np.zeros(0, np.int64)}
    name = write_npz(tmp_path / "a.npz", **empty)
    for asked in (name, f"{name}@4x4"):
        with pytest.raises(ArtefactError, match="expected images in the test split, got none"):
            load_dataset(asked, NOWHERE, 0)


@pytest.mark.parametrize("size", ["", "@4x3"])
@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("L", 1), ("RGBA", 3), ("RGB", 3)])
def test_transparency_is_ignored_with_a_size_as_without(tmp_path, mode, channels, size):
    """Opaque or transparent in places, the images are the same, and grey ones stay grey."""
    plain, seen_through = tmp_path / "plain", tmp_path / "seen-through"
    name = write_folder(plain, mode=mode[: len(mode) - ("A" in mode)])
    for path in plain.rglob("*.png"):
        image = Image.open(path).convert(mode)
        if "A" in mode:
            image.putalpha(Image.fromarray(pixels(5, 6, seed=99)))
        target = seen_through / path.relative_to(plain)
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
    dataset = load_dataset(f"folder:{seen_through}{size}", NOWHERE, 0)
    assert dataset.image_shape[0] == channels
    assert dataset.digest == load_dataset(f"{name}{size}", NOWHERE, 0).digest


def test_part_of_a_scaled_set(tmp_path):
    write_idx_root(tmp_path)
    part = load_dataset("mnist@32x32@30", tmp_path, 0)
    assert (len(part.train), part.image_shape) == (30, (1, 32, 32))
    assert part.name == "mnist@32x32@30"
    plain = load_dataset("mnist@30", tmp_path, 0)
    assert torch.bincount(part.train.labels).tolist() == [3] * 10
    assert len(plain.train) == 30
