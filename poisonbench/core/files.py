"""Files that appear whole or not at all. The bottom layer: no torch, nothing of ours but errors."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from poisonbench.core.errors import StoreError

T = TypeVar("T")

#: How often a write is tried whose folder vanishes.
_ATTEMPTS = 5
#: Seconds before each further try of a read.
_WAITS = (0.02, 0.1, 0.5)


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn an operating-system error on writing into a StoreError that names the folder."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write to {path}: {error.strerror or error}; "
            "name another folder or make room in this one"
        ) from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all.

    A temporary file in the same folder is flushed to disk and renamed over the target.

    Raises:
        StoreError: the folder cannot be written or is full.
    """
    _write(path, data, os.replace)


def publish_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all; one already there wins.

    Raises:
        StoreError: the folder cannot be written or is full.
    """
    _write(path, data, _rename_to_new)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` for text, in UTF-8."""
    write_bytes(path, text.encode())


def read_shared(path: Path) -> bytes:
    """Read a file's bytes as :func:`retried` does."""
    return retried(path, path.read_bytes)


def retried(path: Path, read: Callable[[], T]) -> T:
    """Call a function that reads a file which other machines may be writing.

    A network file system may show for a moment a name whose file has been replaced or is not there
    yet; such a read is tried again after listing the folder, which renews what is cached of it.
    Errors are those of any read.
    """
    for wait in _WAITS:
        try:
            return read()
        except OSError as error:
            if error.errno not in (errno.ESTALE, errno.ENOENT):
                raise
            time.sleep(wait)
            with suppress(OSError):
                os.listdir(path.parent)
    return read()


def publish_folder(target: Path, files: dict[str, bytes]) -> bool:
    """Make a folder of files appear whole or not at all; one already there wins.

    Returns whether the folder has these files: where it's false, another process was first, and
    what it wrote is to be read instead.

    Raises:
        StoreError: the folder cannot be written or is full.
    """
    with store_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(
            tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        )
        try:
            for name, data in files.items():
                write_bytes(staging / name, data)
            os.chmod(staging, 0o755)
            try:
                staging.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
                return False
            _sync_folder(target.parent)
            return True
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def write_folder(target: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Make a folder appear whole or not at all, of many small files that may lie in folders.

    Raises:
        StoreError: the folder cannot be written or is full, or there is something of its name.
    """
    with store_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(
            tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        )
        try:
            for name, data in files:
                path = staging / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            os.chmod(staging, 0o755)
            staging.rename(target)
            _sync_folder(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; one that vanishes meanwhile counts nothing."""
    total = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _write(path: Path, data: bytes, place: Callable[[str, Path], None]) -> None:
    """Write a file beside its place, and put it there; where a link leads, not in its place."""
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    with store_errors(path.parent):
        for _ in range(_ATTEMPTS - 1):
            # Another process of the same run may end and clear the folder under our hands.
            with suppress(FileNotFoundError):
                return _write_once(path, data, place)
        _write_once(path, data, place)


def _rename_to_new(source: str, target: Path) -> None:
    """Rename a file, or remove it if there is one of the new name."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise
    except OSError:
        # Without hard links, one that appears between these two lines is replaced.
        if not target.exists():
            return os.replace(source, target)
    os.unlink(source)


def _write_once(path: Path, data: bytes, place: Callable[[str, Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        place(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
