"""What an attack, a defense, a network or a data set says of itself: one dataclass a kind.

Ours are the rows of ``poisonbench.registry``, other people's come in by its door. No torch here: an
entry names the module that holds the algorithm, which is imported when it is used.
"""

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import KW_ONLY, dataclass, field, fields
from types import ModuleType
from typing import Any, ClassVar

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import Profiles, flag_of
from poisonbench.entry_needs import (
    CRAFT_OPTIONS,
    DEFEND_OPTIONS,
    METHOD,
    TARGET_OPTIONS,
    Needs,
    call_text,
    is_adaptive_config,
    is_attack_config,
    is_trigger_config,
    takes,
)
from poisonbench.targeting import SCENARIOS


@dataclass(frozen=True)
class Source:
    """The distribution or the file that an entry came from."""

    name: str
    #: Of a file its sha256.
    version: str
    #: Empty for a distribution.
    path: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version[:12]}".strip()

    def as_json(self) -> dict[str, str]:
        """The text that a record's labels have of it."""
        keys = ("file", "sha256") if self.path else ("distribution", "version")
        return dict(zip(keys, (self.name, self.version), strict=True))


@dataclass(frozen=True)
class Entry(ABC):
    """What all kinds share.

    Attributes:
        name: what the user types.
        summary: one line on what it does or is.
        when: one line on when to use it, and at what cost.
        label: what tables print; by default the name.
        module: what holds it; of a plug-in by default the module where the entry is.
        plug_in: where a plug-in came from, set by the registry; null for our own.

    Raises:
        UsageError: a name that no command could take, or fields that no entry has.
    """

    #: For messages, and of entry points.
    kind: ClassVar[str]
    group: ClassVar[str]

    name: str
    summary: str
    _: KW_ONLY
    when: str = ""
    label: str = ""
    module: str = ""
    plug_in: Source | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        word = self.name.replace("-", "").replace("_", "")
        # + : @ and . mean something on a command line.
        _require(
            word.isascii() and word.isalnum() and self.name != "mix",
            f"name: expected letters, digits and -, and not mix, got {self.name!r}",
        )
        _require(bool(self.summary), f"summary of {self.name}: expected a line, got none")
        for one in fields(self):
            value, where = getattr(self, one.name), f"{one.name} of {self.name}"
            if isinstance(one.default, tuple):
                # A text has its letters, and holds parts of itself.
                _require(
                    not isinstance(value, str),
                    f"{where}: expected a tuple, got {value!r}; write ({value!r},)",
                )
            if isinstance(one.default, bool):
                _require(isinstance(value, bool), f"{where}: expected True or False, got {value!r}")

    @property
    def title(self) -> str:
        """The label, or else the name."""
        return self.label or self.name

    @property
    def about(self) -> str:
        """The summary, and when to use it."""
        return f"{self.summary}; {self.when}" if self.when else self.summary

    @property
    def source(self) -> Source:
        """Where it came from."""
        from poisonbench import __version__

        return self.plug_in or Source("poisonbench", __version__)

    @abstractmethod
    def _needs(self) -> Needs:
        """What the module must hold."""

    @property
    def _taken(self) -> set[str]:
        """Names that no setting may have."""
        return set()

    def load(self) -> ModuleType:
        """Import the module.

        Raises:
            UsageError: a plug-in's cannot be imported, or lacks something.
        """
        if fault := self.fault():
            raise UsageError(unusable(self.kind, self.name, fault))
        return importlib.import_module(self.module)

    def fault(self) -> str:
        """Why a plug-in's module cannot be used; empty where it can."""
        try:
            with redirect_stdout(sys.stderr):
                module = importlib.import_module(self.module)
        except (Exception, SystemExit) as error:
            if self.plug_in is None:
                raise
            return broken(self.source, reason_of(error))
        for name, (what, fits) in self._needs().items():
            if not fits(value := getattr(module, name, None)):
                where = self.source.name if self.source.path else self.module
                got = call_text(value)
                return broken(self.source, f"expected {name} in {where}, {what}, got {got:.60}")
        settings = [field.name for field in fields(module.Config)] if self._taken else []
        if hidden := [flag_of(name) for name in settings if name in self._taken]:
            expected = "settings of other names than the command's options"
            return broken(self.source, f"expected {expected}, got {', '.join(hidden)}")
        return ""


