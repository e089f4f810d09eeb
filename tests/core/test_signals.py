"""Ctrl-C is answered where a person waits, and a second one ends at once."""

import os
import pty
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import io, os, signal, sys
from contextlib import redirect_stderr
from poisonbench.core.signals import Stopping, stop_on_signals

stopping = Stopping()
# As a progress bar's stand-in for stderr, which may say that it is no terminal.
with stop_on_signals(stopping), redirect_stderr(io.StringIO()):
    for name in sys.argv[1:]:
        os.kill(os.getpid(), getattr(signal, name))
if sys.stderr:
    sys.stderr.write(f"at number {stopping.number}")
"""


def said(*signals, terminal):
    """What a program says that gets these signals, and its exit code."""
    command = [sys.executable, "-c", PROGRAM, *signals]
    if not terminal:
        done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
        return done.stderr.decode(), done.returncode
    master, slave = pty.openpty()
    done = subprocess.run(command, stderr=slave, check=False)
    os.close(slave)
    text = os.read(master, 10_000).decode()
    os.close(master)
    return text, done.returncode


@pytest.mark.parametrize(
    ("signals", "terminal", "is_answered"),
    [(["SIGINT"], True, True), (["SIGINT"], False, False), (["SIGTERM"], True, False)],
)
def test_who_presses_ctrl_c_is_told_that_it_was_heard(signals, terminal, is_answered):
    text, code = said(*signals, terminal=terminal)
    assert code == 0
    assert ("Ctrl-C again ends at once" in text) == is_answered
    assert text.endswith(f"at number {int(getattr(signal, signals[0]))}")


def test_a_second_ctrl_c_ends_at_once():
    text, code = said("SIGINT", "SIGINT", terminal=False)
    assert "at number" not in text
    assert "KeyboardInterrupt" in text
    assert code != 0


def test_a_program_without_a_stderr_stops_all_the_same():
    words = ("sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", PROGRAM, "SIGINT")
    assert subprocess.run(words, check=False).returncode == 0
