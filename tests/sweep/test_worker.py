"""What a sweep's worker tells of a job."""

import json
import os

from poisonbench.cli.worker import _reporter
from poisonbench.core import progress


def test_progress_goes_to_the_sweep_and_into_the_log(monkeypatch, capsys):
    monkeypatch.setattr(progress, "ESTIMATE_AFTER", 0.0)
    hears, answers = os.pipe()
    report = _reporter(answers)
    report("none", 0, 10)
    report("none", 5, 10, "epoch 1/2")
    os.close(answers)
    with open(hears, encoding="utf-8") as lines:
        first = json.loads(lines.readline())
    assert first == {"phase": "none", "done": 0, "total": 10, "detail": ""}
    assert "none: about 0:00 in all" in capsys.readouterr().err
