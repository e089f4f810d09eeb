"""Small files that ask for much: memory or time without end. Read by hand under a limit.

    python -m helpers.hostile_files FOLDER

reads every file there within half a gigabyte and prints, by name, what came of it and how long it
took, as JSON.
"""

import io
import json
import pickle
import resource
import struct
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import torch

from poisonbench.core.errors import ArtefactError
from poisonbench.data.notes import Note
from poisonbench.data.pickles import array_of, read_pickle
from poisonbench.data.tensor_files import load_tensors

#: Bytes that reading may take beyond what the process has.
LIMIT = 512 * 2**20


def read_all(folder: Path) -> dict[str, tuple[str, float]]:
    """What comes of each file: the error's message, or nothing."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return {path.name: read_one(path) for path in sorted(folder.iterdir())}


def read_one(path: Path) -> tuple[str, float]:
    """Read it as an import does, every array of a list by itself."""
    start, message = time.monotonic(), ""
    try:
        if path.suffix == ".pt":
            load_tensors(path)
        else:
            value = read_pickle(path)
            items = value if isinstance(value, list) else [value]
            arrays = [
                array_of(item, path.name).copy()
                for item in items
                if isinstance(item, Note | int | float | list | tuple)
            ]
            assert sum(array.nbytes for array in arrays) <= LIMIT
    except ArtefactError as error:
        message = str(error)
    return message, time.monotonic() - start


# Pickles, an opcode at a time


def text(value: bytes) -> bytes:
    """The opcode of a text or of bytes, which protocol 2 doesn't tell apart."""
    return b"T" + struct.pack("<i", len(value)) + value


def word(value: str) -> bytes:
    """The opcode of a text."""
    return b"X" + struct.pack("<i", len(value)) + value.encode()


def name(module: str, function: str) -> bytes:
    """The opcode of a name."""
    return f"c{module}\n{function}\n".encode()


def number(value: int) -> bytes:
    """The opcode of a whole number."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) < 256:
        return b"\x8a" + bytes([len(data)]) + data
    return b"\x8b" + struct.pack("<i", len(data)) + data


def array(shape: bytes, data: bytes, kind: bytes = b"f8") -> bytes:
    """The opcodes of an array."""
    begun = name("numpy.core.multiarray", "_reconstruct")
    begun += name("numpy", "ndarray") + b"K\x00\x85U\x01b\x87R"
    dtype = name("numpy", "dtype") + b"U" + bytes([len(kind)]) + kind + b"K\x00K\x01\x87R"
    return begun + b"(K\x01" + shape + dtype + b"\x89" + text(data) + b"tb"


def tensor(storage: bytes, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The opcodes of a tensor."""
    sizes = [b"(" + b"".join(map(number, sides)) + b"t" for sides in (shape, stride)]
    rest = sizes[0] + sizes[1] + b"\x89" + name("collections", "OrderedDict") + b")R"
    return (
        name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + number(offset) + rest + b"tR"
    )


def many(first: bytes, again: bytes, count: int) -> bytes:
    """A list of a value that is put into the memo, and of what is made with it so often."""
    return b"\x80\x02](" + first + b"q\x01" + again * count + b"e."


def laughs(opcodes: bytes) -> bytes:
    """Eleven levels, each of ten of the level below."""
    levels = b"".join(
        opcodes[:1] + (b"h" + bytes([level])) * 10 + opcodes[1:] + b"q" + bytes([level + 1])
        for level in range(1, 12)
    )
    return b"\x80\x02K\x01q\x01" + levels + b"."


def filled_after_use(data: bytes) -> bytes:
    """An array that is in a tuple of the memo before it gets its numbers."""
    whole = array(b"(J\x00\x00\x02\x00t", data)
    begun, state = whole.split(b"R(", 1)
    return b"\x80\x02](" + begun + b"Rq\x00h\x00\x85q\x010(" + state + b"h\x01" * 100_000 + b"e."


def storage_bytes(count: int, data: bytes) -> bytes:
    """A tensor's storage in a pickle: a file of ``torch.save`` of before PyTorch 1.6."""
    inner = old_file(reference("0", count, is_old=True), [("0", count)], data)
    return name("torch.storage", "_load_from_bytes") + text(inner).replace(b"T", b"B", 1) + b"\x85R"


def pickles() -> dict[str, bytes]:
    """By name, and what each asks for."""
    million, sevens = bytes(2**20), b"(" + b"K\x07" * 400_000 + b"t"
    numbers = text(million)
    shared = many(array(b"(J\x00\x00\x02\x00t", million), b"h\x01", 100_000)
    encode = name("_codecs", "encode") + b"h\x01U\x06latin1\x86R"
    return {
        "a text of 1 MB encoded 90,000 times": many(numbers, encode, 90_000),
        "an array of 1 MB, 100,000 times": shared,
        "an array doubled": shared.replace(b"h\x01", b"2"),
        "lists of lists": laughs(b"(l"),
        "tuples of tuples": laughs(b"(t"),
        "an array filled after use": filled_after_use(million),
        "tensors on one storage": many(
            storage_bytes(2**18, million), tensor(b"h\x01", 0, (2**18,), (1,)), 20_000
        ),
        "a tensor of one number repeated": b"\x80\x02"
        + tensor(storage_bytes(1, bytes(4)), 0, (10**12,), (0,))
        + b".",
        "a storage of more numbers than bytes": b"\x80\x02"
        + tensor(storage_bytes(2**40, bytes(4)), 0, (2**40,), (1,))
        + b".",
        "a shape of long numbers": b"\x80\x02"
        + array(b"(" + number(10**30_000) * 100 + b"t", b"")
        + b".",
        "a shape of many numbers": b"\x80\x02" + array(sevens, b"") + b".",
        "a type without size": b"\x80\x02" + array(number(2**40) + b"\x85", b"", b"V0") + b".",
        "text without size": b"\x80\x02" + array(number(2**40) + b"\x85", b"", b"U0") + b".",
        "keys of one hash": b"\x80\x02}("
        + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(1, 100_000))
        + b"u.",
        "marks on a high stack": b"\x80\x02" + b"N" * 150_000 + b"(t0" * 100_000 + b".",
        "a number that is longer than the file": b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"x.",
        "bytes that are longer than the file": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    }


