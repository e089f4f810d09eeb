"""A network that Python code passes: an ``nn.Module``, or a callable that builds one.

Only its architecture counts: a run draws all weights by its own seed, and the last layer, which
must be linear, becomes the classifier's. Its name in specs has the digest of its description
(``models/description.py``) and of the values that no seed draws.
"""

import copy
import hashlib
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from poisonbench.core.errors import UsageError
from poisonbench.entries import reason_of
from poisonbench.models.classifier import initialise
from poisonbench.models.description import description_of
from poisonbench.models.outside import check_precision, draw_other_parameters
from poisonbench.registry import register_network

#: A network as the API takes it; a callable takes nothing, or channels, height and width.
OwnNetwork: TypeAlias = nn.Module | Callable[..., nn.Module]


def own_network(network: OwnNetwork, shape: tuple[int, int, int]) -> str:
    """Make a network known to this process, and give the name that specs and records have for it.

    Args:
        network: a module, which is copied and left as it is, or a callable that builds one.
        shape: (C, H, W) of the images.

    Raises:
        UsageError: it gives no module, cannot be copied, its weights are not float32, or its source
            cannot be read.
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
    check_precision("model", module)
    title = type(module).__name__
    text = "\n".join(description_of(module))
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
