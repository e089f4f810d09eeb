"""The filters and the cheap defenses as the command line runs them, on tiny poisoned data."""

from pathlib import Path

import pytest

from helpers.command_line import cli, done
from helpers.marks import LONG
from poisonbench.results.records import read_record

FILTERS = {
    "knn": ("--k", "150"),
    "l2": ("--fraction", "0.1"),
    "ocsvm": ("--nu", "0.1"),
    "random": ("--fraction", "0.2"),
    "spectral": (),
    "activation-clustering": ("--analysis", "smaller"),
}
OTHERS = {
    "jpeg": ("--quality", "50"),
    "bit-depth": (),
    "gaussian-blur": ("--sigma", "0.8"),
    "orthogonal-projection": ("--probe-epochs", "4"),
    "ueraser": ("--form", "max", "--draws", "2"),
    "at": ("--steps", "2"),
    "mixup": (),
    "cutmix": ("--probability", "0.5"),
}
#: One of each kind always trains on the sample: a filter, a change of the images, the two others.
ALWAYS = ("l2", "jpeg", "clean-only", "robust-features")
#: Those that note what they did to the images.
NOTING = ("jpeg", "bit-depth", "gaussian-blur", "orthogonal-projection")


def run(method, tiny, artefact, results, *words):
    line = ("defend", "--method", method, "--dataset", tiny, "--poison", artefact)
    outcome = done(*line, "--epochs", "2", "--results", results, "--json", *words)
    return read_record(Path(outcome.json["path"]))


@pytest.mark.parametrize("method", FILTERS)
def test_a_filter_removes_rows_and_trains_on_the_rest(method, tiny, artefact, results):
    record = run(method, tiny, artefact, results, *FILTERS[method])
    (note,) = record.notes
    assert (note["epoch"], note["round"]) == (0, "filter")
    assert 0 < note["removed"] == sum(note["removed_by_class"]) < 270
    assert note["kept"] == 270 - note["removed"]
    assert len(record.curve) == 2
    assert record.cost.seconds.defense > 0


def test_features_from_clean_data_are_other_features(tiny, artefact, results):
    curves = [
        run("l2", tiny, artefact, results, *FILTERS["l2"], "--features-from", source).curve
        for source in ("poisoned", "clean")
    ]
    assert curves[0] != curves[1]


def test_features_of_the_start_want_a_clean_one(tiny, results):
    line = ("defend", "--method", "knn", "--features-from", "start", "--dataset", tiny)
    outcome = cli(*line, "--results", results)
    assert outcome.code == 2
    assert "in scenario finetune, which starts from a network" in outcome.err
    assert not results.exists()


@pytest.mark.parametrize("method", OTHERS)
def test_the_others_run_on_all_rows(method, tiny, artefact, results):
    record = run(method, tiny, artefact, results, *OTHERS[method])
    assert [note["round"] for note in record.notes] == ([method] if method in NOTING else [])
    assert len(record.curve) == 2
    plain = run("none", tiny, artefact, results)
    assert record.digests == plain.digests
    assert record.curve != plain.curve


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A results folder for runs on the embedded sample's small part."""
    return tmp_path_factory.mktemp("sample")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [*ALWAYS, *(pytest.param(m, marks=LONG) for m in [*FILTERS, *OTHERS] if m not in ALWAYS)],
)
def test_every_method_trains_on_the_embedded_sample(method, sample):
    words = {"knn": (), "activation-clustering": ()}.get(method, (FILTERS | OTHERS).get(method, ()))
    scenario = "transfer" if method == "robust-features" else "scratch"
    target = ("--attack", "noise", "--scenario", scenario, "--targets", "random")
    stage = ("--stage-epochs", "2") if scenario == "transfer" else ()
    line = ("defend", "--method", method, "--dataset", "mnist-sample@1000", *target, *words, *stage)
    outcome = done(*line, "--epochs", "2", "--results", sample, "--json")
    record = read_record(Path(outcome.json["path"]))
    assert record.metrics.test_accuracy > (0.3 if scenario == "transfer" else 0.5)
    caught = record.metrics.filter
    assert (caught is not None) == (method in FILTERS or method == "clean-only")
    if method == "clean-only":
        assert caught.poisons_removed == caught.num_poisons == 50
        assert caught.clean_removed == 0


def test_features_of_frozen_layers_leave_no_choice(tiny, results):
    line = ("defend", "--method", "knn", "--attack", "bp", "--features-from", "clean")
    outcome = cli(*line, "--dataset", tiny, "--results", results)
    assert outcome.code == 2
    assert "no --features-from in scenario transfer" in outcome.err
    assert not results.exists()


def test_an_oracle_that_empties_a_class_says_so(results):
    """At quick size the poisons of a transfer set are their whole class, as in the HINT paper."""
    line = ("defend", "--method", "clean-only", "--attack", "noise", "--scenario", "transfer")
    more = ("--targets", "random", "--epochs", "1", "--stage-epochs", "1")
    outcome = done(*line, *more, "--dataset", "mnist-sample@1000", "--results", results)
    assert "was nothing but poison" in outcome.err
    (record,) = [read_record(path) for path in (results / "runs").glob("*.json")]
    poison_class = record.spec.goal.poison_class
    assert any(f"class {poison_class} was nothing but" in text for text in record.warnings)
