"""EPIC by hand on tiny problems, against brute force, and inside the training loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.attack_tasks import fake_split, small_classifier
from helpers.defense_problems import naive_clusters, pixel_classifier, state_for
from helpers.tiny_training import batch_rows, watched_rows
from poisonbench.core.errors import DivergedError
from poisonbench.core.seeds import Seeds
from poisonbench.core.settings import resolve
from poisonbench.defenses import epic
from poisonbench.training.recipe import RECIPE_PRESETS, Recipe
from poisonbench.training.state import TrainingSet
from poisonbench.training.trainer import Trainer

SCALE = 20.0


def defense_for(epochs=10, milestones=(), **settings):
    config = epic.Config(**{"fraction": 0.2, "warmup": 1, "interval": 1} | settings)
    return epic.build(config, Recipe(epochs=epochs, milestones=milestones))


def two_classes(*probabilities):
    """Images whose classifier says P(class 1) as given, for class 0's and then class 1's images."""
    flat = [p for group in probabilities for p in group]
    images = torch.tensor([[0.5, 0.5 + math.log(p / (1 - p)) / SCALE] for p in flat])
    labels = torch.tensor([label for label, group in enumerate(probabilities) for _ in group])
    return TrainingSet(images[:, :, None, None], labels)


def run(defense, train, notes=None, epoch=1):
    model = pixel_classifier(2, SCALE)
    return defense.start_epoch(state_for(model, train, epoch=epoch, notes=notes)).keep.tolist()


def test_by_hand_the_example_apart_is_dropped_and_the_record_says_so():
    # Class 0: k = 2, the second medoid is 0.9, alone. Class 1: k = 1 stands for all five.
    notes = []
    train = two_classes(
        [0.10, 0.11, 0.12, 0.13, 0.9, 0.14, 0.15, 0.16, 0.17, 0.18], [0.8, 0.3, 0.81, 0.82, 0.83]
    )
    assert run(defense_for(), train, notes) == [True] * 4 + [False] + [True] * 10
    assert notes == [
        {"round": "epic", "medoids": 3, "dropped": 1, "kept": 14, "classes_spared": []}
    ]


def test_rounds_agree_with_brute_force_on_a_network():
    model = small_classifier(1)
    split = fake_split(61, 3)
    labels = torch.tensor([0] * 31 + [1] * 19 + [2] * 10 + [3])
    train = TrainingSet(split.images, labels)
    kept = defense_for(fraction=0.4).start_epoch(state_for(model, train, epoch=1)).keep
    logits = model(split.images / 255).detach().requires_grad_(True)
    (gradients,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), logits)
    expected = torch.ones(61, dtype=torch.bool)
    for label, count in ((0, 12), (1, 8), (2, 4)):
        rows = (labels == label).nonzero().flatten()
        owner, size = naive_clusters(gradients[rows].double(), count)
        alone = [int(row) for row, mine in zip(rows, owner, strict=True) if size[mine] == 1]
        assert 0 < len(alone) < count
        expected[alone] = False
    assert torch.equal(kept, expected)


def test_a_class_that_would_be_emptied_is_kept_and_the_record_says_so():
    notes = []
    train = two_classes([0.1, 0.11, 0.12, 0.9, 0.13, 0.14, 0.15, 0.1, 0.1, 0.1], [0.7])
    assert run(defense_for(), train, notes) == [True] * 3 + [False] + [True] * 7
    assert notes[0]["classes_spared"] == [1]
    assert (notes[0]["dropped"], notes[0]["kept"]) == (1, 10)


def test_a_class_whose_every_example_is_alone_is_kept_whole():
    train = two_classes([0.1, 0.2, 0.3], [0.5] * 5)
    kept = run(defense_for(fraction=0.9), train)
    assert kept == [True] * 8


def test_twins_stand_for_each_other():
    # k = 5 of 6: the pair at 0.5 is one cluster.
    kept = run(defense_for(fraction=0.8), two_classes([0.1, 0.2, 0.3, 0.5, 0.5, 0.9], [0.5] * 4))
    assert kept == [False, False, False, True, True, False] + [True] * 4


@pytest.mark.parametrize(("universe", "stays"), [("remaining", False), ("all", True)])
def test_dropped_examples_are_neighbours_only_where_the_universe_is_all(universe, stays):
    train = two_classes([0.1, 0.11, 0.12, 0.1, 0.11, 0.1, 0.1, 0.1, 0.5, 0.52], [0.5] * 5)
    kept = [True] * 8 + [False] + [True] * 6
    train = train.with_keep(torch.tensor(kept))
    kept[9] = stays
    assert run(defense_for(universe=universe), train) == kept


def test_the_offset_bug_reads_the_sizes_of_other_classes():
    # Sizes, joined: 1 3 | 2 1 2. The second class is looked up 1 x 3 places in, not 2:
    # its examples read 1 1 2 2 and, past the end, the last 2.
    clusters = [
        (torch.tensor([0, 1, 1, 1]), torch.tensor([1, 3])),
        (torch.tensor([0, 0, 1, 2, 2]), torch.tensor([2, 1, 2])),
    ]
    right, wrong = epic.lone(clusters, False), epic.lone(clusters, True)
    assert [part.tolist() for part in right] == [
        [True, False, False, False],
        [False, False, True, False, False],
    ]
    assert [part.tolist() for part in wrong] == [
        [True, False, False, False],
        [True, True, False, False, False],
    ]


def test_without_unequal_classes_the_offset_bug_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    groups = torch.rand(2, 30, generator=generator).mul(0.98).add(0.01).tolist()
    train = two_classes(*groups)
    kept = run(defense_for(fraction=0.4), train)
    assert kept == run(defense_for(fraction=0.4, offset_bug=True), train)
    assert not all(kept)
    train = two_classes(groups[0], groups[1][:20])
    kept = run(defense_for(fraction=0.4), train)
    assert kept != run(defense_for(fraction=0.4, offset_bug=True), train)


class Watched(epic.Epic):
    """Keeps what each epoch trained on."""

    def start_epoch(self, state):
        self.seen = getattr(self, "seen", [])
        train = super().start_epoch(state)
        self.seen.append((train.keep, set()))
        return train

    def perturb_batch(self, state, images, labels):
        self.seen[-1][1].update(batch_rows().tolist())
        return images


@pytest.mark.parametrize("universe", ["remaining", "all"])
def test_what_is_dropped_never_returns_and_is_never_trained_on(universe):
    config = epic.Config(fraction=0.3, warmup=1, interval=2, universe=universe)
    defense = Watched(config, epic.build(config, Recipe(epochs=8, milestones=())).rounds)
    recipe = Recipe(epochs=8, batch_size=16, milestones=(), augment="none", precision="float32")
    trainer = Trainer(recipe=recipe, seeds=Seeds(), device=torch.device("cpu"))
    with watched_rows():
        result = trainer.fit(small_classifier(), fake_split(80, 0), fake_split(8, 1), defense)
    assert [note["epoch"] for note in result.notes] == [1, 3, 5, 7]
    assert all(note["dropped"] > 0 for note in result.notes)
    assert defense.seen[0] == (None, set(range(80)))
    before = torch.ones(80, dtype=torch.bool)
    for keep, rows in defense.seen[1:]:
        assert not bool((keep & ~before).any())
        assert rows == set(keep.nonzero().flatten().tolist())
        before = keep
    assert int(before.sum()) == result.notes[-1]["kept"]


def test_a_round_leaves_the_model_as_it_was():
    model = small_classifier().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    split = fake_split(40, 0)
    state = state_for(model, TrainingSet(split.images, split.labels), epoch=1)
    assert defense_for().start_epoch(state).images is split.images
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("epoch", [0, 1, 3, 9])
def test_between_rounds_the_training_set_is_the_same_object(epoch):
    train = two_classes([0.1] * 5, [0.5] * 5)
    defense = defense_for(warmup=2, interval=2)
    state = state_for(pixel_classifier(2), train, epoch=epoch)
    assert defense.start_epoch(state) is train


@pytest.mark.parametrize(
    ("profile", "presets", "expected"),
    [
        ("paper", ("cifar10",), range(10, 80, 4)),
        ("code", ("cifar10",), range(12, 69, 4)),
        ("paper", ("mnist",), range(5, 30, 2)),
        ("code", ("mnist",), range(6, 23, 2)),
        ("paper", ("mnist", "mnist-sample"), range(2, 7)),
        ("code", ("mnist", "mnist-sample"), range(2, 6)),
    ],
)
def test_rounds_of_each_profile(profile, presets, expected):
    common = {"presets": presets, "overrides": {}, "owner": "epic"}
    config = resolve(epic.Config, epic.PROFILES, profile=profile, **common)
    recipe = resolve(Recipe, RECIPE_PRESETS, profile="paper", **common)
    assert list(epic.build(config, recipe).rounds) == list(expected)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"fraction": 0.0}, r"fraction: expected in \(0, 1\), got 0.0"),
        ({"fraction": 1.0}, r"fraction: expected in \(0, 1\), got 1.0"),
        ({"warmup": 0}, "warmup: expected at least 1, got 0"),
        ({"interval": 0}, "interval: expected at least 1, got 0"),
        ({"warmup": 10}, "warmup: .* at most 9 of 10 epochs, got one after 10"),
        (
            {"warmup": 5, "interval": 4, "rounds": "multiples", "until_milestone": True},
            "warmup: .* at most 7 of 10 epochs, got one after 8",
        ),
    ],
)
def test_settings_out_of_range_say_what_was_expected(settings, text):
    with pytest.raises(ValueError, match=text):
        defense_for(**settings)


def test_a_model_that_diverged_is_refused():
    train = two_classes([0.1] * 5, [0.5] * 5)
    model = pixel_classifier(2, math.nan)
    with pytest.raises(DivergedError, match="--learning-rate"):
        defense_for().start_epoch(state_for(model, train, epoch=1))


def test_the_kept_rows_are_remembered_for_the_record():
    train = two_classes([0.10, 0.11, 0.12, 0.13, 0.9, 0.14, 0.15, 0.16, 0.17, 0.18], [0.8] * 5)
    defense = defense_for()
    model = pixel_classifier(2, SCALE)
    kept = defense.start_epoch(state_for(model, train, epoch=1)).keep
    assert torch.equal(defense.memory["keep"], kept)
    assert not bool(kept.all())
