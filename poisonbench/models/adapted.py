"""Networks of torchvision and timm, made to fit the data's images; ``outside.py`` says how.

With PyTorch and the library alone: an exported model has this file's text in it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

#: Images of at most so many pixels a side are small.
SMALL = 64
#: Patches along a small image, at least.
PATCHES = 7
#: What a network raises on images that it cannot take.
UNFIT = (RuntimeError, ValueError, TypeError, AssertionError)


def torchvision_network(name: str, shape: tuple[int, int, int]) -> nn.Module:
    """A classifier of torchvision for images (C, H, W), with its own head."""
    from torchvision import models

    return _adapted(lambda: models.get_model(name, weights=None), shape)


def timm_network(name: str, shape: tuple[int, int, int]) -> nn.Module:
    """A network of timm for images (C, H, W), without a head."""
    import timm

    def build(**options: Any) -> nn.Module:
        network: nn.Module = timm.create_model(
            name, in_chans=shape[0], num_classes=0, pretrained=False, **options
        )
        return network

    with torch.device("meta"):
        side = _patch_side(build(), shape)
    size = {"img_size": shape[1:]}
    for options in ({**size, "patch_size": side}, size) if side else (size,):
        try:
            build(**options)
        except TypeError:
            # Only networks of patches ask for the images' size, and not all for the patches'.
            continue
        return _adapted(partial(build, **options), shape)
    return _adapted(build, shape)


def _patch_side(network: nn.Module, shape: tuple[int, int, int]) -> int | None:
    """The side of patches for small images; None where the network's own will do."""
    _, height, width = shape
    _, first = _first_convolution(network)
    if first is None or first.kernel_size != first.stride or max(height, width) > SMALL:
        return None
    own = first.kernel_size[0]
    fitting = [
        side
        for side in range(1, own + 1)
        if height % side == width % side == 0 and min(height, width) >= PATCHES * side
    ]
    return fitting[-1] if fitting and fitting[-1] < own else None


def _adapted(build: Callable[[], nn.Module], shape: tuple[int, int, int]) -> nn.Module:
    """A network for the data's channels and size; one that cannot take them as it was."""
    network = build()
    _fit_first_layers(network, shape, keeps_size=max(shape[1:]) <= SMALL)
    while not _takes(network, shape):
        if not _halve_patches(network):
            network = build()
            _fit_first_layers(network, shape, keeps_size=False)
            return network
    return network


def _first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d | None]:
    convolutions = (
        (path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d)
    )
    return next(convolutions, ("", None))


def _fit_first_layers(network: nn.Module, shape: tuple[int, int, int], *, keeps_size: bool) -> None:
    """Give the first convolution the data's channels; with ``keeps_size`` let nothing shrink."""
    path, first = _first_convolution(network)
    if first is None:
        return
    is_shrunk = keeps_size and first.kernel_size[0] > first.stride[0] > 1
    if is_shrunk or first.in_channels != shape[0]:
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
        replace_layer(network, path, nn.Conv2d(shape[0], first.out_channels, bias=bias, **size))
    if is_shrunk:
        pools = [p for p, module in network.named_modules() if isinstance(module, nn.MaxPool2d)]
        for pool in pools[:1]:
            replace_layer(network, pool, nn.Identity())


def _takes(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    try:
        output_of(network, shape)
    except UNFIT:
        return False
    return True


def _halve_patches(network: nn.Module) -> bool:
    """Halve the side of a first convolution of patches; whether there were any to halve."""
    path, first = _first_convolution(network)
    if first is None or first.kernel_size != first.stride or first.stride[0] % 2:
        return False
    side = first.stride[0] // 2
    layer = nn.Conv2d(
        first.in_channels, first.out_channels, side, side, bias=first.bias is not None
    )
    replace_layer(network, path, layer)
    return True


def turn_off_chance(network: nn.Module) -> None:
    """Turn dropout and stochastic depth off, which draw from the global generator."""
    module: Any
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        elif type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
        elif type(module).__name__ == "StochasticDepth":
            module.p = 0.0


def output_of(network: nn.Module, shape: tuple[int, int, int]) -> Any:
    """What a network makes of two images, in eval mode."""
    parameter = next(network.parameters(), None)
    device = None if parameter is None else parameter.device
    images = torch.linspace(0, 1, 2 * math.prod(shape), device=device).view(2, *shape)
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return network(images)
    finally:
        network.train(was_training)


def replace_layer(network: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer where another is."""
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
