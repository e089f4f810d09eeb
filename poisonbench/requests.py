"""What to craft and what to run, as values that api, cli, tables and sweep share. No torch here.

Words of a command line become a request in one place (:mod:`poisonbench.cli.request_words`) and a
request becomes words in one place (:func:`to_words`); in between, a float is a float.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import number_text, options_of, value_text
from poisonbench.entries import AttackEntry
from poisonbench.registry import MIX, MIXES, Mix, attacks, find_attack_form, find_form
from poisonbench.targeting import Targeting

#: A setting's value; text never stands for a number.
Value: TypeAlias = bool | int | float | str | tuple[int | float | str, ...] | None
Values: TypeAlias = Mapping[str, Value]

#: How poisoned images are drawn.
Sampling: TypeAlias = Literal["stratified", "uniform"]

#: The embedded data set, which needs no download.
DEFAULT_DATASET = "mnist-sample"

#: What a targeted poison has settings of; rho is an option of its own.
TARGETING = tuple(option.name for option in options_of(Targeting) if option.name != "rho")

#: Poisoned share of the training images in the HINT paper's sensitivity study (its Table IV).
DEFAULT_RHO = 0.6


@dataclass(frozen=True, kw_only=True)
class PoisonRequest:
    """What a poison is made of, or which artefact it is.

    Attributes:
        attacks: names in the order of their shares; none with a path, and none of clean data.
        path: an artefact to use as it is.
        rho: share of the training images that are poisoned; 0 trains on clean data. None is a
            targeted attack's own, an attack's with a trigger, and of untargeted ones every image to
            craft and 0.6 to train on.
        selection: how the shares of attacks without a target are drawn.
        trial: which draw of everything random. Of a run it is an untargeted poison's, by default
            the same for all trials, so that their spread is the training's; a targeted poison is
            the run's own trial's.
        profile: the attacks'.
        surrogate: the network that attacks train to craft on; None is the victim's.
        targeting: settings of :class:`~poisonbench.targeting.Targeting`, but for rho.
        settings: by attack, its own and those of its surrogate's recipe.
    """

    attacks: tuple[str, ...] = MIX
    path: Path | None = None
    rho: float | None = None
    selection: Sampling = "stratified"
    trial: int = 0
    profile: str = "paper"
    surrogate: str | None = None
    targeting: Values = field(default_factory=dict, hash=False)
    settings: Mapping[str, Values] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        of_crafting = {
            "--rho": self.rho is not None,
            "--selection": self.selection != "stratified",
            "--poison-trial": self.trial != 0,
        }
        given = [flag for flag, is_given in of_crafting.items() if is_given]
        if given and not self.attacks:
            source = "--clean" if self.path is None else "--poison"
            them = "it" if len(given) == 1 else "them"
            raise UsageError(
                f"expected {', '.join(given)} with --attack, got {them} with {source}; "
                f"leave {them} out"
            )
        check_count("--trial", self.trial)

    @property
    def text(self) -> str:
        """The poison as its option names it: ``pgd+dap``, a path or --clean."""
        return "+".join(self.attacks) or str(self.path or "--clean")

    @property
    def targeted(self) -> AttackEntry | None:
        """The attack when it is a targeted one; an artefact's is not known before it is read."""
        entry = attacks()[self.attacks[0]] if len(self.attacks) == 1 else None
        return entry if entry is not None and entry.scenario else None

    @property
    def has_trigger(self) -> bool:
        """Whether the attack has a trigger; an artefact's is not known before it is read."""
        return len(self.attacks) == 1 and attacks()[self.attacks[0]].has_trigger

    @property
    def trigger_rho(self) -> float:
        """The share of the images that an attack with a trigger gets where none is asked for."""
        return attacks()[self.attacks[0]].rho if self.rho is None else float(self.rho)

    def pools(self) -> dict[str, PoisonRequest]:
        """What is crafted at length, by attack: the poison of every image, or a targeted one.

        One with a trigger is of a share of the images.
        """
        is_share = self.has_trigger
        if self.targeted is not None:
            return {self.attacks[0]: self}
        return {
            name: PoisonRequest(
                attacks=(name,),
                trial=self.trial,
                profile=self.profile,
                surrogate=self.surrogate if attacks()[name].has_network else None,
                settings={name: values} if (values := self.settings.get(name)) else {},
                rho=self.rho if is_share else None,
                selection=self.selection if is_share else "stratified",
            )
            for name in self.attacks
        }


