"""Sweeps on a dask.distributed cluster of processes on this machine."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from helpers.command_line import refused
from helpers.marks import LONG
from helpers.processes import call, contents, data_set, is_continued, plan_of, program, unreadable
from poisonbench.core.errors import UsageError
from poisonbench.results.records import read_record
from poisonbench.results.store import Store
from poisonbench.sweep import dask_cluster

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")

pytestmark = [
    pytest.mark.slow,
    # Of dask's own threads and sockets when processes are killed.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


@pytest.fixture(scope="module")
def address():
    with distributed.LocalCluster(
        n_workers=2,
        processes=True,
        threads_per_worker=1,
        dashboard_address=None,
        host="127.0.0.1",
    ) as cluster:
        yield cluster.scheduler_address.replace("tcp://", "dask://")


@pytest.fixture
def plan(tmp_path):
    data = data_set(tmp_path)
    words = f"--method none --dataset {data} --attack durp --epochs 150"
    return plan_of(tmp_path, data, [f"poisonbench defend {words}"])


def process_in_training(results):
    """The dask worker whose grandchild trains, once it does."""
    end = time.monotonic() + 120
    while not any("training" in path.read_text() for path in results.glob("sweep/logs/*.log")):
        assert time.monotonic() < end
        time.sleep(0.02)
    (log,) = (path for path in results.glob("sweep/logs/*.log") if "training" in path.read_text())
    # The run has its log open, and so nobody else has: the worker and the dask worker are above it.
    (run,) = (
        int(path.parts[2])
        for path in Path("/proc").glob("[0-9]*/fd/1")
        if os.path.realpath(path) == str(log)
    )
    return parent(parent(run))


def parent(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@LONG
def test_a_worker_killed_in_mid_run_loses_nothing(tmp_path, address, plan):
    results, calm = tmp_path / "results", tmp_path / "calm"
    sweep = program("sweep", "run", plan, "--on", address, "--results", results)
    os.kill(process_in_training(results), signal.SIGKILL)
    _, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, errors
    assert "2 jobs are done" in errors
    call("sweep", "run", plan, "--results", calm)
    assert contents(results) == contents(calm)
    assert not unreadable(results)
    (record,) = (read_record(path) for path in (results / "runs").glob("[!.]*.json"))
    assert is_continued(record)


@LONG
def test_an_interrupted_sweep_leaves_a_checkpoint_that_any_sweep_continues(tmp_path, address, plan):
    results = tmp_path / "results"
    sweep = program("sweep", "run", plan, "--on", address, "--results", results)
    process_in_training(results)
    sweep.send_signal(signal.SIGINT)
    _, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 75, errors
    assert "1 of 2 jobs are done; run the same command to continue" in errors
    call("sweep", "run", plan, "--results", results)
    (record,) = (read_record(path) for path in (results / "runs").glob("[!.]*.json"))
    assert is_continued(record)


@pytest.fixture
def cluster(tmp_path, address, monkeypatch):
    monkeypatch.setattr(dask_cluster, "_APPEAR", 0.2)
    own = dask_cluster.Cluster(address, Store(tmp_path / "results"))
    yield own
    own.close()


def test_workers_that_are_as_they_should_be(cluster):
    cluster.check_workers(["auto"])
    assert cluster.num_slots(["auto"]) == 2


def test_workers_without_gpus_to_give(cluster):
    with pytest.raises(UsageError, match=r"expected workers with the resource GPU .* got 2 witho"):
        cluster.check_workers(["cuda"])


def test_workers_that_see_another_results_folder(cluster, monkeypatch):
    monkeypatch.setattr(dask_cluster, "write_text", lambda path, text: None)
    with pytest.raises(UsageError, match=r"expected a folder that all workers share.*mount"):
        cluster.check_workers(["auto"])


def test_workers_of_another_version(cluster, monkeypatch):
    monkeypatch.setattr(dask_cluster, "__version__", "99.0")
    with pytest.raises(UsageError, match=r"expected poisonbench 99.0 on each worker.*same one"):
        cluster.check_workers(["auto"])


def test_workers_that_lack_the_package(cluster, tmp_path, monkeypatch):
    # As with poisonbench itself: the sweep has a module that they have not.
    (tmp_path / "only_here.py").write_text("def look(*words): ...")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    monkeypatch.setattr(dask_cluster, "_look_around", only_here.look)
    with pytest.raises(UsageError, match=r"expected poisonbench .*No module named.*install it"):
        cluster.check_workers(["auto"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("dask://127.0.0.1:9", "expected a dask scheduler at dask://127.0.0.1:9, got no answer"),
        ("tcp://a:1", "expected dask://HOST:PORT, a scheduler's, got 'tcp://a:1'"),
    ],
)
def test_an_address_where_there_is_no_scheduler(tmp_path, plan, monkeypatch, given, message):
    monkeypatch.setattr(dask_cluster, "_CONNECT", 0.5)
    assert message in refused(2, tmp_path / "results", "sweep", "run", plan, "--on", given)


def test_nothing_is_timed_here_for_machines_elsewhere(tmp_path, plan):
    line = ("sweep", "run", plan, "--on", "dask://a:1", "--estimate")
    assert "expected --estimate or --on, got both" in refused(2, tmp_path / "results", *line)


def test_without_the_extra(tmp_path, plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    error = refused(2, tmp_path / "results", "sweep", "run", plan, "--on", "dask://a:1")
    assert "pip install 'poisonbench[dask]'" in error
