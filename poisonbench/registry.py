"""The tables of attacks, defenses, networks and data sets: ours, and other people's.

Ours are the rows below. Other people's have the same entries and come from installed packages, a
file (``--plugin``) or Python (:func:`register`); nothing of theirs is imported before a table of
its kind is asked for. No torch here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.entries import (
    AttackEntry,
    DatasetEntry,
    DefenseEntry,
    Entry,
    MethodEntry,
    NetworkEntry,
    Source,
    unusable,
)
from poisonbench.plugins import entries_of_file, installed, module_of_file, source_of_file

EntryT = TypeVar("EntryT", bound=Entry)


def _ours(folder: str, *entries: EntryT) -> tuple[EntryT, ...]:
    """Our own entries; modules are named like them, methods' labels are names in capitals."""
    return tuple(
        replace(
            entry,
            module=f"poisonbench.{folder}.{entry.module or entry.name.replace('-', '_')}",
            label=entry.label or (entry.name.upper() if isinstance(entry, MethodEntry) else ""),
        )
        for entry in entries
    )


ATTACKS = _ours(
    "attacks",
    AttackEntry(
        "pgd",
        "climb the loss of the true label",
        when="untargeted, in the paper's mix",
        cost="minutes, 40 passes over the images",
        against=("jpeg", "grayscale", "epic", "friends", "hint"),
    ),
    AttackEntry(
        "dap",
        "descend towards the next class's label",
        when="untargeted, in the paper's mix",
        module="delusive_adversarial",
        cost="minutes, 100 passes over the images",
    ),
    AttackEntry(
        "durp",
        "one random perturbation a class",
        when="untargeted, in the paper's mix",
        module="delusive_universal",
        trains=False,
        cost="seconds",
    ),
    AttackEntry(
        "dc",
        "a generator trained to mislead classifiers in training",
        when="untargeted, in the paper's mix",
        module="deep_confuse",
        trains=False,
        cost="hours, minutes on the sample",
    ),
    AttackEntry(
        "lsp",
        "noise of large patches around a class's centre, which a linear model separates",
        when="untargeted: a shortcut, undone by filters that blur or re-encode",
        trains=False,
        norm="l2",
        cost="seconds",
    ),
    AttackEntry(
        "ar",
        "noise in which each pixel follows from its neighbours by the class's filter",
        when="untargeted: a shortcut that needs neither images nor a network",
        trains=False,
        norm="l2",
        cost="seconds",
    ),
    AttackEntry(
        "ops",
        "one pixel of a class's images in one colour",
        when="untargeted: a shortcut that adversarial training does not undo",
        trains=False,
        norm="l0",
        cost="seconds",
    ),
    AttackEntry(
        "cuda",
        "images blurred by their class's filter",
        when="untargeted: a shortcut that is no addition",
        trains=False,
        norm="convolution",
        cost="seconds",
    ),
    AttackEntry(
        "untargeted-noise",
        "control: random noise of the same size, of each image or of each class",
        when="untargeted: what an attack is judged by",
        label="Noise (untargeted)",
        trains=False,
        norm="linf or l2",
        cost="seconds",
    ),
    AttackEntry(
        "em",
        "noise that leaves nothing to learn: error-minimising, an image's own or a class's",
        module="error_minimising",
        trains=False,
        trains_itself=True,
        against=("jpeg", "grayscale", "friends", "hint"),
    ),
    AttackEntry(
        "rem",
        "robust error-minimising noise: it outlasts crops and adversarial training",
        module="robust_error_minimising",
        trains=False,
        trains_itself=True,
    ),
    AttackEntry(
        "tap",
        "targeted adversarial poisons: dap in many steps, restarts and crops",
        module="targeted_adversarial",
    ),
    AttackEntry(
        "gm",
        "poisons whose gradient is the target's with the wrong label",
        when="targeted, against victims trained from scratch",
        module="gradient_matching",
        scenario="scratch",
        cost="minutes to hours a target",
        not_in={"transfer": "leads the training of layers that are frozen there"},
        against=("jpeg", "grayscale", "epic", "friends", "hint"),
    ),
    AttackEntry(
        "bp",
        "poisons whose mean feature is the target's",
        when="targeted, against transferred or fine-tuned networks",
        module="bullseye_polytope",
        cost="minutes a target",
        scenario="transfer",
    ),
    AttackEntry(
        "fc",
        "poisons that look like the target to the network",
        when="targeted, against transferred or fine-tuned networks",
        module="feature_collision",
        cost="minutes a target",
        scenario="transfer",
    ),
    AttackEntry(
        "cp",
        "few poisons around the target's feature",
        when="targeted, against transferred or fine-tuned networks",
        module="convex_polytope",
        cost="minutes a target, several networks",
        scenario="transfer",
    ),
    AttackEntry(
        "mp",
        "MetaPoison: lead training steps towards the wrong class of the target",
        when="targeted, against fine-tuned networks, or from scratch with two dozen surrogates",
        module="metapoison",
        cost="minutes to hours a target",
        scenario="scratch",
        # From scratch it needs two dozen networks.
        scenario_by_preset={
            "mnist-sample@1000": "finetune",
            "cifar10@10000": "finetune",
            "quick": "finetune",
        },
        not_in={"transfer": "leads the training of layers that are frozen there"},
    ),
    AttackEntry(
        "badnets",
        "a white square in the corner: images with it are taken for one class",
        label="BadNets",
        trains=False,
        has_trigger=True,
    ),
    AttackEntry(
        "blended",
        "a faint pattern over the image: images with it are taken for one class",
        label="Blended",
        trains=False,
        has_trigger=True,
    ),
    AttackEntry(
        "narcissus",
        "a learned pattern, three times as strong in use: images with it are taken for one class",
        when="with labels that are right; give it a small --rho",
        cost="rounds passes over the poisons, after a surrogate",
        label="Narcissus",
        has_trigger=True,
        learns_trigger=True,
        keeps_labels=True,
    ),
    AttackEntry(
        "noise",
        "control: as many images with random noise of the same size",
        when="beside targeted attacks; untargeted-noise is the one beside the others",
        cost="seconds",
        label="Noise",
        module="random_noise",
        trains=False,
        scenario="scratch",
    ),
)

