"""The gradient of a network's parameters and how far it is from another's direction.

Source  Geiping et al., "Witches' Brew", ICLR 2021, equation (4).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from poisonbench.attacks.shared.unrolled_step import weights_of
from poisonbench.models.classifier import Classifier
from poisonbench.training.precision import precise


def parameter_gradient(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    create_graph: bool = False,
    precision: str = "float32",
) -> Tensor:
    """Gradient (D,) of the mean cross-entropy of images with respect to all D parameters.

    With ``create_graph`` the gradient itself can be differentiated.
    """
    parameters = weights_of(model)
    with precise(images.device, precision):
        logits = functional_call(model, parameters, (images,))
    loss = F.cross_entropy(logits.to(images.dtype), labels)
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=create_graph)
    return torch.cat([gradient.flatten() for gradient in gradients])


def matching_loss(gradient: Tensor, goal: Tensor) -> Tensor:
    """1 - cosine of a gradient (D,) and a goal (D,) of length 1."""
    cosine: Tensor = (gradient * goal).sum() / gradient.norm().clamp_min(1e-12)
    return 1 - cosine
