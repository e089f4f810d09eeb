"""A frozen model made fast: for the passes of attacks and influence, not for training.

In eval mode batch norm is an affine map a channel, w' = w gamma / sqrt(var + eps), so conv and norm
are one convolution: the same function up to rounding, with two fewer passes over the activations
(forward and backward). On a CPU, a first block on images of one channel is computed as a whole
(``models/cpu/first_block.py``), and convolutions of 5 x 5 of many channels by Winograd's algorithm.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from poisonbench.models.cifar_resnet18 import BasicBlock
from poisonbench.models.classifier import Classifier
from poisonbench.models.cpu import winograd
from poisonbench.models.cpu.first_block import FrozenBlock, is_first_block


def folded(model: Classifier) -> Classifier:
    """A frozen copy in eval mode without the batch norm that directly follows a convolution.

    The model itself stays as it is, in its mode. The copy neither trains nor tracks the model, and
    its gradients are with respect to images only.
    """
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(copied.modules()):
        if isinstance(module, nn.Sequential):
            for first, second in zip(module, list(module)[1:], strict=False):
                _fold(module, first, second)
        elif isinstance(module, BasicBlock):
            _fold(module, module.conv1, module.norm1)
            _fold(module, module.conv2, module.norm2)
    for module in list(copied.modules()):
        # Of a copy that is copied.
        if isinstance(module, winograd.WinogradConv) or _is_laid_out(module):
            continue
        if isinstance(module, nn.Sequential) and is_first_block(list(module), nn.Identity):
            module[0] = FrozenBlock(module[0])  # type: ignore[arg-type]
            module[2], module[3] = nn.Identity(), nn.Identity()
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and winograd.fits(child):
                setattr(module, name, winograd.WinogradConv(child))
            elif isinstance(child, nn.Flatten):
                setattr(module, name, nn.Sequential(GradientLayout(), child))
    return copied


def _is_laid_out(module: nn.Module) -> bool:
    return any(isinstance(child, GradientLayout) for child in module.children())


def _fold(parent: nn.Module, first: nn.Module, second: nn.Module) -> None:
    if not isinstance(first, nn.Conv2d) or not isinstance(second, nn.BatchNorm2d):
        return
    names = {child: name for name, child in parent.named_children()}
    setattr(parent, names[first], fuse_conv_bn_eval(first, second))
    setattr(parent, names[second], nn.Identity())


class GradientLayout(nn.Module):
    """An identity whose gradient is laid out channels last, as a Flatten's is not."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) as it is."""
        view = images.view_as(images)
        if view.requires_grad:
            view.register_hook(_laid_out)
        return view


def _laid_out(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)
