"""Where ``--output`` may lead."""

import os

from helpers.command_line import cli, done


def test_a_link_is_followed_and_no_pipe_is_replaced(tmp_path):
    words = (
        "report",
        "--table",
        "2",
        "--results",
        tmp_path,
        "--format",
        "csv",
        "--output",
    )
    target, link, pipe = (tmp_path / name for name in ("target.csv", "link.csv", "pipe"))
    target.write_text("old")
    link.symlink_to("target.csv")
    done(*words, link)
    assert link.is_symlink()
    assert target.read_text().startswith("table,")
    os.mkfifo(pipe)
    outcome = cli(*words, pipe)
    assert outcome.code == 2
    assert "--output: expected a file, got a device or a pipe" in outcome.err
    assert pipe.is_fifo()
