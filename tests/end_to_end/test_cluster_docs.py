"""The commands of docs/cluster.md, run as they stand by bash, on a part of the sample's images."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.marks import LONG
from poisonbench.tables import table2

DOCUMENT = Path(__file__).parents[2] / "docs" / "cluster.md"

pytestmark = [pytest.mark.slow, LONG]

#: Read by every Python of the test before anything else: fewer images, one epoch, one round.
SMALLER = """
from dataclasses import replace

import poisonbench.data.sample as sample
from poisonbench.attacks import deep_confuse
from poisonbench.data.splits import Split
from poisonbench.training import recipe

whole = sample.load
sizes = {"train": 600, "validation": 100, "test": 100}


def load(*source):
    raw = whole(*source)
    parts = {name: getattr(raw, name) for name in sizes}
    smaller = {
        name: Split(split.images[: sizes[name]], split.labels[: sizes[name]])
        for name, split in parts.items()
    }
    return replace(raw, **smaller)


sample.load = load
recipe.RECIPE_PRESETS["paper"]["mnist-sample"]["epochs"] = 1
deep_confuse.PROFILES["paper"]["mnist-sample"]["rounds"] = 1
"""


def commands(*sections):
    """The indented lines of some sections; "" is what comes before the first."""
    lines, section = [], ""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("    ") and section in sections:
            lines.append(line.strip())
    assert lines
    return lines


@pytest.fixture
def shell(tmp_path):
    """Runs lines in one bash that stops at the first error; ``poisonbench`` is this checkout's."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sitecustomize.py").write_text(SMALLER)
    (tools / "poisonbench").write_text(f'#!/bin/sh\nexec {sys.executable} -m poisonbench "$@"\n')
    (tools / "poisonbench").chmod(0o755)
    place = tmp_path / "place"
    place.mkdir()
    paths = [str(tools), str(DOCUMENT.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
    }

    def run(lines):
        text = "set -euo pipefail\n" + "\n".join(lines)
        # This machine may have no GPU.
        text = text.replace("--devices cuda:0,cuda:1", "--devices cpu")
        done = subprocess.run(
            ["bash"], input=text, capture_output=True, text=True, cwd=place, env=environment,
            check=False, timeout=1500,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def assert_table_is_filled(shell):
    lines = ["poisonbench report --table 2 --dataset mnist-sample --format json --quiet"]
    table = json.loads(shell(["export POISONBENCH_RESULTS=$PWD/results", *lines]))
    missing = shell(
        [
            "export POISONBENCH_RESULTS=$PWD/results",
            "poisonbench sweep plan --dataset mnist-sample --methods none --trials 1 --quiet",
        ]
    )
    assert missing == ""
    measured = {
        (cell["method"], cell["rho"]): cell["measured"]["n"]
        for cell in table["cells"]
        if cell["measured"] is not None
    }
    assert measured == {("none", rho): 1 for rho in table2.RHOS}


def test_from_an_empty_folder_to_a_filled_table(shell):
    setup = commands("")
    first = commands("A plan", "A laptop, or one node with several GPUs", "Cleaning up")
    out = shell([*setup, *first])
    assert "MNIST sample" in out
    assert_table_is_filled(shell)


def test_by_a_plain_shell(shell):
    shell([*commands(""), *commands("A plain shell")])
    assert_table_is_filled(shell)


@pytest.mark.skipif("POISONBENCH_SLURM" not in os.environ, reason="needs SLURM")
def test_by_slurm(shell):
    submit, _, script, sbatch = commands("SLURM")
    shell([*commands(""), commands("A plan")[0], submit, script])
    wait = "while squeue -h | grep -q .; do sleep 1; done"
    shell([wait])
    assert_table_is_filled(shell)
    assert shutil.which("sbatch")
    assert "Submitted batch job" in shell([*commands("")[:1], sbatch, wait])
