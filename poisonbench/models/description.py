"""What a network is, in lines of text: its layers with their settings, and the source of its code.

Of what the code uses there are attributes, hooks, closures, defaults and globals of its own
package. Libraries' code is told by its name.
"""

import dis
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from poisonbench.core.errors import UsageError

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
#: Whose code is told by its name, not its text.
_LIBRARIES = {"torch", "torchvision", "timm", "numpy", *sys.stdlib_module_names}
#: What every module has: its weights, layers and hooks, which are described otherwise.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_WRAPPED = (staticmethod, classmethod, functools.cached_property, property)


def description_of(module: nn.Module) -> list[str]:
    """The lines, without the weights.

    Raises:
        UsageError: the source of a part cannot be read.
    """
    return list(_module(module, {}))


def _module(module: nn.Module, seen: dict[int, Any]) -> Iterator[str]:
    yield str(module)
    for path, layer in module.named_modules():
        yield f"layer {path}"
        seen[id(layer)] = layer
        yield from _value(type(layer), seen)
        for name, value in sorted(vars(layer).items()):
            if name not in _OF_EVERY_MODULE:
                yield f"{path}.{name}"
                yield from _value(value, seen)
        for hook in (*layer._forward_pre_hooks.values(), *layer._forward_hooks.values()):
            yield f"{path} hook"
            yield from _value(hook, seen)


def _value(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """A value in lines; one that was described before, by where that was."""
    if isinstance(value, _PLAIN):
        yield repr(value)
        return
    if id(value) in seen:
        yield f"seen {list(seen).index(id(value))}"
        return
    # The value too: another one could get the number of one that is gone.
    seen[id(value)] = value
    if isinstance(value, Tensor | np.ndarray):
        yield _tensor(value)
    elif isinstance(value, Mapping):
        yield f"{type(value).__name__} of {len(value)}"
        for key, item in value.items():
            yield from _value(key, seen)
            yield from _value(item, seen)
    elif isinstance(value, Set):
        yield f"{type(value).__name__} of {len(value)}"
        yield from sorted(line for item in value for line in _value(item, {}))
    elif isinstance(value, Sequence):
        yield f"{type(value).__name__} of {len(value)}"
        for item in value:
            yield from _value(item, seen)
    elif isinstance(value, functools.partial):
        for part in (value.func, value.args, value.keywords):
            yield from _value(part, seen)
    elif isinstance(value, nn.Module):
        yield from _module(value, seen)
    else:
        yield from _code(value, seen)


def _code(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """A function, a class or an instance of one."""
    if isinstance(value, _WRAPPED):
        for name in ("__func__", "func", "fget", "fset"):
            yield from _value(getattr(value, name, None), seen)
    elif inspect.ismethod(value):
        yield from _value(value.__func__, seen)
        yield from _value(value.__self__, seen)
    elif isinstance(value, ModuleType):
        yield f"module {value.__name__}"
    elif _is_library(value) and hasattr(value, "__qualname__"):
        yield f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    elif inspect.isclass(value):
        for base in value.__bases__:
            yield from _value(base, seen)
        for name, part in sorted(vars(value).items()):
            if not name.startswith("__") or _is_written(part):
                yield f"{value.__qualname__}.{name}"
                yield from _value(part, seen)
    elif inspect.isfunction(value):
        yield _source(value)
        for part in _used(value):
            yield from _value(part, seen)
    else:
        yield from _instance(value, seen)


def _instance(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """By its attributes; a library's by what it says of itself, if that isn't where it lies."""
    kind, text = type(value), repr(value) if _is_library(type(value)) else " at 0x0"
    yield from _value(kind, seen)
    if " at 0x" not in text:
        yield text
    elif kind.__module__.partition(".")[0] not in sys.stdlib_module_names:
        yield from _value(getattr(value, "__dict__", {}), seen)
        for name in getattr(kind, "__slots__", ()):
            yield from _value(getattr(value, name, None), seen)


def _tensor(value: Tensor | np.ndarray) -> str:
    array = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(value)
    data = (
        array.contiguous().view(torch.uint8) if array.ndim else array.reshape(1).view(torch.uint8)
    )
    digest = hashlib.sha256(data.numpy().tobytes()).hexdigest()
    return f"{array.dtype} {tuple(array.shape)} {digest}"


def _is_library(value: Any) -> bool:
    # A function of C that is bound to nothing has no module: torch.relu, say.
    module = getattr(value, "__module__", None)
    return module is None or module.partition(".")[0] in _LIBRARIES


def _is_written(part: Any) -> bool:
    """Whether a special method is in a source, not made by a decorator such as dataclass."""
    return inspect.isfunction(part) and inspect.unwrap(part).__code__.co_filename != "<string>"


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        raise UsageError(
            f"model: expected a network whose source can be read, got {function.__qualname__}, "
            "whose text Python has not kept; write it into a file"
        ) from None


def _used(function: Any) -> Iterator[Any]:
    """The values that a function takes from outside of itself, other packages' code left out."""

    def names(code: CodeType) -> Iterator[str]:
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                yield step.argval
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from names(constant)

    package = function.__module__.partition(".")[0]
    for name in dict.fromkeys(names(function.__code__)):
        value = function.__globals__.get(name)
        home = (getattr(value, "__module__", None) or package).partition(".")[0]
        if not isinstance(value, ModuleType) and (home == package or _is_library(value)):
            yield value
    yield [cell.cell_contents for cell in function.__closure__ or ()]
    yield [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
