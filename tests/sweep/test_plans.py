"""Plans of sweeps: their jobs, shards, claims, and what cannot be planned."""

import json

import pytest

from helpers.command_line import PLAN, POISON, RUNS, cli, done, job, lines_of, plan_of, records_of
from helpers.synthetic_runs import changed, make_record, pool_label
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.core.files import write_text
from poisonbench.requests import command_of
from poisonbench.results.records import ClaimLabel
from poisonbench.results.run_keys import record_key, run_key
from poisonbench.results.store import Store
from poisonbench.sweep.plan import make_plan, read_plan, write_plan
from poisonbench.tables.declared import shipped


def test_a_plan_has_each_job_once_and_poisons_first(tmp_path):
    assert PLAN.jobs == (POISON, *RUNS)
    write_plan(PLAN, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == PLAN
    write_plan(PLAN, tmp_path / "plan.json")
    with pytest.raises(UsageError, match="a plan never changes"):
        write_plan(make_plan(RUNS[:0]), tmp_path / "plan.json")


@pytest.mark.parametrize("count", [1, 3, 10, 20])
def test_shards_share_the_runs_out_and_each_has_the_poisons_it_needs(count):
    shards = [PLAN.shard(index, count) for index in range(count)]
    runs = [job.id for shard in shards for job in shard if job.kind == "defend"]
    assert sorted(runs) == [run.id for run in RUNS]
    assert all((POISON in shard) == (len(shard) > 0) for shard in shards)
    only = [PLAN.shard(index, count, "defend") for index in range(count)]
    assert sum(map(len, only)) == len(RUNS)
    assert sum(map(len, (PLAN.shard(i, count, "craft") for i in range(count)))) == 1
    with pytest.raises(UsageError, match="0 <= i < n"):
        PLAN.shard(count, count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan["jobs"][0].update(title="other"), "was edited"),
        (lambda plan: plan["jobs"].reverse(), "was edited"),
        (lambda plan: plan.update(schema=9), "schema 2, got 9"),
        (lambda plan: plan.update(more=1), "a plan's fields"),
        (lambda plan: plan["jobs"][0].update(id="../../../etc/pas"), "matching regex"),
        (lambda plan: plan["jobs"][0].update(title=3), "Expected `str`, got `int`"),
        (lambda plan: plan["jobs"][0].update(request={"seed": "x"}), "Expected `int`, got `str`"),
        (lambda plan: plan["jobs"][0].pop("needs"), "missing required field `needs`"),
    ],
)
def test_an_edited_plan_is_refused(change, message, tmp_path):
    raw = json.loads(PLAN.to_json())
    change(raw)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(ArtefactError, match=message):
        read_plan(path)


CLAIMS = {"a-claim": ClaimLabel(digest="0" * 16, trials=7)}


def test_a_plan_for_claims_says_which(tmp_path):
    plan = make_plan(PLAN.jobs, claims=CLAIMS)
    assert plan.digest != PLAN.digest
    assert "claims" not in json.loads(PLAN.to_json())
    path = tmp_path / "plan.json"
    write_plan(plan, path)
    assert read_plan(path) == plan
    for change, message in (({"trials": 8}, "was edited"), ({"trials": "8"}, "Expected `int`")):
        raw = json.loads(plan.to_json())
        raw["claims"]["a-claim"].update(change)
        path.write_text(json.dumps(raw))
        with pytest.raises(ArtefactError, match=message):
            read_plan(path)


def test_runs_of_a_plan_for_claims_say_so_in_their_records(tiny, results, tmp_path):
    jobs = read_plan(plan_of(lines_of(tiny, trials=1), tmp_path / "plain.json")).jobs
    for name, claims in (("plain", {}), ("claims", CLAIMS)):
        where, path = results / name, tmp_path / f"{name}-plan.json"
        write_plan(make_plan(jobs, claims=claims), path)
        done("sweep", "run", path, "--results", where)
        (copy,) = Store(where).plans.iterdir()
        assert copy.read_bytes() == path.read_bytes()
    (plain,), (labelled,) = records_of(results / "plain"), records_of(results / "claims")
    assert labelled.id == plain.id
    assert (plain.labels.claims, labelled.labels.claims) == (None, CLAIMS)


def test_a_job_behind_what_needs_it_is_refused(tmp_path):
    backwards = make_plan([job(5, "craft", needs=(job(6, "craft").id,)), job(6, "craft")])
    write_plan(backwards, tmp_path / "plan.json")
    with pytest.raises(ArtefactError, match="behind the jobs that it needs"):
        read_plan(tmp_path / "plan.json")


