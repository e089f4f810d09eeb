"""The files that a data set's site publishes: whether they are here, and downloading them."""

import http.client
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poisonbench.core.errors import ArtefactError, StoreError, one_line

#: Without it, a firewall that drops packets would hold a download up for ever.
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Published:
    """A data set's files and folders, relative to the data root, and where a person gets them."""

    name: str
    paths: tuple[str, ...]
    #: In words, behind "put".
    by_hand: str

    def missing(self, data_root: Path) -> list[str]:
        """The paths at which there is nothing."""
        return [path for path in self.paths if not (data_root / path).exists()]

    def check(self, data_root: Path) -> None:
        """Raise ArtefactError, which says what to do, unless everything is there."""
        if missing := self.missing(data_root):
            raise ArtefactError(
                f"{self.name}: expected {', '.join(self.paths)} in {data_root}, found no "
                f"{', '.join(missing)}; run `poisonbench data fetch {self.name} --data-root "
                f"{data_root}`, put {self.by_hand} there, or name their folder by --data-root or "
                "POISONBENCH_DATA"
            )


def fetch(
    published: Published,
    data_root: Path,
    say: Callable[[str], None],
    download: Callable[[str], Any],
) -> None:
    """Download a data set's files unless they are there, see :func:`arrive`."""
    if published.missing(data_root):
        arrive(published, data_root, say, download)
    else:
        say(f"{published.name} is in {data_root} already; nothing to download")


def arrive(
    published: Published,
    data_root: Path,
    say: Callable[[str], None],
    download: Callable[[str], Any],
) -> None:
    """Download a data set's files, with a progress bar on stderr.

    They arrive in a temporary folder of the data root, are checked there, and are then renamed
    one by one: a download killed at any time leaves no file that is later read.

    Args:
        published: what is kept of the files.
        data_root: where they come to lie.
        say: receives a remark for the person at the terminal.
        download: is given the temporary folder, in place of the data root.

    Raises:
        ArtefactError: no network, or the server sent something else.
        StoreError: the data root cannot be written.
    """
    targets = [data_root / path for path in published.paths]
    folder = Path(os.path.commonpath([target.parent for target in targets]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=data_root, prefix=".fetch-")
    except OSError as error:
        raise StoreError(
            f"expected a folder to write at {folder}, got {error}; choose another --data-root"
        ) from None
    with temporary as arrived:
        say(f"downloading {published.name} to {folder}")
        try:
            with _timeout(TIMEOUT_SECONDS):
                download(arrived)
        except (RuntimeError, OSError, EOFError, ValueError, http.client.HTTPException) as error:
            raise ArtefactError(
                f"{published.name}: expected to download it, got: {one_line(error)}; "
                f"try again, or download it on another machine and put {published.by_hand}"
            ) from None
        for path, target in zip(published.paths, targets, strict=True):
            _move(Path(arrived) / path, target)


def _move(source: Path, target: Path) -> None:
    """Rename a file or a folder; into a folder that is there, each of its files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and target.is_dir():
        for child in source.iterdir():
            _move(child, target / child.name)
    else:
        os.replace(source, target)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
