"""What ``poisonbench quickstart`` runs: an attack that hurts, and six defenses."""

from pathlib import Path

from helpers.command_line import cli, done
from poisonbench.cli.plan_jobs import plan_lines
from poisonbench.results import published

ROOT = Path(__file__).parents[2]


def test_it_crafts_two_attacks_and_trains_with_all_five_defenses_and_two_cheap_ones():
    lines = done("quickstart", "--lines").out
    plan = plan_lines(lines.splitlines(), ROOT / "data")
    methods = {kind: [job.method for job in plan.only(kind)] for kind in ("craft", "defend")}
    assert sorted(methods["craft"]) == ["dap", "pgd"]
    assert set(methods["defend"]) == {*published.METHOD_LABELS, "bn-recalibrate", "ueraser"}
    # Plain training twice: on the poison, and on clean data to see what the poison cost.
    assert methods["defend"].count("none") == 2
    assert "poisonbench quickstart " in (ROOT / "Makefile").read_text()


def test_it_plans_runs_reports_and_shows_a_page_and_stops_at_a_failure(tmp_path, monkeypatch):
    lines: list[list[str]] = []

    def note(words):
        lines.append(words)
        return 4 if words[0] == "report" else 0

    monkeypatch.setattr("poisonbench.cli.main.main", note)
    assert cli("quickstart", "--results", tmp_path / "results").code == 4
    assert [words[:2] for words in lines] == [
        ["sweep", "plan"],
        ["sweep", "run"],
        ["report", "--runs"],
    ]
    assert all(str(tmp_path / "results") in words for words in lines)
