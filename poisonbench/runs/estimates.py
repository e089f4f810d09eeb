"""What the jobs of a plan will cost: FLOPs, peak memory and, for a device, hours; nothing is run.

A method says by ``work`` (:mod:`poisonbench.core.work`) which images pass which network, and
:mod:`poisonbench.runs.pass_costs` what a pass costs. A network or a poison that several jobs share,
by what determines it, counts at the first: an attacker's surrogates, what scenarios pretrain, the
copies that filters look at (of filters that run side by side each may train its own), the controls
of easy targets. Left out is what no network does: EPIC's selection and CP's solver, which an
estimate's remarks name, the filters' rules, JPEG, reading and writing files. What a defense saves
by dropping images or by stopping early is not known before, so there an estimate is an upper bound.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from msgspec import structs, to_builtins
from torch import nn

from poisonbench.core.canonical import spec_id
from poisonbench.core.settings import as_json
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.data.splits import Dataset
from poisonbench.models import build_model
from poisonbench.requests import CraftRequest, Request, RunRequest
from poisonbench.runs import victim
from poisonbench.runs.context import RunContext
from poisonbench.runs.craft_targeted import NUM_CONTROLS
from poisonbench.runs.defend import ResolvedRun, resolve_run
from poisonbench.runs.hardware import OVERHEAD, Accelerator
from poisonbench.runs.method_settings import Settings
from poisonbench.runs.pass_costs import PassCount, count_pass, time_pass
from poisonbench.runs.poison import resolve_crafting
from poisonbench.specs import CraftSpec, ModelSpec, RunSpec
from poisonbench.training.recipe import Recipe

#: Images in a pass of a frozen network on an accelerator, without and with gradients, and on a CPU.
_PASS, _GRADIENT_PASS, _CPU_PASS = 2000, 500, 125
#: Words of a method that says nothing of its own.
ASSUMED = "its method says no cost of its own: plain training's"


@dataclass(frozen=True)
class Estimate:
    """What a job costs.

    Attributes:
        flops: operations of its networks.
        memory: most bytes of a device at once.
        seconds: on the device that was asked for; None where none was.
        remarks: what the figures leave out.
    """

    flops: float
    memory: float
    seconds: float | None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Task:
    """Passes of one network, with the bytes that lie beside them."""

    network: str
    passes: tuple[Passes, ...]
    memory: float = 0
    remarks: tuple[str, ...] = ()
    #: Names the settings that other networks than this depend on.
    method: str = ""


@dataclass
class Estimator:
    """Estimates jobs in their order, for an accelerator or, where it ``times``, for this CPU."""

    context: RunContext
    device: Accelerator | None = None
    times: bool = False
    #: Names of networks and poisons that jobs before have made.
    _shared: set[str] = field(default_factory=set)
    _counts: dict[Hashable, PassCount] = field(default_factory=dict)
    _seconds: dict[Hashable, float] = field(default_factory=dict)
    _bytes: dict[Hashable, int] = field(default_factory=dict)

    def start_plan(self) -> None:
        """Count shared networks anew, for the jobs of another plan; measured passes are kept."""
        self._shared.clear()

    def of(self, request: Request) -> Estimate:
        """The estimate of what a job does that others before it have not done."""
        context = self.context.seeded(request.seed)
        if isinstance(request, RunRequest):
            run = resolve_run(context, request)
            return self._total(run.dataset, self._of_run(run))
        dataset = context.dataset(request.dataset)
        return self._total(dataset, self._of_crafting(request, dataset))

    def _of_run(self, run: ResolvedRun) -> list[_Task]:
        dataset, recipe, targeting = run.dataset, run.recipe, run.poison.targeting
        network, scenario = run.spec.model, "scratch" if targeting is None else targeting.scenario
        count = len(dataset.train)
        is_transfer = targeting is not None and scenario == "transfer"
        if targeting is not None and is_transfer:
            count = round(targeting.transfer_share * count)
        sizes = self._sizes(dataset, network, count, scenario)
        work, remarks = _work_of(run.settings, recipe, sizes)
        train = _training(recipe, recipe.epochs * count)
        # In transfer the head alone learns, and validation images are looked at once.
        looks = len(dataset.validation) * (1 if is_transfer else recipe.epochs)
        evaluation = Passes(kind="forward", images=looks + 2 * len(dataset.test))
        if is_transfer:
            train = replace(train, kind="forward")
        copies = (
            part
            for is_poisoned, part in work.copies
            if self._is_first(_copy_of(run, is_poisoned=is_poisoned))
        )
        passes = (train, evaluation, *work.passes, *copies)
        method = f"{run.spec.method} {run.settings.config}"
        tasks = [_Task(network, passes, work.memory, remarks, method)]
        if scenario != "scratch":
            own = run.settings.pretraining
            context = self.context.seeded(run.spec.seed)
            rows = _transfer_rows(run) if is_transfer else None
            if self._is_first(victim.start_spec(context, run, rows)):
                searches = (
                    replace(part, images=part.images * own.epochs) for part in work.pretraining
                )
                pretraining = _training(own, own.epochs * len(dataset.train))
                tasks.append(_Task(network, (pretraining, *searches)))
        return tasks

    def _of_crafting(self, request: CraftRequest, dataset: Dataset) -> list[_Task]:
        context = self.context.seeded(request.seed)
        poison = resolve_crafting(context, dataset, request.poison)
        targeting, tasks = poison.targeting, []
        for pool in filter(lambda pool: self._is_first(pool.spec), poison.pools.values()):
            count = len(dataset.train)
            if targeting is not None:
                count = max(1, round(targeting.rho * count))
            if pool.spec.share is not None:
                count = round(pool.spec.share.rho * count)
            network = pool.surrogate.model
            recipe = pool.settings.recipe
            scenario = "scratch" if targeting is None else targeting.scenario
            sizes = self._sizes(dataset, network, count, scenario)
            work, remarks = _work_of(pool.settings, recipe, sizes)
            method = f"{pool.spec.attack} {pool.settings.config}"
            tasks.append(_Task(network, work.passes, work.memory, remarks, method))
            # By number the longest, of which snapshots are parts.
            longest = dict(sorted(work.surrogates))
            networks = [
                (structs.replace(pool.surrogate, number=number), epochs)
                for number, epochs in longest.items()
            ]
            if targeting is not None and targeting.targets == "easy" and targeting.target is None:
                kind = "control extractor" if scenario == "transfer" else "control"
                control = structs.replace(pool.surrogate, kind=kind, defense=None)
                networks += [
                    (structs.replace(control, number=number), recipe.epochs)
                    for number in range(NUM_CONTROLS)
                ]
            tasks += self._trained(dataset, recipe, networks)
        return tasks

    def _trained(
        self, dataset: Dataset, recipe: Recipe, networks: Iterable[tuple[ModelSpec, int]]
    ) -> list[_Task]:
        """The training of an attacker's or a control's networks for so many epochs, each once."""
        images = len(dataset.train)
        return [
            _Task(spec.model, (_training(recipe, epochs * images),))
            for spec, epochs in networks
            if self._is_first(structs.replace(spec, after_epochs=[epochs]))
        ]

    def _is_first(self, spec: ModelSpec | CraftSpec | RunSpec) -> bool:
        """Whether no job before made what this determines."""
        name = spec_id(spec)
        is_new = name not in self._shared
        self._shared.add(name)
        return is_new

    def _sizes(self, dataset: Dataset, network: str, images: int, scenario: str) -> Sizes:
        return Sizes(
            images=images,
            train=len(dataset.train),
            validation=len(dataset.validation),
            shape=dataset.image_shape,
            num_classes=dataset.num_classes,
            weights=self._weights(_builder(dataset, network), (dataset.image_shape, network)),
            scenario=scenario,
        )

    def _weights(self, build: Callable[[], nn.Module], key: Hashable) -> int:
        """Bytes of a network's weights in float32."""
        if key not in self._bytes:
            with torch.device("meta"):
                self._bytes[key] = sum(weight.nbytes for weight in build().parameters())
        return self._bytes[key]

    def _total(self, dataset: Dataset, tasks: Iterable[_Task]) -> Estimate:
        pixels = torch.Size(dataset.image_shape).numel()
        splits = (dataset.train, dataset.validation, dataset.test)
        resident = sum(len(split) * (pixels + 8) for split in splits)
        flops = seconds = peak = 0.0
        remarks: dict[str, None] = {}
        for task in tasks:
            remarks |= dict.fromkeys(task.remarks)
            for number, part in enumerate(task.passes):
                build: Callable[[], nn.Module] = _builder(dataset, task.network)
                key: Hashable = (dataset.image_shape, task.network)
                if part.network is not None:
                    build, key = part.network, (task.method, number)
                size = part.batch or (_PASS if part.kind == "forward" else _GRADIENT_PASS)
                if self.times:
                    size = part.batch or _CPU_PASS
                size = max(1, min(size, int(part.images)))
                count = self._count(part, build, dataset.image_shape, size, key)
                flops += count.flops * part.images / size
                seconds += self._spent(part, build, dataset.image_shape, size, key)
                is_short = part.precision != "float32" and self.device and self.device.bfloat16
                weights = self._weights(build, key)
                # With their gradients and momentum, in training.
                copies = 3 if part.kind == "training" else 1
                held = count.saved * (0.5 if is_short else 1) + copies * weights
                peak = max(peak, held + task.memory)
        has_device = self.device is not None or self.times
        total = peak + resident + OVERHEAD
        return Estimate(flops, total, seconds if has_device else None, tuple(remarks))

    def _count(
        self,
        part: Passes,
        build: Callable[[], nn.Module],
        shape: tuple[int, ...],
        size: int,
        key: Hashable,
    ) -> PassCount:
        whole = (part.kind, size, shape, key)
        if whole not in self._counts:
            self._counts[whole] = count_pass(part.kind, build, shape, size)
        return self._counts[whole]

    def _spent(
        self,
        part: Passes,
        build: Callable[[], nn.Module],
        shape: tuple[int, ...],
        size: int,
        key: Hashable,
    ) -> float:
        """Seconds of passes on the device that was asked for; 0 without one."""
        if self.device is not None:
            operators = self._count(part, build, shape, size, key).operators
            return self.device.seconds(operators, part.precision) * part.images / size
        if not self.times:
            return 0.0
        whole = (part.kind, part.precision, shape, key)
        if whole not in self._seconds:
            size = min(size, 128)
            self._seconds[whole] = time_pass(part.kind, build, shape, size, part.precision)
        return self._seconds[whole] * part.images


