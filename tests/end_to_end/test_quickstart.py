"""What ``make quickstart`` runs: every untargeted attack, and the paper's five defenses."""

from pathlib import Path

from poisonbench.cli.plan_jobs import plan_lines
from poisonbench.registry import MIX
from poisonbench.results import published

ROOT = Path(__file__).parents[2]


def test_it_crafts_all_four_attacks_and_trains_with_all_five_defenses():
    lines = ROOT / "examples" / "quickstart.txt"
    plan = plan_lines(lines.read_text().splitlines(), ROOT / "data")
    methods = {kind: [job.method for job in plan.only(kind)] for kind in ("craft", "defend")}
    assert sorted(methods["craft"]) == sorted(MIX)
    assert set(methods["defend"]) == set(published.METHOD_LABELS)
    assert f"--lines {lines.relative_to(ROOT)}" in (ROOT / "Makefile").read_text()