DEFENSES = _ours(
    "defenses",
    DefenseEntry(
        "none",
        "plain training: what every defense is held against",
        label="W/o Defense",
        cost="nothing more",
    ),
    DefenseEntry(
        "hint",
        "healthy noise on the most influential images",
        when="untargeted poisons, with trusted images",
        cost="some half as much again",
    ),
    DefenseEntry(
        "atda",
        "adversarial training, stopped early",
        label="ATDA (L2)",
        when="untargeted poisons",
        cost="several times as much, less where the search stops early",
        labels={"norm": {"linf": "ATDA (Linf)"}},
    ),
    DefenseEntry(
        "friends",
        "noise that leaves predictions alone, and random noise",
        when="targeted poisons, none trusted",
        cost="some 14 epochs, once",
    ),
    DefenseEntry(
        "epic",
        "drops examples that stand alone",
        when="few, targeted poisons",
        cost="next to nothing",
    ),
    DefenseEntry(
        "clean-only",
        "the oracle: exactly the poisons go, whose places it is told",
        label="Clean only (oracle)",
        when="a bound for filters",
        cost="nothing more",
        oracle=True,
    ),
    DefenseEntry(
        "knn",
        "drops examples whose neighbours have other labels",
        label="Deep k-NN",
        module="deep_knn",
        when="against few, targeted poisons",
        cost="twice as much",
    ),
    DefenseEntry(
        "l2",
        "drops a class's outliers",
        label="L2 centroid",
        module="l2_centroid",
        when="the cheapest look, when the share of poisons is known",
        cost="twice as much",
    ),
    DefenseEntry(
        "ocsvm",
        "drops the rim of a class's support",
        label="One-class SVM",
        module="one_class_svm",
        when="for comparison, l2 is better and cheaper",
        cost="twice as much",
    ),
    DefenseEntry(
        "random",
        "drops examples by lot",
        label="Random filter",
        module="random_filter",
        when="the control beside every filter",
        cost="nothing more",
    ),
    DefenseEntry(
        "spectral",
        "drops a class's extremes along its main direction",
        label="Spectral signatures",
        module="spectral_signatures",
        when="against backdoors",
        cost="twice as much",
    ),
    DefenseEntry(
        "activation-clustering",
        "splits a class in two and drops a small part",
        label="Activation clustering",
        when="against backdoors in much of a class",
        cost="twice as much",
    ),
    DefenseEntry(
        "robust-features",
        "pretrains adversarially",
        label="Robust features",
        when="when a network is transferred or fine-tuned",
        cost="six times as much in pretraining",
    ),
    DefenseEntry(
        "jpeg",
        "re-encodes the training images",
        when="try it first; at quality 10 against untargeted poisons in colour",
        cost="seconds",
        labels={"quality": {10: "JPEG 10"}},
    ),
    DefenseEntry(
        "grayscale",
        "takes the colours of the training images away",
        label="Grayscale",
        when="against untargeted poisons that lie in colours",
        cost="a second",
        colour_only=True,
    ),
    DefenseEntry(
        "bit-depth",
        "keeps the highest bits of the training images",
        label="Bit depth",
        when="against faint noise, for comparison: jpeg is better",
        cost="a second",
    ),
    DefenseEntry(
        "gaussian-blur",
        "blurs the training images",
        label="Gaussian blur",
        when="against noise of high frequency, for comparison: jpeg is better",
        cost="seconds",
    ),
    DefenseEntry(
        "orthogonal-projection",
        "takes out of the training images what a linear classifier sees",
        label="Orthogonal projection",
        when="against untargeted noise that each class has its own of",
        cost="seconds",
    ),
    DefenseEntry(
        "ueraser",
        "trains on the augmentation of the largest loss",
        label="UEraser",
        when="against untargeted poisons in colour, none trusted",
        cost="twice as much, as lite under twice, as max four times",
        labels={"form": {"lite": "UEraser-lite", "max": "UEraser-max"}},
    ),
    DefenseEntry(
        "at",
        "adversarial training at the largest loss, plain",
        label="Adversarial training",
        when="against untargeted poisons of small L-infinity norm",
        cost="eight times as much, half of that in the presets for a CPU",
    ),
    DefenseEntry(
        "bn-recalibrate",
        "takes batch norm's statistics from clean images, after plain training",
        label="BN recalibrated",
        when="with clean images that need no labels",
        cost="a second",
    ),
    DefenseEntry(
        "mixup",
        "trains on blends of pairs of images",
        label="mixup",
        when="also against unknown poisons",
        cost="nothing more",
    ),
    DefenseEntry(
        "cutmix",
        "trains on images with a patch of another",
        label="CutMix",
        when="for images with detail",
        cost="nothing more",
    ),
)

