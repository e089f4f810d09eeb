"""``poisonbench figure features``: coordinates, groups, and what is asked of runs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.command_line import cli, done, files_in, make_data, shortened
from helpers.synthetic_runs import changed, run_on, write
from poisonbench.core.errors import ArtefactError
from poisonbench.data.artefacts import read_poison
from poisonbench.data.sources import load_dataset
from poisonbench.figures.drawing import draw
from poisonbench.figures.feature_projection import SHOWN, feature_projection, plane
from poisonbench.figures.runs_shown import models_of_row
from poisonbench.results.records import read_record
from poisonbench.results.store import Store
from poisonbench.runs.context import RunContext
from poisonbench.runs.trained_models import KEPT
from poisonbench.tables.cells import TARGETED_SAMPLE
from poisonbench.tables.table3 import find_row

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny data set, and a results folder with one run of each of a few methods."""
    folder = tmp_path_factory.mktemp("place")
    data, results, ids = make_data(folder), folder / "results", {}
    with shortened():
        for method, more in (("none", ()), ("knn", ()), ("random", ("--fraction", "0.25"))):
            command = ("defend", "--attack", "bp", "--method", method, "--rho", "0.02", *more)
            outcome = done(*command, "--dataset", data, "--save-model", "--results", results)
            ids[method] = Path(outcome.out.split()[-1]).stem
    dataset = load_dataset(data, Path(), 0)
    return dataset, RunContext(Store(results), Path(), CPU), ids


def record_of(place, method):
    _, context, ids = place
    return read_record(context.store.run_path(ids[method]))


def test_the_plane_is_that_of_a_direct_computation():
    features = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own, other = torch.arange(0, 10), torch.arange(10, 25)
    points = plane(features, own, other)
    start, end = features[own].mean(0), features[other].mean(0)
    line = end - start
    for row in range(len(features)):
        share = (features[row] - start) @ line / (line @ line)
        assert points[row, 0] == pytest.approx(float(share))
    rest = (features - start) / line.norm()
    rest = rest - points[:, :1] * line / line.norm()
    values, vectors = torch.linalg.eigh(torch.cov(rest.T))
    assert torch.allclose((rest @ vectors[:, -1]).abs(), points[:, 1].abs())
    assert points[:, 1].var() == pytest.approx(float(values[-1]))
    assert points[own].mean(0).abs().max() < 1e-9
    assert points[other].mean(0)[0] == pytest.approx(1)


def test_the_plane_is_the_same_for_scaled_and_moved_features():
    features = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rows = torch.arange(8), torch.arange(8, 16)
    assert torch.allclose(plane(features, *rows), plane(3 * features + 7, *rows))


@pytest.mark.parametrize(
    ("own", "other", "message"), [((), (1,), "got 0 and 1"), ((1, 2), (1, 2), "got the same")]
)
def test_no_plane_between_nothing(own, other, message):
    features = torch.eye(4, dtype=torch.float64)
    with pytest.raises(ArtefactError, match=message):
        plane(features, torch.tensor(own, dtype=torch.int64), torch.tensor(other))


def test_groups_are_what_the_run_removed(place):
    dataset, context, _ = place
    records = [record_of(place, method) for method in ("none", "knn", "random")]
    figure = feature_projection(context, dataset, records)
    for record, numbers in zip(records, figure.numbers["runs"], strict=True):
        goal, groups = record.spec.goal, numbers["points"]
        classes = ["target's class", "poisons' class"]
        removed = ["removed, clean", "poisons", "removed, poisons"]
        assert list(groups) == [*classes, "bases", *removed]
        assert numbers["target_class"] == dataset.class_names[goal.target_class]
        assert numbers["is_hit"] == record.metrics.attack_success
        poison = read_poison(context.store.poison_path(record.labels.poison.id), dataset)
        assert numbers["poisons"] == len(groups["bases"]) == len(poison)
        scores = record.metrics.filter
        poisons_removed = scores.poisons_removed if scores else 0
        assert numbers["poisons_removed"] == poisons_removed
        assert len(groups["removed, poisons"]) == poisons_removed
        assert len(groups["poisons"]) == len(poison) - poisons_removed
        if scores:
            shown = (goal.target_class, goal.poison_class)
            removed = sum(scores.per_class[label].clean_removed for label in shown)
            assert len(groups["removed, clean"]) == removed
    random = figure.numbers["runs"][2]
    assert random["poisons_removed"] + len(random["points"]["removed, clean"]) > 0
    assert [panel.title.split(":")[0] for panel in figure.picture.panels] == [
        "W/o Defense",
        "Deep k-NN",
        "Random filter",
    ]
    svg = draw(figure.picture)["svg"].decode()
    assert svg.count("poisons removed<") == 3
    assert json.dumps(figure.numbers)
    assert feature_projection(context, dataset, records).numbers == figure.numbers


