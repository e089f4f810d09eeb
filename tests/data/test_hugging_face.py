"""hf:PATH: parquet files, folders of save_to_disk and what the hub gives; nothing is downloaded."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.data_files import NOWHERE, pixels
from helpers.published_files import encoded
from poisonbench.cli.data import app
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.data.sources import describe, load_dataset

IMAGES = pixels(40, 6, 8, 3)


def test_without_the_library_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"datasets, which is not installed; pip install 'poison"):
        load_dataset("hf:somewhere", NOWHERE, 0)


@pytest.fixture
def hf():
    return pytest.importorskip("datasets")


def rows(count, classes=4, start=0, images=IMAGES, image="image", label="label", values=None):
    """Columns of images, as encoded bytes, and of labels."""
    labels = [(start + row) % classes for row in range(count)]
    return {
        image: [{"bytes": encoded(images[row]), "path": None} for row in range(count)],
        label: [values[number] for number in labels] if values else labels,
    }


def table(hf, count, names=("ant", "bee", "cat", "dog"), **options):
    """A data set with typed columns."""
    columns = rows(count, **options)
    image, label = columns
    features = {image: hf.Image(), label: hf.ClassLabel(names=list(names))}
    return hf.Dataset.from_dict(columns, features=hf.Features(features))


def write(hf, folder):
    """A folder as the hub has it: data/SPLIT-NUMBER-of-COUNT.parquet."""
    (folder / "data").mkdir(parents=True)
    whole = table(hf, 40)
    for part in range(2):
        shard = whole.select(range(20 * part, 20 * part + 20))
        shard.to_parquet(folder / "data" / f"train-0000{part}-of-00002.parquet")
    table(hf, 8).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return f"hf:{folder}"


def test_parquet_files_and_save_to_disk_are_the_same_data(hf, tmp_path):
    name = write(hf, tmp_path / "parquet")
    dataset = load_dataset(name, NOWHERE, 0)
    assert dataset.class_names == ("ant", "bee", "cat", "dog")
    assert dataset.image_shape == (3, 6, 8)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (36, 4, 8)
    assert np.array_equal(dataset.test.images.numpy(), IMAGES[:8].transpose(0, 3, 1, 2))
    assert dataset.test.labels.tolist() == [0, 1, 2, 3] * 2
    assert describe(dataset)["class_counts"]["train"] == [9, 9, 9, 9]
    both = hf.DatasetDict(train=table(hf, 40), test=table(hf, 8))
    both.save_to_disk(tmp_path / "saved")
    again = load_dataset(f"hf:{tmp_path / 'saved'}", NOWHERE, 0)
    assert again.digest == dataset.digest
    assert load_dataset(name, NOWHERE, 1).digest != dataset.digest
    assert load_dataset(f"{name}@4x4", NOWHERE, 0).image_shape == (3, 4, 4)


def test_parquet_files_of_others_have_bytes_and_text(hf, tmp_path):
    """As pandas writes them: no types of Hugging Face's, labels in words, splits by folder."""
    import pandas as pd

    for part, count in (("train", 40), ("valid", 8)):
        columns = rows(count, image="img", values=("wasp", "bee", "ant", "fly"))
        if part == "valid":
            columns["img"] = [image["bytes"] for image in columns["img"]]
        (tmp_path / part).mkdir()
        pd.DataFrame(columns).to_parquet(tmp_path / part / "0000.parquet")
    dataset = load_dataset(f"hf:{tmp_path}", NOWHERE, 0)
    assert dataset.class_names == ("ant", "bee", "fly", "wasp")
    assert dataset.test.labels.tolist() == [3, 1, 0, 2] * 2
    assert np.array_equal(dataset.test.images.numpy(), IMAGES[:8].transpose(0, 3, 1, 2))


def test_grey_images_and_whole_numbers(hf, tmp_path):
    columns = rows(40, images=IMAGES[..., 0], label="labels", values=(3, 5, 7, 9))
    hf.Dataset.from_dict(columns).to_parquet(tmp_path / "all.parquet")
    dataset = load_dataset(f"hf:{tmp_path / 'all.parquet'}", NOWHERE, 0)
    assert dataset.image_shape == (1, 6, 8)
    assert dataset.presets == ("mnist",)
    assert dataset.class_names == ("3", "5", "7", "9")
    # Undivided: a fifth of each class, whatever the seed.
    assert describe(dataset)["class_counts"]["test"] == [2, 2, 2, 2]
    other = load_dataset(f"hf:{tmp_path / 'all.parquet'}", NOWHERE, 5)
    assert np.array_equal(dataset.test.images.numpy(), other.test.images.numpy())


