"""How long the command line takes before it does anything.

    python benchmarks/startup.py --markdown

Wall seconds of whole processes, started one after the other in turns: the interpreter alone (which
nothing can undercut), ``import poisonbench``, ``poisonbench --help``, and for comparison ``import
torch``, which a run needs and ``--help`` should not wait for. All use this interpreter and warm
file caches: the first turn is thrown away.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

import torch
from common import Timing, measure, parser, show

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import poisonbench": ["-c", "import poisonbench"],
    "poisonbench --help": ["-m", "poisonbench", "--help"],
    "import torch": ["-c", "import torch"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = torch.device("cpu")
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(options.repeats + 1):
        for name, command in COMMANDS.items():
            timing = measure(lambda command=command: _run(command), 1, device)
            if turn > 0:
                seconds[name] += timing.seconds
    timings = {name: Timing(tuple(values)) for name, values in seconds.items()}
    floor = timings["python -c pass"].median
    show(
        f"Start of a process, {options.repeats} repeats",
        ["process", "seconds (median)", "range", "over the interpreter alone"],
        [
            [name, f"{timing.median:.3f}", timing.spread, f"{timing.median / floor:.1f}"]
            for name, timing in timings.items()
        ],
        [],
        device,
        markdown=options.markdown,
    )


def _run(command: list[str]) -> None:
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__, data=False, device=False)
    options.add_argument("--repeats", type=int, default=10)
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
