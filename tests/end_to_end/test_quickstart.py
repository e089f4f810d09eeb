"""What ``make quickstart`` runs: every untargeted attack, and the paper's five defenses."""

import json
from pathlib import Path

from helpers.command_line import done
from poisonbench.registry import MIX
from poisonbench.results import published

ROOT = Path(__file__).parents[2]


def test_it_crafts_all_four_attacks_and_trains_with_all_five_defenses():
    lines = ROOT / "examples" / "quickstart.txt"
    jobs = json.loads(done("sweep", "plan", "--lines", lines, "--json").out)["jobs"]
    methods = {
        kind: [job["method"] for job in jobs if job["kind"] == kind] for kind in ("craft", "defend")
    }
    assert sorted(methods["craft"]) == sorted(MIX)
    assert set(methods["defend"]) == set(published.METHOD_LABELS)
    assert f"--lines {lines.relative_to(ROOT)}" in (ROOT / "Makefile").read_text()