@dataclass(frozen=True, kw_only=True)
class CraftRequest:
    """A poison to craft; it is never a path or clean data."""

    dataset: str = DEFAULT_DATASET
    poison: PoisonRequest = field(default_factory=PoisonRequest)
    seed: int = 0

    def __post_init__(self) -> None:
        _check_rho(self.poison.rho, "(0, 1]", is_valid=self.poison.rho != 0)
        check_count("--seed", self.seed)

    def at(self, trial: int) -> CraftRequest:
        """The same of another trial."""
        return replace(self, poison=replace(self.poison, trial=trial))


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A classifier to train under a defense.

    Attributes:
        settings: the defense's own and those of the training recipe.
        model: the network; None is the paper's for this kind of data.
        trial: seeds initial weights, batches and augmentation, the same for every defense.
        save_model: keep the trained weights; no result depends on it.
    """

    method: str
    dataset: str = DEFAULT_DATASET
    poison: PoisonRequest = field(default_factory=PoisonRequest)
    profile: str = "paper"
    settings: Values = field(default_factory=dict, hash=False)
    model: str | None = None
    seed: int = 0
    trial: int = 0
    save_model: bool = False

    def __post_init__(self) -> None:
        _check_rho(self.poison.rho, "[0, 1]")
        check_count("--trial", self.trial)
        check_count("--seed", self.seed)

    def at(self, trial: int) -> RunRequest:
        """The same of another trial."""
        return replace(self, trial=trial)

    @property
    def crafted(self) -> PoisonRequest:
        """The poison as it is to be crafted: its surrogate's network, and the trial if targeted.

        The surrogate has the victim's network, and that network's recipe. Options of the recipe
        that a run is given are its victim's alone: the runs of a table that differ in them share
        one poison. A surrogate's own are among the attack's settings.
        """
        poison = replace(self.poison, surrogate=self.poison.surrogate or self.model)
        return poison if poison.targeted is None else replace(poison, trial=self.trial)


Request: TypeAlias = CraftRequest | RunRequest

#: What an option's text may be where it is left out.
_DEFAULTS = (None, "paper", "stratified")

#: The requests by their command.
KINDS: dict[str, type[Any]] = {"craft": CraftRequest, "defend": RunRequest}


def read_mix(text: str) -> Mix:
    """A mix by its name, or of the attacks, or forms of them, whose names are joined by ``+``.

    Raises:
        UsageError: an unknown or repeated name, or no form of its attack.
    """
    if text.lower() in MIXES:
        return MIXES[text.lower()]
    if "," in text:
        meant = "+".join(part.strip() for part in text.lower().split(","))
        raise UsageError(
            f"--attack: expected names joined by +, got {text!r}; did you mean {meant!r}?"
        )
    if (mixed := text.partition(":")[0].lower()) in MIXES:
        raise UsageError(f"--attack: expected {mixed}, which has no form; got {text}")
    table = attacks()
    # A mix stands alone.
    kind, mixes = ("an attack", ()) if "+" in text else ("an attack (or mix)", tuple(MIXES))
    forms = [find_attack_form(name, kind, mixes) for name in text.split("+")]
    names = tuple(entry.name for entry, _ in forms)
    if len(set(names)) < len(names):
        raise UsageError(f"--attack: expected each attack once, got {text!r}")
    if len(names) > 1 and (targeted := [name for name in names if table[name].scenario]):
        raise UsageError(
            f"--attack: expected untargeted attacks to mix, got {targeted[0]}; "
            "a targeted attack goes alone"
        )
    if len(names) > 1 and (triggered := [name for name in names if table[name].has_trigger]):
        raise UsageError(
            f"--attack: expected untargeted attacks to mix, got {triggered[0]}; "
            "an attack with a trigger goes alone"
        )
    return Mix(attacks=names, settings={entry.name: form for entry, form in forms if form})


def read_method(text: str, values: Values) -> tuple[str, Values]:
    """A defense's name, and the given settings with those of the form that ``jpeg:10`` names.

    Raises:
        UsageError: unknown, or a setting that contradicts the form.
    """
    entry, form = find_form(text)
    _check_form(text, form, values, "")
    return entry.name, {**values, **form}


def _check_form(text: str, form: Values, values: Values, prefix: str) -> None:
    """Raise UsageError if a setting, by its option's name, has another value in the form."""
    for key, value in form.items():
        given = values.get(name := prefix + key, value)
        if given != value:
            flag, meant = "--" + name.replace("_", "-"), value_text(value)
            raise UsageError(f"expected {flag} {meant} with {text}, got {value_text(given)}")


def poison_request(
    mix: Mix | None, values: Values, *, to_craft: bool = False, **fields: Any
) -> tuple[Values, PoisonRequest]:
    """A method's own settings among flat ones, and the poison that is made of a mix.

    The mix is None of an artefact or clean data; ``fields`` are further ones of the poison. See
    :func:`split_values`.
    """
    mix = mix or Mix(attacks=())
    if not mix.name:
        # A form says its value; what a mix says is a default.
        prefixes = ("", "{}.") if to_craft and len(mix.attacks) == 1 else ("{}.",)
        for name, form in mix.settings.items():
            text = f"{name}:{' '.join(map(value_text, form.values()))}"
            for prefix in prefixes:
                _check_form(text, form, values, prefix.format(name))
    poison = PoisonRequest(attacks=mix.attacks, settings=mix.settings, **fields)
    return split_values(values, poison, to_craft=to_craft)


