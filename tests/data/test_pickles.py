"""Pickles read as data: what wants to do more is refused without being run."""

import codecs
import collections
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.command_line import refused
from poisonbench.core.errors import ArtefactError
from poisonbench.data import opcodes as opcodes_module
from poisonbench.data.pickles import MAX_BYTES, array_of, read_pickle


def written(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def opcodes(text):
    return text.encode("latin1")


def nested_key():
    """A tuple of a tuple, 60 deep and shared: its hash would take 2**60 steps."""
    levels = b"".join(
        b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60)
    )
    return b"\x80\x02}K\x01q\x00" + levels + b"K\x01s."


def array_state(kind, shape, data):
    """An array as protocol 2 writes it, with parts of one's own."""
    reconstruct = np.empty(0).__reduce__()[0]

    class Array:
        def __reduce__(self):
            state = (1, shape, kind, False, data)
            return reconstruct, (np.ndarray, (0,), b"b"), state

    return pickle.dumps(Array(), protocol=2)


@pytest.fixture
def trap(tmp_path):
    return tmp_path / "trap"


def bombs(trap):
    """By name, the bytes of a pickle that must be refused."""
    command = f"touch {trap}"
    dump = pickle.dumps
    return {
        "os.system": dump(Calls(os.system, command)),
        "builtins.eval": dump(Calls(eval, f"open({str(trap)!r}, 'w')")),
        "builtins.getattr": opcodes("cbuiltins\ngetattr\n(U\x01aU\x01btR."),
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
        "numpy's runstring": opcodes("cnumpy.testing._private.utils\nrunstring\n(U\x01a}tR."),
        "numpy.load": opcodes("cnumpy\nload\n(U\x05a.npytR."),
        "torch.load": opcodes("ctorch\nload\n(U\x05a.npytR."),
        "PIL.Image.open": opcodes("cPIL.Image\nopen\n(U\x05a.epstR."),
        "an object array": dump(np.array([Calls(os.system, command)], dtype=object)),
        "inside a list": dump([1, {"poison_ids": Calls(os.system, command)}]),
        "an instance by INST": opcodes("(S'" + command + "'\nios\nsystem\n."),
        "a persistent id": opcodes("Pxyz\n."),
        "an extension": b"\x82\x01.",
        "a codec that runs": dump(Calls(codecs.encode, "x", "rot13")),
        "a state for a class": b"\x80\x02cnumpy\nndarray\n}U\x05arrayK\x01sb.",
        "slots for a class": b"\x80\x02c_codecs\nencode\nN}U\x08__code__K\x01s\x86b.",
        "a state for a storage": (
            b"\x80\x02ctorch.storage\n_load_from_bytes\nU\x01a\x85R}U\x05arrayK\x01sb."
        ),
        "a far place in the memo": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
        "a negative place": b"K\x01p-5\n.",
        "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
        "a number that is not there": b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"x.",
        "a tuple as key, nested": nested_key(),
        "a mark as a value": b"\x80\x02(\x85.",
        "cut short": dump([1, 2, 3])[:-1],
        "empty": b"",
        "no pickle": b"PK\x03\x04 a zip",
        "an empty stack": b"\x80\x02.",
    }


@pytest.mark.parametrize("name", list(bombs(Path("x"))))
def test_a_pickle_that_does_more_is_refused_and_not_run(name, trap, tmp_path, tiny, results):
    file = tmp_path / "bomb.pkl"
    file.write_bytes(bombs(trap)[name])
    line = ("import", file, "--format", "metapoison", "--dataset", tiny)
    assert str(file) in refused(65, results, *line)
    assert not trap.exists()


def test_a_deep_nest_is_only_data(tmp_path):
    """As deep as allowed: built, thrown away and refused by its form, without recursion."""
    file = tmp_path / "nest.pkl"
    file.write_bytes(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".")
    with pytest.raises(ArtefactError, match="array of numbers"):
        array_of(read_pickle(file), "nest")


