"""A remark before work that takes long on a CPU: how long, and which shorter way there is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from poisonbench.core.progress import clock, relay
from poisonbench.core.quick_names import split_quick
from poisonbench.requests import CraftRequest, Request, RunRequest
from poisonbench.tables.cells import SAMPLES

if TYPE_CHECKING:
    from poisonbench.runs.context import RunContext
    from poisonbench.runs.poison import ResolvedPoison

#: An estimate of more seconds than this is worth a remark.
_LONG = 600.0

#: Pixels that pass a network in training, and operations, under which no CPU needs so long; timing
#: passes would only delay what is short.
_SHORT_PIXELS, _SHORT_OPERATIONS = 1.5e6, 1e13


def remark_on_long_work(
    context: "RunContext",
    requests: Sequence[Request],
    poisons: "Sequence[ResolvedPoison]",
    epochs: int,
) -> None:
    """Say how long requests will take on a CPU if that is long, and what is shorter.

    Args:
        context: where they will run.
        requests: on one data set; none if nothing is left to do.
        poisons: their own; those that are not in the store will be crafted first.
        epochs: of the longest training among them.
    """
    from poisonbench.core.devices import is_accelerator
    from poisonbench.runs.estimates import Estimator

    if not requests:
        return
    name = requests[0].dataset
    shorter = _shorter_way(name)
    # A job of a sweep was decided on before.
    if not shorter or is_accelerator(context.device) or relay.get() is not None:
        return
    dataset = context.dataset(name)
    _, height, width = dataset.image_shape
    if len(dataset.train) * height * width * epochs * len(requests) < _SHORT_PIXELS:
        return
    crafting = [
        CraftRequest(dataset=name, poison=pool, seed=requests[0].seed)
        for poison in poisons
        for attack, pool in poison.request.pools().items()
        if attack in poison.pools
        and not context.store.poison_path(poison.pools[attack].id).exists()
    ]
    runs = [request for request in requests if isinstance(request, RunRequest)]
    left: list[Request] = [*dict.fromkeys(crafting), *runs]
    counter = Estimator(context)
    if sum(counter.of(request).flops for request in left) < _SHORT_OPERATIONS:
        return
    timer = Estimator(context, times=True)
    seconds = sum(timer.of(request).seconds or 0.0 for request in left)
    if seconds > _LONG:
        context.say(f"about {clock(seconds)} on this CPU; shorter: {shorter}")


def _shorter_way(dataset: str) -> str:
    """What is shorter than a data set in its usual settings; nothing of what is short already."""
    if dataset in SAMPLES or split_quick(dataset)[1] is not None:
        return ""
    name = dataset.partition("@")[0]
    if name == "mnist":
        return "--preset quick without --dataset, the embedded sample with settings for a CPU"
    if name == "cifar10":
        return "--preset colour without --dataset, 10,000 of the images and a small network"
    return "--preset quick, a small network and few epochs for these images"
