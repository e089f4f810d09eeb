"""Progress: what a log and a bar show, on a clock that the test turns."""

import re

import pytest

from poisonbench.core.progress import BarReporter, LogReporter, clock, silent


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("poisonbench.core.progress.time.monotonic", clock)
    return clock


def lines(capsys):
    """The lines on stderr since the last call, without their time of day."""
    captured = capsys.readouterr()
    assert captured.out == ""
    printed = captured.err.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in printed)
    return [line[9:] for line in printed]


def test_log_estimates_after_a_few_seconds_and_then_says_a_line_a_minute(time, capsys):
    report = LogReporter()
    by_second = {}
    for second in range(181):
        time.now = 1000.0 + second
        report("hint", 10 + second, 190, f"epoch {second}")
        for line in lines(capsys):
            by_second[second] = line
    # 180 units at one a second, counted from the first call.
    assert by_second == {
        4: "hint: about 3:00 in all",
        64: "hint: 39% epoch 64, 1:04 gone, 1:56 left",
        124: "hint: 71% epoch 124, 2:04 gone, 0:56 left",
    }


def test_log_says_nothing_of_a_short_phase(time, capsys):
    report = LogReporter()
    for phase in ("surrogate", "pgd", "hint"):
        for step in range(4):
            time.now += 1.0
            report(phase, step, 4)
    assert lines(capsys) == []


def test_log_starts_over_with_the_next_trial_of_the_same_phase(time, capsys):
    report = LogReporter()
    for _ in range(2):
        for step in range(1, 101):
            time.now += 1.0
            report("hint", step, 100)
        assert lines(capsys) == ["hint: about 1:39 in all", "hint: 65%, 1:04 gone, 0:35 left"]


def test_log_survives_a_total_of_nothing_and_a_stopped_clock(time, capsys):
    report = LogReporter()
    for seconds in (0, 0, 5, 70):
        time.now += seconds
        report("pgd", 0, 0)
    assert lines(capsys) == ["pgd: about 0:05 in all", "pgd: 0%, 1:15 gone, 0:00 left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.6, "1:00"),
        (75, "1:15"),
        (3599, "59:59"),
        (3600, "1:00:00"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_silence(capsys):
    silent("pgd", 1, 2, "step")
    assert capsys.readouterr() == ("", "")


def test_bar_moves_ten_times_a_second_and_starts_over_with_a_phase_or_trial(time):
    with BarReporter() as report:
        seen = []
        for phase, done in (
            ("surrogate", 1),
            ("surrogate", 2),
            ("surrogate", 9),
            ("hint", 1),
            ("hint", 5),
            ("hint", 10),
            ("hint", 1),
        ):
            time.now += 0.06
            report(phase, done, 10, f"at {done}")
            (task,) = report.tasks
            seen.append((task.id, task.description, task.completed, task.fields["detail"]))
    assert seen == [
        (0, "surrogate", 1, "at 1"),
        (0, "surrogate", 2, "at 2"),
        (0, "surrogate", 2, "at 2"),
        (1, "hint", 1, "at 1"),
        (1, "hint", 5, "at 5"),
        (1, "hint", 10, "at 10"),
        (2, "hint", 1, "at 1"),
    ]