@pytest.mark.parametrize(
    ("depth", "message"), [(10, "array of numbers"), (60, "bytes of values used again")]
)
def test_a_nested_tuple_is_no_mode(depth, message, tmp_path):
    """Its hash would take two to the power of its depth steps."""
    levels = b"".join(
        b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1, ord("0")])
        for n in range(1, depth)
    )
    state = b"(]h" + bytes([depth]) + b"K\x04K\x04\x86NU\x10" + bytes(16) + b"t"
    file = tmp_path / "picture.pkl"
    picture = b"cPIL.Image\nImage\n)\x81" + state + b"b."
    file.write_bytes(b"\x80\x02K\x01q\x010" + levels + picture)
    with pytest.raises(ArtefactError, match=message):
        array_of(read_pickle(file), "picture")


def test_opcodes_without_end_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(opcodes_module, "MAX_OPCODES", 1000)
    file = tmp_path / "nest.pkl"
    file.write_bytes(b"\x80\x02" + b"]" * 1001 + b".")
    with pytest.raises(ArtefactError, match="up to 1,000 opcodes"):
        read_pickle(file)


def test_a_file_over_the_limit_is_not_read(tmp_path):
    file = tmp_path / "huge.pkl"
    with file.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(ArtefactError, match="at most"):
        read_pickle(file)


def torch_storage(size):
    """A tensor of two values that claims another size."""
    rebuild, (storage, *_) = torch.zeros(2).__reduce_ex__(2)
    return Calls(rebuild, storage, 0, size, (0,), False, collections.OrderedDict())


def evil_storage(trap):
    """The bytes that torch opens in turn hold a call."""
    inner = pickle.dumps(Calls(os.system, f"touch {trap}"), protocol=2)
    storage = Calls(torch.storage._load_from_bytes, inner)
    return Calls(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, {})


NUMBER = np.dtype("f8")


@pytest.mark.parametrize(
    "name", ["few bytes", "huge shape", "negative", "no type", "repeated", "offset", "inner"]
)
def test_a_note_whose_parts_disagree_becomes_no_array(name, trap, tmp_path):
    file = tmp_path / "note.pkl"
    file.write_bytes(
        {
            "few bytes": lambda: array_state(NUMBER, (2,), b"\0" * 8),
            "huge shape": lambda: array_state(NUMBER, (10**12,), b"\0" * 8),
            "negative": lambda: array_state(NUMBER, (-1, -1), b"\0" * 8),
            "no type": lambda: array_state("f8", (1,), b"\0" * 8),
            "repeated": lambda: pickle.dumps(torch_storage((10**12,))),
            "offset": lambda: pickle.dumps(torch_storage((3,))),
            "inner": lambda: pickle.dumps(evil_storage(trap)),
        }[name]()
    )
    with pytest.raises(ArtefactError, match="array of numbers"):
        array_of(read_pickle(file), "it")
    assert not trap.exists()


@pytest.mark.parametrize("mode", ["P", "CMYK", "1", "F", "I;16"])
def test_pictures_of_other_modes_are_refused(mode, tmp_path):
    file = written(tmp_path / "picture.pkl", Image.new(mode, (4, 4)))
    with pytest.raises(ArtefactError, match="array of numbers"):
        array_of(read_pickle(file), "picture")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(24, dtype=np.int64).reshape(2, 3, 4)),
        np.arange(3, dtype=">i2"),
        np.array([True, False]),
        np.float64(2.5),
        [np.int64(3), 4],
        (1, 2),
        [],
        torch.arange(6).reshape(2, 3).T,
        torch.arange(6, dtype=torch.float32)[2:],
    ],
    ids=str,
)
def test_arrays_come_back(value, protocol, tmp_path):
    decoded = array_of(read_pickle(written(tmp_path / "a.pkl", value, protocol)), "it")
    expected = value.numpy() if isinstance(value, torch.Tensor) else np.array(value)
    assert np.array_equal(decoded, expected)
    assert decoded.size == 0 or decoded.dtype == expected.dtype.newbyteorder("=")
