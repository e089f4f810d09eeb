"""Against a real SLURM of one node: an array job, a time limit, a node that goes down.

``tests/slurm/run.sh`` starts SLURM and runs these; elsewhere they are skipped.
"""

import os
import subprocess
import time

import pytest

from helpers.command_line import done, lines_of, plan_of, records_of
from helpers.processes import is_continued
from poisonbench.sweep.plan import read_plan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "POISONBENCH_SLURM" not in os.environ, reason="needs SLURM: run tests/slurm/run.sh"
    ),
]

#: Longer than anything takes here, with other work on the machine.
PATIENCE = 900


def slurm(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def wait_until(holds, what, seconds=1):
    """Returns once it holds ``seconds`` times in a row, looked at once a second."""
    held = 0
    for _ in range(PATIENCE):
        held = held + 1 if holds() else 0
        if held == seconds:
            return
        time.sleep(1)
    raise TimeoutError(f"{what}\n{slurm('squeue')}\n{slurm('scontrol', 'show', 'job')}")


#: How SLURM calls a job that it has done with. A filter by the states that are left to run can miss
#: a task that is just being started, signalled or requeued.
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT"}


def is_over(*jobs):
    """Whether SLURM has nothing left to run of these, now; requeued tasks wait in its queue."""
    shown = slurm("squeue", "--noheader", "--array", "-t", "all", "-o", "%T", "-j", ",".join(jobs))
    return set(shown.split()) <= ENDED


def submit(path, results, *words):
    line = ("sweep", "submit", path, "--results", results, "--json", *words)
    return done(*line).json["jobs"]


def states(path, results):
    return done("sweep", "status", path, "--results", results, "--json").json["states"]


def story(results):
    """What the tasks wrote and how SLURM tells it, for the message of a test that fails."""
    return f"{logs(results)}\n{slurm('scontrol', 'show', 'job')}"


def logs(results):
    return "".join(path.read_text() for path in sorted((results / "sweep/logs").glob("slurm-*")))


@pytest.fixture(scope="module")
def minute(tiny, tmp_path_factory):
    """How many epochs one minute holds on this machine, as busy as it is now."""
    results = tmp_path_factory.mktemp("speed") / "results"
    line = lines_of(tiny, trials=1, epochs=200)[0].split()
    record = records_of_one(done(*line[1:], "--results", results), results)
    return max(20, round(200 * 60 / record.cost.seconds.total))


def records_of_one(_, results):
    (record,) = records_of(results)
    return record


def plan_that_crafts_dap_first(tiny, folder):
    """Shards take poisons in order of id, a hash: of some draws of the poisons, one that fits."""
    for trial in range(20):
        lines = lines_of(tiny, trials=3, attacks="pgd+dap", extra=f"--poison-trial {trial}")
        path = plan_of(lines, folder / f"plan-{trial}.json")
        pgd, dap = read_plan(path).only("craft")
        assert dap.after == (pgd.id,)
        if dap.id < pgd.id:
            return path
    raise AssertionError("DAP's id sorts behind PGD's in every draw of the poisons")


def test_a_plan_runs_as_arrays_of_shards(tiny, tmp_path, results):
    # One task at a time: the first crafts DAP, whose surrogate the other one's PGD would train.
    path = plan_that_crafts_dap_first(tiny, tmp_path)
    jobs = submit(path, results, "--shards", 2, "--at-once", 1)
    assert set(jobs) == {"poisons", "runs"}
    status = done("sweep", "status", path, "--results", results, "--json").json
    assert status["slurm"]
    wait_until(lambda: is_over(*jobs.values()), "the arrays do not end", seconds=5)
    assert states(path, results) == {"done": 5}, story(results)
    digest = read_plan(path).digest
    assert [record.environment.plan for record in records_of(results)] == [digest] * 3
    assert len(list((results / "sweep/logs").glob("slurm-*_*.out"))) == 4
    shown = done("sweep", "status", path, "--results", results).out
    assert "SLURM: nothing in the queue" in shown


def test_a_task_at_its_time_limit_is_requeued_and_goes_on_from_its_checkpoint(
    tiny, tmp_path, results, minute
):
    path = plan_of(lines_of(tiny, trials=1, epochs=round(1.2 * minute)), tmp_path / "plan.json")
    done("sweep", "run", path, "--only", "poisons", "--results", results)
    jobs = submit(path, results, "--only", "runs", "--time", "1", "--notice", "5")
    wait_until(lambda: is_over(*jobs.values()), "the task does not end", seconds=5)
    assert states(path, results) == {"done": 2}, story(results)
    (record,) = records_of(results)
    assert record.cost.interruptions >= 1
    assert logs(results).count("interrupted with checkpoints") == record.cost.interruptions


def test_a_task_whose_node_goes_down_is_requeued_and_goes_on(tiny, tmp_path, results, minute):
    # Two minutes: a run takes a snapshot each minute, and a lost node may kill without a notice.
    path = plan_of(lines_of(tiny, trials=1, epochs=2 * minute), tmp_path / "plan.json")
    done("sweep", "run", path, "--only", "poisons", "--results", results)
    jobs = submit(path, results, "--only", "runs")
    node = os.uname().nodename.partition(".")[0]
    try:
        snapshots = results / "checkpoints"
        wait_until(lambda: list(snapshots.rglob("*.safetensors")), "no snapshot is taken")
        slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        wait_until(lambda: slurm("squeue", "-h", "-t", "PD", "-j", *jobs.values()), "not requeued")
    finally:
        # A node whose daemon still answers may have come back by itself, which is no error here.
        resume = ["scontrol", "update", f"nodename={node}", "state=resume"]
        subprocess.run(resume, capture_output=True, check=False)
    wait_until(lambda: is_over(*jobs.values()), "the task does not end", seconds=5)
    assert states(path, results) == {"done": 2}, story(results)
    (record,) = records_of(results)
    assert is_continued(record)
    assert logs(results).count("start none") == 2
