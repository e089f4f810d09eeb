"""The tables of attacks, defenses, networks and data sets: ours, and other people's.

Ours are the rows in ``builtin``. Other people's have the same entries and come from installed
packages, a file (``--plugin``) or Python (:func:`register`); nothing of theirs is imported before a
table of its kind is asked for. No torch here.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from poisonbench.builtin.attacks import ATTACKS
from poisonbench.builtin.datasets import DATASETS
from poisonbench.builtin.defenses import DEFENSES
from poisonbench.builtin.networks import NETWORKS
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.entries import (
    AttackEntry,
    DatasetEntry,
    DefenseEntry,
    Entry,
    NetworkEntry,
    Source,
    forms_of,
    unusable,
)
from poisonbench.plugins import entries_of_file, installed, module_of_file, source_of_file

EntryT = TypeVar("EntryT", bound=Entry)


MIX = ("pgd", "dap", "durp", "dc")


@dataclass(frozen=True)
class Mix:
    """A reading of the paper's mix: it does not say what DURP draws.

    Attributes:
        name: what ``--reading`` calls it; empty, as is the next, of a mix of a user's own.
        reading: in a few words, for titles.
        attacks: in equal shares.
        settings: by attack, what differs from its own.
    """

    name: str = ""
    reading: str = ""
    attacks: tuple[str, ...] = MIX
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


#: By what ``--attack`` calls them; the first is DURP as its reference draws.
MIXES = {
    "mix": Mix("uniform", "uniform DURP"),
    "mix-sign": Mix("sign", "DURP of signs", settings={"durp": {"distribution": "sign"}}),
    "mix-gaussian": Mix(
        "gaussian", "Gaussian DURP", settings={"durp": {"distribution": "gaussian"}}
    ),
    "mix-no-durp": Mix("no-durp", "no DURP", attacks=("pgd", "dap", "dc")),
}

#: The same by name; the first is the tables' own.
READINGS = {mix.name: mix for mix in MIXES.values()}
DEFAULT_READING = next(iter(READINGS))

#: Libraries whose networks can be had as LIBRARY:NAME.
LIBRARIES = ("torchvision", "timm")
#: How such networks are written, and what they are.
OUTSIDE_NETWORKS = {
    "torchvision:NAME": "one of torchvision.models, without weights; on small images its first "
    "convolution is 3x3 with stride 1 and has no max pool",
    "timm:NAME": "one of timm.list_models(), likewise; pip install 'poisonbench[timm]'",
    "FILE.py:FUNCTION": "what the function makes of channels, height and width; its last layer is "
    "linear",
}
#: By the name that records have, the file of a network.
_network_files: dict[str, Path] = {}
#: By the name that records have, what builds a network that Python code passed.
_network_builders: dict[str, Callable[..., Any]] = {}

#: Entries that a file or a program has brought.
_registered: list[Entry] = []


class EntryTable(dict[str, EntryT]):
    """Entries of one kind by name, and by name why something cannot be used."""

    def __init__(self, kind: type[EntryT]) -> None:
        ours: Mapping[Any, Sequence[Any]] = {
            AttackEntry: ATTACKS,
            DefenseEntry: DEFENSES,
            NetworkEntry: NETWORKS,
            DatasetEntry: DATASETS,
        }
        super().__init__((entry.name, entry) for entry in ours[kind])
        self.faults: dict[str, str] = {}
        for name, source, entry in installed(kind):
            if name in self:
                self.faults[name] = _clash(self[name].source, source)
            elif isinstance(entry, str):
                self.faults[name] = entry
            else:
                self[name] = entry
        self.update({entry.name: entry for entry in _registered if isinstance(entry, kind)})


#: All of a kind by name, plug-ins included; of data sets, ``npz`` and ``folder`` are prefixes.
attacks = partial(EntryTable, AttackEntry)
defenses = partial(EntryTable, DefenseEntry)
networks = partial(EntryTable, NetworkEntry)
datasets = partial(EntryTable, DatasetEntry)


def find(kind: str, table: Mapping[str, EntryT], name: str, others: Iterable[str] = ()) -> EntryT:
    """The entry of that name.

    Args:
        kind: in words, for the error.
        table: where it is looked for.
        name: as the user wrote it.
        others: what may be named besides entries.

    Raises:
        UsageError: unknown, where the message lists the known ones, or not to be used.
    """
    if fault := faults(table).get(name):
        raise UsageError(unusable(kind, name, fault))
    if name not in table:
        known = [*table, *others]
        raise UsageError(
            f"expected {kind} among {', '.join(known)}, got {name!r}"
            f"{did_you_mean(name, known) or '; one of your own comes with --plugin FILE'}"
        )
    return table[name]


def is_outside(network: str) -> bool:
    """Whether a network is another library's, or a function of a file."""
    return ":" in network


