"""Figure 1 of the HINT paper: its healthy noise on clean and on poisoned training images.

The noise is made by the defense itself, in its first round, on the model that it has at that
moment: plainly trained on the poisoned data until the first scheduled epoch. The influence of a
pixel is that of an image with its label, so the prediction may well turn towards that label: a
control makes the same noise, on the same images, with a wrong label each.

Shapes: S selected images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from poisonbench.core.errors import UsageError
from poisonbench.core.seeds import Seeds, generator_for
from poisonbench.core.settings import as_json
from poisonbench.data.names import shown_name
from poisonbench.data.splits import Dataset, Split, other_labels
from poisonbench.defenses.hint import Hint
from poisonbench.figures.drawing import Figure, Grid, Tile
from poisonbench.figures.images import answer, picture_of, short_name
from poisonbench.models import check_model
from poisonbench.models.classifier import Classifier
from poisonbench.registry import defenses
from poisonbench.requests import CraftRequest, PoisonRequest, RunRequest
from poisonbench.runs.craft import craft
from poisonbench.runs.method_settings import read_settings
from poisonbench.runs.trained_models import LOOP_NUMBER, trained_models
from poisonbench.runs.workspace import Bench, default_model
from poisonbench.training.evaluation import logits_of
from poisonbench.training.state import TrainingSet, TrainingState


@dataclass(frozen=True, eq=False)
class NoiseEffect:
    """The effect of one noise on the selected images.

    Attributes:
        labels: (S,) the labels that the noise was made with.
        noise: (S, C, H, W) as applied, in pixels of [0, 1].
        images: (S, C, H, W) with the noise, in [0, 1].
        probabilities: (S, K) of the model on them.
    """

    labels: Tensor
    noise: Tensor
    images: Tensor
    probabilities: Tensor


def healthy_noise(
    bench: Bench,
    dataset: Dataset,
    request: RunRequest,
    *,
    images: int = 4,
    wrong_label: bool = False,
) -> Figure:
    """Draw image, noise and noisy image with predictions, for some images of HINT's selection.

    Args:
        bench: where; poisons and the model that are missing are made and kept.
        dataset: what to train on.
        request: a run of HINT; its trial also seeds the choice of images.
        images: how many to show; half of them clean where there are clean ones.
        wrong_label: show the control as well.

    Raises:
        UsageError: bad options.
    """
    settings = read_settings(defenses()["hint"], dataset, request.profile, request.settings)
    try:
        defense: Hint = settings.module.build(settings.config, settings.recipe)
    except ValueError as error:
        raise UsageError(f"hint: {error}") from None
    if images < 1:
        raise UsageError(f"--images: expected 1 or more, got {images}")
    network = default_model(dataset)
    check_model(network, dataset.image_shape)
    bench.store.check_writable()
    train, poison, sources = _poisoned(bench, dataset, request.poison)
    trial, seeds = request.trial, Seeds(bench.seed, request.trial)
    epoch = min(settings.config.schedule)
    recipe = replace(settings.recipe, epochs=epoch)
    spec = {
        "kind": "before HINT's first round",
        "loop": LOOP_NUMBER,
        "dataset": dataset.digest,
        "poison": poison["digest"] if poison else None,
        "model": network,
        "training": as_json(recipe),
        "seed": bench.seed,
        "trial": trial,
    }
    (model,) = trained_models(bench, dataset, recipe, spec, seeds=seeds, train=train)
    bench.abort_if_stopping()
    bench.say("HINT's first round" + (", with true and with wrong labels" if wrong_label else ""))
    train = train.to(bench.device)
    first_round = _FirstRound(model, dataset, defense, epoch, seeds)
    notes: list[dict[str, Any]] = []
    effects = {"healthy": first_round.effect(train, notes)}
    if wrong_label:
        wrong = other_labels(
            train.labels, dataset.num_classes, generator_for(bench.seed, "wrong labels", trial)
        )
        # The direction does not depend on training labels: only the images' own influence does.
        effects["wrong_label"] = first_round.effect(Split(train.images, wrong), [])
    rows = defense.memory["selected"]
    selected = train.rows(rows)
    before = logits_of(model, selected.images).softmax(1)
    sources = sources.to(rows.device)[rows]
    generator = generator_for(bench.seed, "figure 1", trial)
    sample = _choose(before, selected.labels, sources >= 0, images, generator)
    numbers: dict[str, Any] = {
        "figure": "1",
        "dataset": {"name": shown_name(dataset.name), "digest": dataset.digest},
        "poison": poison,
        "seed": bench.seed,
        "trial": trial,
        "config": as_json(settings.config),
        "model": {"epochs": epoch, "spec": spec},
        "round": notes[0],
        "images": [
            {
                "row": int(rows[index]),
                "poisoned_by": request.poison.attacks[sources[index]]
                if sources[index] >= 0
                else None,
                **_image_numbers(index, selected, before, effects, dataset.class_names),
            }
            for index in sample.tolist()
        ],
        "all_selected": {
            name: _summary(mask, selected.labels, before, effects)
            for name, mask in (
                ("all", sources == sources),
                ("clean", sources < 0),
                ("poisoned", sources >= 0),
            )
            if mask.any()
        },
    }
    pixels = {
        name: (effect.noise[sample], effect.images[sample]) for name, effect in effects.items()
    }
    return Figure(_grid(numbers, selected.images[sample], pixels), numbers)


def _poisoned(
    bench: Bench, dataset: Dataset, request: PoisonRequest
) -> tuple[Split, dict[str, Any] | None, Tensor]:
    """The training split with its poison, what names that, and each row's attack or -1, (N,)."""
    sources = torch.full((len(dataset.train),), -1)
    if request.rho == 0:
        return dataset.train, None, sources
    crafted = craft(bench, CraftRequest(dataset=dataset.name, poison=request, seed=bench.seed))
    poison = crafted[0].poison
    sources[poison.indices] = poison.sources.long()
    name = {"attacks": list(request.attacks), "rho": request.rho, "digest": poison.digest}
    return poison.apply(dataset.train), name, sources


