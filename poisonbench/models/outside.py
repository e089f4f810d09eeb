"""Networks of other libraries and of files: torchvision:NAME, timm:NAME, FILE.py:FUNCTION.

A library's network is built without its pretrained weights and made to fit the data:

channels   the first convolution takes the data's
small      images of up to 64 x 64: a first convolution that strides and overlaps (7x7, stride 2)
           becomes 3x3, stride 1, and the first max pool is left out, unless the layers behind it do
           not take that
patches    of timm's: the images' size is passed on; on small images patches have the largest side
           that divides the image and leaves seven of them along it (4 for 28 and 32 pixels, 8 for
           64), if theirs are larger; patches that leave too little for the layers behind are halved
head       the last layer, which must be linear, is the classifier's, of the data's classes; timm's
           are built without one

A file's function is called like ``features``, with channels, height and width, and gives a network
whose last layer is linear, or layers and their features' number. Its images are not adapted.

In all of them dropout and stochastic depth are turned off: they draw from the global generator, so
that a run would be neither the seed's nor resumed in the same bytes.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.entries import reason_of
from poisonbench.registry import function_of_file

#: Images of at most so many pixels a side are small.
SMALL = 64
#: Patches along a small image, at least.
PATCHES = 7
#: What a network raises on images that it cannot take.
UNFIT = (RuntimeError, ValueError, TypeError, AssertionError)


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
    try:
        if library == "timm":
            layers, width = _measured(name, _timm(rest, shape), shape)
        elif library == "torchvision":
            layers, width = _without_head(name, _torchvision(rest, shape), shape)
        else:
            layers, width = _of_file(name, shape)
    except UsageError:
        raise
    except Exception as error:
        raise _unfit(name, shape, error) from None
    _turn_off_chance(layers)
    return layers, width


def _of_file(name: str, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    built = function_of_file(name)(*shape)
    if isinstance(built, tuple) and len(built) == 2:
        layers, width = built
        return layers, width
    if not isinstance(built, nn.Module):
        raise UsageError(f"model {name}: expected a network, got {type(built).__name__}; mend it")
    return _without_head(name, built, shape)


def _unfit(name: str, shape: tuple[int, int, int], error: Exception) -> UsageError:
    return UsageError(
        f"model {name}: expected a network for images of shape {shape}, got {reason_of(error)}; "
        "choose another --model, or larger images, such as NAME@64x64 of a data set"
    )


def _torchvision(name: str, shape: tuple[int, int, int]) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(
            f"model torchvision:{name}: expected a classifier of torchvision.models, got {name!r}"
            f"{did_you_mean(name, known)}"
        )
    return _adapted(lambda: models.get_model(name, weights=None), shape)


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
        _replace(network, path, nn.Conv2d(shape[0], first.out_channels, bias=bias, **size))
    if is_shrunk:
        pools = [p for p, module in network.named_modules() if isinstance(module, nn.MaxPool2d)]
        for pool in pools[:1]:
            _replace(network, pool, nn.Identity())


def _takes(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    try:
        _output(network, shape)
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
    _replace(network, path, layer)
    return True


def _turn_off_chance(network: nn.Module) -> None:
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


def _output(network: nn.Module, shape: tuple[int, int, int]) -> Any:
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


def _measured(name: str, network: nn.Module, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """Layers that were built without a head, and how many features they give."""
    features = _output(network, shape)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise _not_linear(name)
    return network, features.shape[1]


def _replace(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)


def _without_head(
    name: str, network: nn.Module, shape: tuple[int, int, int]
) -> tuple[nn.Module, int]:
    """The network with its last layer taken out, which must be linear."""
    linear = [(p, module) for p, module in network.named_modules() if isinstance(module, nn.Linear)]
    path, head = linear[-1] if linear else ("", None)
    if head is None or path == "" or getattr(network, "aux_logits", False):
        raise _not_linear(name)
    logits = _output(network, shape)
    _replace(network, path, nn.Identity())
    try:
        features = _output(network, shape)
    except UNFIT:
        # What comes behind a layer that is not the last cannot take another width.
        raise _not_linear(name) from None
    if not (
        isinstance(features, Tensor)
        and features.shape == (2, head.in_features)
        and isinstance(logits, Tensor)
        and logits.shape == (2, head.out_features)
        and (head.weight.is_meta or torch.allclose(head(features), logits, atol=1e-4))
    ):
        raise _not_linear(name)
    return network, head.in_features


def _not_linear(name: str) -> UsageError:
    return UsageError(
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