def _require(condition: bool, message: str) -> None:
    """Raise UsageError(message) unless the condition holds."""
    if not condition:
        raise UsageError(message)


def forms_of(labels: Mapping[str, Mapping[Any, str]]) -> dict[str, dict[str, Any]]:
    """The setting that makes each form that has a label, by the word that names it."""
    return {str(value): {key: value} for key, names in labels.items() for value in names}


def _also(name: str, labels: Mapping[str, Mapping[Any, str]]) -> str:
    """The names of a method's forms, for what it is said to be; empty of none."""
    forms = ", ".join(f"{name}:{word}" for word in forms_of(labels))
    return f"also {forms}" if forms else ""


def profiles_of(method: ModuleType) -> Profiles:
    """A method's settings by profile and preset."""
    profiles: Profiles = getattr(method, "PROFILES", {"paper": {}})
    return profiles


def recipe_changes(method: ModuleType) -> Profiles:
    """What a method changes of the recipe by profile and preset."""
    changes: Profiles = getattr(method, "RECIPE_CHANGES", {})
    return changes


def unusable(kind: str, name: str, fault: str) -> str:
    """The message on the use of what has a fault."""
    return f"expected {kind} that can be used, got {name}: {fault}"


def broken(source: Source, reason: str) -> str:
    """The fault of a plug-in that breaks the contract."""
    return f"broken: {source}: {reason}; mend it or uninstall it"


