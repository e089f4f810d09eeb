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

In all of them, and in those of plug-ins, dropout and stochastic depth are turned off: they draw
from the global generator, so that a run would be neither the seed's nor resumed in the same bytes.
What cannot be turned off is refused (:func:`check_repeats`).
"""

from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor, nn

from poisonbench.core.errors import UsageError, check_returned
from poisonbench.core.settings import did_you_mean
from poisonbench.entries import reason_of
from poisonbench.entry_needs import call_text, takes
from poisonbench.models import global_generators
from poisonbench.models.adapted import (
    UNFIT,
    output_of,
    replace_layer,
    timm_network,
    torchvision_network,
    turn_off_chance,
)
from poisonbench.models.classifier import initialise
from poisonbench.registry import function_of_file


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
    except (Exception, SystemExit) as error:
        raise _unfit(name, shape, error) from None
    turn_off_chance(layers)
    return layers, width


def _of_file(name: str, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    function = function_of_file(name)
    if not takes(3)(function):
        raise UsageError(
            f"model {name}: expected a function of channels, height and width, got "
            f"{call_text(function)}; give what else it takes a default"
        )
    built = function(*shape)
    has_width = isinstance(built, tuple) and len(built) == 2
    network = built[0] if has_width else built
    if not isinstance(network, nn.Module):
        raise UsageError(f"model {name}: expected a network, got {type(network).__name__}; mend it")
    check_precision(f"model {name}", network)
    if has_width:
        width: int = built[1]
        check_width(f"model {name}", width)
        features = output_of(network, shape)
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        if got != (2, width):
            raise UsageError(
                f"model {name}: expected layers and the number of their features, of shape "
                f"(B, {width}), got features of {got} for B = 2; mend it"
            )
        return network, width
    return _without_head(name, network, shape)


def check_precision(where: str, network: nn.Module) -> None:
    """Raise UsageError for weights that are not float32, as images are."""
    for key, parameter in network.named_parameters():
        if parameter.dtype is not torch.float32:
            raise UsageError(
                f"{where}: expected weights of torch.float32, as images are, got {key} of "
                f"{parameter.dtype}; call .float() on the network"
            )


def check_width(where: str, width: object) -> None:
    """Raise UsageError for a number of features that is not a whole one."""
    check_returned(where, isinstance(width, Integral), "a whole number of features", width)


def _unfit(name: str, shape: tuple[int, int, int], error: BaseException) -> UsageError:
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
    return torchvision_network(name, shape)


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
    return timm_network(name, shape)


def _measured(name: str, network: nn.Module, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """Layers that were built without a head, and how many features they give."""
    features = output_of(network, shape)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise _not_linear(name)
    return network, features.shape[1]


def _without_head(
    name: str, network: nn.Module, shape: tuple[int, int, int]
) -> tuple[nn.Module, int]:
    """The network with its last layer taken out, which must be linear."""
    linear = [(p, module) for p, module in network.named_modules() if isinstance(module, nn.Linear)]
    path, head = linear[-1] if linear else ("", None)
    if head is None or path == "" or getattr(network, "aux_logits", False):
        raise _not_linear(name)
    logits = output_of(network, shape)
    replace_layer(network, path, nn.Identity())
    try:
        features = output_of(network, shape)
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


def check_repeats(name: str, build: Callable[[], nn.Module], shape: tuple[int, int, int]) -> None:
    """Raise UsageError for a network that is not its seed's, but built or trained by other chance.

    It is built twice on the CPU, by two states of torch's global generator, and passed two images.

    Args:
        name: for the message.
        build: its layers before the head, anew with each call.
        shape: (C, H, W) of the images.
    """
    states = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
            layers = build()
            generator = torch.Generator().manual_seed(0)
            for key, value in layers.state_dict().items():
                if value.device != generator.device:
                    raise UsageError(
                        f"model {name}: expected weights on the device that tensors are made on, "
                        f"got {key} on {value.device}; leave .to() and .cuda() to the run"
                    )
            initialise(layers, generator)
            draw_other_parameters(layers, generator)
            states.append({key: value.clone() for key, value in layers.state_dict().items()})
            before = global_generators.states()
            layers.train()(torch.rand(2, *shape, generator=generator))
            if drawn := global_generators.drawn_from(before):
                raise UsageError(
                    f"model {name}: expected training that draws nothing at random, got a network "
                    f"that draws from {drawn[0]}'s global generator in each pass, as F.dropout "
                    "does from torch's; take that out, or make it nn.Dropout, which is turned off"
                )
    first, second = states
    if other := [key for key, value in first.items() if not torch.equal(value, second[key])]:
        raise UsageError(
            f"model {name}: expected a start that the run's seed draws, got {other[0]} drawn from "
            "a global generator, as spectral_norm does from torch's; make it a constant, or a "
            "parameter of a convolution or a linear layer"
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
