"""What a data set is called on the command line. No torch here.

A name of the registry or PREFIX:PATH; behind it perhaps ``@WIDTHxHEIGHT``, to which images are cut
and scaled, and behind a name of the registry ``@COUNT``, so many of its training images:
``gtsrb@48x48@5000``.
"""

import re
from pathlib import Path

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.entries import DatasetEntry
from poisonbench.registry import datasets, faults, find

#: Some images of one of the known data sets, and images of another size.
SUBSET = {
    "NAME@SIZE": "that many training images of one of these, by class: mnist-sample@1000",
    "NAME@WxH": "images cut and scaled to width x height: gtsrb@48x48, folder:PATH@64x64",
}

_PIXELS = re.compile(r"@([0-9]{1,4})x([0-9]{1,4})")


def split_size(name: str) -> tuple[str, int | None]:
    """``"cifar10@5000"`` as ``("cifar10", 5000)``: so many of its training images.

    Raises:
        UsageError: something else than a whole number of 1 or more behind the ``@``.
    """
    kind, at, text = name.rpartition("@")
    if not at or ":" in kind or _PIXELS.fullmatch(at + text):
        return name, None
    is_count = text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > 0
    if not is_count or not re.fullmatch(f"[^@]*({_PIXELS.pattern})?", kind):
        raise UsageError(
            f"expected a number of training images behind the @, got {name!r}; "
            "write for example mnist-sample@1000"
        )
    return kind, int(text)


def split_pixels(name: str) -> tuple[str, tuple[int, int] | None]:
    """``"folder:photos@64x48"`` as ``("folder:photos", (64, 48))``: a width and a height.

    Raises:
        UsageError: a side of less than 1 or more than 1024 pixels.
    """
    match = re.search(f"{_PIXELS.pattern}$", name)
    if match is None:
        return name, None
    width, height = int(match[1]), int(match[2])
    if not (1 <= width <= 1024 and 1 <= height <= 1024):
        raise UsageError(
            f"expected a width and a height of 1 to 1024 pixels behind the @, got {name!r}; write "
            "for example @64x64 (a folder of that name takes a / behind it)"
        )
    return name[: match.start()], (width, height)


def split_name(name: str) -> tuple[DatasetEntry, str]:
    """The entry and path of a name without an ``@``: ``"mnist"`` and ``""``, ``"npz"`` and a path.

    Raises:
        UsageError: unknown name, a prefix without a path, or a broken plug-in; an unknown name
            lists the known ones.
    """
    kind, colon, path = name.partition(":")
    table = datasets()
    if kind in faults(table):
        return find("a data set", table, kind), path
    entry = table.get(kind)
    if entry is not None and entry.takes_path == bool(path) and (path or not colon):
        return entry, path
    if entry is not None and entry.takes_path:
        raise UsageError(f"expected {entry.pattern}, got {name!r}; write the path behind the colon")
    hint = did_you_mean(kind if colon else name, table) or "; one of your own needs --plugin FILE"
    if Path(name).exists():
        hint = f"; write {'npz' if name.endswith('.npz') else 'folder'}:{name} for what is there"
    raise UsageError(f"expected a data set among {', '.join(about())}, got {name!r}{hint}")


def about() -> dict[str, str]:
    """One line on each data set, by how it is written."""
    rows = [(entry.takes_path, entry.pattern, entry.about) for entry in datasets().values()]
    names = {pattern: text for is_prefix, pattern, text in rows if not is_prefix}
    return names | SUBSET | {pattern: text for is_prefix, pattern, text in rows if is_prefix}