def reason_of(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


@dataclass(frozen=True, kw_only=True)
class AttackEntry(Entry):
    """An attack; the module is described in :mod:`poisonbench.attacks.base`.

    Attributes:
        trains: whether it uses a surrogate, trained by the recipe, whose settings are then options.
        trains_itself: whether it trains the surrogate's network in a way of its own instead.
        scenario: how a targeted attack's victim is trained unless asked otherwise: scratch,
            transfer or finetune; empty for an untargeted attack.
        scenario_by_preset: other scenarios by preset, for data where that one takes too long.
        not_in: scenarios that a targeted attack has no form for, each with the reason.
        has_trigger: whether images with its trigger shall be given its target class; the module
            then also stamps test images. It is crafted for the share of the images that a run
            poisons.
        learns_trigger: whether its trigger is learned from the task, by the module's ``learn``.
        chooses_images: whether it chooses which images of its target class become poisons, by the
            module's ``choose``, where others get them drawn.
        keeps_labels: whether an attack with a trigger poisons images of its target class alone.
        rho: of one with a trigger, the share of the training images that become poisons unless
            asked otherwise; 0.1 is BackdoorBench's.
        norm: of its budget, in a word or two.
        cost: of a poison, in a few words.
        on_grey: what it does on grey images, in a few words, where that is not what it does on
            colour; it runs on both.
        against: defenses that it can be crafted against, by its setting of that name.
        labels: labels by the value of one setting, as ``{"noise": {"class": "EM, class-wise"}}``;
            of an attack without a target or trigger.
    """

    kind: ClassVar[str] = "an attack"
    group: ClassVar[str] = "poisonbench.attacks"
    oracle: ClassVar[bool] = False

    trains: bool = True
    trains_itself: bool = False
    scenario: str = ""
    scenario_by_preset: Mapping[str, str] = field(default_factory=dict)
    not_in: Mapping[str, str] = field(default_factory=dict)
    has_trigger: bool = False
    learns_trigger: bool = False
    chooses_images: bool = False
    keeps_labels: bool = False
    rho: float = 0.1
    norm: str = "linf"
    cost: str = ""
    on_grey: str = ""
    against: tuple[str, ...] = ()
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """What it does and is for, its norm and cost, on which images, and what it adapts to."""
        images = f"grey ({self.on_grey}) and colour" if self.on_grey else "grey and colour"
        adaptive = f"adaptive against {', '.join(self.against)}" if self.against else ""
        forms = _also(self.name, self.labels)
        parts = (super().about, f"norm {self.norm}", self.cost, images, forms, adaptive)
        return "; ".join(part for part in parts if part)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            not (self.scenario and self.has_trigger),
            f"scenario of {self.name}: expected a target or a trigger, got both",
        )
        _require(
            self.keeps_labels or not self.chooses_images,
            f"chooses_images of {self.name}: expected keeps_labels=True, got False",
        )
        _require(0 < self.rho <= 1, f"rho of {self.name}: expected in (0, 1], got {self.rho!r}")
        named = (self.scenario or "scratch", *self.scenario_by_preset.values(), *self.not_in)
        for scenario in named:
            _require(
                scenario in SCENARIOS,
                f"scenario of {self.name}: expected {', '.join(SCENARIOS)}, got {scenario!r}",
            )

    @property
    def _taken(self) -> set[str]:
        return CRAFT_OPTIONS | TARGET_OPTIONS if self.scenario else CRAFT_OPTIONS

    @property
    def has_network(self) -> bool:
        """Whether what it crafts depends on the surrogate's network."""
        return self.trains or self.trains_itself

    def _needs(self) -> Needs:
        needs: Needs = {
            **METHOD,
            "ADAPTIVE_VERSION": ("a whole number", lambda v: v is None or isinstance(v, int)),
            "Config": ("a frozen dataclass that derives from AttackConfig", is_attack_config),
            "craft": ("a function of a task and a Config", takes(2)),
        }
        stamps: dict[str, tuple[str, Callable[[Any], bool]]] = {
            "Config": ("a frozen dataclass that derives from TriggerConfig", is_trigger_config),
            "stamp": ("a function of images, a Config and a generator", takes(3)),
        }
        if self.learns_trigger:
            stamps["stamp"] = ("a function of images, a Config and a pattern", takes(3))
            stamps["learn"] = ("a function of a task and a Config", takes(2))
        if self.chooses_images:
            stamps["choose"] = ("a function of a task, a Config and a count", takes(3))
        adapts: Needs = {
            "Config": ("an attack's Config with a setting against", is_adaptive_config)
        }
        more: Needs = stamps if self.has_trigger else adapts if self.against else {}
        return {**needs, **more}


@dataclass(frozen=True, kw_only=True)
class DefenseEntry(Entry):
    """A defense; the module is described in :mod:`poisonbench.defenses.base`.

    Attributes:
        oracle: a control that is told which images are poisoned; no plug-in is one.
        norm: in which its own changes of training images are bounded, in a word or two; empty of
            one that bounds none.
        cost: what it costs beside plain training, in a few words; empty where that is not said.
        colour_only: whether it takes images of three channels alone, as it does nothing to others.
        pretrains: whether it acts in pretraining, which a victim trained from scratch lacks.
        labels: labels by the value of one setting, as ``{"norm": {"linf": "ATDA (Linf)"}}``.
    """

    kind: ClassVar[str] = "a defense"
    group: ClassVar[str] = "poisonbench.defenses"
    #: Every defense trains a classifier by the recipe.
    trains: ClassVar[bool] = True
    trains_itself: ClassVar[bool] = False
    has_network: ClassVar[bool] = True
    scenario: ClassVar[str] = ""

    oracle: bool = False
    norm: str = ""
    cost: str = ""
    colour_only: bool = False
    pretrains: bool = False
    labels: Mapping[str, Mapping[Any, str]] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """What it does, when to use it, its norm, what it costs and on which images it works."""
        norm = f"norm {self.norm}" if self.norm else ""
        cost = f"costs {self.cost}" if self.cost else ""
        images = "colour alone" if self.colour_only else "grey and colour"
        forms = _also(self.name, self.labels)
        return "; ".join(part for part in (super().about, norm, cost, images, forms) if part)

    @property
    def _taken(self) -> set[str]:
        return DEFEND_OPTIONS | TARGET_OPTIONS

    def check_images(self, image_shape: tuple[int, int, int]) -> None:
        """Refuse images (C, H, W) that it does nothing to.

        Raises:
            UsageError: one that takes colour alone, and images of another number of channels.
        """
        if self.colour_only and image_shape[0] != 3:
            raise UsageError(
                f"{self.name}: expected colour images, got images of {image_shape[0]} channel(s), "
                "which it would leave as they are: it does not apply there; take --method none, "
                "or colour images such as those of --preset colour"
            )

    def fault(self) -> str:
        """Why a plug-in cannot be used; empty where it can."""
        if self.plug_in is not None and self.oracle:
            reason = "expected oracle=False: no plug-in is told which are poisons"
            return broken(self.source, reason)
        return super().fault()

    def _needs(self) -> Needs:
        return {**METHOD, "build": ("a function of a Config and a Recipe", takes(2))}