# Files of torch.save


def reference(key: str, count: int, kind: str = "Float", *, is_old: bool = False) -> bytes:
    """The opcodes of a storage that lies elsewhere; an old file's may be a view, and is none."""
    words = word("storage") + name("torch", f"{kind}Storage") + word(key) + word("cpu")
    return b"(" + words + number(count) + b"N" * is_old + b"tQ"


def new_file(program: bytes, records: dict[str, bytes]) -> bytes:
    """The zip of a program and of its storages."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + program + b".")
        archive.writestr("archive/version", b"3\n")
        for key, data in records.items():
            archive.writestr(f"archive/data/{key}", data)
    return stream.getvalue()


def old_file(value: bytes, counts: list[tuple[str, int]], data: bytes) -> bytes:
    """Five pickles, and the numbers of storages one after the other in some bytes."""
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    first = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, about)]
    keys = pickle.dumps([key for key, _ in counts], 2)
    numbers = b"".join(struct.pack("<q", count) + data for _, count in counts)
    return b"".join([*first, b"\x80\x02" + value + b".", keys, numbers])


def overlapping() -> bytes:
    """A zip in which a thousand records are the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        archive.writestr("archive/data/0", bytes(2**20))
        for key in range(1, 1000):
            again = zipfile.ZipInfo(f"archive/data/{key}")
            record = archive.getinfo("archive/data/0")
            again.header_offset, again.CRC = record.header_offset, record.CRC
            again.file_size = again.compress_size = 2**20
            archive.filelist.append(again)
    return stream.getvalue()


def tensor_files() -> dict[str, bytes]:
    """By name, and what each asks for; each of one storage of eight numbers."""
    data = bytes(32)
    bad = {
        "one number repeated": (8, 0, (10**12,), (0,)),
        "rows repeated": (8, 0, (10**6, 8), (0, 1)),
        "rows that overlap": (8, 0, (7, 2), (1, 1)),
        "a storage of more numbers than bytes": (2**40, 0, (2**40,), (1,)),
        "a storage of one number more": (9, 0, (9,), (1,)),
        "a storage of fewer numbers than bytes": (7, 0, (7,), (1,)),
        "a storage of fewer numbers than none": (-(2**40), 0, (1,), (1,)),
        "a far offset": (8, 2**40, (1,), (1,)),
        "a negative offset": (8, -1, (1,), (1,)),
        "an offset near the end": (8, 4, (5,), (1,)),
        "a far stride": (8, 0, (2,), (2**62,)),
        "a negative stride": (8, 7, (8,), (-1,)),
        "a negative size": (8, 0, (-8,), (1,)),
        "sizes beyond 64 bits": (8, 0, (2**70,), (0,)),
        "fewer strides than sizes": (8, 0, (2, 2), (1,)),
        "empty, from beyond the end": (8, 2**40, (0,), (1,)),
    }
    files = {}
    for case, (count, *parts) in bad.items():
        new, old = (
            b"}" + word("x") + tensor(reference("0", count, is_old=is_old), *parts) + b"s"
            for is_old in (False, True)
        )
        files[f"{case}, new.pt"] = new_file(new, {"0": data})
        # Nothing there says where the numbers end but the reference.
        if count != 7:
            files[f"{case}, old.pt"] = old_file(old, [("0", count)], data)
    calls = {
        "bytearray": name("builtins", "bytearray") + number(2**40),
        "torch.Tensor": name("torch", "Tensor") + number(2**40),
        "a sparse tensor": name("torch._utils", "_rebuild_sparse_tensor") + number(2**40),
        "a tensor without storage": name("torch._utils", "_rebuild_meta_tensor_no_storage")
        + b"K\x01",
    }
    files |= {
        f"{case}.pt": new_file(b"}" + word("x") + call + b"\x85Rs", {})
        for case, call in calls.items()
    }
    half = tensor(reference("0", 8, "Half"), 0, (8,), (1,))
    two = tensor(reference("0", 8), 0, (8,), (1,)) + half
    return {
        **files,
        "one storage of two types.pt": new_file(b"(" + two + b"t", {"0": data}),
        "a storage that is not there.pt": new_file(reference("1", 8), {"0": data}),
        "a reference to something else.pt": new_file(b"(K\x01tQ", {"0": data}),
        "overlapping records.pt": overlapping(),
        "lists of lists.pt": new_file(laughs(b"(l")[2:-1], {}),
        "two programs.pt": new_file(b"N", {"x/data.pkl": b"N."}),
    }


def write_all(folder: Path) -> None:
    """Write every hostile file."""
    for case, data in pickles().items():
        (folder / f"{case}.pickle").write_bytes(data)
    for case, data in tensor_files().items():
        (folder / case).write_bytes(data)


if __name__ == "__main__":
    np.zeros(1), torch.zeros(1)
    print(json.dumps(read_all(Path(sys.argv[1]))))
