"""Own data in settings for a CPU, at every command that takes a data set."""

import pytest
import torch

from helpers.command_line import done, last_line, records_of, refused
from helpers.synthetic_runs import make_record
from poisonbench.cli import long_work
from poisonbench.cli.long_work import remark_on_long_work
from poisonbench.cli.session import choose_dataset
from poisonbench.core.errors import UsageError
from poisonbench.requests import CraftRequest, PoisonRequest, RunRequest
from poisonbench.results.store import Store
from poisonbench.runs import estimates
from poisonbench.runs.context import RunContext
from poisonbench.runs.defend import resolve_run
from poisonbench.runs.estimates import Estimate
from poisonbench.sweep.plan import read_plan
from poisonbench.tables import catalogue


@pytest.mark.parametrize(
    ("dataset", "chosen"),
    [
        ("folder:photos", "folder@quick:photos"),
        ("npz:a.npz", "npz@quick:a.npz"),
        ("fashion-mnist", "fashion-mnist@quick"),
        ("folder@quick-mnist-cnn-3:photos", "folder@quick:photos"),
        # No paper's table has a cell of it.
        ("mnist", "mnist@quick"),
        ("cifar10@500", "cifar10@500@quick"),
        ("mnist@32x32", "mnist@32x32@quick"),
        # What is for a CPU already.
        ("mnist-sample", "mnist-sample"),
        ("mnist-sample@500", "mnist-sample@500"),
        ("mnist-sample@32x32", "mnist-sample@32x32"),
        ("cifar10@10000", "cifar10@10000"),
        (None, "mnist-sample"),
    ],
)
def test_quick_takes_any_data_with_a_small_network(dataset, chosen):
    assert choose_dataset(dataset, "quick", True) == chosen


@pytest.mark.parametrize("dataset", ["folder:photos", "cifar10"])
def test_colour_takes_no_other_data(dataset):
    with pytest.raises(UsageError, match=r"--preset colour to choose .* take --preset quick"):
        choose_dataset(dataset, "colour", True)


def test_a_paper_s_data_in_quick_settings_is_in_no_cell_of_the_paper():
    about = {"dataset": "mnist@quick", "is_paper_dataset": False}
    run = make_record(0.5, labels=about)
    for cell in catalogue.cells("2", [run], "mnist"):
        assert not cell.select([run])
    assert [cell for cell in catalogue.cells("matrix", [run], "mnist@quick") if cell.select([run])]
    with pytest.raises(UsageError, match=r"got 'mnist@quick'; data in .* is in --table matrix"):
        catalogue.cells("2", (), "mnist@quick")


def test_runs_in_settings_for_a_cpu_have_tables_that_name_them(tiny, results, tmp_path):
    words = ("--dataset", tiny, "--results", results)
    quick = ("--preset", "quick", *words)
    short = tiny.replace(":", "@quick-mnist-cnn-small-1:", 1)
    done("defend", "--method", "none", "--dataset", short, "--clean", "--results", results)
    assert records_of(results)[0].spec.model == "mnist-cnn-small"
    report = ("report", "--table", "matrix", "--format", "csv", *words)
    table = done(*report).out
    assert (
        "npz:tiny.npz (mnist-cnn-small, 1 epochs): test accuracy" in done(*report[:3], *words).out
    )
    assert "clean" in table
    # Written otherwise, it is the same file; also among all data that has runs.
    assert done(*report[:-3], short, "--results", results).out == table
    everything = done("report", "--table", "matrix", "--results", results).out
    assert "npz:tiny.npz (mnist-cnn-small" in everything
    assert "expected a data set among" in refused(
        2, results, "report", "--table", "2", "--dataset", tiny
    )
    # A plan of the matrix leaves out what does not fit grey images, and says so.
    path = tmp_path / "plan.json"
    of = ("--table", "matrix", "--attacks", "lsp", "--methods", "jpeg,grayscale", "--trials", "1")
    plan = done("sweep", "plan", *quick, *of, "--json", "--output", path)
    assert "left out, 3 run(s): grayscale: expected colour images" in plan.err
    jobs = read_plan(path).only("defend")
    assert {job.method for job in jobs} == {"jpeg"}
    assert {job.request.poison.rho for job in jobs} == {0.0, 0.6, 1.0}
    assert all("@quick:" in job.dataset for job in jobs)
    alone = ("--methods", "grayscale", "--table", "matrix", "--json")
    assert "colour images" in last_line(2, results, "sweep", "plan", *quick[:4], *alone)


@pytest.fixture
def context(tmp_path):
    said = []
    context = RunContext(Store(tmp_path / "r"), tmp_path, torch.device("cpu"), say=said.append)
    return context, said


@pytest.mark.parametrize(
    ("name", "seconds", "remark"),
    [
        ("TINY", 700, "about 11:40 on this CPU; shorter: --preset quick, a small network"),
        ("TINY", 500, None),
        ("QUICK", 700, None),
    ],
)
def test_long_work_names_the_shorter_way(name, seconds, remark, context, tiny, monkeypatch):
    context, said = context
    quick = tiny.replace(":", "@quick:", 1)
    monkeypatch.setattr(long_work, "_SHORT_PIXELS", 0)
    monkeypatch.setattr(long_work, "_SHORT_OPERATIONS", 0)
    asked = []

    def of(self, request):
        asked.append(request)
        share = seconds / (2 if self.times else 1)
        return Estimate(flops=1.0, memory=0.0, seconds=share)

    monkeypatch.setattr(estimates.Estimator, "of", of)
    poison = PoisonRequest(attacks=("lsp",), rho=0.5)
    request = RunRequest(method="none", dataset=tiny if name == "TINY" else quick, poison=poison)
    run = resolve_run(context, request)
    remark_on_long_work(context, [request], [run.poison], 3)
    assert [text[: len(remark or "")] for text in said] == [remark] * bool(remark)
    if name == "TINY":
        # The poison that is crafted first counts too.
        assert [type(request) for request in asked[:2]] == [CraftRequest, RunRequest]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnist", "--preset quick without"),
        ("cifar10", "--preset colour without"),
        ("cifar10@500", "--preset colour without"),
        ("folder:photos", "--preset quick, a small"),
        ("mnist-sample", ""),
        ("mnist-sample@1000", ""),
        ("cifar10@10000", ""),
        ("folder@quick-cifar-small-9:photos", ""),
    ],
)
def test_each_data_set_has_its_own_shorter_way(name, words):
    way = long_work._shorter_way(name)
    assert way.startswith(words)
    assert bool(way) == bool(words)
