"""JPEG, mixup and CutMix against the plain form of each."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats

from helpers.attack_tasks import K, fake_split, small_classifier
from helpers.defense_problems import state_for
from helpers.tiny_training import recipe, weights_digest
from helpers.tiny_training import train as tiny_train
from poisonbench.defenses import cutmix, jpeg, mixup
from poisonbench.defenses.shared.jpeg_codec import reencoded
from poisonbench.training.augmentation import draw_beta
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import TrainingSet

RECIPE = Recipe()

# JPEG


def smooth_images(count=6, channels=3, side=16):
    """Colour gradients under noise, so that the codec has something to keep."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 180, side).view(1, 1, side, 1)
    noise = torch.randint(0, 70, (count, channels, side, side), generator=generator)
    return (ramp + noise).to(torch.uint8)


@pytest.mark.parametrize("quality", [10, 75, 95])
def test_colour_images_are_pillows_round_trip(quality):
    images = smooth_images()
    compressed = reencoded(images, quality)
    for image, encoded in zip(images, compressed, strict=True):
        stream = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy(), "RGB").save(stream, "JPEG", quality=quality)
        expected = np.asarray(Image.open(stream).convert("RGB"))
        assert np.array_equal(encoded.permute(1, 2, 0).numpy(), expected)
    assert compressed.is_contiguous()
    assert not torch.equal(compressed, images)


@pytest.mark.parametrize("channels", [1, 2])
def test_other_images_are_pillows_round_trip_channel_by_channel(channels):
    images = smooth_images(channels=channels)
    compressed = reencoded(images, 50)
    for image, encoded in zip(images, compressed, strict=True):
        for plane, expected in zip(image, encoded, strict=True):
            stream = io.BytesIO()
            Image.fromarray(plane.numpy(), "L").save(stream, "JPEG", quality=50)
            assert np.array_equal(np.asarray(Image.open(stream)), expected.numpy())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_each_image_may_have_a_quality_of_its_own(channels):
    images, qualities = smooth_images(channels=channels), torch.tensor([10, 99, 50, 10, 75, 1])
    each = [reencoded(image[None], int(own)) for image, own in zip(images, qualities, strict=True)]
    assert torch.equal(reencoded(images, qualities), torch.cat(each))


def test_jpeg_happens_once_and_lower_quality_changes_more():
    changes = []
    for quality in (90, 20):
        images, notes = smooth_images(8), []
        train = TrainingSet(images, torch.arange(8) % K)
        defense = jpeg.build(jpeg.Config(quality=quality), RECIPE)
        first = defense.start_epoch(state_for(small_classifier(), train, notes=notes))
        assert torch.equal(first.images, reencoded(images, quality))
        state = state_for(small_classifier(), first, epoch=1, notes=notes)
        assert defense.start_epoch(state) is first
        (row,) = notes
        change = (first.images.double() - images.double()).abs().mean() / 255
        assert row == {"round": "jpeg", "mean_abs_change": pytest.approx(float(change))}
        changes.append(row["mean_abs_change"])
    assert 0 < changes[0] < changes[1]


def test_training_on_jpeg_is_training_on_the_images_made_before():
    data = fake_split(22, 0, (1, 8, 8))
    model, _ = tiny_train(jpeg.build(jpeg.Config(), RECIPE), data=data, shape=(1, 8, 8))
    compressed = replace(data, images=reencoded(data.images, 75))
    plain, _ = tiny_train(data=compressed, shape=(1, 8, 8))
    assert weights_digest(model) == weights_digest(plain)


# mixup and CutMix


def batch(size=8, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 2, side, side, generator=generator)
    labels = torch.randint(0, K, (size,), generator=generator)
    logits = torch.randn(size, K, generator=generator)
    return images, labels, logits


def state_at(epoch, step, trial=0):
    split = fake_split(8, 0)
    train = TrainingSet(split.images, split.labels)
    return state_for(small_classifier(), train, epoch=epoch, step=step, trial=trial)