@dataclass(frozen=True, kw_only=True)
class NetworkEntry(Entry):
    """A network: ``builder(channels, height, width)`` gives its layers and their features' number.

    The layers map (B, C, H, W) to (B, F); a linear head, normalisation and initial weights are
    added around them. ValueError from the builder says which images are too small.

    Attributes:
        builder: a function of the module.
        default_for: presets of the data that it is the default for.
        recipe: settings of the recipe that differ for it, on all data.
    """

    kind: ClassVar[str] = "a model"
    group: ClassVar[str] = "poisonbench.models"

    builder: str = "features"
    default_for: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def _needs(self) -> Needs:
        return {self.builder: ("a function of channels, height and width", takes(3))}


@dataclass(frozen=True, kw_only=True)
class DatasetEntry(Entry):
    """A data set: ``load(name, path, data_root)`` gives :class:`~poisonbench.data.splits.RawData`.

    Attributes:
        label: a data set without one is in no paper's table.
        takes_path: the name is a prefix, and what the user writes behind its colon is the path.
        path_word: what stands for that path in lists.
        takes_size: ``load`` takes a fourth argument, the width and height that images of several
            sizes are cut and scaled to, or None; images of other data sets are scaled when loaded.
        presets: whose settings fit it, most general first; by default mnist's for grey images and
            cifar10's for others.
        network: its default; by default that of the first preset.
        recipe: settings of the recipe that differ for it.
        can_fetch: the module also has ``fetch(name, data_root, say)``, which downloads it; a
            prefix's gets the whole name.
        paper_sizes: numbers of train and test images, where a paper uses it.
        parts_in_tables: sizes of parts, as in mnist-sample@1000, that tables show.
        part_label: what tables call such a part; by default the label and the size.
    """

    kind: ClassVar[str] = "a data set"
    group: ClassVar[str] = "poisonbench.datasets"

    takes_path: bool = False
    path_word: str = "PATH"
    takes_size: bool = False
    presets: tuple[str, ...] = ()
    network: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    can_fetch: bool = False
    paper_sizes: tuple[int, int] | None = None
    parts_in_tables: tuple[int, ...] = ()
    part_label: str = ""

    @property
    def pattern(self) -> str:
        """How it is written on a command line."""
        return f"{self.name}:{self.path_word}" if self.takes_path else self.name

    def _needs(self) -> Needs:
        needs: Needs = {"load": ("a function of name, path and data root", takes(3))}
        if self.takes_size:
            needs = {"load": ("a function of name, path, data root and size", takes(4))}
        fetch: Needs = {"fetch": ("a function of name, data root and say", takes(3))}
        return {**needs, **fetch} if self.can_fetch else needs


#: What has settings of its own and of the recipe.
MethodEntry = AttackEntry | DefenseEntry


def shown_name(name: str) -> str:
    """A data set's name in a line or a title: ``folder:logos`` of ``folder:/home/me/logos``."""
    kind, colon, path = name.partition(":")
    return f"{kind}{colon}{path.rstrip('/').rpartition('/')[2]}"
