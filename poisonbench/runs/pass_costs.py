"""What a pass of a network costs: counted on tensors without values, or timed on this CPU.

Counting sends a batch through on the meta device, where shapes are computed and nothing else. It
sees each operator of forward and backward: its FLOPs by PyTorch's own formulas
(``torch.utils.flop_counter``, a multiply-add being two), the bytes of what it reads and writes, and
what is saved for the backward pass.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from poisonbench.attacks.shared.unrolled_step import sgd_step, weights_of
from poisonbench.core.devices import is_accelerator
from poisonbench.core.work import PassKind
from poisonbench.models.classifier import Classifier
from poisonbench.models.cpu.training_forward import quick_forward
from poisonbench.models.folding import folded
from poisonbench.training.precision import autocast, network_precision

#: FLOPs of a pass that is timed, and seconds after which no other pass is.
_TIMED_FLOPS, _TIMED_SECONDS = 2e11, 4.0


@dataclass(frozen=True)
class PassCount:
    """A batch's operators as (FLOPs, bytes), and the bytes that its backward pass needs kept."""

    operators: list[tuple[float, float]]
    saved: float

    @property
    def flops(self) -> float:
        """Of the batch."""
        return sum(flops for flops, _ in self.operators)


def count_pass(
    kind: PassKind, build: Callable[[], nn.Module], shape: tuple[int, ...], batch: int
) -> PassCount:
    """What one batch of images (C, H, W) costs in some way of passing a network."""
    with torch.device("meta"):
        network = build()
        images = torch.zeros(batch, *shape)
        labels = torch.zeros(batch, dtype=torch.int64)
    counter, saved = _Counter(), dict[int, torch.UntypedStorage]()
    own = {tensor.untyped_storage()._cdata for tensor in network.state_dict().values()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            # Held until the end, so that no address is used twice.
            saved[storage._cdata] = storage
        return tensor

    step = prepared(kind, network, quick=False)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept), counter:
        step(images, labels)
    total = float(sum(storage.nbytes() for storage in saved.values()))
    return PassCount(counter.operators, total + images.nbytes)


def time_pass(
    kind: PassKind,
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    batch: int,
    precision: str = "float32",
) -> float:
    """Seconds an image on this CPU, the median of up to three batches of at most the size."""
    flops = count_pass(kind, build, shape, 2).flops / 2
    batch = min(batch, max(8, int(_TIMED_FLOPS / max(flops, 1))))
    # PyTorch's layers draw initial weights of their own from the global generator.
    with torch.random.fork_rng(devices=[]):
        network = build()
    images = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(batch, dtype=torch.int64)
    images = images.contiguous(memory_format=torch.channels_last)
    network.to(memory_format=torch.channels_last)
    step, seconds = prepared(kind, network, precision=precision), list[float]()
    # The first one also finds kernels and memory.
    step(images[:2], labels[:2])
    limit = time.monotonic() + _TIMED_SECONDS
    while not seconds or (len(seconds) < 3 and time.monotonic() < limit):
        # Of the processor's own clock, which stands still while other processes have it.
        started = time.process_time()
        step(images, labels)
        seconds.append((time.process_time() - started) / torch.get_num_threads())
    return median(seconds) / batch


def prepared(
    kind: PassKind, network: nn.Module, *, precision: str = "float32", quick: bool = True
) -> Callable[[Tensor, Tensor], object]:
    """A function that sends images (B, C, H, W) and labels (B,) through a network in some way.

    Quick networks are those that this device trains and freezes in another form.
    """
    weight = next(network.parameters())
    device = weight.device
    arithmetic = torch.float32 if weight.is_meta else network_precision(device, precision)

    def loss_of(forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
        if arithmetic is torch.float32:
            outputs = forward(images)
        else:
            with autocast(device, arithmetic):
                outputs = forward(images)
        if outputs.ndim > 2:
            # A generator of images has no labels.
            return outputs.float().square().mean()
        return F.cross_entropy(outputs.float(), labels)

    if kind == "training":
        network.train()
        sgd = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
        forward: Any = network
        is_slow = is_accelerator(device) or arithmetic is not torch.float32
        quick = quick and isinstance(network, Classifier) and not is_slow

        def train(images: Tensor, labels: Tensor) -> None:
            loss = loss_of(
                quick_forward(forward, tuple(images.shape[2:])) if quick else forward,  # type: ignore[arg-type]
                images,
                labels,
            )
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            sgd.step()

        return train
    if kind in ("forward", "pixels"):
        is_folded = quick and isinstance(network, Classifier)
        frozen = folded(network) if is_folded else network.eval().requires_grad_(False)  # type: ignore[arg-type]

        def look(images: Tensor, labels: Tensor) -> None:
            with torch.no_grad():
                loss_of(frozen, images, labels)

        def climb(images: Tensor, labels: Tensor) -> None:
            moved = images.detach().requires_grad_()
            torch.autograd.grad(loss_of(frozen, moved, labels), moved)

        return look if kind == "forward" else climb
    network.train(kind == "unrolled")

    def second_order(images: Tensor, labels: Tensor) -> None:
        moved, weights = images.detach().requires_grad_(), weights_of(network)
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}

        def loss_at(at: dict[str, Tensor], seen: Tensor) -> Tensor:
            return loss_of(lambda x: functional_call(network, (at, buffers), (x,)), seen, labels)

        loss = loss_at(weights, moved)
        if kind == "unrolled":
            result = loss_at(sgd_step(weights, loss, 0.1), images)
        else:
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            result = torch.stack([slope.square().sum() for slope in slopes]).sum()
        torch.autograd.grad(result, moved)

    return second_order


class _Counter(TorchDispatchMode):
    """Notes each operator's FLOPs and the bytes of its tensors; views move none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[tuple[float, float]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            count = flop_registry.get(func.overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=result) if count else 0
            leaves = tree_leaves((args, kwargs, result))
            moved = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
            self.operators.append((float(flops), float(moved)))
        return result
