"""Names of data with settings for a CPU."""

import pytest

from poisonbench.core.quick_names import Quick, quick_name, same_place, split_quick

ROWS = [
    ("fashion-mnist", "fashion-mnist", None),
    ("folder:a@quick", "folder:a@quick", None),
    ("cifar10@5000", "cifar10@5000", None),
    ("fashion-mnist@quick", "fashion-mnist", Quick()),
    ("cifar10@5000@quick", "cifar10@5000", Quick()),
    ("folder@quick:/a:b@c", "folder:/a:b@c", Quick()),
    ("folder@quick-cifar-small-60:a", "folder:a", Quick("cifar-small", 60)),
    # No number of epochs, and none of them.
    ("folder@quick-cifar-small:a", "folder@quick-cifar-small:a", None),
    ("folder@quick-cifar-small-0:a", "folder@quick-cifar-small-0:a", None),
]


@pytest.mark.parametrize(("name", "base", "quick"), ROWS)
def test_a_name_is_split(name, base, quick):
    assert split_quick(name) == (base, quick)


@pytest.mark.parametrize(("name", "base", "quick"), ROWS[3:7])
def test_a_name_is_made_of_its_parts(name, base, quick):
    assert quick_name(base, quick.network, quick.epochs) == name
    # What it named before is replaced.
    assert quick_name(quick_name(base, "mnist-cnn", 3), quick.network, quick.epochs) == name


def test_two_ways_to_write_a_path_are_one_place(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    place = f"folder:{tmp_path / 'photos'}"
    assert {same_place(f"folder:{text}") for text in ("photos", "./photos/", place[7:])} == {place}
    assert same_place("folder:photos@32x32") == f"{place}@32x32"
    # Nothing of this machine's.
    assert same_place("hf:user/photos") == "hf:user/photos"
    assert same_place("mnist") == "mnist"
