"""Each filter against brute force in float64, and what all of them share."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.svm import OneClassSVM

from helpers.attack_tasks import fake_split, small_classifier
from helpers.defense_problems import fresh, problem, state_for
from helpers.tiny_training import train as tiny_train
from poisonbench.core.errors import DivergedError
from poisonbench.core.seeds import Seeds
from poisonbench.core.settings import BaseConfig
from poisonbench.defenses import (
    activation_clustering,
    deep_knn,
    l2_centroid,
    one_class_svm,
    random_filter,
    spectral_signatures,
)
from poisonbench.defenses.shared.feature_filter import (
    FeatureFilter,
    FilterConfig,
    keep_lowest,
    restore_emptied_classes,
)
from poisonbench.models.classifier import Classifier
from poisonbench.training.evaluation import finite_outputs
from poisonbench.training.state import TrainingSet

FILTERS = (
    activation_clustering,
    deep_knn,
    l2_centroid,
    one_class_svm,
    random_filter,
    spectral_signatures,
)


# Scores a class


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_the_share_of_each_class_goes(share):
    scores = torch.rand(100, generator=fresh())
    labels = torch.tensor([0] * 60 + [2] * 30 + [1] * 10)
    kept = keep_lowest(scores, labels, share)
    for label, size in ((0, 60), (1, 10), (2, 30)):
        rows = (labels == label).nonzero().flatten().tolist()
        rows.sort(key=lambda row: -scores[row])
        gone = rows[: math.ceil(round(share * size, 6))]
        assert [row for row in rows if not kept[row]] == gone


def test_of_equal_scores_the_first_rows_go():
    kept = keep_lowest(torch.zeros(10), torch.zeros(10, dtype=torch.int64), 0.3)
    assert kept.tolist() == [False] * 3 + [True] * 7


def test_distances_to_the_centroid_agree_with_loops():
    features, labels = problem()
    expected = []
    for row, label in enumerate(labels.tolist()):
        members = [features[j] for j in range(60) if labels[j] == label]
        centroid = sum(members) / len(members)
        expected.append(math.dist(features[row].tolist(), centroid.tolist()) ** 2)
    distances = l2_centroid.distances_to_centroid(features, labels)
    torch.testing.assert_close(distances, torch.tensor(expected, dtype=torch.float64))
    kept = l2_centroid.kept(features.float(), labels, fresh(), l2_centroid.Config(fraction=0.2))
    assert torch.equal(kept, keep_lowest(torch.tensor(expected), labels, 0.2))


@pytest.mark.parametrize("width", [5, 40])
def test_spectral_scores_agree_with_a_singular_value_decomposition(width):
    """With more features than examples too."""
    features, labels = problem(90, width)
    expected = np.zeros(90)
    for label in range(3):
        rows = np.flatnonzero(labels.numpy() == label)
        centred = features.numpy()[rows] - features.numpy()[rows].mean(0)
        right = np.linalg.svd(centred, full_matrices=False)[2][0]
        expected[rows] = (centred @ right) ** 2
    for label in range(3):
        rows = labels == label
        scores = spectral_signatures.spectral_scores(features[rows]).numpy()
        np.testing.assert_allclose(scores, expected[rows.numpy()], rtol=1e-8, atol=1e-12)
    config = spectral_signatures.Config(epsilon=0.1)
    kept = spectral_signatures.kept(features, labels, fresh(), config)
    assert torch.equal(kept, keep_lowest(torch.from_numpy(expected), labels, 0.15))


@pytest.mark.parametrize("cut", ["ranked", "sklearn"])
def test_the_svm_is_scikit_learns(cut):
    features, labels = problem(120)
    config = one_class_svm.Config(nu=0.1, cut=cut)
    kept = one_class_svm.kept(features.float(), labels, fresh(), config)
    for label in range(3):
        rows = np.flatnonzero(labels.numpy() == label)
        data = features.float().double().numpy()[rows]
        svm = OneClassSVM(nu=0.1, gamma="scale").fit(data)
        expected = svm.predict(data) == 1
        if cut == "ranked":
            order = np.argsort(svm.score_samples(data), kind="stable")
            expected = np.ones(len(rows), dtype=bool)
            expected[order[: math.ceil(0.1 * len(rows))]] = False
        assert 0 < expected.sum() < len(rows)
        assert kept[rows].tolist() == expected.tolist()


def test_the_svms_own_cut_takes_far_more_than_nu_of_small_classes():
    """Why it is not the default."""
    features = torch.randn(50, 512, generator=fresh())
    labels = torch.zeros(50, dtype=torch.int64)
    removed = {
        cut: int((~one_class_svm.kept(features, labels, fresh(), config)).sum())
        for cut in ("ranked", "sklearn")
        for config in [one_class_svm.Config(cut=cut)]
    }
    assert removed["ranked"] == 1
    assert removed["sklearn"] > 10


def test_random_filtering_removes_as_many_as_asked():
    labels = torch.arange(200) % 4
    config = random_filter.Config(fraction=0.25)
    kept = random_filter.kept(torch.empty(200, 0), labels, fresh(), config)
    assert int((~kept).sum()) == 50
    assert torch.equal(kept, random_filter.kept(torch.empty(200, 0), labels, fresh(), config))
    other = torch.Generator().manual_seed(8)
    assert not torch.equal(kept, random_filter.kept(torch.empty(200, 0), labels, other, config))


# Activation clustering


def blobs(sizes, gap=20.0, width=12):
    """One class of two blobs, in a random order, and which examples are of the second."""
    generator = fresh()
    second = torch.arange(sum(sizes)) >= sizes[0]
    second = second[torch.randperm(len(second), generator=generator)]
    points = torch.randn(len(second), width, generator=generator)
    points[second] += gap
    return points, second


@pytest.mark.parametrize("dimensions", [None, 1, 10])
@pytest.mark.parametrize(
    ("analysis", "sizes", "goes"),
    [
        ("relative-size", (80, 20), True),
        ("relative-size", (60, 40), False),
        ("silhouette", (80, 20), True),
        ("silhouette", (60, 40), False),
        ("smaller", (80, 20), True),
        ("smaller", (60, 40), True),
    ],
)
def test_the_small_blob_goes(analysis, sizes, goes, dimensions):
    points, second = blobs(sizes)
    config = activation_clustering.Config(analysis=analysis, dimensions=dimensions)
    kept = activation_clustering.kept(points, torch.zeros(100).long(), fresh(), config)
    assert torch.equal(~kept, second if goes else torch.zeros(100).bool())


def test_blobs_that_touch_stay_where_silhouettes_decide():
    points, _ = blobs((80, 20), gap=0.0)
    points[:, 0] *= 1.5
    labels = torch.zeros(100).long()
    config = activation_clustering.Config(analysis="silhouette", least_silhouette=0.6)
    assert bool(activation_clustering.kept(points, labels, fresh(), config).all())


@pytest.mark.parametrize("analysis", ["relative-size", "silhouette", "smaller"])
def test_classes_without_two_clusters_stay(analysis):
    config = activation_clustering.Config(analysis=analysis)
    points = torch.cat([torch.ones(5, 3), torch.randn(2, 3, generator=fresh())])
    labels = torch.tensor([0] * 5 + [1] * 2)
    assert bool(activation_clustering.kept(points, labels, fresh(), config).all())


def test_clusters_are_made_class_by_class_and_again_the_same():
    points, second = blobs((80, 20))
    labels = torch.arange(100) % 2
    config = activation_clustering.Config()
    kept = activation_clustering.kept(points, labels, fresh(), config)
    assert torch.equal(~kept, second)
    assert torch.equal(kept, activation_clustering.kept(points, labels, fresh(), config))


# What filters share


def test_a_class_that_would_be_emptied_is_kept_whole_and_the_record_says_so():
    model, split, notes = small_classifier(), fake_split(40, 0), []
    mask = (split.labels != 2) & (torch.arange(40) != 5)
    defense = FeatureFilter(lambda *_: mask, FilterConfig())
    train = TrainingSet(split.images, split.labels)
    kept = defense.start_epoch(state_for(model, train, notes=notes)).keep
    assert (~kept).nonzero().flatten().tolist() == [5]
    assert torch.equal(defense.memory["keep"], kept)
    assert notes == [
        {
            "round": "filter",
            "removed": 1,
            "kept": 39,
            "removed_by_class": [0, 1, 0, 0],
            "classes_spared": [2],
            "spared": 10,
        }
    ]


def test_restored_classes():
    labels = torch.tensor([0, 0, 1, 1, 2])
    before = torch.tensor([True, True, True, False, False])
    kept = torch.tensor([True, False, False, False, False])
    assert restore_emptied_classes(labels, before, kept) == [1]
    assert kept.tolist() == [True, False, True, False, False]


def test_features_are_the_heads_input_of_images_as_they_are():
    model, split = small_classifier(3), fake_split(300, 2)
    train = TrainingSet(split.images, split.labels)
    inputs = []
    handle = model.head.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    model.eval()(split.images.float() / 255)
    handle.remove()
    features = finite_outputs(model.train(), train, Classifier.embed, "features")
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, inputs[0].detach(), rtol=1e-4, atol=1e-5)
    assert model.training


def test_a_feature_network_that_diverged_is_refused():
    model, split = small_classifier(), fake_split(8, 0)
    torch.nn.init.constant_(model.features[0].weight, math.nan)
    train = TrainingSet(split.images, split.labels)
    with pytest.raises(DivergedError, match="--learning-rate"):
        finite_outputs(model, train, Classifier.embed, "features")


@pytest.mark.parametrize(("source", "size"), [("poisoned", 22), ("clean", 12), (None, None)])
def test_where_features_come_from(source, size):
    """The feature network is another one, trained on what was asked; the run's stays apart."""
    seen = {}

    class Spy(FeatureFilter):
        def start_epoch(self, state):
            train_copy = state.train_copy

            def spied(purpose, split):
                before = [value.clone() for value in state.model.state_dict().values()]
                seen["network"], seen["size"] = train_copy(purpose, split), len(split)
                assert state.model is not seen["network"]
                after = state.model.state_dict().values()
                assert all(map(torch.equal, before, after))
                return seen["network"]

            return super().start_epoch(replace(state, train_copy=spied))

    def rule(features, labels, generator, config):
        seen["features"] = features
        return torch.ones_like(labels, dtype=torch.bool)

    config = FilterConfig(features_from=source) if source else BaseConfig()
    model, result = tiny_train(Spy(rule, config))
    plain, filtered = tiny_train()
    # A filter that keeps all trains the very network of a plain run.
    assert result.curve == filtered.curve
    assert all(map(torch.equal, model.state_dict().values(), plain.state_dict().values()))
    assert seen.get("size") == size
    assert seen["features"].shape == (22, 54 if source else 0)
    if source:
        # Same start, other batches.
        head, other = (m.state_dict()["head.weight"] for m in (model, seen["network"]))
        assert not torch.equal(head, other)
        assert result.seconds["defense"] > 0


