"""200 classes of 64 x 64, as Tiny-ImageNet is published: from a poison to a table and the page."""

import json
from pathlib import Path

import pytest

from helpers.command_line import done
from helpers.published_files import write_tiny_imagenet

NETWORK = """
from torch import nn
def quick(channels, height, width):
    return nn.Sequential(nn.Conv2d(channels, 8, 8, 8), nn.ReLU(), nn.Flatten(),
                         nn.Linear(8 * (height // 8) * (width // 8), 10))
"""


@pytest.mark.slow
def test_craft_and_defend_on_two_hundred_classes(tmp_path):
    write_tiny_imagenet(tmp_path / "data", train=3, test=200)
    (tmp_path / "net.py").write_text(NETWORK)
    results = tmp_path / "results"
    data = ("--dataset", "tiny-imagenet", "--data-root", tmp_path / "data", "--results", results)
    model = ("--model", f"{tmp_path}/net.py:quick", "--epochs", "2")
    pgd = ("--attack", "pgd", "--rho", "0.6", "--steps", "2", *model)
    poison = done("craft", *pgd, *data).out.strip()
    hint = ("--method", "hint", "--schedule", "1", *model)
    run = done("defend", "--poison", poison, *hint, *data, "--json").json
    record = json.loads(Path(run["path"]).read_text())
    assert len(record["metrics"]["per_class_accuracy"]) == 200
    card = json.loads((Path(poison) / "card.json").read_text())
    assert card["dataset"]["num_classes"] == 200
    assert card["dataset"]["image_shape"] == [3, 64, 64]
    sight = done("inspect", poison, *data[2:]).out
    assert "in 200 of 200 classes" in sight
    # The last class can be a trigger's, and shares are still drawn by class.
    badnets = ("--attack", "badnets", "--rho", "0.1", "--badnets.target-class", "199")
    backdoor = done("defend", "--method", "none", *badnets, *model, *data, "--json").json
    assert 0 <= backdoor["test_accuracy"] <= 1
    shown = done("report", "--runs", "--results", results).out
    assert shown.count("tiny-imagenet") >= 1
    page = tmp_path / "page.html"
    done("page", "--results", results, "--data-root", tmp_path / "data", "--output", page)
    assert "thing 199" in page.read_text()
