"""The commands of docs/tutorial.md, run as they stand by bash, and what the text says of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from poisonbench.results.store import Store

DOCUMENT = Path(__file__).parents[2] / "docs" / "tutorial.md"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("POISONBENCH_LONG" not in os.environ, reason="long: POISONBENCH_LONG=1"),
]


def test_the_tutorial_does_what_it_says(tmp_path):
    lines = [line.strip() for line in DOCUMENT.read_text().splitlines() if line.startswith("    ")]
    command = tmp_path / "poisonbench"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m poisonbench "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(DOCUMENT.parents[1]),
    }
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    results = tmp_path / "results" / "tutorial"
    assert (results / "page.html").stat().st_size > 100_000
    accuracies = {}
    for record in Store(results).records(pytest.fail):
        poison = record.spec.poison
        attack = "clean" if poison is None else poison.attacks[0]
        accuracies.setdefault((attack, record.spec.method), []).append(record.metrics.test_accuracy)
    bounds = {
        ("clean", "none"): (0.98, 1),
        ("lsp", "none"): (0, 0.4),
        ("lsp", "jpeg"): (0, 0.4),
        ("lsp", "bit-depth"): (0.9, 1),
        ("untargeted-noise", "none"): (0.96, 1),
    }
    assert accuracies.keys() == bounds.keys()
    for key, (low, high) in bounds.items():
        assert all(low <= accuracy <= high for accuracy in accuracies[key]), (key, accuracies[key])
    assert len(accuracies["lsp", "bit-depth"]) == 2
