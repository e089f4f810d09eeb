"""A poison's attacks, each fully set: what is known of them before anything is crafted."""

from dataclasses import dataclass
from functools import cached_property

from msgspec import structs

from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import as_json, flag_of
from poisonbench.data.splits import Dataset
from poisonbench.models import check_model
from poisonbench.registry import attacks, find_form
from poisonbench.requests import PoisonRequest, Sampling
from poisonbench.runs.context import RunContext
from poisonbench.runs.method_settings import Settings, read_settings
from poisonbench.runs.trained_models import model_spec
from poisonbench.runs.trigger import check_trigger
from poisonbench.specs import CraftSpec, MethodSpec, ModelSpec, ShareSpec, TargetingSpec
from poisonbench.targeting import Targeting
from poisonbench.training.state import Defense

#: Settings of the victim that change no poison.
VICTIMS_OWN = ("transfer_share", "norm_drift")

#: Defenses that an adaptive attack's surrogate is trained under.
TRAINED_UNDER = ("hint",)


@dataclass(frozen=True)
class Pool:
    """One attack, fully set: what crafts the poison of every image, or of one target.

    The recipe of the settings and the spec ``surrogate`` are the surrogate's; ``spec`` is all that
    determines the poison; ``against`` are the settings of the defense that an adaptive attack has
    in the loop.
    """

    settings: Settings
    surrogate: ModelSpec
    spec: CraftSpec
    against: Settings | None = None

    @cached_property
    def id(self) -> str:
        """The poison's name in the store, known before it is crafted."""
        return spec_id(self.spec)

    @property
    def surrogate_text(self) -> str:
        """``", surrogate mnist-cnn of 7 epochs, against jpeg"``; empty without either."""
        against = "" if self.against is None else f", against {self.settings.config.against}"
        if not self.settings.entry.has_network:
            return against
        if self.settings.entry.trains_itself:
            return f", network {self.surrogate.model}{against}"
        epochs = self.settings.recipe.epochs
        return f", surrogate {self.surrogate.model} of {epochs} epochs{against}"

    @property
    def surrogate_defense(self) -> Defense | None:
        """What the surrogate is trained under, for one training; None where that is plain."""
        if self.against is None or self.surrogate.defense is None:
            return None
        defense: Defense = self.against.module.build(self.against.config, self.settings.recipe)
        return defense


def resolve_pools(
    context: RunContext,
    dataset: Dataset,
    poison: PoisonRequest,
    targeting: Targeting | None = None,
    *,
    rho: float | None = None,
    is_for_run: bool = False,
) -> dict[str, Pool]:
    """What crafts each attack's part of a poison; a target is drawn from what its spec says.

    An attack with a trigger is crafted for the share rho alone.
    """
    pools = {}
    for name, request in poison.pools().items():
        entry, network = attacks()[name], request.surrogate
        values = request.settings.get(name, {})
        prefix = f"{name}." if is_for_run or len(poison.attacks) > 1 else ""
        settings = read_settings(entry, dataset, request.profile, values, network, prefix)
        # The surrogates of a targeted attack are the same for all trials.
        trial = request.trial if targeting is None else 0
        surrogate = model_spec(context, dataset, settings.recipe, "surrogate", trial, network)
        against = _against(dataset, settings, network) if entry.against else None
        expected = None
        if against is not None:
            version, config = against.module.VERSION, as_json(against.config)
            expected = MethodSpec(method=against.entry.name, version=version, config=config)
            if against.entry.name in TRAINED_UNDER and not entry.trains_itself:
                surrogate = structs.replace(surrogate, defense=expected)
        has_surrogate = entry.has_network or bool(entry.scenario)
        if has_surrogate:
            check_model(
                surrogate.model,
                dataset.image_shape,
                recalibrating=flag_of(f"{prefix}recalibrate")
                if settings.recipe.recalibrate
                else None,
            )
        spec = CraftSpec(
            attack=name,
            version=_version(settings, is_adaptive=against is not None),
            config=as_json(settings.config),
            dataset=dataset.digest,
            surrogate=surrogate if has_surrogate else None,
            seed=context.seed,
            trial=request.trial,
            targeting=None if targeting is None else _crafting_part(targeting),
            share=_share(dataset, settings, rho, poison.selection) if entry.has_trigger else None,
            against=expected,
        )
        if spec.share is not None:
            check_trigger(dataset, settings, spec)
        pools[name] = Pool(settings, surrogate, spec, against)
    return pools


def _version(settings: Settings, *, is_adaptive: bool) -> int:
    """The attack's version, or that of what it crafts against a defense where it has one."""
    version: int = settings.module.VERSION
    return getattr(settings.module, "ADAPTIVE_VERSION", version) if is_adaptive else version


def _against(dataset: Dataset, settings: Settings, network: str | None) -> Settings | None:
    """The defense that an adaptive attack assumes, or a form of it; None of none.

    All other settings are its defaults for the data set.

    Raises:
        UsageError: it does not apply to such images, or to a training as short as the surrogate's.
    """
    name = settings.config.against
    if name == "none":
        return None
    entry, form = find_form(name)
    entry.check_images(dataset.image_shape)
    against = read_settings(entry, dataset, "paper", form, network)
    try:
        against.module.build(against.config, settings.recipe)
    except ValueError as error:
        raise UsageError(f"--against {name}: {error}") from None
    return against


def _share(
    dataset: Dataset, settings: Settings, rho: float | None, selection: Sampling
) -> ShareSpec:
    """The share of the training images that an attack with a trigger gets.

    Raises:
        UsageError: a target class that the data set lacks.
    """
    if (label := settings.config.target_class) >= dataset.num_classes:
        raise UsageError(
            f"--target-class: expected a class in 0..{dataset.num_classes - 1}, got {label}"
        )
    assert rho is not None
    return ShareSpec(rho=float(rho), selection=selection)


def _crafting_part(targeting: Targeting) -> TargetingSpec:
    """The settings that a poison depends on: not how the victim's set is made up around it."""
    settled = as_json(targeting).items()
    return TargetingSpec(**{key: value for key, value in settled if key not in VICTIMS_OWN})
