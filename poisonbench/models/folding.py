"""A frozen model made fast: for the passes of attacks and influence, not for training.

In eval mode batch norm is an affine map a channel, w' = w gamma / sqrt(var + eps), so conv and norm
are one convolution: the same function up to rounding, with two fewer passes over the activations
(forward and backward). On a CPU, a first block on images of one channel is computed as a whole
(``models/cpu/first_block.py``), and convolutions of 5 x 5 of many channels by Winograd's algorithm.
"""

import copy
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from poisonbench.models.cifar_resnet18 import BasicBlock
from poisonbench.models.classifier import Classifier
from poisonbench.models.cpu import winograd
from poisonbench.models.cpu.first_block import FrozenBlock, is_first_block


def folded(model: Classifier) -> Classifier:
    """A frozen copy in eval mode without the batch norm that directly follows a convolution.

    The model itself stays as it is, in its mode. The copy neither trains nor tracks the model, and
    its gradients are with respect to images only.
    """
    # What a fold replaces is never copied: a memo tells deepcopy what stands in its place.
    memo: dict[int, Any] = {}
    biases = {}
    with torch.no_grad():
        for conv, norm in _folds(model):
            mean, variance = norm.running_mean, norm.running_var
            if mean is None or variance is None:
                # Without running statistics a norm is no fixed map.
                continue
            weight, biases[conv] = fuse_conv_bn_weights(
                conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
            )
            memo |= {id(conv.weight): weight, id(norm): nn.Identity()}
    copied = copy.deepcopy(model, memo)
    for conv, bias in biases.items():
        memo[id(conv)].bias = bias
    copied.eval().requires_grad_(False)
    for module in list(copied.modules()):
        # Of a copy that is copied.
        if isinstance(module, winograd.WinogradConv) or _is_laid_out(module):
            continue
        if _is_chain(module) and is_first_block(list(module), nn.Identity):
            module[0] = FrozenBlock(module[0])  # type: ignore[arg-type]
            module[2], module[3] = nn.Identity(), nn.Identity()
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and winograd.fits(child) and not _has_hooks(child):
                setattr(module, name, winograd.WinogradConv(child))
            elif isinstance(child, nn.Flatten):
                setattr(module, name, nn.Sequential(GradientLayout(), child))
    return copied


def _is_laid_out(module: nn.Module) -> bool:
    return any(isinstance(child, GradientLayout) for child in module.children())


def _folds(model: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions of a network, each with the batch norm that directly follows it."""
    pairs: list[tuple[nn.Module, nn.Module]] = []
    for module in model.modules():
        if _is_chain(module):
            pairs += itertools.pairwise(module)
        elif isinstance(module, BasicBlock):
            pairs += [(module.conv1, module.norm1), (module.conv2, module.norm2)]
    uses = Counter(id(part) for module in model.modules() for part in _parts(module))
    for first, second in pairs:
        # Exactly these: other libraries' subclasses do more, such as an activation. Hooks do too,
        # and what is used in two places is followed by another layer in one of them.
        if (
            type(first) is nn.Conv2d
            and type(second) is nn.BatchNorm2d
            and not _has_hooks(first)
            and not _has_hooks(second)
            and uses[id(first)] == uses[id(second)] == uses[id(first.weight)] == 1
        ):
            yield first, second


def _is_chain(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether a module runs its layers one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _parts(module: nn.Module) -> Iterator[Any]:
    """The layers and weights that a module holds, each as often as it does."""
    yield from module._modules.values()
    yield from module._parameters.values()


def _has_hooks(module: nn.Module) -> bool:
    """Whether something is done to what goes in or comes out, or first to the weights."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class GradientLayout(nn.Module):
    """An identity whose gradient is laid out channels last, as a Flatten's is not."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) as it is; tensors of other ranks have one layout."""
        view = images.view_as(images)
        if view.requires_grad:
            view.register_hook(_laid_out)
        return view


def _laid_out(gradient: Tensor) -> Tensor:
    if gradient.ndim != 4:
        return gradient
    return gradient.contiguous(memory_format=torch.channels_last)
