"""Batch norm folded into the convolutions before it, for passes in eval mode.

In eval mode batch norm is an affine map a channel, w' = w gamma / sqrt(var + eps), so conv and norm
are one convolution: the same function up to rounding, with two fewer passes over the activations
(forward and backward).
"""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from poisonbench.models.cifar_resnet18 import BasicBlock
from poisonbench.models.classifier import Classifier


def folded(model: Classifier) -> Classifier:
    """A frozen copy in eval mode without the batch norm that directly follows a convolution.

    The model itself stays as it is, in its mode. The copy neither trains nor tracks the model.
    """
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(copied.modules()):
        if isinstance(module, nn.Sequential):
            for first, second in zip(module, list(module)[1:], strict=False):
                _fold(module, first, second)
        elif isinstance(module, BasicBlock):
            _fold(module, module.conv1, module.norm1)
            _fold(module, module.conv2, module.norm2)
    return copied


def _fold(parent: nn.Module, first: nn.Module, second: nn.Module) -> None:
    if not isinstance(first, nn.Conv2d) or not isinstance(second, nn.BatchNorm2d):
        return
    names = {child: name for name, child in parent.named_children()}
    setattr(parent, names[first], fuse_conv_bn_eval(first, second))
    setattr(parent, names[second], nn.Identity())