def _copy_of(run: ResolvedRun, *, is_poisoned: bool) -> RunSpec:
    """What determines a copy of a run's network: the run but for its defense."""
    poison, spec = run.poison, structs.replace(run.spec, method="copy", version=0, config={})
    if not is_poisoned:
        return structs.replace(spec, poison=None)
    made_of = {
        "pools": sorted(pool.id for pool in poison.pools.values()),
        "artefact": poison.artefact and poison.artefact.digest,
    }
    return structs.replace(spec, config=made_of)


def _transfer_rows(run: ResolvedRun) -> str:
    """A name for the images outside a run's transfer set, by what the set is drawn from."""
    poison, targeting = run.poison, run.poison.targeting
    drawn: dict[str, Any] = {
        "targeting": targeting and {**as_json(targeting), "stage_epochs": None, "norm_drift": None},
        "artefact": poison.artefact and poison.artefact.digest,
    }
    if targeting is not None and targeting.targets == "easy":
        # Those that controls like the surrogates say to be so.
        drawn["surrogates"] = [to_builtins(pool.surrogate) for pool in poison.pools.values()]
    return spec_id(drawn)


def _training(recipe: Recipe, images: float) -> Passes:
    return Passes(
        kind="training", images=images, batch=recipe.batch_size, precision=recipe.precision
    )


def _work_of(settings: Settings, recipe: Recipe, sizes: Sizes) -> tuple[Work, tuple[str, ...]]:
    """What a method says that it costs; without a word of its own, nothing but training."""
    work: Any = getattr(settings.module, "work", None)
    if work is not None:
        own: Work = work(settings.config, recipe, sizes)
        return own, own.remarks
    trained = (
        ((0, recipe.epochs),) if hasattr(settings.module, "craft") and settings.entry.trains else ()
    )
    return Work(surrogates=trained), (ASSUMED,)


def _builder(dataset: Dataset, network: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return build_model(
            network,
            dataset.image_shape,
            dataset.num_classes,
            dataset.mean,
            dataset.std,
            torch.Generator(),
        )

    return build
