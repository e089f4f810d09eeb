"""Figure 1 of the HINT paper: its healthy noise on clean and on poisoned training images.

The noise is made by the defense itself, in its first round, on the model that it has at that
moment: plainly trained on the poisoned data until the first scheduled epoch. The influence of a
pixel is that of an image with its label, so the prediction may well turn towards that label: a
control makes the same noise, on the same images, with a wrong label each.

Shapes: S selected images, K classes.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from msgspec import structs, to_builtins
from torch import Tensor

from poisonbench.core.errors import UsageError
from poisonbench.core.seeds import Seeds, generator_for
from poisonbench.core.settings import as_json, percent_text
from poisonbench.data.splits import Dataset, Split, other_labels
from poisonbench.defenses.hint import Hint
from poisonbench.entries import shown_name
from poisonbench.figures.drawing import Figure, Grid, Tile
from poisonbench.figures.images import answer, picture_of, png_text, short_name
from poisonbench.models import check_model
from poisonbench.models.classifier import Classifier
from poisonbench.registry import defenses
from poisonbench.requests import CraftRequest, PoisonRequest, RunRequest
from poisonbench.runs.context import RunContext, default_model
from poisonbench.runs.craft import craft
from poisonbench.runs.method_settings import Settings, read_settings
from poisonbench.runs.trained_models import model_spec, trained_models
from poisonbench.training.evaluation import logits_of
from poisonbench.training.state import TrainingSet, TrainingState


class NoiseEffect(NamedTuple):
    """The effect of one noise on the selected images."""

    #: (S,) the labels that the noise was made with.
    labels: Tensor
    #: (S, C, H, W) as applied, in pixels of [0, 1].
    noise: Tensor
    #: (S, C, H, W) with the noise, in [0, 1].
    images: Tensor
    #: (S, K) of the model on them.
    probabilities: Tensor


class Round(NamedTuple):
    """HINT's first round: the images that it selects, and its noise on them."""

    #: The selected rows of the training split, and those images with their labels.
    rows: Tensor
    selected: Split
    #: (S, K) of the model on them without noise.
    before: Tensor
    #: By the labels that the noise was made with: "healthy" and "wrong_label".
    effects: dict[str, NoiseEffect]
    #: What the defense notes of the round.
    note: dict[str, Any]


def healthy_noise(
    context: RunContext,
    dataset: Dataset,
    request: RunRequest,
    *,
    images: int = 4,
    wrong_label: bool = False,
) -> Figure:
    """Draw image, noise and noisy image with predictions, for some images of HINT's selection.

    Half of the images are clean where there are clean ones; the trial of the request, a run of
    HINT, also seeds their choice. Poisons and the model that are missing are made and kept.

    Raises:
        UsageError: bad options.
    """
    settings = read_settings(defenses()["hint"], dataset, request.profile, request.settings)
    try:
        defense: Hint = settings.module.build(settings.config, settings.recipe)
    except ValueError as error:
        raise UsageError(f"hint: {error}") from None
    check_model(default_model(dataset), dataset.image_shape)
    context.store.check_writable()
    train, poison, sources = _poisoned(context, dataset, request.crafted)
    digest = poison["digest"] if poison else None
    model, about_model = _model_before(context, dataset, settings, train, digest, request.trial)
    context.abort_if_stopping()
    context.say("HINT's first round" + (", with true and with wrong labels" if wrong_label else ""))
    splits = {"healthy": train.to(context.device)}
    if wrong_label:
        generator = generator_for(context.seed, "wrong labels", request.trial)
        wrong = other_labels(splits["healthy"].labels, dataset.num_classes, generator)
        # The direction does not depend on training labels: only the images' own influence does.
        splits["wrong_label"] = Split(splits["healthy"].images, wrong)
    first = _first_round(context, dataset, request.trial, defense, model, splits)
    sources = sources.to(first.rows.device)[first.rows]
    generator = generator_for(context.seed, "figure 1", request.trial)
    sample = _choose(first, sources >= 0, images, generator).tolist()
    attacks = (*request.poison.attacks, None)
    groups = {"all": sources == sources, "clean": sources < 0, "poisoned": sources >= 0}
    numbers: dict[str, Any] = {
        "figure": "1",
        "dataset": {"name": shown_name(dataset.name), "digest": dataset.digest},
        "poison": poison,
        "seed": context.seed,
        "trial": request.trial,
        "config": as_json(settings.config),
        "model": about_model,
        "round": first.note,
        "images": [
            {
                "row": int(first.rows[index]),
                # The last one of a clean image, whose source is -1.
                "poisoned_by": attacks[sources[index]],
                **_image_numbers(index, first, dataset.class_names),
            }
            for index in sample
        ],
        "all_selected": {
            name: _summary(mask, first) for name, mask in groups.items() if mask.any()
        },
    }
    return Figure(_grid(numbers, first, sample), numbers)


