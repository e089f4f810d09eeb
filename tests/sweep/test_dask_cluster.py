"""Sweeps on a dask.distributed cluster of processes on this machine."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.command_line import cli
from helpers.processes import call, contents, data_set, is_continued, plan_of, program, unreadable
from poisonbench.results.records import read_record
from poisonbench.sweep import dask_cluster

pytestmark = [
    pytest.mark.slow,
    # Of dask's own threads and sockets when processes are killed.
    pytest.mark.filterwarnings("ignore"),
]

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")


def cluster_of(count, **options):
    return distributed.LocalCluster(
        n_workers=count,
        processes=True,
        threads_per_worker=1,
        dashboard_address=None,
        host="127.0.0.1",
        **options,
    )


@pytest.fixture(scope="module")
def cluster():
    with cluster_of(2) as own:
        yield own


def address_of(cluster):
    return cluster.scheduler_address.replace("tcp://", "dask://")


def wait_for(is_so, seconds=120):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def checkpoints(results):
    return list(results.glob("checkpoints/*/state.safetensors"))


def test_a_worker_killed_in_mid_run_loses_nothing(tmp_path, cluster):
    data = data_set(tmp_path)
    plan = plan_of(
        tmp_path,
        data,
        [
            f"poisonbench defend --method none --dataset {data} --attack durp --epochs {epochs}"
            for epochs in (2, 1500)
        ],
    )
    results, calm = tmp_path / "results", tmp_path / "calm"
    sweep = program("sweep", "run", plan, "--on", address_of(cluster), "--results", results)
    logs = results / "sweep" / "logs"

    def victims():
        """The dask workers that have a run in training beneath them."""
        return [
            worker
            for worker in cluster.workers.values()
            if any("worker" in line for line in commands_below(worker.pid))
        ]

    # The short run is done, so what is still there is the long one, in the midst of training.
    wait_for(lambda: len(list(results.glob("runs/[!.]*.json"))) == 1)
    wait_for(lambda: any("training" in path.read_text() for path in logs.glob("*.log")))
    time.sleep(1)
    (victim,) = victims()
    os.kill(victim.pid, signal.SIGKILL)
    _, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, errors
    assert "3 jobs are done" in errors
    call("sweep", "run", plan, "--results", calm)
    assert contents(results) == contents(calm)
    assert not unreadable(results)
    records = [read_record(path) for path in (results / "runs").glob("[!.]*.json")]
    assert any(map(is_continued, records))


def commands_below(process):
    """The command lines of the processes beneath one."""
    lines = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in path.read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            lines += [command, *commands_below(child)]
    return lines
