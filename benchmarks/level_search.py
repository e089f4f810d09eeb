"""Search for targets on which the test of attack success errs in more than 5 % of tables.

    python benchmarks/level_search.py --markdown
    python benchmarks/level_search.py --targets 5 10 --attacks 2 3

Of a number of attacks a target's value is their hits under one defense minus those under another.
The search is over distributions of such values whose mean is 0 ("reproduced") or 10 % ("refuted"),
and adds up exactly in how many tables the word's test is passed, without asking that the observed
difference counts.

alike     all targets have one distribution, on two or three values: all such sets of values, and of
          three 21 mixtures of the two pairs that have the mean.
any       targets may each have a distribution of their own. The error is linear in each, so that
          the worst are of two values (or one) each: all combinations of these. Few targets only,
          and exhaustive.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations, combinations_with_replacement, product

import numpy as np
import torch
from common import parser, show
from scipy import stats

from poisonbench.results.statistics import SIGNIFICANCE
from poisonbench.results.target_success import mean_p_values
from poisonbench.results.verdicts import LEAST_SUCCESS

HEADINGS = ["word", "targets", "attacks", "in error, %", "worst at", "worst values"]
#: Most targets of which all combinations are looked at, by attacks.
FEW = {2: 8, 3: 6, 4: 5, 5: 4}
MIXTURES = 21
#: The mean of the worst distributions, and the side on which the word's test looks.
WORDS = {"reproduced": (0.0, 1), "refuted": (LEAST_SUCCESS, -1)}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    rows = []
    for word, (mean, side) in WORDS.items():
        for attacks in options.attacks:
            errors = [(*alike(n, attacks, mean, side), n) for n in options.targets]
            error, values, n = max(errors)
            span = f"{min(options.targets)} to {max(options.targets)}, alike"
            rows.append([word, span, str(attacks), f"{100 * error:.2f}", str(n), values])
            few = min(FEW[attacks], max(options.targets))
            error, values = differing(few, attacks, mean, side)
            rows.append([word, f"{few}, any", str(attacks), f"{100 * error:.2f}", str(few), values])
    show("Worst cases", HEADINGS, rows, [], torch.device("cpu"), markdown=options.markdown)


def alike(targets: int, attacks: int, mean: float, side: int) -> tuple[float, str]:
    """The largest error over targets of one distribution, and its values."""
    tables = counts_of_three(targets)
    worst = (0.0, "")
    for low, middle, high in combinations(np.arange(-attacks, attacks + 1) / attacks, 3):
        if not low < mean < high:
            continue
        values = np.array([low, middle, high])
        is_found = errs(np.array([np.repeat(values, row) for row in tables]), mean, side)
        if not is_found.any():
            continue
        outer, inner = pair(values, 0, 2, mean), np.eye(3)[1]
        if middle != mean:
            inner = pair(values, *((1, 2) if middle < mean else (0, 1)), mean)
        for share in np.linspace(0, 1, MIXTURES):
            chance = share * inner + (1 - share) * outer
            error = float(stats.multinomial.pmf(tables[is_found], targets, chance).sum())
            worst = max(worst, (error, in_words(values * attacks, chance)))
    return worst


def differing(targets: int, attacks: int, mean: float, side: int) -> tuple[float, str]:
    """The largest error over targets that each have two values of their own, and the values."""
    grid = np.arange(-attacks, attacks + 1) / attacks
    # A value that is the mean is a pair with itself, which it has with probability 1.
    kinds = [(low, high) for low, high in product(grid, grid) if low < mean < high]
    kinds += [(value, value) for value in grid if value == mean]
    is_high = np.array(list(product((False, True), repeat=targets)))
    worst = (0.0, "")
    for chosen in batches(combinations_with_replacement(kinds, targets), 20_000):
        low, high = np.moveaxis(np.array(chosen), 2, 0)[:, :, None, :]
        width = np.where(high > low, high - low, 1.0)
        up = np.where(high > low, (mean - low) / width, 1.0)
        values = np.where(is_high, high, low)
        chance = np.where(is_high, up, 1 - up).prod(2)
        distinct, inverse = np.unique(
            np.sort(values.reshape(-1, targets)), axis=0, return_inverse=True
        )
        is_found = errs(distinct, mean, side)[inverse.ravel()].reshape(chance.shape)
        errors = (chance * is_found).sum(1)
        at = int(errors.argmax())
        shown = ", ".join(f"{a * attacks:+.0f}/{b * attacks:+.0f}" for a, b in chosen[at])
        worst = max(worst, (float(errors[at]), shown))
    return worst


def errs(tables: np.ndarray, mean: float, side: int) -> np.ndarray:
    """Which tables, (tables, targets), pass the test at 5 %."""
    return mean_p_values(side * tables, side * mean) < SIGNIFICANCE


def pair(values: np.ndarray, low: int, high: int, mean: float) -> np.ndarray:
    """Probabilities of three values, of which two alone occur and have the mean."""
    up = (mean - values[low]) / (values[high] - values[low])
    return (1 - up) * np.eye(3)[low] + up * np.eye(3)[high]


@lru_cache
def counts_of_three(targets: int) -> np.ndarray:
    """How many targets can have each of three values, (tables, 3)."""
    return np.array(
        [(a, b, targets - a - b) for a in range(targets + 1) for b in range(targets + 1 - a)]
    )


def batches(items: Iterator[tuple], size: int) -> Iterator[list[tuple]]:
    """Lists of up to so many items."""
    batch: list[tuple] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def in_words(sums: np.ndarray, chance: np.ndarray) -> str:
    """Sums of hits with their probabilities."""
    return ", ".join(
        f"{value:+.0f} on {100 * p:.0f} %" for value, p in zip(sums, chance, strict=True) if p > 0
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__, data=False, device=False)
    options.add_argument("--targets", nargs="+", type=int, default=list(range(5, 31)))
    options.add_argument("--attacks", nargs="+", type=int, choices=list(FEW), default=list(FEW))
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