def _poisoned(
    context: RunContext, dataset: Dataset, request: PoisonRequest
) -> tuple[Split, dict[str, Any] | None, Tensor]:
    """The training split with its poison, what names that, and each row's attack or -1, (N,)."""
    sources = torch.full((len(dataset.train),), -1)
    if request.rho == 0:
        return dataset.train, None, sources
    crafted = craft(context, CraftRequest(dataset=dataset.name, poison=request, seed=context.seed))
    poison = crafted[0].poison
    sources[poison.indices] = poison.sources.long()
    rho = len(poison) / len(dataset.train) if request.rho is None else request.rho
    name = {"attacks": list(request.attacks), "rho": rho, "digest": poison.digest}
    return poison.apply(dataset.train), name, sources


def _model_before(
    context: RunContext,
    dataset: Dataset,
    settings: Settings,
    train: Split,
    digest: str | None,
    trial: int,
) -> tuple[Classifier, dict[str, Any]]:
    """The model that HINT has in its first round, trained plainly until then, and what names it.

    The digest is that of the poison in the training split.
    """
    epoch = min(settings.config.schedule)
    recipe = settings.recipe.first_epochs(epoch)
    spec = model_spec(context, dataset, recipe, "before HINT's first round", trial, None)
    spec = structs.replace(spec, poison=digest)
    seeds = Seeds(context.seed, trial)
    (model,) = trained_models(context, dataset, recipe, spec, seeds=seeds, train=train)
    return model, {"epochs": epoch, "spec": to_builtins(spec)}


def _first_round(
    context: RunContext,
    dataset: Dataset,
    trial: int,
    defense: Hint,
    model: Classifier,
    splits: dict[str, Split],
) -> Round:
    """HINT's first round on each of the training splits, which differ in their labels alone."""
    seeds, epoch = Seeds(context.seed, trial), min(defense.config.schedule)
    notes: list[dict[str, Any]] = []
    effects = {}
    for name, split in splits.items():
        original = TrainingSet(split.images, split.labels)
        state = TrainingState(
            epoch=epoch,
            step=0,
            model=model,
            original=original,
            train=original,
            validation=dataset.validation.to(context.device),
            generator=lambda purpose: seeds.generator("defense", purpose, epoch, 0),
            note=notes.append,
            # HINT looks at the model that it is given and trains no other.
            train_copy=lambda purpose, split: model,
        )
        healthy = defense.start_epoch(state).images
        rows = defense.memory["selected"]
        images, clean = healthy[rows], split.rows(rows)
        noise = images - clean.images.float().div_(255)
        probabilities = logits_of(model, images).softmax(1)
        effects[name] = NoiseEffect(clean.labels, noise, images, probabilities)
    selected = splits["healthy"].rows(rows)
    before = logits_of(model, selected.images).softmax(1)
    return Round(rows, selected, before, effects, notes[0])


