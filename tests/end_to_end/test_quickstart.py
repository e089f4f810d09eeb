"""What ``make quickstart`` runs: an attack that hurts, and the paper's five defenses."""

from pathlib import Path

from poisonbench.cli.plan_jobs import plan_lines
from poisonbench.results import published

ROOT = Path(__file__).parents[2]


def test_it_crafts_two_attacks_and_trains_with_all_five_defenses_and_the_cheap_one():
    lines = ROOT / "examples" / "quickstart.txt"
    plan = plan_lines(lines.read_text().splitlines(), ROOT / "data")
    methods = {kind: [job.method for job in plan.only(kind)] for kind in ("craft", "defend")}
    assert sorted(methods["craft"]) == ["dap", "pgd"]
    assert set(methods["defend"]) == {*published.METHOD_LABELS, "bn-recalibrate"}
    # Plain training twice: on the poison, and on clean data to see what the poison cost.
    assert methods["defend"].count("none") == 2
    assert f"--lines {lines.relative_to(ROOT)}" in (ROOT / "Makefile").read_text()
