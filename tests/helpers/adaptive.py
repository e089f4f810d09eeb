"""Defenses in the loop of an attack, and their gradients by hand."""

import torch
from kornia.enhance import jpeg_codec_differentiable
from torch import nn

from helpers.attack_tasks import K
from poisonbench.attacks.shared.adaptive import DRAWS, EPIC_WEIGHT, assumed_defense
from poisonbench.defenses import friends, hint, jpeg, ueraser
from poisonbench.defenses.shared.jpeg_codec import reencoded
from poisonbench.models.classifier import Classifier, initialise

SIDE, P, EPSILON = 8, 10, 0.1

#: What the harness gives of each defense that has settings.
ASSUMED = {
    "jpeg": jpeg.Config(quality=30),
    "friends": friends.Config(),
    "ueraser": ueraser.Config(),
    "ueraser:lite-jpeg": ueraser.Config(form="lite-jpeg"),
    "hint": hint.Config(),
}


def drawing(seed=0):
    return torch.Generator().manual_seed(seed)


def defense_of(name, seed=0):
    return assumed_defense(name, ASSUMED.get(name), drawing(seed))


def few_images():
    """Images (P, 3, SIDE, SIDE) float64 of whole grey levels."""
    drawn = torch.randint(0, 256, (P, 3, SIDE, SIDE), generator=drawing(1), dtype=torch.uint8)
    return drawn.double() / 255


def their_labels():
    return torch.arange(P) % K


def linear():
    """A float64 classifier of one layer, frozen, whose gradients are known."""
    model = Classifier(nn.Flatten(), nn.Linear(3 * SIDE**2, K), (0.0,) * 3, (1.0,) * 3)
    initialise(model, drawing(2))
    # So that validation images, which are uint8, become float64 too.
    model.is_normalised = True
    return model.double().eval().requires_grad_(False)


def levels(images):
    return (images * 255).round().to(torch.uint8)


def residual_of(model, image, label):
    """Softmax - onehot of one image, class by class."""
    scores = model.head.weight @ image.flatten() + model.head.bias
    odds = (scores - scores.max()).exp()
    residual = odds / odds.sum()
    residual[label] -= 1
    return residual


def gradient_at(model, image, label):
    """Of the cross-entropy of one image: W' (p - y)."""
    return (model.head.weight.T @ residual_of(model, image, label)).view_as(image)


def loop_gradient(defense, model, images, labels):
    source = images.clone().requires_grad_()
    loss = defense.loss(model(defense.view(source, 0)), labels)
    return torch.autograd.grad(loss, source)[0]


def kornias(images, qualities, slopes):
    """What Kornia's JPEG of each image, its last row and column repeated, makes of the slopes."""
    source = images.float().requires_grad_()
    rows = [min(row, SIDE - 1) for row in range(16)]
    padded = source[:, :, rows][..., rows]
    soft = jpeg_codec_differentiable(padded, qualities.float())
    shown = soft[..., :SIDE, :SIDE]
    return torch.autograd.grad(shown, source, slopes.float())[0].double()


def by_hand(name, model, images, labels):
    """The gradients that the loop shall have, image by image."""
    if name == "jpeg":
        seen = reencoded(levels(images), 30).double() / 255
        rows = [gradient_at(model, *row) for row in zip(seen, labels, strict=True)]
        return kornias(images, torch.full((P,), 30), torch.stack(rows))
    if name == "grayscale":
        weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
        rows = []
        for image, label in zip(images, labels, strict=True):
            luma = sum(weight * plane for weight, plane in zip(weights, image, strict=True))
            slope = gradient_at(model, torch.stack([luma] * 3), label).sum(0)
            rows.append(torch.stack([weight * slope for weight in weights]))
        return torch.stack(rows)
    if name == "friends":
        coin = torch.rand((DRAWS * P, 3, SIDE, SIDE), generator=drawing()) * 2 - 1
        total = torch.zeros_like(images)
        for draw in torch.where(coin < 0, -16 / 255, 16 / 255).view(DRAWS, *images.shape):
            for row in range(P):
                total[row] += gradient_at(model, images[row] + draw[row], labels[row]) / DRAWS
        return total
    if name == "ueraser":
        draws, total = drawing(), torch.zeros_like(images)
        for _ in range(DRAWS):
            source = images.clone().requires_grad_()
            shown = ueraser.augmented(source, 0.5, draws)
            rows = [gradient_at(model, *row) for row in zip(shown, labels, strict=True)]
            slopes = torch.stack(rows).detach()
            total += torch.autograd.grad(shown, source, slopes)[0] / DRAWS
        return total
    if name == "ueraser:lite-jpeg":
        draws, total = drawing(), torch.zeros_like(images)
        for _ in range(DRAWS):
            qualities = torch.randint(10, 100, (P,), generator=draws)
            each = zip(levels(images), qualities, strict=True)
            decoded = torch.cat([reencoded(image[None], int(own)) for image, own in each])
            source = (decoded.to(images) / 255).requires_grad_()
            shown = ueraser.augmented(source, 0.5, draws)
            rows = [gradient_at(model, *row) for row in zip(shown, labels, strict=True)]
            (slopes,) = torch.autograd.grad(shown, source, torch.stack(rows).detach())
            total += kornias(images, qualities, slopes) / DRAWS
        return total
    residuals = [residual_of(model, *row) for row in zip(images, labels, strict=True)]
    rows = []
    for row, label in enumerate(labels.tolist()):
        # Those of the class are the mean's; J = diag(p) - p p'.
        own = [residuals[other] for other in range(P) if int(labels[other]) == label]
        apart = residuals[row] - sum(own) / len(own)
        chances = residuals[row].clone()
        chances[label] += 1
        slope = torch.stack(
            [p * (a - chances @ apart) for p, a in zip(chances, apart, strict=True)]
        )
        logits = residuals[row] - EPIC_WEIGHT * 2 * slope
        rows.append((model.head.weight.T @ logits).view_as(images[row]))
    return torch.stack(rows)
