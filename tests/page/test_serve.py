"""The page as it is served: to this machine alone, fresh, with the sweep's progress."""

import html
import json
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from helpers.command_line import cli, job
from helpers.synthetic_runs import make_record
from poisonbench.core.errors import UsageError
from poisonbench.page.serve import Watched, make_server
from poisonbench.results.store import Store
from poisonbench.sweep.job_states import Failure, JobStates, State
from poisonbench.sweep.plan import keep_plan, make_plan, write_plan


@pytest.fixture
def server(tmp_path):
    Store(tmp_path).write_record(make_record(0.9))
    server = make_server(Watched([tmp_path], Path("data")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(server, path="/", host=None):
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}")
    if host is not None:
        request.add_header("Host", host)
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_the_page_is_fresh_and_says_which_it_is(server, tmp_path):
    text = get(server)
    digest = json.loads(get(server, "/news"))["digest"]
    assert f"data-digest={digest}" in text
    assert "connect-src 'self'" in html.unescape(text)
    run = make_record(0.8, trial=1)
    Store(tmp_path).write_record(run)
    assert json.loads(get(server, "/news"))["digest"] != digest
    assert f"run-{run.id}" in get(server)


@pytest.mark.parametrize(
    ("path", "host", "code"),
    [("/", "evil.example", 403), ("/runs", None, 404), ("/../../etc/passwd", None, 404)],
)
def test_what_it_does_not_answer(server, path, host, code):
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(server, path, host)
    assert refused.value.code == code
    refused.value.close()


def test_the_progress_of_a_plan_in_the_folder(server, tmp_path):
    jobs = [job(number) for number in range(3)]
    plan = make_plan(jobs)
    write_plan(plan, tmp_path / "plan.json")
    (tmp_path / "other.json").write_text("[]")
    failure = Failure(1, "no <room>", "log")
    JobStates(Store(tmp_path)).write_failure(jobs[1], failure)
    (news,) = json.loads(get(server, "/news"))["plans"]
    assert news["plan"] == plan.digest
    assert news["total"] == 3
    assert news["states"]["planned"] == 2
    assert news["states"]["failed"] == 1
    assert news["failed"] == [{"title": jobs[1].title, "reason": "no <room>"}]


def test_a_port_that_is_taken_is_refused(server, tmp_path):
    with pytest.raises(UsageError, match="expected a free port"):
        make_server(Watched([tmp_path], Path("data")), server.server_port)


def test_a_plan_that_a_sweep_ran_is_known_wherever_it_lies(server, tmp_path):
    plan = make_plan([job(number) for number in range(3)])
    keep_plan(plan, Store(tmp_path).plans)
    write_plan(plan, tmp_path / "plan.json")
    (news,) = json.loads(get(server, "/news"))["plans"]
    assert (news["plan"], news["total"]) == (plan.digest, 3)


def test_a_plan_elsewhere_is_shown_where_it_is_named(tmp_path):
    plan = make_plan([job(0)])
    write_plan(plan, tmp_path / "plans" / "a.json")
    (tmp_path / "results").mkdir()
    watched = Watched([tmp_path / "results"], Path("data"), [tmp_path / "plans" / "a.json"])
    assert [news["plan"] for news in watched.news()["plans"]] == [plan.digest]


def test_plans_that_are_done_give_way_to_those_that_are_not(tmp_path):
    store = Store(tmp_path)
    for number, time in ((0, 2), (1, 1), (2, 3)):
        plan = make_plan([job(number)])
        keep_plan(plan, store.plans)
        os.utime(store.plans / f"{plan.digest[:16]}.json", (time, time))
    watched, done = Watched([tmp_path], Path("data")), {job(n).id for n in range(3)}
    board = watched._boards[tmp_path]
    board.states = lambda jobs: {j.id: State.DONE if j.id in done else State.PLANNED for j in jobs}

    def shown():
        return [news["plan"] for news in watched.news()["plans"]]

    assert shown() == [make_plan([job(2)]).digest]
    done -= {job(0).id, job(1).id}
    assert shown() == [make_plan([job(number)]).digest for number in (1, 0)]


def test_a_plan_needs_the_server_and_a_sound_file(tmp_path):
    refused = cli("page", "--results", tmp_path, "--plan", "p.json", "--output", tmp_path / "o")
    assert refused.code == 2
    assert "--serve" in refused.err
    (tmp_path / "p.json").write_text("[]")
    refused = cli("page", "--results", tmp_path, "--serve", "--plan", tmp_path / "p.json")
    assert refused.code == 65