def test_a_runs_key_forgets_the_digest_of_a_crafted_poison_alone():
    pools = {"pgd": "a", "dap": "b"}
    specs = [make_record(rho=0.6, digest=digest).spec for digest in ("first", "second")]
    assert run_key(specs[0], pools) == run_key(specs[1], pools)
    assert run_key(specs[0], pools) != run_key(specs[0], pools | {"dap": "c"})
    assert run_key(specs[0], {}) != run_key(specs[1], {})
    origins = {name: pool_label(name, pools[name]) for name in pools}
    record = make_record(rho=0.6, labels={"poison": {"id": "x", "pools": origins}})
    asked = changed(record, spec={"poison": {"digest": None}}).spec
    assert record_key(record) == run_key(asked, pools)
    assert record_key(make_record()) == run_key(make_record().spec, {})


@pytest.mark.parametrize("share", ["--rho 0.05", "--rho 0.2 --selection uniform", ""])
@pytest.mark.parametrize("attack", ["badnets", "narcissus", "pgd"])
def test_a_poisons_command_makes_the_poison_that_its_run_needs(share, attack, tiny, tmp_path):
    if attack == "narcissus" and not share:
        # Its own share of so few images is none.
        share = "--rho 0.01"
    lines = [f"poisonbench defend --method none --dataset {tiny} --attack {attack} {share}"]
    craft, run = read_plan(plan_of(lines, tmp_path / "plan.json")).jobs
    (again,) = read_plan(plan_of([command_of(craft.request)], tmp_path / "craft.json")).jobs
    assert run.needs == (craft.id,) == (again.id,)


def test_lines_are_what_the_report_misses(results, monkeypatch):
    line = ("sweep", "plan", "--dataset", "mnist-sample", "--results", results)
    lines = done(*line, "--methods", "hint", "--trials", "2").out.splitlines()
    assert len(lines) == 12
    assert lines[3] == (
        "poisonbench defend --method hint --dataset mnist-sample --rho 0.2 --poison-trial 1 "
        f"--trial 1 --results {results}"
    )
    record = make_record(dataset="mnist-sample", method="hint", rho=0.2, trial=1, draw=1)
    Store(results).write_record(record)
    assert done(*line, "--methods", "hint", "--trials", "2").out.splitlines() == [
        text for text in lines if "0.2 --poison-trial 1 --trial 1" not in text
    ]
    missing = done("report", "--missing", "--dataset", "mnist-sample", "--results", results)
    assert sorted(done(*line).out.splitlines()) == sorted(missing.out.splitlines())
    assert "did you mean 'hint'?" in cli(*line, "--methods", "hin").err


