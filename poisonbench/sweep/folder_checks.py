"""Whether a results folder gives what safety rests on: tried out, with many processes at once."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from poisonbench.core.errors import StoreError
from poisonbench.core.files import store_errors

#: Processes that race, and how often.
_RACERS = 4
_ROUNDS = 50
_TIMEOUT = 120

#: Each racer makes the same names with exclusive create and prints how many it got.
_RACE = """
import os, sys
folder, rounds, got = sys.argv[1], int(sys.argv[2]), 0
for number in range(rounds):
    try:
        os.close(os.open(os.path.join(folder, f"race-{number}"), os.O_CREAT | os.O_EXCL))
        got += 1
    except FileExistsError:
        pass
print(got)
"""

#: Replaces a file again and again; a reader must always find one of its versions, whole.
_REPLACE = """
import os, sys
path, rounds = sys.argv[1], int(sys.argv[2])
for number in range(rounds):
    with open(path + ".new", "w") as stream:
        stream.write(str(number % 10) * 100_000)
    os.replace(path + ".new", path)
"""


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it holds, and what was seen."""

    name: str
    is_well: bool
    detail: str


def check_folder(root: Path) -> list[Check]:
    """Try out a results folder; what is written there, and the folder if made, is deleted again.

    One that cannot be written at all has a single check that says so.
    """
    made = [folder for folder in (root, *root.parents) if not os.path.lexists(folder)]
    try:
        return _try_out(root)
    except StoreError as error:
        return [Check("results folder", False, str(error))]
    finally:
        for folder in made:
            # Somebody else may have begun to write there.
            with suppress(OSError):
                folder.rmdir()


def _try_out(root: Path) -> list[Check]:
    with store_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(
            dir=root, prefix=".doctor-", suffix=".tmp", ignore_cleanup_errors=True
        )
    checks = []
    with folder as path:
        for name, check in (
            ("exclusive create", _exclusive_create),
            ("atomic rename", _atomic_rename),
            ("rename of folders", _folder_rename),
            ("clock", _clock),
        ):
            try:
                checks.append(Check(name, True, check(Path(path))))
            except (OSError, ValueError, subprocess.SubprocessError, StoreError) as error:
                checks.append(Check(name, False, f"{error}; use another folder for --results"))
    free = shutil.disk_usage(root).free
    return [*checks, Check("space", free > 2**30, f"{free / 2**30:.1f} GiB free")]


def _exclusive_create(folder: Path) -> str:
    racers = [_start(_RACE, folder, _ROUNDS) for _ in range(_RACERS)]
    total = sum(int(racer.communicate(timeout=_TIMEOUT)[0]) for racer in racers)
    if total != _ROUNDS:
        raise ValueError(f"{_RACERS} processes made {_ROUNDS} files {total} times")
    return f"{_RACERS} processes made each of {_ROUNDS} files once"


def _atomic_rename(folder: Path) -> str:
    path = folder / "replaced"
    path.write_text("x" * 100_000)
    reads = 0
    with _start(_REPLACE, path, 10 * _ROUNDS) as writer:
        try:
            while writer.poll() is None:
                text = path.read_text()
                if len(text) != 100_000 or len(set(text)) != 1:
                    raise ValueError("a reader found a torn file")
                reads += 1
        finally:
            writer.kill()
    if writer.returncode:
        raise ValueError("a file could not be replaced by rename")
    return f"{reads} reads during {10 * _ROUNDS} replacements, each whole"


def _folder_rename(folder: Path) -> str:
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(name)
    (folder / "first").rename(folder / "target")
    try:
        (folder / "second").rename(folder / "target")
    except OSError:
        return "a folder that is there is not replaced"
    raise ValueError("a folder was renamed over another one that held a file")


def _clock(folder: Path) -> str:
    path = folder / "clock"
    path.write_text("x")
    ahead = path.stat().st_mtime - time.time()
    if abs(ahead) > 3600:
        raise ValueError(f"the file server's clock is {ahead:+.0f} s from this machine's")
    return f"the file server's clock is {ahead:+.1f} s from this machine's (leases use its own)"


def _start(program: str, *arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
