"""The program in a process of its own, as the Python API runs what takes many processes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from poisonbench.core import errors


def run_program(words: Sequence[str]) -> dict[str, Any]:
    """Run ``poisonbench`` with these words, which ask for JSON, and return what it prints.

    Its remarks go to stderr as they come.

    Raises:
        PoisonbenchError: the program failed; of the kind that its exit code says.
    """
    command = [sys.executable, "-m", "poisonbench", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        last = ""
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            last = line.strip() or last
            # An error is raised here, and not said twice.
            if not line.startswith("error: "):
                sys.stderr.write(line)
        printed = process.stdout.read()
    if process.returncode:
        kinds = {kind.exit_code: kind for kind in errors.PoisonbenchError.__subclasses__()}
        kind = kinds.get(process.returncode, errors.PoisonbenchError)
        raise kind(last.removeprefix("error: ") or f"exit code {process.returncode}")
    answer: dict[str, Any] = json.loads(printed)
    return answer
