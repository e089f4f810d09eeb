"""Stdout has a command's answer alone: what other code prints meanwhile goes to stderr."""

import ast
import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from helpers.command_line import done
from helpers.own_methods import FILES, attack_file
from poisonbench import cli
from poisonbench.cli.answers import answer, others_aside


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "answered", "aside"), [(io.StringIO, "1 2 3 ", "a b c "), (Terminal, None, "")]
)
def test_an_answer_has_stdout_to_itself_unless_that_is_a_terminal(stream, answered, aside):
    out, err = stream(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), others_aside():
        print("a", end=" ")
        answer("1", end=" ")
        # A command that runs another: its answer is part of the outer one's.
        with others_aside():
            print("b", end=" ")
            answer("2", end=" ")
        # One that is run for what it answers.
        with redirect_stdout(own := io.StringIO()), others_aside():
            answer("own", end="")
        print("c", end=" ")
        answer("3", end=" ")
    assert out.getvalue() == (answered or "a 1 b 2 c 3 ")
    assert err.getvalue() == aside
    assert own.getvalue() == "own"


def test_a_command_prints_by_answer_alone():
    """A bare print would go to stderr."""
    # The worker's stdout is its job's log, and a version is asked for before any command.
    others = {"answers.py", "worker.py", "main.py"}
    for path in Path(cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or path.name in others:
                continue
            called, named = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
            assert called != "print" or "file" in named, f"{path.name}:{node.lineno}"
            assert not called.startswith("sys.stdout."), f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("command", ["list tables", "report --format csv --quiet --results ."])
def test_a_command_without_a_stdout_answers_nobody(command):
    words = ("-m", "poisonbench", *command.split())
    closed = ("sh", "-c", 'exec "$@" >&-', "sh", sys.executable, *words)
    ended = subprocess.run(closed, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_pipe_that_closes_in_a_command_s_own_command_leaves_stderr_open():
    program = (
        "import sys\n"
        "from poisonbench.cli.answers import others_aside\n"
        "from poisonbench.cli.main import main\n"
        "with others_aside():\n"
        "    code = main(['list', 'tables'])\n"
        "    sys.stderr.write(f'ended with {code}')\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-c", program]
    ended = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"ended with 0")


def test_methods_that_print_leave_the_answers_of_commands_alone(tmp_path, results):
    own = attack_file(tmp_path / "own.py", "(print('craft'), task.images)[1]")
    (tmp_path / "blur.py").write_text(
        FILES["blur.py"]
        .replace("        width = ", "        print('hook')\n        width = ")
        .replace("build = Blur", "def build(*given):\n    print('build')\n    return Blur(*given)")
    )
    for name, line in (("small_cnn", "    layers = "), ("bars", "    train, test = ")):
        text = FILES[f"{name}.py"].replace(line, f"    print('{name}')\n{line}")
        (tmp_path / f"{name}.py").write_text(text)
    plugins = [word for name in ("blur", "small_cnn", "bars") for word in ("--plugin", name)]
    plugins = [tmp_path / f"{w}.py" if w != "--plugin" else w for w in plugins]
    words = ("--dataset", "bars", "--attack", "own", "--plugin", own, *plugins)
    words = (*words, "--results", results)
    crafted = done("craft", *words)
    assert Path(crafted.out.strip()).is_dir()
    assert "craft\n" in crafted.err
    run = done(
        "defend", "--method", "blur", "--model", "small-cnn", "--rho", "0.5", *words, "--json"
    )
    assert run.json["method"] == "blur"
    for printed in ("build", "hook", "small_cnn", "bars"):
        assert f"{printed}\n" in run.err
    assert done("data", "show", "bars", *plugins, "--json").json["name"] == "bars"
    assert done("check", tmp_path / "bars.py", "--json").json["determinism"] == "ok"
