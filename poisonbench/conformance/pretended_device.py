"""A pretended accelerator: tensors that compute on the CPU and say that they are on a device.

PyTorch sees a second device, "gpu". Values are the CPU's to the last bit. A tensor left on the
wrong side raises where CUDA would, and what CUDA waits for is counted with the package's line that
causes it: values that Python reads, shapes that depend on values, copies from side to side. It says
nothing of speed, of streams, of cuDNN or of autocast, which changes no operation here.
"""

import os
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    raise ImportError("needs a PyTorch with devices written in Python")

aten = torch.ops.aten


class _DeviceModule(backend_registration._DummyBackendModule):
    """What ``torch.cuda`` is to a GPU."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]

    def get_device_capability(self, device):
        return (7, 5)

    def get_device_name(self, device):
        return "pretended"

    def max_memory_allocated(self, device):
        return 1

    def reset_peak_memory_stats(self, device):
        pass

    def synchronize(self, device):
        pass

    def current_stream(self, device):
        return None

    class Event:
        """Something that the device comes to after Python has asked for it twice."""

        def record(self, stream):
            self.asked, self.copies = 0, list(LATE)
            LATE.clear()

        def query(self):
            self.asked += 1
            if self.asked > 2:
                for tensor, value in self.copies:
                    tensor.copy_(value)
                self.copies.clear()
            return self.asked > 2


backend_registration._setup_privateuseone_for_python_backend("gpu", backend_module=_DeviceModule())
GPU = torch.device("gpu", 0)
_autocast = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
_autocast.fallback(torch.library.fallthrough_kernel)

#: Operations whose result Python needs, or whose result's shape depends on values.
WAITING = {
    aten._local_scalar_dense.default: "value",
    aten.equal.default: "value",
    aten.bincount.default: "bincount",
    aten.masked_select.default: "shape",
    aten.nonzero.default: "shape",
    aten.repeat_interleave.Tensor: "shape",
    aten._unique2.default: "shape",
    aten.unique_consecutive.default: "shape",
    aten.unique_dim.default: "shape",
}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
#: Here a CPU tensor of no dimension does not pass for a number.
JOINING = {aten.cat.default, aten.stack.default}

#: Copies to the CPU that Python has not waited for: until an event they hold zeros.
LATE = []

#: The folder whose lines are the package's, and not those of what a clone of that name holds.
PACKAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")

#: By (what, line), how often Python has waited for the device.
WAITS: Counter[tuple[str, str]] = Counter()


def _count(what):
    WAITS[what, package_line()] += 1


def package_line():
    """The innermost line of the package on the stack; autograd's own thread has none."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE) and path != __file__:
            return f"{path.removeprefix(PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside"


class PretendedTensor(torch.Tensor):
    """A CPU tensor, ``inner``, behind the device's name."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=GPU,
            requires_grad=inner.requires_grad,
        )
        tensor.inner = inner.detach()
        return tensor

    def __repr__(self):
        return f"PretendedTensor({self.inner})"

    def tolist(self):
        _count("value")
        return self.inner.tolist()

    def new_tensor(self, data, **options):
        _count("copy to the device")
        return PretendedTensor(self.inner.new_tensor(data, **options))

    def numpy(self, **_):
        raise TypeError(f"expected a CPU tensor, got one on {GPU}, at {package_line()}; copy it")

    def __array__(self, *_, **__):
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Pretending(TorchDispatchMode):
    """While it lasts, ``device="gpu"`` gives pretended tensors."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        is_asked_for = device is not None and torch.device(device).type == GPU.type
        if is_asked_for or _any_pretended(args) or _any_pretended(kwargs):
            return _run(func, args, kwargs)
        if func is aten.is_pinned.default:
            return hasattr(args[0], "is_page_locked")
        if func is aten._pin_memory.default:
            copied = args[0].clone()
            copied.is_page_locked = True
            return copied
        return func(*args, **kwargs)