@dataclass(frozen=True, eq=False)
class _FirstRound:
    """HINT's first round, at an epoch, on the model that it has there."""

    model: Classifier
    dataset: Dataset
    defense: Hint
    epoch: int
    seeds: Seeds

    def effect(self, train: Split, notes: list[dict[str, Any]]) -> NoiseEffect:
        """Make the noise for a training split with its labels; ``notes`` gets the round's note."""
        original = TrainingSet(train.images, train.labels)
        state = TrainingState(
            epoch=self.epoch,
            step=0,
            model=self.model,
            original=original,
            train=original,
            validation=self.dataset.validation.to(train.labels.device),
            generator=lambda purpose: self.seeds.generator("defense", purpose, self.epoch, 0),
            note=notes.append,
            # HINT looks at the model that it is given and trains no other.
            train_copy=lambda purpose, split: self.model,
        )
        healthy = self.defense.start_epoch(state).images
        rows = self.defense.memory["selected"]
        images = healthy[rows]
        noise = images - train.images[rows].float().div_(255)
        probabilities = logits_of(self.model, images).softmax(1)
        return NoiseEffect(train.labels[rows], noise, images, probabilities)


def _choose(
    before: Tensor, labels: Tensor, poisoned: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Positions among the selected: clean ones, then poisoned ones, misclassified ones first.

    Within that the draw is random. Where one kind is lacking the other fills in.
    """
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    right = before.argmax(1) == labels
    order = order[right[order].int().argsort(stable=True)]
    clean, bad = order[~poisoned[order]], order[poisoned[order]]
    num_clean = max(min(len(clean), math.ceil(count / 2)), count - len(bad))
    return torch.cat([clean[:num_clean], bad[: count - min(num_clean, len(clean))]])


def _image_numbers(
    index: int,
    selected: Split,
    before: Tensor,
    effects: dict[str, NoiseEffect],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """One selected image as JSON values: answers before and after, and the size of the noise."""
    label = int(selected.labels[index])
    numbers: dict[str, Any] = {
        "label": class_names[label],
        "before": answer(before[index], label, class_names),
    }
    for name, effect in effects.items():
        size = effect.noise[index].abs()
        numbers[name] = {
            "noise_made_with": class_names[int(effect.labels[index])],
            "max_abs_noise": float(size.max()),
            "mean_abs_noise": float(size.double().mean()),
            "shown_times": _factor(float(size.max())),
            "after": answer(effect.probabilities[index], label, class_names),
        }
    return numbers


def _factor(largest: float) -> float | None:
    """The factor by which a noise fills half of the range of grey; None of no noise."""
    return float(f"{0.5 / largest:.2g}") if largest > 0 else None


def _summary(
    mask: Tensor, labels: Tensor, before: Tensor, effects: dict[str, NoiseEffect]
) -> dict[str, Any]:
    """Shares over the selected images where a mask (S,) is true."""
    labels, before = labels[mask], before[mask]
    true = before.gather(1, labels[:, None])[:, 0]
    right = before.argmax(1) == labels
    numbers: dict[str, Any] = {
        "images": len(labels),
        "right_before": float(right.double().mean()),
        "mean_true_confidence_before": float(true.double().mean()),
    }
    for name, effect in effects.items():
        after = effect.probabilities[mask]
        confidence = after.gather(1, labels[:, None])[:, 0]
        is_right = after.argmax(1) == labels
        numbers[name] = {
            "right_after": float(is_right.double().mean()),
            "turned_right": int((is_right & ~right).sum()),
            "turned_wrong": int((right & ~is_right).sum()),
            "mean_true_confidence_after": float(confidence.double().mean()),
            "true_confidence_rises": float((confidence > true).double().mean()),
        }
    return numbers


def _grid(
    numbers: dict[str, Any], images: Tensor, pixels: Mapping[str, tuple[Tensor, Tensor]]
) -> Grid:
    """An image a row, with its noise and the noisy image.

    Args:
        numbers: as in the JSON file.
        images: (M, C, H, W) uint8, those of ``numbers["images"]``.
        pixels: by "healthy" and "wrong_label", the noise and the noisy images, both (M, C, H, W)
            in pixels of [0, 1].
    """
    tiles = []
    for index, image in enumerate(numbers["images"]):
        row = [_answer_tile(images[index], image["before"])]
        for name, (noise, noisy) in pixels.items():
            effect = image[name]
            factor = effect["shown_times"] or 1
            text = f"max {255 * effect['max_abs_noise']:.3g}/255\nshown \u00d7 {factor:g}"
            if name == "wrong_label":
                text = f"label {short_name(effect['noise_made_with'], 8)}, {text}"
            row.append(Tile(pixels=picture_of(noise[index] * factor + 0.5), text=text))
            row.append(_answer_tile(noisy[index], effect["after"]))
        tiles.append(row)
    columns = ["image", "healthy noise", "image + noise"]
    if "wrong_label" in pixels:
        columns += ["noise with a\nwrong label", "image + that"]
    rows = [
        f"{image['poisoned_by'] or 'clean'}, row {image['row']}\nlabel {short_name(image['label'])}"
        for image in numbers["images"]
    ]
    poison = numbers["poison"]
    mix = f"{'+'.join(poison['attacks'])} at rho {poison['rho']:g}" if poison else "clean"
    return Grid(
        title=f"HINT's healthy noise: {numbers['dataset']['name']}, {mix}, "
        f"r = {numbers['config']['ratio']:g}",
        columns=columns,
        rows=rows,
        tiles=tiles,
        caption=_caption(numbers),
    )


def _answer_tile(image: Tensor, answer: dict[str, Any]) -> Tile:
    """An image (C, H, W) with the model's answer to it."""
    text = f"{short_name(answer['class'])}  {_share(answer['confidence'])}"
    text += f"\nthe label {_share(answer['true_confidence'])}"
    return Tile(pixels=picture_of(image), text=text, is_right=answer["is_right"])


def _caption(numbers: dict[str, Any]) -> str:
    config, summary = numbers["config"], numbers["all_selected"]["all"]
    healthy = summary["healthy"]
    sentences = (
        "After Figure 1 of the HINT paper. Under the images: the model's class with its "
        "probability, marked as right or wrong, and the label's probability; they are of the noise "
        "as it is, not of the amplified one. Grey is no noise, white raises and black lowers a "
        "pixel.\n"
        f"Noise: -gamma x pixel influence, gamma = {config['gamma']:g}, within "
        f"{255 * config['beta']:.3g}/255. Model: plain training for {numbers['model']['epochs']} "
        f"epoch(s), as HINT has it in its first round; trial {numbers['trial']}. Images: drawn at "
        "random from those that HINT selects, misclassified ones first.\n"
        f"All {summary['images']:,} selected images: {_share(summary['right_before'])} right "
        f"before, {_share(healthy['right_after'])} after healthy noise; the label's probability "
        f"rises for {_share(healthy['true_confidence_rises'])}, its mean goes from "
        f"{_share(summary['mean_true_confidence_before'])} to "
        f"{_share(healthy['mean_true_confidence_after'])}."
    )
    if "wrong_label" in summary:
        wrong = summary["wrong_label"]
        sentences += (
            " Control, the same noise made with a wrong label drawn at random: "
            f"{_share(wrong['right_after'])} right after, the true label's probability rises "
            f"for {_share(wrong['true_confidence_rises'])}, its mean goes to "
            f"{_share(wrong['mean_true_confidence_after'])}."
        )
    return sentences


def _share(share: float) -> str:
    return f"{100 * share:.2f} %"