def figure_poison(attack: str | None, rho: float | None) -> PoisonRequest:
    """The poison that a figure shows: the mix by default, in the share that a run has of it."""
    _, poison = poison_request(read_mix(attack or "mix"), {}, rho=rho)
    if rho is None and poison.targeted is None and not poison.has_trigger:
        return replace(poison, rho=DEFAULT_RHO)
    return poison


def split_values(
    values: Values, poison: PoisonRequest, *, to_craft: bool = False
) -> tuple[Values, PoisonRequest]:
    """A method's own settings among flat ones, and the poison with those that are its.

    ``dc.rounds`` is the setting ``rounds`` of the attack dc, ``scenario`` one of the targeting.

    Args:
        values: by option name.
        poison: its attacks.
        to_craft: the method is the attack; of several, each setting needs its attack's name.

    Raises:
        UsageError: a setting of an attack that the poison is not made of.
    """
    own: dict[str, Value] = {}
    targeting = dict(poison.targeting)
    of_attacks = {name: dict(poison.settings.get(name, {})) for name in poison.attacks}
    for key, value in values.items():
        owner, dot, name = key.partition(".")
        if key in TARGETING and not (to_craft and poison.targeted is None):
            targeting[key] = value
        elif dot and owner in of_attacks:
            of_attacks[owner][name] = value
        elif to_craft and len(poison.attacks) == 1:
            of_attacks[poison.attacks[0]][key] = value
        elif to_craft or dot:
            raise UsageError(not_of(poison.attacks, key))
        else:
            own[key] = value
    settings = {name: of_one for name, of_one in of_attacks.items() if of_one}
    return own, replace(poison, targeting=targeting, settings=settings)


def not_of(names: Sequence[str], key: str) -> str:
    """The message for a setting that names none of a poison's attacks."""
    option = key.rpartition(".")[2].replace("_", "-")
    if not names:
        return f"expected --{key.replace('_', '-')} with an attack, got none; leave it out"
    return (
        f"expected an option with the name of one of the attacks {', '.join(names)}, such as "
        f"--{names[-1]}.{option}, got --{key.replace('_', '-')}"
    )


def to_words(request: Request) -> list[str]:
    """The command line after ``poisonbench`` that means this request.

    What has its default is left out, save the data set and the trial.
    """
    poison, trial = request.poison, request.poison.trial
    settings: Values = {}
    options: dict[str, Value]
    if isinstance(request, CraftRequest):
        words = ["craft", "--attack", poison.text, "--dataset", request.dataset]
        options = {"profile": poison.profile, "model": poison.surrogate}
    else:
        words = ["defend", "--method", request.method, "--dataset", request.dataset]
        flag = ["--poison"] if poison.path else ["--attack"] if poison.attacks else []
        words += [*flag, poison.text] if poison.attacks != MIX else []
        options = {
            "attack_profile": poison.profile,
            "attack_model": poison.surrogate,
            "poison_trial": trial or None,
            "profile": request.profile,
            "model": request.model,
        }
        settings, trial = request.settings, request.trial
    options = {"rho": poison.rho, **options, "selection": poison.selection}
    given = {name: value for name, value in options.items() if value not in _DEFAULTS}
    alone = isinstance(request, CraftRequest) and len(poison.attacks) == 1
    of_attacks = {
        name if alone else f"{attack}.{name}": value
        for attack, values in poison.settings.items()
        for name, value in values.items()
    }
    if poison.rho is not None:
        # A share is no pixel: 1/3 is not 85/255.
        given["rho"] = number_text(poison.rho, is_pixel=False)
    for name, value in {**given, **poison.targeting, **settings, **of_attacks}.items():
        words += ["--" + name.replace("_", "-"), value_text(value)]
    words += ["--trial", str(trial)]
    words += ["--seed", str(request.seed)] if request.seed else []
    words += ["--save-model"] if isinstance(request, RunRequest) and request.save_model else []
    return words


def command_of(request: Request, *more: str) -> str:
    """The shell command of a request, with further words."""
    return shlex.join(["poisonbench", *to_words(request), *more])


def to_json(request: Request) -> dict[str, Any]:
    """A request as plain JSON values."""
    plain: dict[str, Any] = msgspec.to_builtins(request, enc_hook=str)
    return plain


def from_json(kind: str, plain: Any) -> Request:
    """A request of a kind, "craft" or "defend", from :func:`to_json`'s values.

    Raises:
        ValueError: they are not a request's.
        UsageError: values that no request may have.
    """
    request: Request = msgspec.convert(plain, KINDS[kind], dec_hook=lambda kind, value: kind(value))
    return request


def check_count(flag: str, number: int) -> None:
    """Raise UsageError unless the number is 0 or more."""
    if number < 0:
        raise UsageError(f"{flag}: expected 0 or more, got {number}")


def _check_rho(rho: float | None, interval: str, *, is_valid: bool = True) -> None:
    if rho is not None and not (is_valid and 0 <= rho <= 1):
        meant = f"; did you mean {rho / 100:g}?" if 2 <= rho <= 100 else ""
        raise UsageError(
            f"--rho: expected a poison ratio in {interval}, got {number_text(rho)}{meant}"
        )
