"""What a sweep shows on a terminal and in a log."""

import pytest

from poisonbench.core import progress
from poisonbench.sweep.progress_view import AtWork, JobBars, View


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal that is wide enough for a line a bar."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")


def follow(view):
    view.total(0, 2, None)
    view.started(0, "hint [mnist] trial 0")
    view.moved(0, "surrogate", 1, 4)
    view.ended(0, "hint [mnist] trial 0", "done")
    view.total(1, 2, 75.0)


def test_bars_show_totals_that_are_not_known_yet_and_those_that_are(terminal, capsys):
    with JobBars() as view:
        view.refresh()
        follow(view)
        view.started(1, "none mnist trial 0")
        view.refresh()
    shown = capsys.readouterr().err
    assert "0/?" in shown
    assert "done hint [mnist] trial 0" in shown
    assert "1/2" in shown
    assert "about 1:15 left" in shown
    assert len(view.tasks) == 2


def test_lines_show_starts_and_ends_and_all_once_a_minute(capsys):
    view = View()
    follow(view)
    view.started(0, "epic mnist trial 0")
    view.started(1, "none mnist trial 0")
    view.spoken -= progress.LINE_EVERY
    view.total(1, 3, 70.0)
    view.ended(0, "epic mnist trial 0", "done")
    lines = [line[9:] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "[0/2] start hint [mnist] trial 0",
        "[0/2] done hint [mnist] trial 0",
        "[1/2] start epic mnist trial 0, about 1:15 left",
        "[1/2] start none mnist trial 0, about 1:15 left",
        "[1/3] running epic mnist trial 0 and none mnist trial 0, about 1:10 left",
        "[1/3] done epic mnist trial 0",
    ]


def test_what_is_left_is_said_at_once_where_it_is_known(capsys):
    view = View()
    view.total(0, 2, 75.0)
    view.total(0, 2, 74.0)
    assert [line[9:] for line in capsys.readouterr().err.splitlines()] == ["[0/2] about 1:15 left"]


def test_without_like_runs_it_takes_at_least_what_is_left_of_the_jobs_at_work():
    now, view = 0.0, View(quiet=True)
    view.at_work = AtWork(lambda: now)
    for slot in (0, 1):
        view.started(slot, "job")
        view.moved(slot, "surrogate", 0, 10)
    assert view.at_work.left_in_words(None) == ""
    now = 20.0
    # 20 s for 4 of 10 and for 1 of 10.
    view.moved(0, "surrogate", 4, 10)
    view.moved(1, "surrogate", 1, 10)
    assert view.at_work.left_in_words(None) == "at least 3:00 left"
    assert view.at_work.left_in_words(75.0) == "about 3:00 left", "the pace outweighs like runs"
    assert view.at_work.left_in_words(200.0) == "about 3:20 left"
    assert view.at_work.in_words() == "job (surrogate 40 %) and job (surrogate 10 %)"
    # Of a new phase the pace is not known yet, and a continued one did not start at 0.
    view.moved(1, "training", 6, 12)
    assert view.at_work.left_in_words(None) == "at least 0:30 left"
    now = 30.0
    view.moved(1, "training", 7, 12)
    assert view.at_work.left_in_words(None) == "at least 0:50 left"
    for slot in (0, 1):
        view.ended(slot, "job", "done")
    assert view.at_work.left_in_words(None) == ""


def test_a_quiet_view_says_nothing(capsys):
    follow(View(quiet=True))
    assert capsys.readouterr() == ("", "")
