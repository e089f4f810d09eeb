"""Influence through the classification head, in closed form.

Source  Koh & Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017,
        eq. 2-5; HINT, arXiv 2309.08549, eq. 8-9.

The head is softmax regression on features h = phi(x), so with residual q = softmax(z) - onehot(y)
and the head's input [h; 1] the gradient of one example's loss is the outer product q [h; 1]^T.
For a direction v (here: the inverse Hessian times the validation gradient) everything follows from

    s(x, y) = <v, grad loss(x, y)> = sum_c q_c u_c        with u = v [h; 1]

    influence of up-weighting an example   I_up(x, y)   = -s(x, y)
    influence of moving its pixels         I_pert(x, y) = -grad_x s(x, y)

so scores need one forward pass and pixel maps one ordinary backward pass: no per-example loop, no
double backward. A positive I_up means that up-weighting the example raises the validation loss.

Shapes: N examples, B batch, F features, K classes; v, gradients: (K, F + 1), the bias last.
The model must be frozen in eval mode: in train mode batch norm mixes the examples of a batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.data.splits import pixels_of
from poisonbench.models.classifier import Classifier, pass_size


def head_inputs(model: Classifier, images: Tensor) -> Tensor:
    """[h; 1] of images (B, C, H, W) in [0, 1]: (B, F + 1)."""
    return F.pad(model.embed(images), (0, 1), value=1.0)


def embed_all(model: Classifier, images: Tensor) -> Tensor:
    """The head's inputs (N, F + 1) of all images (N, C, H, W), uint8 or float in [0, 1]."""
    # Filled, as joined passes would need twice the memory.
    embedded = model.head.weight.new_empty(len(images), model.head.in_features + 1)
    size = pass_size(images, gradients=False)
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        embedded[rows] = head_inputs(model, pixels_of(images[rows]))
    return embedded


def head_weights(model: Classifier) -> Tensor:
    """The head's weights with the bias as last column, (K, F + 1)."""
    return torch.cat([model.head.weight, model.head.bias[:, None]], dim=1)


def residuals(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Softmax - onehot, (N, K), from probabilities (N, K) and labels (N,)."""
    return probabilities - F.one_hot(labels, probabilities.shape[1])


def mean_gradient(inputs: Tensor, residual: Tensor) -> Tensor:
    """Gradient of the mean loss, (K, F + 1), from inputs (N, F + 1) and residuals (N, K)."""
    return residual.T @ inputs / len(inputs)


def upweight_influence(inputs: Tensor, residual: Tensor, direction: Tensor) -> Tensor:
    """I_up = -s of every example, (N,); HINT eq. 8."""
    return -(residual * (inputs @ direction.T)).sum(1)


def pixel_influence(model: Classifier, images: Tensor, labels: Tensor, direction: Tensor) -> Tensor:
    """I_pert = -grad_x s of every image (B, C, H, W), float in [0, 1]; HINT eq. 9, not over N."""
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        inputs = head_inputs(model, images)
        probabilities = (inputs @ head_weights(model).T).softmax(1)
        total = (residuals(probabilities, labels) * (inputs @ direction.T)).sum()
        (gradient,) = torch.autograd.grad(total, images)
    return -gradient