@pytest.mark.parametrize(("source", "is_frozen"), [("poisoned", True), ("start", False)])
def test_clean_features_are_taken_as_they_are(source, is_frozen):
    """In transfer a pretrained network trains its head alone; in finetune it may be asked for."""
    model, split, seen = small_classifier(), fake_split(20, 0), []
    model.features.requires_grad_(not is_frozen)
    before = [value.clone() for value in model.train().state_dict().values()]

    def rule(features, labels, generator, config):
        seen.append(features)
        return labels > 0

    def refuse(purpose, split):
        raise AssertionError("trained a network whose features were known")

    train = TrainingSet(split.images, split.labels)
    state = replace(state_for(model, train), train_copy=refuse)
    FeatureFilter(rule, FilterConfig(features_from=source)).start_epoch(state)
    assert all(map(torch.equal, model.state_dict().values(), before))
    assert model.training
    assert torch.equal(seen[0], finite_outputs(model, train, Classifier.embed, "features"))


def test_another_trial_has_another_feature_network():
    seen_features = []

    def rule(features, labels, generator, config):
        seen_features.append(features)
        return torch.ones_like(labels, dtype=torch.bool)

    for trial in (0, 0, 1):
        tiny_train(FeatureFilter(rule, FilterConfig()), seeds=Seeds(0, trial))
    assert torch.equal(seen_features[0], seen_features[1])
    assert not torch.equal(seen_features[0], seen_features[2])


@pytest.mark.parametrize(
    ("module", "changes"),
    [
        (deep_knn, {"k": 0}),
        (l2_centroid, {"fraction": 0.0}),
        (l2_centroid, {"fraction": 1.0}),
        (one_class_svm, {"nu": 0.0}),
        (random_filter, {"fraction": 1.0}),
        (spectral_signatures, {"epsilon": 0.0}),
        (spectral_signatures, {"multiplier": 10.0}),
        (activation_clustering, {"dimensions": 0}),
        (activation_clustering, {"largest_share": 0.6}),
        (activation_clustering, {"least_silhouette": 2.0}),
    ],
)
def test_settings_out_of_range_name_the_setting(module, changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name}: expected"):
        module.Config(**changes)


@pytest.mark.parametrize("module", FILTERS, ids=lambda m: m.__name__.rpartition(".")[2])
def test_rules_leave_their_input_alone_and_answer_in_rows(module):
    features, labels = problem(dtype=torch.float32)
    before = features.clone()
    kept = module.kept(features, labels, fresh(), module.Config())
    assert torch.equal(features, before)
    assert kept.shape == labels.shape
    assert kept.dtype == torch.bool