def network_name(text: str) -> str:
    """A network's name in specs: of a file its name, function and digest, but not where it lies.

    Raises:
        UsageError: there is no such file, or neither a library nor a function of one.
    """
    path, _, function = text.rpartition(":")
    known = {*_network_files, *_network_builders}
    if not is_outside(text) or text in known or path in LIBRARIES:
        return text
    if path == "python":
        raise UsageError(
            f"--model: expected a network that a command can build, got {text}, which Python code "
            "passed; pass it again from there, or write it as FILE.py:FUNCTION"
        )
    if not path.endswith(".py") or not function.isidentifier():
        raise UsageError(
            f"--model: expected a name, {', '.join(OUTSIDE_NETWORKS)}, got {text!r}; a record's "
            "network of a file needs that file, as --model FILE.py:FUNCTION"
        )
    try:
        source = source_of_file(Path(path))
    except OSError as error:
        raise UsageError(f"--model: expected a Python file, got {path}: {error}") from None
    name = f"{source.name}:{function}@{source.version[:12]}"
    _network_files[name] = Path(source.path)
    return name


def network_files() -> list[tuple[str, Path]]:
    """Files of networks that were named as FILE.py:FUNCTION, by their names in specs."""
    return list(_network_files.items())


def function_of_file(name: str) -> Callable[..., Any]:
    """What builds the network that a name in specs names, of a file or of Python code."""
    name = network_name(name)
    if name in _network_builders:
        return _network_builders[name]
    function = name.rpartition(":")[2].partition("@")[0]
    builder = getattr(module_of_file(_network_files[name]), function, None)
    if not callable(builder):
        raise UsageError(f"--model {name}: expected a function {function} in the file, got none")
    return builder  # type: ignore[no-any-return]


def register_network(name: str, build: Callable[..., Any]) -> None:
    """Make a network of Python code known to this process, by its name in specs."""
    _network_builders[name] = build


def _network_source(name: str) -> Source | None:
    """Where another library's network or a file's is from."""
    library = name.partition(":")[0]
    if library in LIBRARIES:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return Source(library, version(library))
        except PackageNotFoundError:
            return None
    if name in _network_builders:
        title, _, digest = name.partition("@")
        return Source(title, digest)
    return source_of_file(_network_files[name]) if name in _network_files else None


def faults(table: Mapping[str, Any]) -> dict[str, str]:
    """The reasons, by name, why what has the name cannot be used."""
    return table.faults if isinstance(table, EntryTable) else {}


def register(plug_in: Entry | str | Path) -> None:
    """Make an attack, a defense, a network or a data set known to this process.

    Args:
        plug_in: an entry that names its ``module``, or a Python file that holds entries.

    Raises:
        UsageError: the name is taken, or a file or module cannot be imported or lacks something.
    """
    if isinstance(plug_in, str | os.PathLike):
        entries = entries_of_file(Path(plug_in))
    elif not isinstance(plug_in, Entry):
        raise UsageError(
            f"--plugin: expected a Python file or an entry, got {type(plug_in).__name__}; pass a "
            "path or DefenseEntry(...)"
        )
    elif plug_in.module:
        entry = replace(plug_in, plug_in=Source(plug_in.module, "", plug_in.module))
        path = getattr(entry.load(), "__file__", None)
        entries = [replace(entry, plug_in=source_of_file(Path(path))) if path else entry]
    else:
        raise UsageError(
            f"expected an entry with its module, such as module=__name__, got {plug_in.name} "
            "without one"
        )
    for entry in entries:
        table = EntryTable(type(entry))
        taken = table.get(entry.name)
        fault = table.faults.get(entry.name, "")
        if taken is not None and not _is_of_one_place(taken.source, entry.source):
            fault = _clash(taken.source, entry.source)
        if fault := fault or entry.fault():
            raise UsageError(unusable(entry.kind, entry.name, fault))
        # The same file again, perhaps edited, takes its own place.
        _registered[:] = [*(other for other in _registered if other is not taken), entry]


