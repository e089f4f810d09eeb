"""Names of data with settings for a CPU: ``NAME@quick`` and ``PREFIX@quick:PATH``.

Behind the word may stand a network and a number of epochs, ``folder@quick-cifar-small-60:photos``,
where those are chosen otherwise than by the number of images. The images are the same.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

#: The word, and the preset that such data has besides those of the parts that ours are of.
QUICK = "quick"

_NAME = re.compile(
    r"(?P<kind>[^:]*)@quick(?:-(?P<network>[^:@]+)-(?P<epochs>[1-9][0-9]{0,5}))?(?P<path>:.*)?",
    re.DOTALL,
)

_SIZE = re.compile(r"@[0-9]+x[0-9]+$")


@dataclass(frozen=True)
class Quick:
    """What a name says of its settings: a network and epochs, or neither."""

    network: str = ""
    epochs: int | None = None


def split_quick(name: str) -> tuple[str, Quick | None]:
    """The name of the same data in its usual settings, and what stood behind ``@quick``, if any."""
    match = _NAME.fullmatch(name)
    if match is None:
        return name, None
    kind, network, epochs, path = match["kind"], match["network"], match["epochs"], match["path"]
    return kind + (path or ""), Quick(network or "", int(epochs) if epochs else None)


def quick_name(name: str, network: str = "", epochs: int | None = None) -> str:
    """The name of the same data in settings for a CPU, which replace those that it names."""
    kind, colon, path = split_quick(name)[0].partition(":")
    return f"{kind}@quick" + (f"-{network}-{epochs}" if network else "") + colon + path


def same_place(name: str) -> str:
    """The name with an absolute path, by which two ways to write it are one.

    What stands behind the colon and is no path that exists, a name elsewhere, is left; so is a size
    of the images behind a path, ``folder:photos@32x32``.
    """
    kind, colon, text = name.partition(":")
    size = _SIZE.search(text)
    end = len(text) if size is None else size.start()
    path = Path(text[:end]).expanduser()
    return kind + colon + os.path.abspath(path) + text[end:] if end and path.exists() else name
