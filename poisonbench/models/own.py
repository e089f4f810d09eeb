"""A network that Python code passes: an ``nn.Module``, or a callable that builds one.

Only its architecture counts: a run draws all weights by its own seed, and the last layer, which
must be linear, becomes the classifier's. Its name in specs has the digest of its description:
layers with their settings, the source of what is not PyTorch's, and the values that no seed draws.
"""

import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any, TypeAlias

import torch
from torch import nn

from poisonbench.core.errors import UsageError
from poisonbench.entries import reason_of
from poisonbench.models.classifier import initialise
from poisonbench.models.outside import draw_other_parameters
from poisonbench.registry import register_network

#: A network as the API takes it; a callable takes nothing, or channels, height and width.
OwnNetwork: TypeAlias = nn.Module | Callable[..., nn.Module]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
#: Whose code is told by its version, not its text.
_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "builtins")


def own_network(network: OwnNetwork, shape: tuple[int, int, int]) -> str:
    """Make a network known to this process, and give the name that specs and records have for it.

    Args:
        network: a module, which is copied and left as it is, or a callable that builds one.
        shape: (C, H, W) of the images.

    Raises:
        UsageError: it gives no module, cannot be copied, or its source cannot be read.
    """
    build = _builder(network)
    with torch.random.fork_rng(devices=[]):
        try:
            module = build(*shape)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"model: expected a network for images of shape {shape}, got {reason_of(error)}"
            ) from None
    title = type(module).__name__
    text = "\n".join(_description(module))
    digest = hashlib.sha256(f"{text}\n{_undrawn(module)}".encode()).hexdigest()
    name = f"python:{title}@{digest[:12]}"
    register_network(name, build)
    return name


def _builder(network: OwnNetwork) -> Callable[[int, int, int], nn.Module]:
    """A function of channels, height and width, on the device where tensors are made."""

    def build(*shape: int) -> nn.Module:
        if isinstance(network, nn.Module):
            module = copy.deepcopy(network)
        else:
            module = network(*shape[: _arguments(network)])
            if not isinstance(module, nn.Module):
                raise UsageError(
                    f"model: expected an nn.Module or a callable that builds one, got one that "
                    f"gives {type(module).__name__}; return the network"
                )
        module = module.to(torch.get_default_device()).requires_grad_(True)
        for layer in module.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
        return module.train()

    return build


def _arguments(build: Callable[..., Any]) -> int:
    """How many arguments a callable must have: none, or the three of an image's shape."""
    if not callable(build):
        raise UsageError(
            "model: expected a name, an nn.Module or a callable that builds one, got "
            f"{type(build).__name__}"
        )
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        parameter
        for parameter in inspect.signature(build).parameters.values()
        if parameter.default is parameter.empty and parameter.kind in kinds
    ]
    if len(needed) not in (0, 3):
        raise UsageError(
            "model: expected a callable without arguments, or of channels, height and width, got "
            f"one of {', '.join(parameter.name for parameter in needed)}"
        )
    return len(needed)


def _undrawn(module: nn.Module) -> str:
    """The digest of a network's tensors by seed 0: the same for the same, whatever was trained."""
    generator = torch.Generator().manual_seed(0)
    module = module.cpu()
    initialise(module, generator)
    draw_other_parameters(module, generator)
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _description(module: nn.Module) -> list[str]:
    """What a network is, line by line, without its weights."""
    lines = [str(module)]
    for path, layer in module.named_modules():
        kind = type(layer)
        plain = {
            name: value
            for name, value in sorted(vars(layer).items())
            if name != "training" and _is_plain(value)
        }
        lines.append(f"{path} {kind.__module__ if _is_library(kind) else ''} {plain}")
    kinds = dict.fromkeys(type(layer) for layer in module.modules())
    functions = [
        value
        for layer in module.modules()
        for _, value in sorted(vars(layer).items())
        if inspect.isfunction(value)
    ]
    for part in (*kinds, *functions):
        lines.extend(_sources(part))
    return lines


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _is_library(value: Any) -> bool:
    return (getattr(value, "__module__", None) or "").partition(".")[0] in _LIBRARIES


def _sources(root: Any) -> list[str]:
    """The source of a class or a function, and of what it names in its own package."""
    lines: list[str] = []
    seen: set[int] = set()
    todo = [root]
    while todo:
        part = todo.pop()
        if isinstance(part, functools.partial):
            todo += [part.func, *part.args, *part.keywords.values()]
        elif inspect.ismethod(part):
            todo += [part.__func__]
        elif _is_plain(part):
            lines.append(repr(part))
        elif id(part) not in seen and not _is_library(part):
            seen.add(id(part))
            if inspect.isclass(part):
                todo += list(part.__bases__)
                todo += [value for name, value in sorted(vars(part).items()) if name[:2] != "__"]
                todo += [part.__init__, *([part.__call__] if "__call__" in vars(part) else [])]
            elif inspect.isfunction(part):
                lines.append(_source(part))
                todo += _names_used(part)
    return sorted(lines)


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        raise UsageError(
            f"model: expected a network whose source can be read, got {function.__qualname__}, "
            "whose text Python has not kept; write it into a file"
        ) from None


def _names_used(function: Any) -> Iterator[Any]:
    """The values of the names that a function takes from outside of itself."""

    def names(code: CodeType) -> Iterator[str]:
        yield from code.co_names
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from names(constant)

    package = function.__module__.partition(".")[0]
    outside = [function.__globals__.get(name) for name in dict.fromkeys(names(function.__code__))]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for value in (*outside, *cells, *defaults):
        is_same = (getattr(value, "__module__", None) or "").partition(".")[0] == package
        if (
            not isinstance(value, ModuleType)
            and value is not None
            and (is_same or _is_plain(value))
        ):
            yield value
