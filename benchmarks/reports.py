"""How long a report takes to find the runs of its cells among many records.

    python benchmarks/reports.py --markdown

Wall seconds of asking every cell of the matrix, which has the most, for its runs: among the records
by method and data set, as a report does, and among all of them, one by one. Both find the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from common import measure, parser, show

from poisonbench.results.store import Store
from poisonbench.tables import catalogue
from poisonbench.tables.cells import IndexedRuns

SHIPPED = Path(__file__).parents[1] / "docs" / "records"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = torch.device("cpu")
    records = Store(options.results).records(print)
    cells = catalogue.cells("matrix", records)
    found: dict[str, list[list[str]]] = {}

    def ask(name: str) -> None:
        runs = IndexedRuns(records) if name == "by method and data set" else records
        found[name] = [[run.id for run in cell.select(runs)] for cell in cells]

    names = ("by method and data set", "one by one")
    timings = {name: measure(lambda n=name: ask(n), options.repeats, device) for name in names}
    if found[names[0]] != found[names[1]]:
        raise SystemExit("expected the same runs of both, got others")
    quickest = timings[names[0]].median
    show(
        f"Runs of {len(cells)} cells among {len(records)} records, {options.repeats} repeats",
        ["records are asked for", "seconds (median)", "range", "times the quickest"],
        [
            [name, f"{timing.median:.2f}", timing.spread, f"{timing.median / quickest:.1f}"]
            for name, timing in timings.items()
        ],
        [],
        device,
        markdown=options.markdown,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__, data=False, device=False)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--results", type=Path, default=SHIPPED, help="folder of run records")
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