def test_a_plan_for_claims_says_what_it_costs_before_it_is_made(results, tmp_path):
    line = ("sweep", "plan", "--for-claims", "--results", results, "--dataset", "mnist-sample")
    outcome = done(*line)
    lines = outcome.out.splitlines()
    assert [text.split(":")[0] for text in lines[:-1]] == [
        "hint-beats-defenses-mnist-sample-1.0",
        "hint-defends-mnist-sample-1.0",
    ]
    assert lines[-1] == (
        "25 run(s), of which 0 are done; 25 to do, on 20 poison(s); no run like them says how long "
        "they take; crafting not counted, no poison like them was crafted here"
    )
    assert "add --json --output PLAN" in outcome.err
    record = make_record(
        dataset="mnist-sample", method="hint", rho=1.0, trial=0, seconds=3600.0, session=3600.0
    )
    Store(results).write_record(record)
    for attack, poisons, seconds in (("dc", 1, 7200.0), ("pgd", 2, 7200.0)):
        cost = {"dataset": "mnist-sample", "attack": attack, "poisons": poisons, "seconds": seconds}
        write_text(Store(results).crafting_path(attack), json.dumps(cost))
    write_text(Store(results).crafting_path("damaged"), "{")
    # What the run that is done trained on is not crafted again: four draws of each are left.
    assert done(*line).out.splitlines()[-1] == (
        "25 run(s), of which 1 are done; 24 to do, on 20 poison(s), 4.0 hours by the times of like "
        "runs, without 20 that are like none; crafting 12.0 hours by the times of like poisons, "
        "without 8 that are like none"
    )
    warned = [text for text in done(*line).out.splitlines() if text.startswith("warning: ")]
    assert [text.split(": ")[1] for text in warned] == [text.split(":")[0] for text in lines[:-1]]
    fewer = done(*line, "--trials", "2")
    assert "2 seed(s) on 2 poison(s) by choice, of 5" in fewer.out
    assert "10 run(s)" in fewer.out

    path = tmp_path / "plan.json"
    told = done(*line, "--trials", "2", "--json", "--output", path)
    assert told.out == ""
    assert fewer.out in told.err
    plan = read_plan(path)
    assert len(plan.only("defend")) == 10
    assert {run.request.poison.trial for run in plan.only("defend")} == {0, 1}
    own = {claim.id: claim.digest for claim in shipped()}
    assert {name: label.digest for name, label in plan.claims.items()} == {
        name: own[name] for name in plan.claims
    }
    assert {label.trials for label in plan.claims.values()} == {2}
    # A program is told too, by the plan and by what is shown of it.
    assert [f"warning: {text}" for text in plan.warnings] == warned
    status = done("sweep", "status", path, "--json", "--results", results)
    assert json.loads(status.out)["warnings"] == list(plan.warnings)
    assert warned[0] in done("sweep", "status", path, "--results", results).out
    assert "seed(s)" not in done(*line, "--dry-run", "--quiet").err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "hint"), "a claim needs all the runs that it compares"),
        (("--lines", "-"), "expected --lines without --for-claims"),
        (("--table", "4"), "a table with declared claims, got 4; there are some of 2 (cifar10)"),
        (("--table", "5", "--dataset", "mnist"), "got 5 on mnist"),
    ],
)
def test_what_claims_cannot_be_planned_with_is_refused(words, message, results):
    outcome = cli("sweep", "plan", "--for-claims", "--results", results, *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_a_gpu_that_is_not_there_is_said_before_a_job_fails(results, tmp_path):
    plan = tmp_path / "plan.json"
    words = ("--methods", "none", "--dataset", "mnist-sample", "--trials", "1", "--json")
    done("sweep", "plan", *words, "--output", plan, "--results", results)
    outcome = cli("sweep", "run", plan, "--devices", "cuda:99", "--results", results)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--devices: expected a CUDA device that exists, got 'cuda:99'" in outcome.err
    assert not list(results.rglob("failed/*"))


def test_defenses_that_the_paper_lacks_are_planned_when_named(results):
    line = ("sweep", "plan", "--dataset", "mnist-sample", "--results", results, "--trials", "1")
    lines = done(*line, "--methods", "clean-only,jpeg").out.splitlines()
    shares = [text.split("--rho ")[1].split()[0] for text in lines if "clean-only" in text]
    assert shares == ["0", "0.2", "0.4", "0.6", "0.8"]
    assert len(lines) == 5 + 6
    outcome = cli(*line, "--table", "4", "--methods", "hint,epic")
    assert (outcome.code, outcome.out) == (2, "")
    assert "table 4 on mnist-sample has, got epic; it has these: hint" in outcome.err
    words = ("--table", "baseline-1", "--dataset", "mnist", "--methods", "knn")
    outcome = cli("sweep", "plan", "--results", results, *words)
    assert "got knn; it has no cells there" in outcome.err


@pytest.mark.parametrize("table", ["1", "2"])
def test_what_has_run_counts_as_for_the_report(table, results):
    Store(results).write_record(make_record(dataset="mnist-sample", method="hint", rho=0.6))
    words = ("--table", table, "--dataset", "mnist-sample", "--results", results)
    planned = done("sweep", "plan", *words).out.splitlines()
    assert sorted(planned) == sorted(done("report", "--missing", *words).out.splitlines())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poisonbench list --attack pgd", "line 1: expected poisonbench defend"),
        ("poisonbench craft --preset quick", "line 1: Missing option '--attack'"),
        ("poisonbench craft --attack pgd --ratio 2 --preset quick", "line 1: pgd has no option"),
        ("poisonbench defend --method hint --dataset 'x", "line 1: expected a shell command"),
        ("\npoisonbench defend --method hint --ratoi 1 --preset quick", "line 2: "),
        ("poisonbench defend --method hint --ratio 2 --preset quick", "line 1: hint: "),
    ],
)
def test_a_bad_line_is_named(text, message, tmp_path):
    path = tmp_path / "lines"
    path.write_text(text)
    outcome = cli("sweep", "plan", "--lines", path, "--json")
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
