"""The tables of attacks, defenses, networks and data sets: ours, and other people's.

Ours are the rows below. Other people's have the same entries and come from installed packages, a
file (``--plugin``) or Python (:func:`register`); nothing of theirs is imported before a table of
its kind is asked for. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.entries import (
    AttackEntry,
    DatasetEntry,
    DefenseEntry,
    Entry,
    NetworkEntry,
    Source,
    unusable,
)
from poisonbench.plugins import entries_of_file, installed, oracle_fault, source_of_file

EntryT = TypeVar("EntryT", bound=Entry)

ATTACKS = (
    AttackEntry(
        "pgd", "climb the loss of the true label", label="PGD", module="poisonbench.attacks.pgd"
    ),
    AttackEntry(
        "dap",
        "descend towards the next class's label",
        label="DAP",
        module="poisonbench.attacks.delusive_adversarial",
    ),
    AttackEntry(
        "durp",
        "one random perturbation a class",
        label="DURP",
        module="poisonbench.attacks.delusive_universal",
        trains=False,
    ),
    AttackEntry(
        "dc",
        "a generator trained to mislead classifiers in training",
        label="DC",
        module="poisonbench.attacks.deep_confuse",
        trains=False,
    ),
    AttackEntry(
        "gm",
        "poisons whose gradient is the target's with the wrong label",
        label="GM",
        module="poisonbench.attacks.gradient_matching",
        scenario="scratch",
        not_in={"transfer": "leads the training of layers that are frozen there"},
    ),
    AttackEntry(
        "bp",
        "poisons whose mean feature is the target's",
        label="BP",
        module="poisonbench.attacks.bullseye_polytope",
        scenario="transfer",
    ),
    AttackEntry(
        "fc",
        "poisons that look like the target to the network",
        label="FC",
        module="poisonbench.attacks.feature_collision",
        scenario="transfer",
    ),
    AttackEntry(
        "cp",
        "few poisons around the target's feature",
        label="CP",
        module="poisonbench.attacks.convex_polytope",
        scenario="transfer",
    ),
    AttackEntry(
        "mp",
        "MetaPoison: lead training steps towards the wrong class of the target",
        label="MP",
        module="poisonbench.attacks.metapoison",
        scenario="scratch",
        # From scratch it needs two dozen networks.
        scenario_by_preset={"mnist-sample@1000": "finetune"},
        not_in={"transfer": "leads the training of layers that are frozen there"},
    ),
    AttackEntry(
        "noise",
        "control: as many images with random noise of the same size",
        label="Noise",
        module="poisonbench.attacks.random_noise",
        trains=False,
        scenario="scratch",
    ),
)

DEFENSES = (
    DefenseEntry(
        "none",
        "plain training: what every defense is held against",
        label="W/o Defense",
        module="poisonbench.defenses.none",
    ),
    DefenseEntry(
        "hint",
        "healthy noise on the most influential images",
        label="HINT",
        module="poisonbench.defenses.hint",
        when="untargeted poisons, with trusted images",
    ),
    DefenseEntry(
        "atda",
        "adversarial training, stopped early",
        label="ATDA (L2)",
        module="poisonbench.defenses.atda",
        when="untargeted poisons, at several times the cost",
        labels={"norm": {"linf": "ATDA (Linf)"}},
    ),
    DefenseEntry(
        "friends",
        "noise that leaves predictions alone, and random noise",
        label="FRIENDS",
        module="poisonbench.defenses.friends",
        when="targeted poisons, none trusted",
    ),
    DefenseEntry(
        "epic",
        "drops examples that stand alone",
        label="EPIC",
        module="poisonbench.defenses.epic",
        when="few, targeted poisons, nearly free",
    ),
    DefenseEntry(
        "clean-only",
        "the oracle: exactly the poisons go, whose places it is told",
        label="Clean only (oracle)",
        module="poisonbench.defenses.clean_only",
        when="a bound for filters",
        oracle=True,
    ),
    DefenseEntry(
        "knn",
        "drops examples whose neighbours have other labels",
        label="Deep k-NN",
        module="poisonbench.defenses.deep_knn",
        when="against few, targeted poisons",
    ),
    DefenseEntry(
        "l2",
        "drops a class's outliers",
        label="L2 centroid",
        module="poisonbench.defenses.l2_centroid",
        when="the cheapest look, when the share of poisons is known",
    ),
    DefenseEntry(
        "ocsvm",
        "drops the rim of a class's support",
        label="One-class SVM",
        module="poisonbench.defenses.one_class_svm",
        when="for comparison, l2 is better and cheaper",
    ),
    DefenseEntry(
        "random",
        "drops examples by lot",
        label="Random filter",
        module="poisonbench.defenses.random_filter",
        when="the control beside every filter",
    ),
    DefenseEntry(
        "spectral",
        "drops a class's extremes along its main direction",
        label="Spectral signatures",
        module="poisonbench.defenses.spectral_signatures",
        when="against backdoors",
    ),
    DefenseEntry(
        "activation-clustering",
        "splits a class in two and drops a small part",
        label="Activation clustering",
        module="poisonbench.defenses.activation_clustering",
        when="against backdoors in much of a class",
    ),
    DefenseEntry(
        "robust-features",
        "pretrains adversarially",
        label="Robust features",
        module="poisonbench.defenses.robust_features",
        when="when a network is transferred or fine-tuned",
    ),
    DefenseEntry(
        "jpeg",
        "re-encodes the training images",
        label="JPEG",
        module="poisonbench.defenses.jpeg",
        when="costs seconds, so try it first",
    ),
    DefenseEntry(
        "bn-recalibrate",
        "takes batch norm's statistics from clean images, after plain training",
        label="BN recalibrated",
        module="poisonbench.defenses.bn_recalibrate",
        when="costs a second, with clean images that need no labels",
    ),
    DefenseEntry(
        "mixup",
        "trains on blends of pairs of images",
        label="mixup",
        module="poisonbench.defenses.mixup",
        when="costs nothing, also against unknown poisons",
    ),
    DefenseEntry(
        "cutmix",
        "trains on images with a patch of another",
        label="CutMix",
        module="poisonbench.defenses.cutmix",
        when="costs nothing, for images with detail",
    ),
)

NETWORKS = (
    NetworkEntry(
        "mnist-cnn",
        "The HINT paper's MNIST network: two convolutions with batch norm and one linear layer",
        module="poisonbench.models.mnist_cnn",
        default_for=("mnist",),
    ),
    NetworkEntry(
        "cifar-resnet18",
        "ResNet-18 for 32 x 32 images, as the CIFAR-10 papers use it",
        module="poisonbench.models.cifar_resnet18",
        default_for=("cifar10",),
    ),
    NetworkEntry(
        "cifar-alexnet",
        "The AlexNet-like network for CIFAR-10 that feature collision is run against end to end",
        module="poisonbench.models.cifar_alexnet",
        # Without batch norm a rate of 0.1 diverges; a tenth is that of Witches' Brew's code.
        recipe={"learning_rate": 0.01},
    ),
)

DATASETS = (
    DatasetEntry(
        "mnist",
        "handwritten digits: 59,000 train, 1,000 validation, 10,000 test, 1x28x28",
        label="MNIST",
        module="poisonbench.data.standard",
        presets=("mnist",),
        can_fetch=True,
        paper_sizes=(60_000, 10_000),
    ),
    DatasetEntry(
        "cifar10",
        "small photographs: 49,000 train, 1,000 validation, 10,000 test, 3x32x32",
        label="CIFAR-10",
        module="poisonbench.data.standard",
        presets=("cifar10",),
        can_fetch=True,
        paper_sizes=(50_000, 10_000),
    ),
    DatasetEntry(
        "fashion-mnist",
        "clothes: 59,000 train, 1,000 validation, 10,000 test, 1x28x28",
        module="poisonbench.data.standard",
        presets=("mnist",),
        can_fetch=True,
    ),
    DatasetEntry(
        "mnist-sample",
        "part of mnist, comes with the package: 10,000 train, 1,000 validation, 2,000 test",
        label="MNIST sample (not the paper's data)",
        module="poisonbench.data.sample",
        presets=("mnist", "mnist-sample"),
        can_fetch=True,
        parts_in_tables=(1000,),
    ),
    DatasetEntry(
        "npz",
        "one .npz file with x_train, y_train, x_test, y_test (uint8 images, integer labels)",
        module="poisonbench.data.arrays",
        takes_path=True,
    ),
    DatasetEntry(
        "folder",
        "a folder with train/CLASS/*.png and test/CLASS/*.png (also jpg, jpeg, bmp, webp)",
        module="poisonbench.data.image_folders",
        takes_path=True,
    ),
)

#: The untargeted attacks that the paper's mix is made of.
MIX = ("pgd", "dap", "durp", "dc")


@dataclass(frozen=True)
class Mix:
    """A reading of the paper's mix: it does not say what DURP draws.

    Attributes:
        reading: in a few words, for titles.
        attacks: in equal shares.
        settings: by attack, what differs from its own.
    """

    reading: str
    attacks: tuple[str, ...] = MIX
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


#: By what ``--attack`` calls them; the first is DURP as its reference draws.
MIXES = {
    "mix": Mix("uniform DURP"),
    "mix-sign": Mix("DURP of signs", settings={"durp": {"distribution": "sign"}}),
    "mix-gaussian": Mix("Gaussian DURP", settings={"durp": {"distribution": "gaussian"}}),
    "mix-no-durp": Mix("no DURP", attacks=("pgd", "dap", "dc")),
}

#: Entries that a file or a program has brought.
_registered: list[Entry] = []


class Table(dict[str, EntryT]):
    """Entries of one kind by name.

    Attributes:
        faults: by name, why what has the name cannot be used.
    """

    def __init__(self, kind: type[EntryT], built_in: Sequence[EntryT]) -> None:
        super().__init__({entry.name: entry for entry in built_in})
        self.faults: dict[str, str] = {}
        for name, source, entry in installed(kind):  # type: ignore[arg-type]
            if name in self:
                self.faults[name] = _clash(self[name].source, source)
            elif isinstance(entry, str):
                self.faults[name] = entry
            else:
                self[name] = entry
        self.update({entry.name: entry for entry in _registered if isinstance(entry, kind)})


def attacks() -> dict[str, AttackEntry]:
    """All attacks by name, plug-ins included."""
    return Table(AttackEntry, ATTACKS)


def defenses() -> dict[str, DefenseEntry]:
    """All defenses by name, plug-ins included."""
    return Table(DefenseEntry, DEFENSES)


def networks() -> dict[str, NetworkEntry]:
    """All networks by name, plug-ins included."""
    return Table(NetworkEntry, NETWORKS)


def datasets() -> dict[str, DatasetEntry]:
    """All data sets by name, plug-ins included; ``npz`` and ``folder`` are prefixes."""
    return Table(DatasetEntry, DATASETS)


_TABLES: dict[type[Entry], Callable[[], Mapping[str, Entry]]] = {
    AttackEntry: attacks,
    DefenseEntry: defenses,
    NetworkEntry: networks,
    DatasetEntry: datasets,
}


def find(kind: str, table: Mapping[str, EntryT], name: str) -> EntryT:
    """The entry of that name.

    Raises:
        UsageError: unknown, where the message lists the known ones, or not to be used.
    """
    if fault := faults(table).get(name):
        raise UsageError(unusable(kind, name, fault))
    if name not in table:
        raise UsageError(
            f"expected {kind} among {', '.join(table)}, got {name!r}"
            f"{did_you_mean(name, table) or '; one of your own comes with --plugin FILE'}"
        )
    return table[name]


def faults(table: Mapping[str, Entry]) -> dict[str, str]:
    """By name, why what has the name cannot be used."""
    return table.faults if isinstance(table, Table) else {}


def register(plug_in: Entry | str | Path) -> None:
    """Make an attack, a defense, a network or a data set known to this process.

    Args:
        plug_in: an entry that names its ``module``, or a Python file that holds entries.

    Raises:
        UsageError: the name is taken, or a file or module cannot be imported or lacks something.
    """
    if not isinstance(plug_in, Entry):
        for entry in entries_of_file(Path(plug_in)):
            _add(entry)
        return
    if not plug_in.module:
        raise UsageError(
            f"expected an entry with its module, such as module=__name__, got {plug_in.name} "
            "without one"
        )
    entry = replace(plug_in, plug_in=Source(plug_in.module, "", plug_in.module))
    path = getattr(entry.load(), "__file__", None)
    _add(replace(entry, plug_in=source_of_file(Path(path))) if path else entry)


def _add(entry: Entry) -> None:
    table = _TABLES[type(entry)]()
    taken = table.get(entry.name)
    fault = faults(table).get(entry.name) or oracle_fault(entry)
    if taken is not None and taken.source.name != entry.source.name:
        fault = _clash(taken.source, entry.source)
    if fault := fault or entry.fault():
        raise UsageError(unusable(entry.kind, entry.name, fault))
    # The same file again, perhaps edited, takes its own place.
    _registered[:] = [*(other for other in _registered if other is not taken), entry]


def remember() -> Callable[[], None]:
    """A function that forgets what is registered from now on."""
    before = list(_registered)

    def forget() -> None:
        _registered[:] = before

    return forget


def plugin_files() -> dict[str, str]:
    """By absolute path, the sha256 of each file that has brought an entry."""
    return {entry.source.path: entry.source.version for entry in _registered}


def _clash(first: Source, second: Source) -> str:
    return f"both {first} and {second} have one of that name; uninstall or rename one of them"


def recipe_presets() -> dict[str, Mapping[str, Any]]:
    """By preset, what networks and data sets change of the recipe."""
    presets = {entry.name: entry.recipe for entry in datasets().values() if entry.recipe}
    return presets | {entry.name: entry.recipe for entry in networks().values() if entry.recipe}


def sources_of(
    method: str, attack_names: Sequence[str], network: str, dataset: str
) -> dict[str, Any]:
    """Where the code of a run came from, for its record's labels; null where it is not known.

    Args:
        method: the defense.
        attack_names: what made its poison; unknown ones are left out.
        network: its network.
        dataset: the data set as the user wrote it.
    """

    def source(table: Mapping[str, Entry], name: str) -> dict[str, str] | None:
        return table[name].source.as_json() if name in table else None

    known = attacks()
    return {
        "method": source(defenses(), method),
        "attacks": {name: source(known, name) for name in attack_names if name in known},
        "model": source(networks(), network),
        "dataset": source(datasets(), dataset.partition(":")[0].partition("@")[0]),
    }


def label_of(method: str, config: Mapping[str, Any]) -> str:
    """How figures name a run's defense, by its method and settings."""
    entry = defenses().get(method)
    if entry is None:
        return method
    labels = [names[config[key]] for key, names in entry.labels.items() if config.get(key) in names]
    return labels[0] if labels else entry.title