def _choose(first: Round, poisoned: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions among the selected: clean ones, then poisoned ones, misclassified ones first.

    Within that the draw is random. Where one kind is lacking the other fills in.
    """
    labels = first.selected.labels
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    right = first.before.argmax(1) == labels
    order = order[right[order].int().argsort(stable=True)]
    clean, bad = order[~poisoned[order]], order[poisoned[order]]
    num_clean = max(min(len(clean), math.ceil(count / 2)), count - len(bad))
    return torch.cat([clean[:num_clean], bad[: count - min(num_clean, len(clean))]])


def _image_numbers(index: int, first: Round, class_names: Sequence[str]) -> dict[str, Any]:
    """One selected image as JSON values: answers before and after, and the size of the noise."""
    label = int(first.selected.labels[index])
    numbers: dict[str, Any] = {
        "label": class_names[label],
        "png": png_text(first.selected.images[index]),
        "before": answer(first.before[index], label, class_names),
    }
    for name, effect in first.effects.items():
        size = effect.noise[index].abs()
        largest = float(size.max())
        # It fills half of the range of grey.
        times = float(f"{0.5 / largest:.2g}") if largest > 0 else None
        numbers[name] = {
            "noise_made_with": class_names[int(effect.labels[index])],
            "max_abs_noise": largest,
            "mean_abs_noise": float(size.double().mean()),
            "shown_times": times,
            "png": png_text(effect.noise[index] * (times or 1) + 0.5),
            "noisy_png": png_text(effect.images[index]),
            "after": answer(effect.probabilities[index], label, class_names),
        }
    return numbers


def _summary(mask: Tensor, first: Round) -> dict[str, Any]:
    """Shares over the selected images where a mask (S,) is true."""
    labels = first.selected.labels[mask]

    def answers(probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Which images are right, and their labels' probabilities, both (M,)."""
        is_right = probabilities[mask].argmax(1) == labels
        return is_right, probabilities[mask].gather(1, labels[:, None])[:, 0]

    right, true = answers(first.before)
    numbers: dict[str, Any] = {
        "images": len(labels),
        "right_before": _mean(right),
        "mean_true_confidence_before": _mean(true),
    }
    for name, effect in first.effects.items():
        is_right, confidence = answers(effect.probabilities)
        numbers[name] = {
            "right_after": _mean(is_right),
            "turned_right": int((is_right & ~right).sum()),
            "turned_wrong": int((right & ~is_right).sum()),
            "mean_true_confidence_after": _mean(confidence),
            "true_confidence_rises": _mean(confidence > true),
        }
    return numbers


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _grid(numbers: dict[str, Any], first: Round, sample: Sequence[int]) -> Grid:
    """An image of the sample a row, with its noise and the noisy image."""
    tiles = []
    for index, image in zip(sample, numbers["images"], strict=True):
        row = [_answer_tile(first.selected.images[index], image["before"])]
        for name, effect in first.effects.items():
            about = image[name]
            factor = about["shown_times"] or 1
            text = f"max {255 * about['max_abs_noise']:.3g}/255\nshown \u00d7 {factor:g}"
            if name == "wrong_label":
                text = f"label {short_name(about['noise_made_with'], 8)}, {text}"
            row.append(Tile(pixels=picture_of(effect.noise[index] * factor + 0.5), text=text))
            row.append(_answer_tile(effect.images[index], about["after"]))
        tiles.append(row)
    headings = ["image", "healthy noise", "image + noise", "noise with a\nwrong label"]
    poison = numbers["poison"]
    mix = f"{'+'.join(poison['attacks'])} at rho {poison['rho']:g}" if poison else "clean"
    return Grid(
        title=f"HINT's healthy noise: {numbers['dataset']['name']}, {mix}, "
        f"r = {numbers['config']['ratio']:g}",
        columns=[*headings, "image + that"][: 1 + 2 * len(first.effects)],
        rows=[
            f"{image['poisoned_by'] or 'clean'}, row {image['row']}\n"
            f"label {short_name(image['label'])}"
            for image in numbers["images"]
        ],
        tiles=tiles,
        caption=_caption(numbers),
    )


def _answer_tile(image: Tensor, answer: dict[str, Any]) -> Tile:
    """An image (C, H, W) with the model's answer to it."""
    text = f"{short_name(answer['class'])}  {percent_text(answer['confidence'])}"
    text += f"\nthe label {percent_text(answer['true_confidence'])}"
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
        f"All {summary['images']:,} selected images: {percent_text(summary['right_before'])} "
        f"right before, {percent_text(healthy['right_after'])} after healthy noise; the label's "
        f"probability rises for {percent_text(healthy['true_confidence_rises'])}, its mean goes "
        f"from {percent_text(summary['mean_true_confidence_before'])} to "
        f"{percent_text(healthy['mean_true_confidence_after'])}."
    )
    if "wrong_label" in summary:
        wrong = summary["wrong_label"]
        sentences += (
            " Control, the same noise made with a wrong label drawn at random: "
            f"{percent_text(wrong['right_after'])} right after, the true label's probability rises "
            f"for {percent_text(wrong['true_confidence_rises'])}, its mean goes to "
            f"{percent_text(wrong['mean_true_confidence_after'])}."
        )
    return sentences
