"""Small files that ask for much are refused within little memory and time; honest ones are read."""

import collections
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from helpers import hostile_files
from poisonbench.core.errors import ArtefactError
from poisonbench.data import opcodes
from poisonbench.data.pickles import array_of, read_pickle
from poisonbench.data.tensor_files import load_tensors

#: Read in full: long, and harmless within the time.
HARMLESS = {"marks on a high stack.pickle"}
#: What is refused by the opcodes alone, before a value is made.
BY_OPCODES = {
    "a text of 1 MB encoded 90,000 times.pickle": "of values used again",
    "an array of 1 MB, 100,000 times.pickle": "of values used again",
    "an array doubled.pickle": "of values used again",
    "an array filled after use.pickle": "no change of a value that was used",
    "lists of lists.pickle": "of values used again",
    "lists of lists.pt": "of values used again",
    "tensors on one storage.pickle": "of values used again",
    "tuples of tuples.pickle": "of values used again",
    "keys of one hash.pickle": "as a dict's keys",
}
SECONDS = 60


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """By name, what came of each file in a process of little memory, and the seconds that it took.

    A crash or a kill leaves no outcomes at all.
    """
    folder = tmp_path_factory.mktemp("hostile")
    hostile_files.write_all(folder)
    read = subprocess.run(
        [sys.executable, "-m", "helpers.hostile_files", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=10 * SECONDS,
    )
    assert read.returncode == 0, read.stderr
    return json.loads(read.stdout)


NAMES = [*(f"{name}.pickle" for name in hostile_files.pickles()), *hostile_files.tensor_files()]


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_refused_by_what_it_says(name, outcomes):
    message, seconds = outcomes[name]
    assert seconds < SECONDS
    if name in HARMLESS:
        assert message == ""
        return
    assert f"{name}: expected " in message
    assert BY_OPCODES.get(name, "") in message
    # Refused before memory was asked for, not by its lack.
    assert "memory" not in message.lower()
    assert "alloc" not in message.lower()


@pytest.mark.parametrize("again", [b"h\x01", b"2"], ids=["GET", "DUP"])
def test_what_is_used_again_counts_to_the_limit(again, tmp_path, monkeypatch):
    """By the byte: 1,000 bytes and 8 for the value, against the file's own and the allowance."""
    path = tmp_path / "a.pickle"
    path.write_bytes(
        b"\x80\x02](" + b"T\xe8\x03\x00\x00" + bytes(1000) + b"q\x01" + again * 9 + b"e."
    )
    monkeypatch.setattr(opcodes, "MAX_SHARED", 9 * 1008 - path.stat().st_size)
    assert len(read_pickle(path)) == 10
    monkeypatch.setattr(opcodes, "MAX_SHARED", 9 * 1008 - path.stat().st_size - 1)
    with pytest.raises(ArtefactError, match="at most 9,071 bytes of values used again"):
        read_pickle(path)


@pytest.mark.parametrize("change", [b"K\x01a", b"(K\x01e"], ids=["APPEND", "APPENDS"])
def test_a_list_does_not_grow_once_it_is_used(change, tmp_path):
    path = tmp_path / "a.pickle"
    path.write_bytes(b"\x80\x02]q\x01" + change + b"h\x01\x86.")
    assert read_pickle(path) == ([1], [1])
    path.write_bytes(b"\x80\x02]q\x01h\x01" + change + b"\x86.")
    with pytest.raises(ArtefactError, match="no change of a value that was used"):
        read_pickle(path)


def test_integers_of_64_bits_are_keys(tmp_path):
    path = tmp_path / "a.pickle"
    for protocol in range(6):
        path.write_bytes(pickle.dumps({2**62: 1, -(2**62): 2, 0: 3}, protocol))
        assert read_pickle(path) == {2**62: 1, -(2**62): 2, 0: 3}


def test_a_set_of_many_arrays_that_share_their_types_is_read(tmp_path):
    path = tmp_path / "a.pickle"
    images = [np.full((3, 4, 4), n % 256, np.uint8) for n in range(5000)]
    path.write_bytes(pickle.dumps([(image, np.int64(7)) for image in images], 2))
    for n, (image, label) in enumerate(read_pickle(path)):
        assert np.array_equal(array_of(image, "image"), images[n])
        assert array_of(label, "label") == 7


# What torch.save writes

BASE = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
VALUES = {
    "alone": BASE,
    "turned": (BASE.permute(2, 0, 1), torch.arange(2)),
    "parts of one storage": [BASE[0], BASE[1, 1:], BASE[:, :, 1]],
    "none": [torch.zeros(0, 3), torch.tensor(3.5)],
    "one twice": [BASE, BASE],
    "a parameter": [torch.nn.Parameter(BASE)],
    "types": [
        (BASE - 7).to(getattr(torch, name))
        for name in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "bool")
    ],
    "bytes": [BASE.to(torch.uint8)],
    "dict": {"x": BASE, "n": 3, "name": "mix", "size": BASE.shape, "type": BASE.dtype},
    "weights": torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict(),
    "ordered": collections.OrderedDict(b=BASE, a=BASE[0]),
}


def same(value, expected):
    if isinstance(expected, torch.Tensor):
        assert value.dtype == expected.dtype
        assert torch.equal(value, expected)
    elif isinstance(expected, int | float | str):
        assert value == expected


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", list(VALUES))
def test_tensors_are_those_that_were_saved(name, protocol, is_zip, tmp_path):
    path = tmp_path / "a.pt"
    options = {"_use_new_zipfile_serialization": is_zip, "pickle_protocol": protocol}
    torch.save(VALUES[name], path, **options)
    value, expected = load_tensors(path), VALUES[name]
    if isinstance(expected, dict):
        assert list(value) == list(expected)
        value, expected = value.values(), expected.values()
    elif isinstance(expected, torch.Tensor):
        value, expected = [value], [expected]
    assert len(value) == len(expected)
    for one, other in zip(value, expected, strict=True):
        same(one, other)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old"])
def test_a_set_of_tensors_is_its_tensors(is_zip, tmp_path):
    path, labels = tmp_path / "a.pt", torch.arange(2)
    torch.save(TensorDataset(BASE, labels), path, _use_new_zipfile_serialization=is_zip)
    images, numbers = load_tensors(path)
    assert torch.equal(images, BASE)
    assert torch.equal(numbers, labels)


def test_a_state_dict_of_python_2_is_a_dict(tmp_path):
    """Its pairs are an argument there."""
    pair = b"]" + hostile_files.word("w") + b"a"
    value = hostile_files.tensor(hostile_files.reference("0", 2), 0, (2,), (1,))
    path = tmp_path / "a.pt"
    call = hostile_files.name("collections", "OrderedDict") + b"]" + pair + value + b"aa\x85R"
    path.write_bytes(hostile_files.new_file(call, {"0": np.float32([1, 2]).tobytes()}))
    assert load_tensors(path)["w"].tolist() == [1, 2]
