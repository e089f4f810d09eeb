"""Options that others would leave without effect are refused, with their names; nothing is made."""

from pathlib import Path

import pytest

from helpers.command_line import cli, done, refused

PLAN = "sweep plan --table matrix --preset quick --attacks pgd --methods none "


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        ("sweep plan --lines - --table 3 --dataset mnist", "--lines without --table, --dataset"),
        ("sweep plan --lines - --methods hint", "--lines without --methods"),
        ("sweep plan --lines - --attacks pgd --rho 0", "--lines without --attacks, --rho"),
        ("sweep plan --lines - --preset quick --trials 2", "without --trials, --preset"),
        ("sweep plan --lines - --reading sign", "--lines without --reading"),
        ("sweep plan --lines - --for-claims", "--lines without --for-claims"),
        ("sweep plan --for-claims --attacks pgd --rho 0.2", "--for-claims without --attacks"),
        ("sweep plan --for-claims --methods hint", "--for-claims without --methods"),
        ("sweep plan --for-claims --preset quick", "--for-claims without --preset"),
        (PLAN + "--json --dry-run --output x.json", "--output with a plan|--dry-run"),
        (PLAN + "--json --estimate --output x.json", "--output with a plan|--estimate"),
        (PLAN + "--dry-run --estimate", "one of --estimate and --dry-run"),
        (PLAN + "--json --only runs", "--only with printed commands|--json"),
        (PLAN + "--dry-run --only runs", "--only with printed commands|--dry-run"),
        (PLAN + "--json --output .", "--output: expected a file, got the folder ."),
        ("report --output .", "--output: expected a file, got the folder ."),
        ("assess --dataset mnist-sample --output .", "expected a file, got the folder ."),
        ("assess --dataset mnist-sample --minutes nan", "--minutes: expected over 0, got nan"),
        ("verify --seed 3", "--seed: expected it with --sample"),
        ("craft --attack pgd --dataset TINY --selection uniform", "--selection|with --rho"),
    ],
)
def test_a_clash_is_a_usage_error(line, fragments, tiny, results):
    words = [tiny if word == "TINY" else word for word in line.split()]
    message = refused(2, results, *words)
    for fragment in fragments.split("|"):
        assert fragment in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--port 80", "expected --port with --serve, got it alone"),
        ("--plan x", "expected --plan with --serve, got it alone"),
        ("--serve --output p.html", "expected --serve without --output"),
        ("--serve --json", "expected --serve without --json"),
        ("--output .", "--output: expected a file, got the folder ."),
    ],
)
def test_of_a_page_too(line, message, tmp_path):
    outcome = cli("page", "--results", tmp_path, *line.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert not Path("p.html").exists()


def test_the_estimates_of_a_kind_of_jobs_are_still_to_be_had(results):
    words = [*PLAN.split(), "--results", results, "--estimate", "--only", "runs", "--json"]
    assert all("poison" not in job["title"] for job in done(*words).json["jobs"])


def test_a_runs_seed_is_its_records(tiny, results):
    run = done(
        "defend", "--method", "none", "--clean", "--dataset", tiny, "--epochs", "1", "--json",
        "--results", results,
    ).json  # fmt: skip
    line = ("export", run["path"], "--to", "torch", "--seed", "5", "--results", results)
    outcome = cli(*line)
    assert outcome.code == 2
    assert "--seed: expected it with a poison, got it with a run" in outcome.err
