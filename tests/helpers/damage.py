"""Damaged files of every kind, given to what reads them."""

import os
import pickle
import random
import resource
import signal
import time
from collections import Counter
from pathlib import Path

from msgspec import to_builtins

from helpers.processes import call, data_set, plan_of
from poisonbench.core.errors import ArtefactError, PoisonbenchError
from poisonbench.results.records import read_record
from poisonbench.sweep.plan import read_plan


class Trap:
    """A pickle that tells when it is opened."""

    marker = ""

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def mutations(folder, count, seed=0):
    """Bit flips, truncation, insertions, huge headers, wrong types and pickles, read by us.

    Each is refused by an error of ours, or what was read equals what was written.
    """
    from poisonbench.data.artefacts import FILE_NAME, read_poison

    draw = random.Random(seed)
    data = data_set(folder)
    results = folder / "results"
    poison = Path(
        call("craft", "--attack", "durp", "--dataset", data, "--results", results).strip()
    )
    short = ("--epochs", "1", "--attack", "durp", "--dataset", data, "--results", results)
    call("defend", "--method", "none", *short)
    (record,) = (results / "runs").glob("*.json")
    plan = plan_of(folder, data)
    state, snapshot = _snapshot(folder)
    readers = {
        state: snapshot,
        poison / FILE_NAME: lambda path: _plain(read_poison(path)),
        record: read_record,
        plan: read_plan,
    }
    Trap.marker = str(folder / "code-ran")
    figures, worst = Counter(), 0.0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        original, read = list(readers.items())[number % len(readers)]
        how, damaged = _damage(original.read_bytes(), draw)
        path = folder / "damaged" / original.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(damaged)
        figures[f"damage: {how}"] += 1
        signal.signal(signal.SIGALRM, _hangs)
        signal.alarm(20)
        started = time.monotonic()
        try:
            same = read(path) == read(original)
            figures["read as written" if same else f"READ OTHERWISE: {how} {original.name}"] += 1
        except PoisonbenchError:
            figures["refused"] += 1
        except Exception as error:
            figures[f"CRASHED: {type(error).__name__} {original.suffix}"] += 1
        finally:
            signal.alarm(0)
        worst = max(worst, time.monotonic() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 2**20
    figures["code was run"] = int(Path(Trap.marker).exists())
    figures["slowest read, s"] = round(worst, 2)
    figures["memory grown, GB"] = round(grown, 3)
    bad = any(name.isupper() or name[:7] in ("READ OT", "CRASHED") for name in figures)
    return dict(figures), not bad and not figures["code was run"] and grown < 1


def _snapshot(folder):
    """A checkpoint's file, and what reads a copy of it: a snapshot, or an error for none."""
    import torch

    from poisonbench.training.checkpoint import Checkpoint, Snapshot
    from poisonbench.training.state import TrainingSet

    original = TrainingSet(torch.zeros((4, 1, 2, 2), dtype=torch.uint8), torch.arange(4))
    tensors = {"weight": torch.linspace(-1, 1, 500), "momentum": torch.ones(20)}
    Checkpoint(folder / "checkpoint", "id").save(
        Snapshot({"epoch": 1, "step": 2, "curve": [0.5, 0.25]}, tensors, None), original
    )

    def read(path):
        found = Checkpoint(path.parent, "id").load(original)
        if found is None:
            raise ArtefactError("refused: the run starts anew")
        return [found.position, {name: t.tolist() for name, t in found.tensors.items()}]

    return folder / "checkpoint" / "state.safetensors", read


def _hangs(number, frame):
    raise TimeoutError("a read took more than 20 s")


def _plain(poison):
    return [
        to_builtins(poison.card),
        poison.images.tolist(),
        poison.indices.tolist(),
        poison.sources.tolist(),
    ]


def _damage(data, draw):
    """A damaged copy, and how."""
    buffer = bytearray(data)
    place = draw.randrange(len(buffer))
    if draw.random() < 0.5:
        # Where the structure is; the pixels come after it.
        place = draw.randrange(min(len(buffer), 4000))
    how = draw.choice(
        ["bit", "bits", "cut", "cut", "insert", "zeros", "header", "type", "pickle", "digit"]
    )
    if how == "bit":
        buffer[place] ^= 1 << draw.randrange(8)
    elif how == "bits":
        for _ in range(draw.randrange(2, 50)):
            buffer[draw.randrange(len(buffer))] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del buffer[place:]
    elif how == "insert":
        buffer[place:place] = draw.randbytes(draw.randrange(1, 100))
    elif how == "zeros":
        buffer[place : place + 512] = bytes(len(buffer[place : place + 512]))
    elif how == "header":
        buffer[:8] = draw.choice([2**63 - 1, 2**40, len(buffer) * 2, 2**31]).to_bytes(8, "little")
    elif how == "type":
        old, new = draw.choice(
            [
                *((b"I64", b"F64"), (b'"U8"', b'"I8"'), (b"1", b"9" * 30), (b"[", b"[" * 2000)),
                *((b"true", b"null"), (b": 0", b": {}"), (b'": "', b'": 1e999, "')),
            ]
        )
        buffer = bytearray(bytes(buffer).replace(old, new, draw.randrange(1, 5)))
    elif how == "digit":
        digits = [index for index, byte in enumerate(buffer[:20_000]) if 48 <= byte < 58]
        buffer[draw.choice(digits)] = draw.randrange(48, 58)
    else:
        buffer = bytearray(pickle.dumps(Trap(), protocol=draw.randrange(6)))
    return how, bytes(buffer)
