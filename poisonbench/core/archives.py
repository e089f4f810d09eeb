"""Zip archives: written without dates, and read from other people without trust or unpacking."""

import io
import re
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from poisonbench.core.errors import ArtefactError


@dataclass(frozen=True)
class Limits:
    """The most bytes of an archive, of one file in it, of all of them, and the most files."""

    archive: int
    part: int
    total: int
    files: int


def zip_bytes(files: Iterable[tuple[str, bytes]]) -> bytes:
    """An archive without dates or owners: the same files give the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in files:
            about = zipfile.ZipInfo(name)
            about.create_system, about.external_attr = 3, 0o644 << 16
            about.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(about, data)
    return stream.getvalue()


def checked_names(
    archive: zipfile.ZipFile, path: Path, allowed: re.Pattern[str], limits: Limits
) -> list[str]:
    """The names of the files in an archive that lies at a path.

    Raises:
        ArtefactError: too many or too large, names that are not allowed or there twice, links.
    """
    if path.stat().st_size > limits.archive:
        raise ArtefactError(f"expected an archive of at most {limits.archive:,} bytes, got more")
    members = archive.infolist()
    if len(members) > limits.files:
        raise ArtefactError(f"expected at most {limits.files:,} files, got {len(members):,}")
    names: set[str] = set()
    for member in members:
        name = member.filename
        if not allowed.fullmatch(name):
            raise ArtefactError(f"expected no file of another kind inside, got {name!r}")
        if name in names:
            raise ArtefactError(f"expected each file once, got {name} twice")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ArtefactError(f"expected plain files, got a link or a device, {name}")
        if member.file_size > limits.part:
            raise ArtefactError(
                f"expected files of at most {limits.part:,} bytes, got {name} of "
                f"{member.file_size:,}"
            )
        names.add(name)
    if sum(member.file_size for member in members) > limits.total:
        raise ArtefactError(f"expected at most {limits.total:,} bytes in all, got more")
    return sorted(names)


def read_part(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A file of an archive, whatever size it states.

    Raises:
        ArtefactError: more bytes than that.
    """
    with archive.open(name) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise ArtefactError(f"expected at most {most:,} bytes of {name}, got more")
    return data
