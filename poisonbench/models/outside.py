"""Networks of other libraries and of files: torchvision:NAME, timm:NAME, FILE.py:FUNCTION.

A library's network is built without its pretrained weights and made to fit the data:

channels   the first convolution takes the data's
small      images of up to 64 x 64: a first convolution that strides and overlaps (7x7, stride 2)
           becomes 3x3, stride 1, and the first max pool is left out; patches stay
head       the last layer, which must be linear, is the classifier's, of the data's classes

A file's function is called like ``features``, with channels, height and width, and gives a network
whose last layer is linear, or layers and their features' number. Its images are not adapted.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.entries import reason_of
from poisonbench.registry import function_of_file

#: Images of at most so many pixels a side are small.
SMALL = 64


def outside_features(name: str, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """The layers before the last linear layer of a network, and how many features they give.

    Args:
        name: as on the command line.
        shape: (C, H, W).

    Raises:
        UsageError: there is none of that name, it does not fit the images, or its last layer is not
            linear.
    """
    library, _, rest = name.partition(":")
    builders: Mapping[str, Any] = {"torchvision": _torchvision, "timm": _timm}
    try:
        built = builders[library](rest, shape) if library in builders else None
        if built is None:
            built = function_of_file(name)(*shape)
            if isinstance(built, tuple) and len(built) == 2:
                layers, width = built
                return layers, width
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"model {name}: expected a network for images of shape {shape}, got "
            f"{reason_of(error)}; choose another --model"
        ) from None
    if not isinstance(built, nn.Module):
        raise UsageError(f"model {name}: expected a network, got {type(built).__name__}; mend it")
    return _without_head(name, built, shape)


def _torchvision(name: str, shape: tuple[int, int, int]) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(
            f"model torchvision:{name}: expected a classifier of torchvision.models, got {name!r}"
            f"{did_you_mean(name, known)}"
        )
    network: nn.Module = models.get_model(name, weights=None)
    return _adapted(network, shape)


def _timm(name: str, shape: tuple[int, int, int]) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UsageError(
            f"model timm:{name}: expected timm, which is not installed; pip install "
            "'poisonbench[timm]'"
        ) from None
    if not timm.is_model(name):
        raise UsageError(
            f"model timm:{name}: expected a network of timm.list_models(), got {name!r}"
            f"{did_you_mean(name, timm.list_models())}"
        )
    try:
        network: nn.Module = timm.create_model(name, in_chans=shape[0], img_size=shape[1:])
    except TypeError:
        # Only networks of patches ask for the images' size.
        network = timm.create_model(name, in_chans=shape[0])
    return _adapted(network, shape)


def _adapted(network: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """The network for the data's channels and size, in place."""
    channels, height, width = shape
    convolutions = (
        (path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d)
    )
    path, first = next(convolutions, ("", None))
    if first is None:
        return network
    overlaps = first.kernel_size[0] > first.stride[0] > 1
    is_shrunk = max(height, width) <= SMALL and overlaps
    if is_shrunk or first.in_channels != channels:
        size: dict[str, Any] = (
            {"kernel_size": 3, "stride": 1, "padding": 1}
            if is_shrunk
            else {
                "kernel_size": first.kernel_size,
                "stride": first.stride,
                "padding": first.padding,
            }
        )
        bias = first.bias is not None
        _replace(network, path, nn.Conv2d(channels, first.out_channels, bias=bias, **size))
    if is_shrunk:
        pools = [p for p, module in network.named_modules() if isinstance(module, nn.MaxPool2d)]
        for pool in pools[:1]:
            _replace(network, pool, nn.Identity())
    return network


def _replace(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)


def _without_head(
    name: str, network: nn.Module, shape: tuple[int, int, int]
) -> tuple[nn.Module, int]:
    linear = [(p, module) for p, module in network.named_modules() if isinstance(module, nn.Linear)]
    path, head = linear[-1] if linear else ("", None)
    is_headed = head is not None and path != "" and not getattr(network, "aux_logits", False)
    if is_headed and head is not None:
        device = head.weight.device
        images = torch.linspace(0, 1, 2 * math.prod(shape), device=device).view(2, *shape)
        was_training = network.training
        network.eval()
        with torch.no_grad():
            try:
                logits = network(images)
                _replace(network, path, nn.Identity())
                features = network(images)
            except (RuntimeError, ValueError, TypeError, AssertionError) as error:
                raise UsageError(
                    f"model {name}: expected a network for images of shape {shape}, got "
                    f"{reason_of(error)}; resize the images or choose another --model"
                ) from None
            is_headed = (
                isinstance(features, Tensor)
                and features.shape == (2, head.in_features)
                and isinstance(logits, Tensor)
                and logits.shape == (2, head.out_features)
                and (head.weight.is_meta or torch.allclose(head(features), logits, atol=1e-4))
            )
        network.train(was_training)
        if is_headed:
            return network, head.in_features
    raise UsageError(
        f"model {name}: expected a network whose last layer is linear, which HINT, EPIC, the "
        "filters and feature attacks need, got one that ends otherwise; choose another --model or "
        "wrap it in a FILE.py:function"
    )


def draw_other_parameters(network: nn.Module, generator: torch.Generator) -> None:
    """Draw what is neither a convolution's, a linear layer's nor constant, from N(0, 0.02).

    Such are class tokens and places of patches, which their libraries draw from the global
    generator.
    """
    known = nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, known):
                continue
            for parameter in module.parameters(recurse=False):
                if bool((parameter != parameter.flatten()[0]).any()):
                    parameter.normal_(0, 0.02, generator=generator)