NETWORKS = _ours(
    "models",
    NetworkEntry(
        "mnist-cnn",
        "The HINT paper's MNIST network: two convolutions with batch norm and one linear layer",
        default_for=("mnist",),
    ),
    NetworkEntry(
        "mnist-cnn-small",
        "The same in a quarter of the width: 10 and 25 filters",
        module="mnist_cnn",
        builder="small_features",
    ),
    NetworkEntry(
        "cifar-resnet18",
        "ResNet-18 for 32 x 32 images, as the CIFAR-10 papers use it",
        default_for=("cifar10",),
    ),
    NetworkEntry(
        "cifar-alexnet",
        "The AlexNet-like network for CIFAR-10 that feature collision is run against end to end",
        # Without batch norm a rate of 0.1 diverges; a tenth is that of Witches' Brew's code.
        recipe={"learning_rate": 0.01},
    ),
    NetworkEntry(
        "cifar-small",
        "Six convolutions in three stages for 32 x 32 images, trained on a CPU in minutes",
        default_for=("cifar10@10000",),
        # On 10,000 images 83 % of the validation images; label smoothing of 0.1 gave 82 and is
        # left out. Nothing else was tried.
        recipe={
            "epochs": 18,
            "batch_size": 100,
            "learning_rate": 0.2,
            "milestones": (),
            "rate_schedule": "one-cycle",
        },
    ),
)

