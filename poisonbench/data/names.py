"""The data sets that can be named on the command line. No torch here: help and lists are quick."""

from __future__ import annotations

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean

#: Data sets by name, each with one line on what it is.
KNOWN = {
    "mnist": "handwritten digits: 59,000 train, 1,000 validation, 10,000 test, 1x28x28",
    "cifar10": "small photographs: 49,000 train, 1,000 validation, 10,000 test, 3x32x32",
    "fashion-mnist": "clothes: 59,000 train, 1,000 validation, 10,000 test, 1x28x28",
    "mnist-sample": "part of mnist, comes with the package: 10,000 train, 1,000 validation, "
    "2,000 test",
}

#: The user's own data: a prefix and a path, relative to the working directory.
PREFIXES = {
    "npz": "one .npz file with x_train, y_train, x_test, y_test (uint8 images, integer labels)",
    "folder": "a folder with train/CLASS/*.png and test/CLASS/*.png (also jpg, jpeg, bmp, webp)",
}


#: A part of one of the known data sets.
PART = {"NAME@SIZE": "that many training images of one of these, by class: mnist-sample@1000"}


def split_size(name: str) -> tuple[str, int | None]:
    """``"cifar10@5000"`` as ``("cifar10", 5000)``: a part of a known data set's training images.

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


def shown_name(name: str) -> str:
    """A data set's name in a line or a title: ``folder:logos`` of ``folder:/home/me/logos``."""
    kind, colon, path = name.partition(":")
    return f"{kind}{colon}{path.rstrip('/').rpartition('/')[2]}"


def split_name(name: str) -> tuple[str, str]:
    """``"mnist"`` as ``("mnist", "")``, ``"npz:a.npz"`` as ``("npz", "a.npz")``.

    Raises:
        UsageError: unknown name, or a prefix without a path; lists the known ones.
    """
    kind, colon, path = name.partition(":")
    if name in KNOWN or (kind in PREFIXES and path):
        return kind, path
    if kind in PREFIXES:
        raise UsageError(f"expected {kind}:PATH, got {name!r}; write the path behind the colon")
    known = ", ".join([*KNOWN, *PART, *(f"{prefix}:PATH" for prefix in PREFIXES)])
    hint = did_you_mean(kind if colon else name, [*KNOWN, *PREFIXES])
    raise UsageError(f"expected a data set among {known}, got {name!r}{hint}")
