"""What a data set is called on the command line: NAME, NAME@SIZE or PREFIX:PATH. No torch here."""

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.entries import DatasetEntry
from poisonbench.registry import datasets, faults, find

#: Some images of one of the known data sets.
SUBSET = {"NAME@SIZE": "that many training images of one of these, by class: mnist-sample@1000"}


def split_size(name: str) -> tuple[str, int | None]:
    """``"cifar10@5000"`` as ``("cifar10", 5000)``: so many of its training images.

    Raises:
        UsageError: something else than a whole number of 1 or more behind the ``@``.
    """
    kind, at, text = name.partition("@")
    if not at or ":" in kind:
        return name, None
    if not (text.isascii() and text.isdigit() and len(text) <= 9) or int(text) < 1:
        raise UsageError(
            f"expected a number of training images behind the @, got {name!r}; "
            "write for example mnist-sample@1000"
        )
    return kind, int(text)


def split_name(name: str) -> tuple[DatasetEntry, str]:
    """The entry and path of a name: those of ``"mnist"`` and ``""``, of ``"npz"`` and ``"a.npz"``.

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
    raise UsageError(f"expected a data set among {', '.join(about())}, got {name!r}{hint}")


def about() -> dict[str, str]:
    """One line on each data set, by how it is written."""
    rows = [(entry.takes_path, entry.pattern, entry.about) for entry in datasets().values()]
    names = {pattern: text for is_prefix, pattern, text in rows if not is_prefix}
    return names | SUBSET | {pattern: text for is_prefix, pattern, text in rows if is_prefix}