DATASETS = _ours(
    "data",
    DatasetEntry(
        "mnist",
        "handwritten digits: 59,000 train, 1,000 validation, 10,000 test, 1x28x28",
        label="MNIST",
        module="standard",
        presets=("mnist",),
        can_fetch=True,
        paper_sizes=(60_000, 10_000),
    ),
    DatasetEntry(
        "cifar10",
        "small photographs: 49,000 train, 1,000 validation, 10,000 test, 3x32x32",
        label="CIFAR-10",
        module="standard",
        presets=("cifar10",),
        can_fetch=True,
        paper_sizes=(50_000, 10_000),
        parts_in_tables=(10_000,),
        part_label="CIFAR-10, small network: not the paper's",
    ),
    DatasetEntry(
        "fashion-mnist",
        "clothes: 59,000 train, 1,000 validation, 10,000 test, 1x28x28",
        module="standard",
        presets=("mnist",),
        can_fetch=True,
    ),
    DatasetEntry(
        "mnist-sample",
        "part of mnist, comes with the package: 10,000 train, 1,000 validation, 2,000 test",
        label="MNIST sample (not the paper's data)",
        module="sample",
        presets=("mnist", "mnist-sample"),
        can_fetch=True,
        parts_in_tables=(1000,),
    ),
    DatasetEntry(
        "cifar100",
        "small photographs in 100 classes: 49,000 train, 1,000 validation, 10,000 test, 3x32x32",
        presets=("cifar10",),
        can_fetch=True,
    ),
    DatasetEntry(
        "svhn",
        "digits of house numbers: 72,257 train, 1,000 validation, 26,032 test, 3x32x32",
        presets=("cifar10",),
        can_fetch=True,
    ),
    DatasetEntry(
        "gtsrb",
        "traffic signs in 43 classes: 25,640 train, 1,000 validation, 12,630 test, as 3x32x32",
        presets=("cifar10",),
        takes_size=True,
        can_fetch=True,
    ),
    DatasetEntry(
        "stl10",
        "photographs: 4,500 train, 500 validation, 8,000 test, 3x96x96",
        presets=("cifar10",),
        can_fetch=True,
    ),
    DatasetEntry(
        "tiny-imagenet",
        "photographs in 200 classes: 99,000 train, 1,000 validation, 10,000 test, 3x64x64",
        module="tiny_imagenet",
        presets=("cifar10",),
        takes_size=True,
        can_fetch=True,
    ),
    DatasetEntry(
        "npz",
        "one .npz file with x_train, y_train, x_test, y_test (uint8 images, integer labels)",
        module="arrays",
        takes_path=True,
    ),
    DatasetEntry(
        "folder",
        "a folder with train/CLASS/*.png and test/CLASS/*.png (also jpg, jpeg, bmp, webp)",
        module="image_folders",
        takes_path=True,
        takes_size=True,
    ),
    DatasetEntry(
        "torchvision",
        "a classification set of torchvision, such as torchvision:KMNIST or torchvision:EuroSAT",
        module="torchvision_sets",
        takes_path=True,
        path_word="NAME",
        takes_size=True,
        can_fetch=True,
    ),
    DatasetEntry(
        "hf",
        "a Hugging Face data set: parquet files or save_to_disk here, or OWNER/NAME of the hub; "
        "pip install 'poisonbench[hf]'",
        module="hugging_face",
        takes_path=True,
        takes_size=True,
        can_fetch=True,
    ),
)

#: The untargeted attacks that the paper's mix is made of.
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
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


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
        ours = (*ATTACKS, *DEFENSES, *NETWORKS, *DATASETS)
        super().__init__({entry.name: entry for entry in ours if isinstance(entry, kind)})
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
    if not isinstance(plug_in, Entry):
        entries = entries_of_file(Path(plug_in))
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
        if taken is not None and taken.source.name != entry.source.name:
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


def _clash(first: Source, second: Source) -> str:
    return f"both {first} and {second} have one of that name; uninstall or rename one of them"


def recipe_presets() -> dict[str, Mapping[str, Any]]:
    """The changes that networks and data sets make to the recipe, by preset."""
    entries: list[DatasetEntry | NetworkEntry] = [*datasets().values(), *networks().values()]
    return {entry.name: entry.recipe for entry in entries if entry.recipe}


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


def label_of(method: str, setting: Callable[[str], Any]) -> str:
    """A defense's name in figures, by its method and settings, each null where it lacks it."""
    entry = defenses().get(method)
    if entry is None:
        return method
    labels = [names[setting(key)] for key, names in entry.labels.items() if setting(key) in names]
    return labels[0] if labels else entry.title
