"""LSP, AR, OPS, CUDA and untargeted noise: the maths by brute force, and what their noise is."""

import dataclasses
import math

import pytest
import torch

from helpers.attack_tasks import craft_spec, fake_dataset
from poisonbench.attacks import ar, cuda, lsp, ops, untargeted_noise
from poisonbench.attacks.base import AttackTask, LabelledImages
from poisonbench.attacks.shared.blurring import draw_filters
from poisonbench.core.errors import UsageError
from poisonbench.data.poison import make_poison

SHAPES = [(1, 8, 8), (3, 8, 6), (4, 5, 9)]
K = 3


def task_of(shape, size=20, seed=0, labels=None):
    """Images in the middle of [0, 1], where nothing is clipped."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.4 + 0.2 * torch.rand(size, *shape, generator=generator)
    labels = torch.randint(0, K, (size,), generator=generator) if labels is None else labels
    return AttackTask(
        images=images,
        labels=labels,
        validation=LabelledImages(images[:K], labels[:K]),
        num_classes=K,
        surrogate=lambda: pytest.fail("no surrogate is needed"),
        untrained=lambda: pytest.fail("no network is needed"),
        generator=torch.Generator().manual_seed(seed),
        report=lambda done, total: None,
    )


# --- norms


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("module", "values"),
    [
        (lsp, {"epsilon": 0.4, "patch": 2}),
        (ar, {"epsilon": 0.4}),
        (untargeted_noise, {"norm": "l2", "epsilon": 0.4}),
        (untargeted_noise, {"norm": "l2", "epsilon": 0.4, "pattern": "class-wise"}),
    ],
)
def test_noise_has_the_l2_norm_where_nothing_is_clipped(module, values, shape):
    # At most 40 values a side of 0.4: AR's fields may have peaks.
    task = task_of(shape)
    noise = module.craft(task, module.Config(**values)) - task.images
    assert noise.double().flatten(1).norm(dim=1) == pytest.approx([0.4] * 20, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_is_poisoned(shape):
    task = task_of(shape)
    for module, values in ((ops, {}), (cuda, {}), (untargeted_noise, {}), (lsp, {"patch": 4})):
        poisons = module.craft(task, module.Config(**values))
        assert poisons.shape == task.images.shape
        assert 0 <= float(poisons.min()) <= float(poisons.max()) <= 1


# --- untargeted noise


@pytest.mark.parametrize("distribution", ["sign", "uniform"])
def test_class_wise_noise_is_one_a_class_and_sample_wise_an_images_own(distribution):
    task = task_of((2, 6, 6))
    for pattern in ("class-wise", "sample-wise"):
        values = {"pattern": pattern, "distribution": distribution, "epsilon": 0.1}
        config = untargeted_noise.Config(**values)
        noise = untargeted_noise.craft(dataclasses.replace(task), config) - task.images
        same = task.labels[:, None] == task.labels
        close = (noise[:, None] - noise).abs().amax((2, 3, 4)) < 1e-5
        expected = same if pattern == "class-wise" else torch.eye(20, dtype=torch.bool)
        assert torch.equal(close, expected)
        is_corner = (noise.abs() - 0.1).abs() < 1e-6
        assert bool(is_corner.all()) is (distribution == "sign")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pixels", [1, 3])
def test_l0_noise_sets_so_many_pixels_to_corners_of_the_colour_cube(shape, pixels):
    task = task_of(shape)
    for pattern in ("class-wise", "sample-wise"):
        config = untargeted_noise.Config(norm="l0", epsilon=float(pixels), pattern=pattern)
        poisons = untargeted_noise.craft(dataclasses.replace(task), config)
        changed = (poisons != task.images).any(1)
        assert changed.sum((1, 2)).tolist() == [pixels] * 20
        values = poisons.movedim(1, -1)[changed]
        assert set(values.unique().tolist()) == {0.0, 1.0}
        # The noise of a class is one, that of images differs.
        marks = (poisons - task.images).sign()
        own = [marks[task.labels == label].unique(dim=0) for label in range(K)]
        numbers = [len(each) for each in own]
        assert numbers == [1] * K if pattern == "class-wise" else min(numbers) > 1


def test_l0_noise_draws_pixels_and_colours_alike():
    task = task_of((2, 3, 4), 6000)
    config = untargeted_noise.Config(norm="l0", epsilon=1.0)
    noise = untargeted_noise.craft(task, config) - task.images
    changed = (noise != 0).any(1).flatten(1)
    # Each of 12 pixels and of 4 colours, to within four standard deviations.
    assert changed.sum(0).tolist() == pytest.approx([500] * 12, abs=86)
    signs = (noise.flatten(2).sum(2) > 0).long()
    assert (signs[:, 0] * 2 + signs[:, 1]).bincount().tolist() == pytest.approx([1500] * 4, abs=135)


def test_a_whole_number_of_pixels_may_be_an_int():
    assert untargeted_noise.Config(norm="l0", epsilon=2).budget == 2


def test_l0_noise_refuses_more_pixels_than_there_are():
    config = untargeted_noise.Config(norm="l0", epsilon=65.0)
    with pytest.raises(UsageError, match="expected at most the 64 pixels of an image, got"):
        untargeted_noise.craft(task_of((1, 8, 8)), config)


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_that_convolves_gives_each_image_a_filter_of_its_own(shape):
    images = task_of(shape, 5).images.double()
    filters = draw_filters(5, 0.3, torch.Generator().manual_seed(0)).double()
    result = untargeted_noise.convolved(images, filters)
    expected = torch.cat([cuda.convolved(images[row : row + 1], filters[row]) for row in range(5)])
    assert torch.allclose(result, expected, rtol=1e-12)


def test_noise_that_convolves_draws_a_filter_an_image():
    task = task_of((1, 6, 6), 6)
    task = dataclasses.replace(task, images=task.images[:1].repeat(6, 1, 1, 1))
    config = untargeted_noise.Config(norm="convolution", epsilon=0.3)
    poisons = untargeted_noise.craft(task, config)
    assert len(poisons.unique(dim=0)) == 6
    assert config.budget is None
    assert poisons.amax((1, 2, 3)) == pytest.approx([1.0] * 6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm": "l2"}, "epsilon: expected the L2 norm of a whole image"),
        ({"norm": "l2", "epsilon": 1.0, "distribution": "uniform"}, "expected it with norm linf"),
        ({"norm": "l0", "epsilon": 1.0, "distribution": "uniform"}, "expected it with norm linf"),
        ({"norm": "l0"}, "epsilon: expected a whole number of pixels with norm l0"),
        ({"norm": "l0", "epsilon": 1.5}, "epsilon: expected a whole number of pixels"),
        ({"norm": "l0", "epsilon": 0}, "epsilon: expected"),
        ({"epsilon": 1.5}, r"epsilon: expected in \(0, 1\] with linf"),
        ({"norm": "convolution", "epsilon": 1.5}, "epsilon: expected the largest tap"),
        ({"norm": "convolution"}, "epsilon: expected the largest tap"),
        (
            {"norm": "convolution", "epsilon": 0.3, "pattern": "class-wise"},
            "pattern: expected sample",
        ),
    ],
)
def test_settings_of_the_other_norm_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        untargeted_noise.Config(**values)


# --- LSP


def test_lsp_points_are_draws_by_the_class_matrix_around_its_centre():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    matrix = torch.rand(5, 5, generator=generator, dtype=torch.float64) * 2 - 1
    centre = torch.randn(5, generator=generator, dtype=torch.float64)
    points = lsp.separable_points(draws, matrix, centre)
    for i in range(7):
        for j in range(5):
            value = sum(float(draws[i, k] * matrix[k, j]) for k in range(5))
            assert float(points[i, j]) == pytest.approx(value + float(centre[j]))


def test_lsp_centres_are_distinct_vertices_down_to_the_last():
    centres = lsp.vertices(8, 3, torch.Generator().manual_seed(0))
    assert torch.equal(centres.abs(), torch.full((8, 3), 10.0))
    assert len(centres.unique(dim=0)) == 8


def test_lsp_noise_is_constant_in_a_patch_and_cut_off_at_the_edge():
    task = task_of((2, 7, 7))
    noise = lsp.craft(task, lsp.Config(patch=4, epsilon=0.3)) - task.images
    for rows in (slice(0, 4), slice(4, 7)):
        for columns in (slice(0, 4), slice(4, 7)):
            cell = noise[:, :, rows, columns].flatten(2)
            assert float((cell - cell[..., :1]).abs().max()) < 1e-6
    assert not torch.allclose(noise[0, 0, 0, 0], noise[0, 0, 0, 4])


def test_a_linear_model_separates_lsp():
    labels = torch.arange(200) % K
    task = task_of((1, 8, 8), 200, labels=labels)
    noise = (lsp.craft(task, lsp.Config(patch=2)) - task.images).flatten(1).double()
    weights = torch.linalg.lstsq(noise[:120], torch.eye(K).double()[labels[:120]]).solution
    assert float(((noise[120:] @ weights).argmax(1) == labels[120:]).double().mean()) > 0.95


def test_lsp_refuses_too_few_patches():
    with pytest.raises(UsageError, match="expected enough patches for 3 classes"):
        lsp.craft(task_of((1, 8, 8)), lsp.Config(patch=8))


# --- AR


def test_ar_fields_follow_the_recursion_in_raster_order():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 9, 10, 4, generator=generator, dtype=torch.float64)
    filters = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64) / 4
    filters[:, 2, 2] = 0
    expected = start.clone()
    for channel in range(2):
        for i in range(2, 9):
            for j in range(2, 10):
                expected[channel, i, j] = sum(
                    filters[channel, u, v] * expected[channel, i - 2 + u, j - 2 + v]
                    for u in range(3)
                    for v in range(3)
                    if (u, v) != (2, 2)
                )
    assert torch.allclose(ar.fields(start, filters), expected[:, 4:, 4:], rtol=1e-12, atol=1e-12)


def test_ar_response_is_the_summed_relu_of_the_prediction_error():
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
    filters = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    filters[:, 2, 2] = 0
    total = 0.0
    for i in range(2, 5):
        for j in range(2, 6):
            error = sum(
                float((filters[c] * field[c, i - 2 : i + 1, j - 2 : j + 1]).sum() - field[c, i, j])
                for c in range(2)
            )
            total += max(error, 0.0)
    assert ar.response(field, filters) == pytest.approx(total)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28)])
def test_ar_filters_pass_their_test(shape):
    filters = ar.find_filters(K, shape, torch.Generator().manual_seed(0))
    assert filters.shape == (K, shape[0], 3, 3)
    assert filters.sum((2, 3)) == pytest.approx(torch.ones(K, shape[0]), abs=1e-3)
    assert float(filters[:, :, 2, 2].abs().max()) == 0


def test_ar_noise_is_what_its_class_filter_predicts_and_new_for_each_image():
    task = task_of((2, 10, 10))
    filters = ar.find_filters(K, (2, 10, 10), torch.Generator().manual_seed(0))
    noise = ar.craft(task, ar.Config(epsilon=0.4)) - task.images
    for image, label in zip(noise, task.labels.tolist(), strict=True):
        own = ar.response(image, filters[label])
        others = [ar.response(image, filters[other]) for other in range(K) if other != label]
        assert own < 1e-3 < min(others)
    first, second = noise[task.labels == 0][:2]
    assert not torch.allclose(first, second, atol=1e-3)


def test_ar_refuses_more_classes_than_filters_tell_apart(monkeypatch):
    monkeypatch.setattr(ar, "_ROUNDS", 1)
    monkeypatch.setattr(ar, "_LEAST_RESPONSE", 1e9)
    with pytest.raises(UsageError, match="expected filters that tell 3 classes apart"):
        ar.find_filters(K, (1, 8, 8), torch.Generator().manual_seed(0))


# --- OPS


def test_ops_scores_are_mean_over_spread_of_the_distance():
    images = task_of((2, 3, 4), 6).images.double()
    colours = ops.corners(2)
    assert colours.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    scores = ops.scores(images, colours)
    for pixel in range(12):
        for number, colour in enumerate(colours.tolist()):
            distances = [
                abs(colour[channel] - float(image[channel, pixel // 4, pixel % 4]))
                for image in images
                for channel in range(2)
            ]
            mean = sum(distances) / len(distances)
            spread = math.sqrt(sum((d - mean) ** 2 for d in distances) / len(distances))
            assert float(scores[pixel, number]) == pytest.approx(mean / spread, rel=1e-9)


def test_ops_changes_one_pixel_of_a_class_and_no_pair_twice():
    # All classes have the same images, and so the same favourite.
    task = task_of((3, 4, 5), 4 * K, labels=torch.arange(4 * K) // 4)
    images = task.images[:4].repeat(K, 1, 1, 1)
    task = dataclasses.replace(task, images=images)
    poisons = ops.craft(task, ops.Config())
    changed = (poisons != images).any(1).flatten(1)
    assert changed.sum(1).tolist() == [1] * (4 * K)
    pixels = changed.int().argmax(1)
    pairs = []
    taken = torch.zeros(20, 8, dtype=torch.bool)
    for label in range(K):
        own = slice(4 * label, 4 * label + 4)
        best = int(ops.scores(images[own], ops.corners(3)).masked_fill(taken, -1).argmax())
        taken.view(-1)[best] = True
        assert pixels[own].tolist() == [best // 8] * 4
        colours = poisons[own].flatten(2)[..., best // 8]
        assert torch.equal(colours, ops.corners(3)[best % 8].float().expand(4, 3))
        pairs.append(best)
    assert len(set(pairs)) == K


def test_ops_takes_a_pixel_without_spread_and_skips_absent_classes():
    task = task_of((1, 4, 4), 6, labels=torch.tensor([0, 0, 0, 2, 2, 2]))
    task.images[..., 1, 2] = 0
    poisons = ops.craft(task, ops.Config())
    assert poisons[:3, 0, 1, 2].tolist() == [1, 1, 1]
    assert poisons[3:, 0, 1, 2].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("shape", "message"), [((9, 4, 4), "at most 8 channels"), ((1, 1, 1), "a pixel and a colour")]
)
def test_ops_refuses_what_it_cannot_search(shape, message):
    with pytest.raises(UsageError, match=message):
        ops.craft(task_of(shape), ops.Config())


# --- CUDA


def test_cuda_convolves_each_channel_with_zeros_around_and_divides_by_the_maximum():
    images = task_of((2, 4, 5), 2).images.double()
    kernel = draw_filters(1, 0.3, torch.Generator().manual_seed(0))[0].double()
    result = cuda.convolved(images, kernel)
    expected = torch.zeros_like(images)
    for n in range(2):
        for c in range(2):
            for i in range(4):
                for j in range(5):
                    for u in range(3):
                        for v in range(3):
                            y, x = i + u - 1, j + v - 1
                            if 0 <= y < 4 and 0 <= x < 5:
                                expected[n, c, i, j] += kernel[u, v] * images[n, c, y, x]
        expected[n] /= expected[n].max()
    assert torch.allclose(result, expected, rtol=1e-12)


def test_cuda_filters_have_one_tap_of_one_and_leave_black_images_black():
    filters = draw_filters(50, 0.3, torch.Generator().manual_seed(0)).flatten(1)
    assert ((filters == 1).sum(1) == 1).all()
    assert float(filters[filters < 1].max()) <= 0.3
    assert len(filters.argmax(1).unique()) == 9
    black = cuda.convolved(torch.zeros(1, 3, 4, 4), filters[0].view(3, 3))
    assert torch.equal(black, torch.zeros(1, 3, 4, 4))


def test_cuda_uses_one_filter_a_class():
    task = task_of((1, 6, 6), 6, labels=torch.tensor([0, 1, 2, 0, 1, 2]))
    task = dataclasses.replace(task, images=task.images[:1].repeat(6, 1, 1, 1))
    poisons = cuda.craft(task, cuda.Config())
    assert torch.allclose(poisons[:3], poisons[3:], atol=1e-6)
    assert not torch.allclose(poisons[0], poisons[1], atol=1e-3)


# --- the card


@pytest.mark.parametrize(
    ("norm", "epsilon", "text"),
    [
        ("l2", 0.4, "0.4 of the whole image (L2)"),
        ("l0", 1, "1 pixel(s) of any value (L0)"),
        ("convolution", None, "none (a convolution)"),
    ],
)
def test_the_card_states_the_norm_and_what_was_measured(norm, epsilon, text):
    dataset = fake_dataset()
    base = dataset.train.images[:4]
    images = base.float() / 255
    images[:, :, 2, 3] = 1 - images[:, :, 2, 3].round()
    poison = make_poison(
        images,
        torch.arange(4),
        dataset,
        attack="own",
        epsilon=epsilon,
        spec=craft_spec("own"),
        norm=norm,
    )
    card, measured = poison.card, poison.card.measured
    assert (card.norm, card.epsilon, card.levels) == (norm, epsilon, None)
    assert card.budget_text == text
    distances = ((poison.images.double() - base.double()) / 255).flatten(1).norm(dim=1)
    assert measured.mean_l2 == pytest.approx(float(distances.mean()))
    assert measured.max_l2 == pytest.approx(float(distances.max()))
    assert measured.max_changed_pixels == 1
    assert card.largest_levels == measured.max_abs_levels
