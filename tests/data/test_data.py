"""Data sets: the sample, holding out a validation split, and names."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data_files import NOWHERE, write_npz
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.data import sample, standard
from poisonbench.data.names import about, split_name
from poisonbench.data.sources import describe, load_dataset
from poisonbench.data.splits import hold_out, room_to_hold_out
from poisonbench.entries import shown_name

SAMPLE_DIGEST = "33d4738d6ef539d654c4fb22888394c471ba3a10747c2135623247c6f3322c7d"


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


@pytest.mark.parametrize(
    ("counts", "size", "room"),
    [
        ([150, 140, 11], 30, 30),
        ([150, 140, 10], 30, 15),
        # The remainder goes to the first classes.
        ([2, 9, 9], 4, 3),
        ([9, 9, 2], 4, 4),
        ([50, 50, 2], 10, 3),
        # Nothing helps.
        ([50, 50, 1], 10, 10),
    ],
)
def test_a_small_class_makes_the_validation_set_smaller(counts, size, room):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    assert room_to_hold_out(labels, size) == room
    if min(counts) > 1:
        kept, _ = hold_out(labels, room, 0, "any")
        assert torch.bincount(labels[kept], minlength=len(counts)).min() >= 1


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
    known = [
        *("mnist", "cifar10", "fashion-mnist", "mnist-sample", "cifar100", "svhn", "gtsrb"),
        *("stl10", "tiny-imagenet", "NAME@SIZE", "NAME@WxH", "npz:PATH", "folder:PATH"),
        *("torchvision:NAME", "hf:PATH"),
    ]
    assert f"among {', '.join(known)}, got" in message


@pytest.mark.parametrize("name", ["npz", "npz:", "folder:"])
def test_prefix_without_a_path(name):
    with pytest.raises(UsageError, match="write the path behind the colon"):
        load_dataset(name, NOWHERE, 0)


def test_split_name():
    mnist, nothing = split_name("mnist")
    assert (mnist.name, nothing) == ("mnist", "")
    npz, path = split_name("npz:c:/a.npz")
    assert (npz.name, path) == ("npz", "c:/a.npz")
    names = {name for name in about() if ":" not in name and "@" not in name}
    published = {"cifar100", "svhn", "gtsrb", "stl10", "tiny-imagenet"}
    assert names == {*standard.STANDARD, *published, "mnist-sample"}


def test_names_and_command_need_no_torch():
    code = "import sys, poisonbench.data.names, poisonbench.cli.data; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("folder:/home/me/logos/", "folder:logos"),
        ("npz:a.npz", "npz:a.npz"),
        ("mnist-sample@1000", "mnist-sample@1000"),
    ],
)
def test_data_sets_of_one_kind_are_told_apart(name, shown):
    assert shown_name(name) == shown
