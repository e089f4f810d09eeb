"""What other people's code raises: their part of the traceback, and a line that says whose."""

import pytest

from helpers.command_line import cli
from helpers.own_methods import FILES
from poisonbench import registry
from poisonbench.cli.own_code import told_by_line

#: A file of the page, the beginning of a line that a fault is put before, and of what kind it is.
PLACES = (
    ("bars.py", "    train, test = ", "a data set"),
    ("blur.py", "        width = self", "a defense"),
    ("fgsm.py", "    surrogate = ", "an attack"),
    ("small_cnn.py", "    layers = ", "a model"),
)


@pytest.mark.parametrize(
    ("statement", "got"),
    [
        ("{}['x']", "KeyError: 'x'"),
        ("__import__('torch').zeros(3) @ __import__('torch').zeros(4)", "RuntimeError: incon"),
        ("raise SystemExit", "SystemExit"),
        ("open('/nowhere')", "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'"),
    ],
)
@pytest.mark.parametrize(("file", "before", "kind"), PLACES)
def test_an_exception_is_told_by_its_line(
    file, before, kind, statement, got, tmp_path, monkeypatch, results
):
    monkeypatch.chdir(tmp_path)
    words = [
        "defend",
        "--dataset",
        "bars",
        "--model",
        "small-cnn",
        "--method",
        "blur",
        "--rho",
        "1",
    ]
    words += ["--attack", "fgsm", "--epochs", "1", "--fgsm.epochs", "1", "--results", results]
    for name, text in FILES.items():
        fault = f"{before[: len(before) - len(before.lstrip())]}{statement}\n{before}"
        (tmp_path / name).write_text(text.replace(before, fault) if name == file else text)
        words += ["--plugin", name]
    lines = (tmp_path / file).read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if line.strip() == statement)
    outcome = cli(*words)
    assert (outcome.code, outcome.out) == (1, "")
    trace, _, last = outcome.err.strip().rpartition("\n")
    assert last.startswith(f"error: expected {kind} that runs through, got ")
    assert got in last
    assert last.endswith(f" in line {number} of {tmp_path / file}; mend it")
    # Ours is left out.
    assert f'(most recent call last):\n  File "{tmp_path / file}", line ' in trace


NETWORK = """
from torch import nn
calls = []
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(256, 8)
    def forward(self, images):
        calls.append(1)
        return self.layer(images.flatten(1)) if len(calls) < 20 else stop()
def stop():
    raise SystemExit
def features(channels, height, width):
    return Net(), 8
def ended(channels, height, width):
    stop()
"""


def test_a_network_of_a_file_is_told_by_its_line_too(tiny, tmp_path, results):
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "ended.py").write_text("raise SystemExit")
    words = ("defend", "--method", "none", "--clean", "--dataset", tiny, "--results", results)
    for model, code, message in (
        ("net.py:features", 1, f"with SystemExit in line 12 of {tmp_path / 'net.py'}; mend it"),
        ("net.py:ended", 2, "for images of shape (1, 16, 16), got SystemExit;"),
        ("ended.py:features", 2, f"can be imported, got {tmp_path / 'ended.py'}: SystemExit"),
    ):
        outcome = cli(*words, "--model", tmp_path / model)
        assert (outcome.code, outcome.out) == (code, "")
        assert message in outcome.err.splitlines()[-1]


def test_what_is_raised_by_our_own_code_is_a_whole_traceback(tmp_path):
    (tmp_path / "blur.py").write_text(FILES["blur.py"])
    with registry.forgetting():
        registry.register(tmp_path / "blur.py")
        with pytest.raises(KeyError), told_by_line():
            raise KeyError