def _any_pretended(arguments):
    return any(isinstance(leaf, PretendedTensor) for leaf in tree_leaves(arguments))


def _run(func, args, kwargs):
    """One operation: its faults and waits as on CUDA, its result from the CPU."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    ours = [isinstance(tensor, PretendedTensor) for tensor in tensors]
    lands_here, kwargs = any(ours), dict(kwargs)
    if kwargs.get("device") is not None:
        lands_here = torch.device(kwargs["device"]).type == GPU.type
        kwargs["device"] = torch.device("cpu")
    # A tensor equals itself without a look at its values.
    is_itself = func is aten.equal.default and args[0] is args[1]
    if func in WAITING and any(ours) and not is_itself:
        _count(WAITING[func])
    if func is aten._to_copy.default:
        is_late = kwargs.get("non_blocking", False)
        if ours[0] and not lands_here and is_late:
            value = args[0].inner.clone()
            LATE.append((torch.zeros_like(value), value))
            return LATE[-1][0]
        if ours[0] != lands_here and not (is_late and hasattr(args[0], "is_page_locked")):
            _count("copy to the device" if lands_here else "copy to the CPU")
    elif func is aten.copy_.default:
        lands_here = ours[0]
        if ours[0] != ours[1]:
            _count("copy to the device" if lands_here else "copy to the CPU")
    elif func in INDEXING:
        _check_indexing(func, *args)
    elif any(ours) and not all(ours):
        _refuse(func, [t for t in tensors if t.dim() > 0 or func in JOINING])

    def inner(leaf):
        return leaf.inner if isinstance(leaf, PretendedTensor) else leaf

    result = func(*tree_map(inner, args), **tree_map(inner, kwargs))
    returns = func._schema.returns
    if isinstance(result, torch.Tensor) and func._schema.is_mutable and returns:
        alias = returns[0].alias_info
        if alias is not None and alias.is_write:
            return kwargs.get("out", args[0] if args else None)
    if not lands_here:
        return result
    return tree_map(
        lambda leaf: PretendedTensor(leaf) if isinstance(leaf, torch.Tensor) else leaf, result
    )


def _check_indexing(func, source, indices, values=None, *_):
    """Indices may come from the CPU, at the price of a copy; a mask's shape depends on values."""
    if not isinstance(source, PretendedTensor):
        _refuse(func, [source, *(index for index in indices if index is not None)])
    elif isinstance(values, torch.Tensor) and values.dim() > 0:
        _refuse(func, [source, values])
    given = [index for index in indices if index is not None]
    if any(not isinstance(index, PretendedTensor) for index in given):
        _count("index from the CPU")
    # One value where a single mask is true is filled in without asking where.
    is_filled = values is not None and values.numel() == 1 and len(given) == 1
    if not is_filled and any(index.dtype in (torch.bool, torch.uint8) for index in given):
        _count("shape")


def _refuse(func, tensors):
    """Raise where tensors are on both sides."""
    shapes = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, PretendedTensor)]
    if shapes and any(isinstance(tensor, PretendedTensor) for tensor in tensors):
        raise RuntimeError(
            f"{func.name()}: expected all tensors on one device, got {GPU} and on the CPU tensors "
            f"of shapes {shapes}, at {package_line()}"
        )


def _tensor(data, *, device=None, _made=torch.tensor, **options):
    """``torch.tensor``, which makes a device's tensor where no mode sees it."""
    tensor = _made(data, **options)
    return tensor if device is None else tensor.to(device)


@contextmanager
def pretended_gpu():
    """While it lasts, ``--device cuda`` is the pretended device; its waits, from none."""
    from poisonbench.runs import context

    WAITS.clear()
    find = context.find_device
    with ExitStack() as stack:
        for module, name, value in (
            (context, "find_device", lambda text: GPU if text == "cuda" else find(text)),
            # Wrapped tensors have no version counter there.
            (torch, "inference_mode", torch.no_grad),
            (torch, "tensor", _tensor),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            with _Pretending():
                yield WAITS
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swaps)
