"""The program in a process of its own."""

import pytest

from poisonbench.core.errors import UsageError
from poisonbench.core.program import run_program


def test_what_is_printed_comes_back():
    assert "hint" in run_program(["list", "defenses", "--json"])


def test_an_error_is_raised_by_its_exit_code(capfd):
    with pytest.raises(UsageError, match=r"^expected a defense .*nonsense"):
        run_program(["list", "defenses", "nonsense", "--json"])
    assert "error" not in capfd.readouterr().err