def test_withheld_test_labels_give_way_to_validation(hf, tmp_path):
    hidden = rows(8, values=(-1, -1, -1, -1))
    typed = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["a", "b", "c", "d"])})
    splits = {
        "train": table(hf, 40, names="abcd"),
        "validation": table(hf, 12, names="abcd"),
        "test": hf.Dataset.from_dict(hidden, features=typed),
    }
    hf.DatasetDict(splits).save_to_disk(tmp_path / "a")
    assert len(load_dataset(f"hf:{tmp_path / 'a'}", NOWHERE, 0).test) == 12
    del splits["validation"]
    hf.DatasetDict(splits).save_to_disk(tmp_path / "b")
    with pytest.raises(ArtefactError, match="expected labelled images in test, got none, or -1"):
        load_dataset(f"hf:{tmp_path / 'b'}", NOWHERE, 0)


NAMES = ("ant", "bee", "cat", "dog")


@pytest.mark.parametrize("form", ["parquet", "save_to_disk"])
@pytest.mark.parametrize("order", [NAMES, NAMES[::-1], ("cat", "eel", "ant", "dog", "bee", "fly")])
def test_a_label_of_the_test_split_is_the_class_of_its_own_name(hf, tmp_path, form, order):
    """Whatever number each split gives a class: an image of a cat is one of train's class cat."""
    columns = rows(8, values=[order.index(name) for name in NAMES])
    kinds = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=list(order))})
    splits = {"train": table(hf, 40), "test": hf.Dataset.from_dict(columns, features=kinds)}
    if form == "parquet":
        for part, one in splits.items():
            one.to_parquet(tmp_path / f"{part}.parquet")
    else:
        hf.DatasetDict(splits).save_to_disk(tmp_path)
    dataset = load_dataset(f"hf:{tmp_path}", NOWHERE, 0)
    assert dataset.class_names == NAMES
    assert dataset.test.labels.tolist() == [0, 1, 2, 3] * 2


@pytest.mark.parametrize("with_text", ["train", "test"])
def test_text_in_one_split_and_class_labels_in_the_other(hf, tmp_path, with_text):
    """The names are listed as dog, cat, bee, ant where they are class labels."""
    for part, count in (("train", 40), ("test", 8)):
        if part == with_text:
            one = hf.Dataset.from_dict(rows(count, values=NAMES))
        else:
            one = table(hf, count, names=NAMES[::-1], values=(3, 2, 1, 0))
        one.to_parquet(tmp_path / f"{part}.parquet")
    dataset = load_dataset(f"hf:{tmp_path}", NOWHERE, 0)
    assert sorted(dataset.class_names) == list(NAMES)
    assert [dataset.class_names[label] for label in dataset.test.labels] == list(NAMES) * 2


def test_a_test_class_that_train_lacks_is_named(hf, tmp_path):
    table(hf, 40).to_parquet(tmp_path / "train.parquet")
    others = {
        "class 'eel', which": table(hf, 8, names=("ant", "bee", "cat", "eel")),
        "class 'fly', which": hf.Dataset.from_dict(rows(8, values=("ant", "bee", "cat", "fly"))),
        "label 9, which": table(hf, 8).cast_column("label", _whole()).map(_nine),
    }
    for got, test in others.items():
        test.to_parquet(tmp_path / "test.parquet")
        message = f"expected test images of the classes of train, got {got} no training image has"
        with pytest.raises(ArtefactError, match=message):
            load_dataset(f"hf:{tmp_path}", NOWHERE, 0)
    table(hf, 40, classes=3).to_parquet(tmp_path / "train.parquet")
    table(hf, 8).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ArtefactError, match="got class 'dog', which no training image has"):
        load_dataset(f"hf:{tmp_path}", NOWHERE, 0)


def _nine(row):
    return row | {"label": 9}


@pytest.mark.parametrize(
    ("counts", "part"),
    [((0,), "train"), ((0, 8), "train"), ((40, 0), "test"), ((0, 0), "train")],
)
@pytest.mark.parametrize("form", ["typed", "plain"])
def test_splits_without_rows_are_named(hf, tmp_path, counts, part, form):
    for name, count in zip(("train", "test"), counts, strict=False):
        # Without types and rows, columns are of no kind.
        one = hf.Dataset.from_dict(rows(count))
        if form == "typed":
            one = table(hf, 40).select(range(count))
        one.to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(ArtefactError, match=f"expected labelled images in {part}, got none"):
        load_dataset(f"hf:{tmp_path}", NOWHERE, 0)


def test_a_test_split_without_rows_gives_way_to_validation(hf, tmp_path):
    for part, count in (("train", 40), ("validation", 12), ("test", 0)):
        table(hf, 40).select(range(count)).to_parquet(tmp_path / f"{part}.parquet")
    assert len(load_dataset(f"hf:{tmp_path}", NOWHERE, 0).test) == 12


@pytest.mark.parametrize("value", [{"bytes": None, "path": None}, {"bytes": b"", "path": ""}, None])
def test_an_image_of_nothing_is_named_by_its_row(hf, tmp_path, value):
    columns = rows(40)
    columns["image"][7] = value
    hf.Dataset.from_dict(columns).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ArtefactError, match=r"train, image 7: expected a readable image, got: no"):
        load_dataset(f"hf:{tmp_path}", NOWHERE, 0)