def soft_cross_entropy(logits, targets):
    """The cross-entropy of label distributions (B, K), written out."""
    return -(targets * logits.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("step", range(4))
def test_mixup_blends_images_and_one_hot_labels(alpha, step):
    images, labels, logits = batch()
    defense, state = mixup.build(mixup.Config(alpha=alpha), RECIPE), state_at(0, step)
    weight, partner = defense._draw(state, labels)
    assert sorted(partner.tolist()) == list(range(8))
    blended = defense.perturb_batch(state, images, labels)
    targets = F.one_hot(labels, K).float()
    mixed_labels = torch.empty(8, K)
    for row, other in enumerate(partner.tolist()):
        expected = weight * images[row] + (1 - weight) * images[other]
        torch.testing.assert_close(blended[row], expected)
        mixed_labels[row] = weight * targets[row] + (1 - weight) * targets[other]
    loss = defense.batch_loss(state, logits, labels)
    torch.testing.assert_close(loss, soft_cross_entropy(logits, mixed_labels))


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_weights_are_of_the_beta_distribution(alpha):
    generator = torch.Generator().manual_seed(1)
    drawn = [draw_beta(alpha, generator) for _ in range(400)]
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("step", range(12))
def test_cutmix_pastes_a_box_and_its_share_of_the_label(step):
    images, labels, logits = batch()
    defense, state = cutmix.build(cutmix.Config(), RECIPE), state_at(1, step)
    weight, partner, (lines, columns) = defense._draw(state, labels)
    mixed = defense.perturb_batch(state, images, labels)
    targets = F.one_hot(labels, K).float()
    mixed_labels = torch.empty(8, K)
    for row, other in enumerate(partner.tolist()):
        inside = 0
        for line in range(8):
            for column in range(8):
                is_inside = (
                    lines.start <= line < lines.stop and columns.start <= column < columns.stop
                )
                source = images[other if is_inside else row]
                assert torch.equal(mixed[row, :, line, column], source[:, line, column])
                inside += is_inside
        assert weight == pytest.approx(1 - inside / 64)
        mixed_labels[row] = weight * targets[row] + (1 - weight) * targets[other]
    loss = defense.batch_loss(state, logits, labels)
    torch.testing.assert_close(loss, soft_cross_entropy(logits, mixed_labels))


@pytest.mark.parametrize(
    ("outside", "place", "pixels"),
    [
        (1.0, 0.5, (16, 16)),
        (0.75, 0.5, (8, 24)),
        (0.75, 0.0, (0, 8)),
        (0.75, 0.99, (23, 32)),
        (0.0, 0.5, (0, 32)),
    ],
)
def test_boxes_by_hand(outside, place, pixels):
    """Of 32 pixels: half of the side for a quarter of the area, cut at the border."""
    side = cutmix.box_side(32, outside, place)
    assert (side.start, side.stop) == pixels


def test_cutmix_leaves_the_other_batches_alone():
    images, labels, logits = batch()
    defense = cutmix.build(cutmix.Config(probability=0.5), RECIPE)
    mixed = 0
    for step in range(60):
        state = state_at(0, step)
        weight, *_ = defense._draw(state, labels)
        if weight == 1:
            assert torch.equal(defense.perturb_batch(state, images, labels), images)
            loss = defense.batch_loss(state, logits, labels)
            assert torch.equal(loss, F.cross_entropy(logits, labels))
        else:
            mixed += 1
    assert 15 < mixed < 45


@pytest.mark.parametrize("module", [mixup, cutmix])
def test_draws_differ_by_step_epoch_and_trial_and_are_the_same_again(module):
    _, labels, _ = batch()
    defense = module.build(module.Config(), RECIPE)

    def draw(*place):
        return defense._draw(state_at(*place), labels)[1].tolist()

    assert draw(0, 0) == draw(0, 0)
    assert all(draw(0, 0) != draw(*other) for other in [(0, 1), (1, 0), (0, 0, 1)])


@pytest.mark.parametrize("module", [mixup, cutmix])
def test_the_curve_is_of_the_loss_that_is_descended(module):
    losses = []

    class Spy(type(module.build(module.Config(), RECIPE))):
        def batch_loss(self, state, logits, labels):
            loss = super().batch_loss(state, logits, labels)
            losses.append(float(loss.detach()) * len(labels))
            return loss

    _, result = tiny_train(Spy(module.Config()), recipe=recipe(epochs=1))
    assert result.curve[0]["loss"] == pytest.approx(sum(losses) / 22)


@pytest.mark.parametrize(
    ("module", "changes"),
    [
        (jpeg, {"quality": 0}),
        (jpeg, {"quality": 96}),
        (mixup, {"alpha": 0.0}),
        (cutmix, {"alpha": 0.0}),
        (cutmix, {"probability": 0.0}),
        (cutmix, {"probability": 1.1}),
    ],
)
def test_settings_out_of_range_name_the_setting(module, changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name}: expected"):
        module.Config(**changes)
