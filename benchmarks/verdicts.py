"""The verdicts' errors and power over simulated tables, beside what the functions report.

    python benchmarks/verdicts.py --markdown
    python benchmarks/verdicts.py --parts poisons --tables 500

means     a mean against a published one: seeds, two spreads. Another test: Welch's.
printed   accuracies against published ones, which are printed to 0.01 %.
images-2000, images-10000, ten-seeds, poisons
          two methods on the same poisons, seeds and test images, by outcomes of images. Other
          tests: the paired t-test over trials, and a crossed bootstrap (percentiles; of the
          first 500 tables).
without   the same, of records without outcomes by image.
shares    successes of trials against published ones. Another test: Fisher's.
targets   attack success under two defenses. Another test: Fisher's of the pooled counts.
trend     accuracies of six levels that fall at each step. Another test: Page's.
others    a method against four others at once.
seconds   of two methods, five trials.
family    60 values that all equal the published ones. Another way: without Holm's correction.
refuted   a claim that something is better, where it is worse: accuracies, success and seconds.
small     a gain under the smallest that counts: accuracies on 50,000 images, and seconds.
collapse  a method that is better but fails one training in five, as good on average.
assessed  the defense that an assessment picks against the attack that it picks, where no defense
          does anything. Another way: without Holm's correction.

Each line is a truth, from which 2,000 tables are drawn and judged as a report would judge them. An
error is a word that the truth does not bear out. Power is the share of tables with the right word
at a difference for which the functions, told the true spread, report about 80 %. A report has to
estimate the spread from its own trials: the last column has what it would say, 10th to 90th
percentile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from common import parser, show
from numpy.random import Generator
from simulations.assessed import assessed
from simulations.claims import others, refuted, seconds, small, trend
from simulations.lines import Lines
from simulations.means import family, means, printed
from simulations.outcomes import DESIGNS, POPULATIONS, accuracy, collapse, without
from simulations.targets import shares, targets

HEADINGS = ["word", "design", "truth", "said, %", "another test, %"]
POWER_HEADINGS = ["word", "design", "true difference", "said, %", "reported, %", "by one table, %"]
PARTS: dict[str, Callable[[Lines, int, Generator], None]] = {
    "means": means,
    "printed": printed,
    **{part: partial(accuracy, part) for part in DESIGNS},
    "without": without,
    "shares": shares,
    "targets": targets,
    "trend": trend,
    "others": others,
    "seconds": seconds,
    "family": family,
    "refuted": refuted,
    "small": small,
    "collapse": collapse,
    "assessed": assessed,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    lines = Lines([], [], options.populations)
    for index, (name, part) in enumerate(PARTS.items()):
        if name in options.parts:
            part(lines, options.tables, np.random.default_rng([options.seed, index]))
    for title, headings, rows, rate in (
        ("Words that are wrong", HEADINGS, lines.errors, 0.05),
        ("Words that are right", POWER_HEADINGS, lines.power, 0.8),
    ):
        error = (rate * (1 - rate) / options.tables) ** 0.5
        note = (
            f"{options.tables} simulated tables a line, so that the standard error of "
            f"{100 * rate:g} % is {100 * error:.1f}."
        )
        if rows:
            show(title, headings, rows, [note], torch.device("cpu"), markdown=options.markdown)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__, data=False, device=False)
    made.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    names = [name for name, *_ in POPULATIONS]
    made.add_argument("--populations", nargs="+", choices=names, default=names)
    made.add_argument("--tables", type=int, default=2000, help="simulated for each line")
    made.add_argument("--seed", type=int, default=0)
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