def test_at_most_so_many_clean_images_of_a_class(place, monkeypatch):
    dataset, context, _ = place
    assert SHOWN > 2
    monkeypatch.setattr("poisonbench.figures.feature_projection.SHOWN", 2)
    (numbers,) = feature_projection(context, dataset, [record_of(place, "none")]).numbers["runs"]
    assert len(numbers["points"]["target's class"]) == 2
    assert len(numbers["points"]["bases"]) == numbers["poisons"]


def test_a_kept_model_of_a_filter_knows_what_was_kept(place):
    _, context, ids = place
    stored = load_file(context.store.model_path(ids["random"]))
    assert stored[KEPT].dtype == torch.bool
    removed = record_of(place, "random").metrics.filter
    count = removed.poisons_removed + removed.clean_removed
    assert int((~stored[KEPT]).sum()) == count
    assert KEPT not in load_file(context.store.model_path(ids["none"]))


def test_any_runs_can_be_named(place):
    dataset, context, ids = place
    words = ("figure", "features", "--runs", f"{ids['knn']},{ids['none']}")
    drawn = done(*words, "--dataset", dataset.name, "--results", context.store.root, "--json").json
    assert [run["id"] for run in drawn["numbers"]["runs"]] == [ids["knn"], ids["none"]]


def test_another_poison_under_the_same_name_is_refused(place):
    dataset, context, _ = place
    record = changed(record_of(place, "none"), spec={"poison": {"digest": "another"}})
    with pytest.raises(ArtefactError, match="its own poison"):
        feature_projection(context, dataset, [record])


@pytest.mark.parametrize("damage", ["count", "bytes", "missing"])
def test_a_damaged_model_is_refused(place, tmp_path, damage):
    dataset, context, ids = place
    path = context.store.model_path(ids["random"])
    before = path.read_bytes()
    try:
        if damage == "count":
            save_file(load_file(path) | {KEPT: torch.ones(3, dtype=torch.bool)}, path)
        elif damage == "bytes":
            path.write_bytes(before[: len(before) // 2])
        else:
            path.unlink()
        with pytest.raises(ArtefactError, match=path.name):
            feature_projection(context, dataset, [record_of(place, "random")])
    finally:
        path.write_bytes(before)


def test_the_table_s_runs_with_models_are_taken(results):
    data = load_dataset(TARGETED_SAMPLE, Path(), 0)
    runs = [run_on(data, 9, trial=t, method=m) for m in ("none", "hint") for t in (0, 1)]
    write(results, runs)
    store, remarks = Store(results), []
    context = RunContext(store, Path(), CPU, say=remarks.append)
    records = store.records(lambda error: None)
    row = find_row(TARGETED_SAMPLE, "mp")
    with pytest.raises(ArtefactError, match=r"none under mp.*trial 1.*--save-model"):
        models_of_row(context, records, data, row, (), 1)
    kept = next(r for r in records if r.spec.method == "hint" and r.spec.trial == 1)
    store.model_path(kept.id).parent.mkdir()
    store.model_path(kept.id).write_bytes(b"")
    models = models_of_row(context, records, data, row, (), 1)
    assert [run.id for run in models] == [kept.id]
    (remark,) = remarks
    assert remark.startswith("left out: none has no model under mp on mnist-sample@1000")
    assert remark.endswith(f"--trial 1 --save-model --results {results} --data-root .`")
    with pytest.raises(ArtefactError, match=r"trial 1.* --seed 7 "):
        models_of_row(replace(context, seed=7), records, data, row, (), 1)
    with pytest.raises(ArtefactError, match="a model of none"):
        models_of_row(context, records, data, row, ("hint", "none"), 1)


@pytest.mark.parametrize(
    ("line", "code", "fragments"),
    [
        ("features", 65, "a run of none under bp|`poisonbench defend --method none"),
        ("features --images 3", 2, "--images|figure features --help"),
        ("features --attack pgd", 2, "a targeted attack among gm|'pgd'"),
        ("feature", 2, "did you mean 'features'"),
    ],
)
def test_bad_input_writes_nothing(line, code, fragments, results):
    results.mkdir()
    outcome = cli("figure", *line.split(), "--results", results)
    assert outcome.code == code, outcome.err
    for fragment in fragments.split("|"):
        assert fragment in outcome.err.splitlines()[-1]
    assert files_in(results) == []
