"""docs/tutorial.md, docs/python.md and the notebook, run as they stand, and what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import poisonbench
from helpers.marks import LONG
from poisonbench.results.store import Store

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "tutorial.md"

pytestmark = [pytest.mark.slow, LONG]


def test_the_tutorial_does_what_it_says(tmp_path):
    lines = [line.strip() for line in DOCUMENT.read_text().splitlines() if line.startswith("    ")]
    command = tmp_path / "poisonbench"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m poisonbench "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
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


def test_the_pages_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
    path = tmp_path / "page.py"
    path.write_text("\n".join(blocks))
    # Of a file, since a network's source must be there.
    names = {"__name__": "page"}
    exec(compile(path.read_text(), path, "exec"), names)
    assert names["record"].labels.dataset == f"npz:{next(Path('results/data').iterdir())}"
    frame = poisonbench.records("results")
    assert list(frame["id"]) == [names["record"].id]
    assert Path("figures/figure-2.png").stat().st_size > 1000
    assert "expected uint8 images, or floats in [0, 1]" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "examples/own_network.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert "image/png" in notebook.cells[-1].outputs[-1].data
    assert len(list((tmp_path / "results/runs").iterdir())) == 3
