"""Other people's entries, out of installed packages and out of single files. No torch here."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from importlib.abc import ExecutionLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.entries import Entry, Source, broken, reason_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

EntryT = TypeVar("EntryT", bound=Entry)


@cache
def installed(kind: type[EntryT]) -> tuple[tuple[str, Source, EntryT | str], ...]:
    """The entry points of a kind's group: name, distribution, and the entry or why it has none."""
    from importlib.metadata import entry_points

    rows = []
    for point in entry_points(group=kind.group):
        source = Source(point.dist.name, point.dist.version) if point.dist else Source("?", "")
        rows.append((point.name, source, _entry_of(point, kind, source)))
    return tuple(rows)


def _entry_of(point: EntryPoint, kind: type[EntryT], source: Source) -> EntryT | str:
    try:
        with redirect_stdout(sys.stderr):
            value = point.load()
    except (Exception, SystemExit) as error:
        return broken(source, reason_of(error))
    entry = getattr(value, "ENTRY", None) if isinstance(value, ModuleType) else value
    if not isinstance(entry, kind) or entry.name != point.name:
        got = f"{entry.kind} {entry.name}" if isinstance(entry, Entry) else type(entry).__name__
        what = f"{point.value} to be {kind.kind} {point.name} or a module with that as ENTRY"
        return broken(source, f"expected {what}, got {got}")
    return replace(entry, module=entry.module or point.module, plug_in=source)


def entries_of_file(path: Path) -> list[Entry]:
    """All entries that a Python file holds.

    Raises:
        UsageError: it cannot be run, or holds none.
    """
    try:
        source, module = _run(path)
    except SystemExit:
        raise UsageError(
            "--plugin: expected a Python file that can be imported, "
            f"got {path}, which ends the program"
        ) from None
    except Exception as error:
        raise UsageError(
            "--plugin: expected a Python file that can be imported, "
            f"got {path}: {reason_of(error)}; check the path or mend the file"
        ) from None
    held = {id(value): value for value in vars(module).values() if isinstance(value, Entry)}
    entries = [
        replace(value, module=value.module or module.__name__, plug_in=source)
        for value in held.values()
    ]
    names = [f"{entry.kind} {entry.name}" for entry in entries]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--plugin: expected {twice} once, got it twice in {path}; rename one")
    if not entries:
        raise UsageError(
            "--plugin: expected a file with an entry, such as ENTRY = DefenseEntry(...), got none "
            f"in {path}"
        )
    return entries


def module_of_file(path: Path) -> ModuleType:
    """A Python file as a module.

    Raises:
        UsageError: it cannot be run.
    """
    try:
        return _run(path)[1]
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"expected a Python file that can be imported, got {path}: {reason_of(error)}"
        ) from None


def source_of_file(path: Path) -> Source:
    """A file's name, sha256 and absolute path."""
    return _source(path, path.read_bytes())


def check_file(path: str, digest: str) -> None:
    """Raise ArtefactError unless a file is there and has this sha256."""
    try:
        got = source_of_file(Path(path)).version
    except OSError as error:
        got = reason_of(error)
    if got != digest:
        raise ArtefactError(
            f"--plugin: expected {path} with sha256 {digest[:12]}, as the plan has it, got "
            f"{got[:100]}; put it back or plan again"
        )


def _source(path: Path, text: bytes) -> Source:
    return Source(path.name, hashlib.sha256(text).hexdigest(), str(path.resolve()))


class _TextLoader(ExecutionLoader):
    """Runs a file's text; Python's own loader might take bytecode of an earlier one."""

    def __init__(self, path: Path, text: bytes) -> None:
        self.path, self.text = path, text

    def get_source(self, fullname: str) -> str:
        """The text that was read."""
        return importlib.util.decode_source(self.text)

    def get_filename(self, fullname: str) -> str:
        """The file that it was read from."""
        return str(self.path)


def _run(path: Path) -> tuple[Source, ModuleType]:
    """A file's source and the module that it is, run once for the same text."""
    text = path.read_bytes()
    source = _source(path, text)
    name = f"poisonbench_plugin_{source.version[:16]}"
    if name not in sys.modules:
        # Its code and its module name the file alike, so that a fault's line is found.
        path = path.absolute()
        loader = _TextLoader(path, text)
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
        if spec is None:
            raise ImportError("not a .py file")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            # What it prints is no part of a command's JSON.
            with redirect_stdout(sys.stderr):
                loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return source, sys.modules[name]