@contextmanager
def forgetting() -> Iterator[None]:
    """A block at whose end what was registered in it is forgotten."""
    before = list(_registered)
    try:
        yield
    finally:
        _registered[:] = before


def plugin_files() -> dict[str, str]:
    """The sha256, by absolute path, of each file that has brought an entry."""
    return {entry.source.path: entry.source.version for entry in _registered}


def _is_of_one_place(first: Source, second: Source) -> bool:
    """Whether both are one file or one distribution, perhaps of another text or version."""
    return (first.path or first.name) == (second.path or second.name)


def _clash(first: Source, second: Source) -> str:
    shown = [f"{source.path or source.name} {source.version[:12]}" for source in (first, second)]
    return f"both {' and '.join(shown)} have one of that name; uninstall or rename one of them"


def recipe_owners() -> dict[str, DatasetEntry | NetworkEntry]:
    """The networks and data sets that change the recipe, by preset."""
    entries: list[DatasetEntry | NetworkEntry] = [*datasets().values(), *networks().values()]
    return {entry.name: entry for entry in entries if entry.recipe}


def recipe_presets() -> dict[str, Mapping[str, Any]]:
    """The changes that networks and data sets make to the recipe, by preset."""
    return {name: entry.recipe for name, entry in recipe_owners().items()}


def sources_of(
    method: str, attack_names: Sequence[str], network: str, dataset: str
) -> dict[str, Any]:
    """Where the code of a run came from, for its record's labels; null where it is not known.

    Attacks that are not known are left out. The data set is as the user wrote it.
    """

    def source(table: Mapping[str, Entry], name: str) -> dict[str, str] | None:
        return table[name].source.as_json() if name in table else None

    known = attacks()
    outside = _network_source(network) if is_outside(network) else None
    return {
        "method": source(defenses(), method),
        "attacks": {name: source(known, name) for name in attack_names if name in known},
        "model": outside.as_json() if outside else source(networks(), network),
        "dataset": source(datasets(), dataset.partition(":")[0].partition("@")[0]),
    }


def find_form(name: str) -> tuple[DefenseEntry, dict[str, Any]]:
    """A defense and the setting that makes a form of it: ``jpeg:10`` is ``{"quality": 10}``.

    Raises:
        UsageError: unknown, or no form of that defense.
    """
    method, colon, _ = name.partition(":")
    entry = find("a defense", defenses(), method)
    return entry, _form(name, entry.name, forms_of(entry.labels)) if colon else {}


def find_attack_form(
    name: str, kind: str = "an attack", others: Sequence[str] = ()
) -> tuple[AttackEntry, dict[str, Any]]:
    """An attack and the setting that makes a form of it.

    ``em:class`` is ``{"noise": "class"}``, and ``pgd:jpeg:10`` ``{"against": "jpeg:10"}``.

    Args:
        name: the attack, with what makes the form after a colon.
        kind: what is expected, for the message.
        others: names that stand beside those of attacks, for the message too.

    Raises:
        UsageError: unknown, or no form of that attack.
    """
    attack, colon, _ = name.partition(":")
    entry = find(kind, attacks(), attack, others)
    adaptive = {defense: {"against": defense} for defense in entry.against}
    forms = forms_of(entry.labels) | adaptive
    return entry, _form(name, entry.name, forms) if colon else {}


def _form(name: str, method: str, forms: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    word = name.partition(":")[2]
    if word not in forms:
        known = ", ".join(f"{method}:{form}" for form in forms)
        one = f"{method} or a form of it among {known}" if known else f"{method}, which has no form"
        raise UsageError(f"expected {one}; got {name}")
    return forms[word]


def form_label(name: str) -> str:
    """How tables call a defense or a form of it: ``jpeg:10`` is JPEG 10.

    Raises:
        UsageError: as :func:`find_form`.
    """
    entry, form = find_form(name)
    return label_of(entry.name, form.get)


def makes_form(method: str, name: str, value: Any) -> bool:
    """Whether a setting's value gives a defense a label of its own, as quality 10 does JPEG."""
    entry = defenses().get(method)
    return entry is not None and value in entry.labels.get(name, ())


def label_of(method: str, setting: Callable[[str], Any]) -> str:
    """A defense's name in figures, by its method and settings, each null where it lacks it."""
    entry = defenses().get(method)
    if entry is None:
        return method
    labels = [names[setting(key)] for key, names in entry.labels.items() if setting(key) in names]
    return labels[0] if labels else entry.title