def test_a_label_beyond_64_bits_is_refused(hf, tmp_path):
    from pyarrow import array, parquet, table

    columns = rows(40)
    columns["label"] = array([2**64 - 1, 0, 1, 2] * 10, "uint64")
    parquet.write_table(table(columns), tmp_path / "train.parquet")
    with pytest.raises(ArtefactError, match="expected a class"):
        load_dataset(f"hf:{tmp_path}", NOWHERE, 0)


def test_fine_labels_are_taken_and_other_columns_left(hf, tmp_path):
    both = table(hf, 40, label="fine_label")
    coarse = hf.ClassLabel(names=["x", "y"])
    both = both.add_column("coarse_label", [0, 1] * 20).cast_column("coarse_label", coarse)
    both.to_parquet(tmp_path / "a.parquet")
    assert load_dataset(f"hf:{tmp_path}", NOWHERE, 0).num_classes == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.remove_columns("image"), r"a column of images and one of labels"),
        (
            lambda d: d.rename_column("label", "y").cast_column("y", _whole()),
            r"y \(Value\); rename",
        ),
        (
            lambda d: d.remove_columns("image").add_column("image", [1.5] * 40),
            "expected encoded im",
        ),
        (lambda d: d.remove_columns("label").add_column("label", [None] * 40), "expected a class"),
        (lambda d: d.remove_columns("label").add_column("label", [0.5] * 40), "expected a class"),
        (lambda d: d.select([0, 1, 2, 3, 4]), "at least 2 images of class 1"),
    ],
)
def test_other_columns_are_refused(hf, tmp_path, change, message):
    change(table(hf, 40)).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ArtefactError, match=message):
        load_dataset(f"hf:{tmp_path}", NOWHERE, 0)


def _whole():
    from datasets import Value

    return Value("int64")


def test_damaged_files_are_named(hf, tmp_path):
    name = write(hf, tmp_path / "a")
    path = tmp_path / "a" / "data" / "train-00001-of-00002.parquet"
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], b"<html>" * 99):
        path.write_bytes(content)
        with pytest.raises(ArtefactError, match=r"train-00001-of-00002\.parquet: expected a parq"):
            load_dataset(name, NOWHERE, 0)
    table(hf, 40).save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(b"no arrow")
    with pytest.raises(ArtefactError, match=r"saved: expected a folder of save_to_disk, got"):
        load_dataset(f"hf:{tmp_path / 'saved'}", NOWHERE, 0)


def test_a_broken_image_is_named_by_its_row(hf, tmp_path):
    columns = rows(40)
    columns["image"][7]["bytes"] = b"no image"
    hf.Dataset.from_dict(columns).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ArtefactError, match=r"train, image 7: expected a readable image"):
        load_dataset(f"hf:{tmp_path}", NOWHERE, 0)


def test_what_is_nowhere_says_where_it_is_looked_for(hf, tmp_path):
    with pytest.raises(ArtefactError) as error:
        load_dataset("hf:lab/insects", tmp_path, 0)
    message = str(error.value)
    assert f"poisonbench data fetch hf:lab/insects --data-root {tmp_path}" in message
    assert str(tmp_path / "hf") in message


def test_fetch_takes_parquet_alone_and_reads_it_offline(hf, tmp_path, monkeypatch):
    import huggingface_hub

    published = tmp_path / "hub"
    write(hf, published)
    asked = []

    def snapshot(repository, repo_type, revision, allow_patterns, local_dir):
        assert (repository, repo_type, allow_patterns) == ("lab/insects", "dataset", "*.parquet")
        asked.append(revision)
        if revision is not None:
            shutil.copytree(published, local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    root = tmp_path / "data"
    fetched = load_dataset("hf:lab/insects", root, 0, download=True)
    # The owner's branch has no parquet, the hub's own has.
    assert asked == [None, "refs/convert/parquet"]
    assert fetched.digest == load_dataset(f"hf:{published}", NOWHERE, 0).digest
    assert load_dataset("hf:lab/insects", root, 0, download=True).digest == fetched.digest
    assert len(asked) == 2
    with pytest.raises(UsageError, match="expected a data set of the hub"):
        load_dataset(f"hf:{published}", root, 0, download=True)


def test_a_failed_fetch_says_what_to_do(hf, tmp_path, monkeypatch):
    import huggingface_hub

    def nowhere(repository, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nowhere)
    with pytest.raises(ArtefactError, match="no route to host; try again, or download it on anoth"):
        load_dataset("hf:lab/insects", tmp_path, 0, download=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_command_shows_it(hf, tmp_path):
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["show", write(hf, tmp_path / "a")])
    assert result.exit_code == 0
    assert "3 x 6 x 8" in result.stdout
    assert "ant" in result.stdout
    assert Path(tmp_path / "a").exists()
