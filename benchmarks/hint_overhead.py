"""What HINT costs over plain training with the same recipe, as whole runs.

    python benchmarks/hint_overhead.py --dataset mnist --data-root data --epochs 30 --markdown
    python benchmarks/hint_overhead.py --results results --markdown

Without ``--results`` the script trains both methods itself, in turns, one pair a trial, on clean
data (what HINT computes does not depend on whether an image is a poison). With ``--results`` it
reads finished run records and pairs those whose specs are equal apart from the method.

Why it is fair: a pair has the same data, recipe, seed, trial, network, device, precision and
threads; it is the same loop, edited by the defense. Seconds are those of the run records: training
(the epochs), defense (HINT's rounds), validation (once an epoch), test and their sum. Two runs of a
results folder may have met different loads of the machine; the training column shows it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import parser, prepare, show
from msgspec import structs

import poisonbench
from poisonbench.results.records import RunRecord
from poisonbench.results.store import Store

Pair = tuple[RunRecord, RunRecord]

#: What two records of a pair must share besides the spec, for their seconds to be comparable.
SURROUNDINGS = ("processor", "device", "threads", "precision", "torch")

PARTS = ("training", "defense", "validation", "test", "total")


def pairs(records: Sequence[RunRecord]) -> tuple[list[Pair], list[str]]:
    """Runs of none and of hint that differ by the method alone, and why others were left out."""
    plain = {_key(record): record for record in records if record.spec.method == "none"}
    kept, left_out = [], []
    for record in records:
        if record.spec.method != "hint":
            continue
        partner = plain.get(_key(record))
        if partner is None:
            left_out.append(f"{record.id}: no run of none with the same spec")
            continue
        differing = [
            name
            for name in SURROUNDINGS
            if getattr(record.environment, name) != getattr(partner.environment, name)
        ]
        if differing:
            left_out.append(f"{record.id} and {partner.id}: other {', '.join(differing)}")
        else:
            kept.append((partner, record))
    return kept, left_out


def _key(record: RunRecord) -> str:
    return structs.replace(record.spec, method="", config={}, version=0).id


def make_pairs(options: argparse.Namespace, device: torch.device, results: Path) -> list[Pair]:
    """Train both methods, one pair a trial, taking turns in who goes first."""
    settings: dict[str, Any] = {"epochs": options.epochs, "precision": options.precision}
    trained = []
    for trial in range(options.trials):
        order = ("none", "hint") if trial % 2 == 0 else ("hint", "none")
        records = {
            method: poisonbench.defend(
                method,
                options.dataset,
                rho=0.0,
                trial=trial,
                results=results,
                data_root=options.data_root,
                device=str(device),
                seed=options.seed,
                **settings,
            )
            for method in order
        }
        trained.append((records["none"], records["hint"]))
    return trained


def row(pair: Pair) -> list[str]:
    """One line of the table: seconds of both runs by part, and the ratio."""
    plain, hint = (record.cost.seconds for record in pair)
    spec = pair[1].spec
    about = f"{'+'.join(spec.poison.attacks)} {spec.rho:g}" if spec.poison else "clean"
    cells = [f"{getattr(plain, part):.3g} / {getattr(hint, part):.3g}" for part in PARTS]
    name = f"{spec.dataset.name}, {about}, trial {spec.trial}"
    rounds = sum(note.get("round") == "hint" for note in pair[1].notes)
    return [
        name,
        str(spec.training.epochs),
        f"{rounds} x {spec.config['ratio']:g}",
        *cells,
        f"{ratio(pair):.3f}",
    ]


def ratio(pair: Pair) -> float:
    """Seconds of the HINT run over those of the plain one."""
    plain, hint = pair
    return float(hint.cost.seconds.total / plain.cost.seconds.total)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = prepare(options)
    notes = []
    if options.results is not None:
        records = Store(options.results).records(lambda error: notes.append(str(error)))
        timed, left_out = pairs(records)
        notes += [f"Left out: {reason}." for reason in left_out]
    else:
        with tempfile.TemporaryDirectory() as folder:
            timed = make_pairs(options, device, Path(folder))
    if not timed:
        raise SystemExit(
            "\n".join([*notes, "expected a none and a hint run of one spec, got none"])
        )
    if any(record.cost.interruptions for pair in timed for record in pair):
        notes.append("Some of these runs were interrupted and continued.")
    ratios = [ratio(pair) for pair in timed]
    notes.insert(
        0,
        f"Ratio of HINT to plain training: median {median(ratios):.3f} of {len(ratios)} pairs "
        f"({min(ratios):.3f}-{max(ratios):.3f}).",
    )
    if options.results is not None:
        ran = sorted({_surroundings(record) for pair in timed for record in pair})
        notes.insert(1, "The records were measured on: " + "; ".join(ran) + ".")
    show(
        "HINT over plain training: seconds of none / hint",
        ["runs", "epochs", "rounds x ratio", *PARTS, "ratio of totals"],
        [row(pair) for pair in timed],
        notes,
        device,
        markdown=options.markdown,
    )


def _surroundings(record: RunRecord) -> str:
    parts = [f"{name} {getattr(record.environment, name)}" for name in (*SURROUNDINGS, "commit")]
    return ", ".join([*parts, record.environment.finished[:10]])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--results", type=Path, help="read these records instead of training")
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    options.add_argument("--trials", type=int, default=1, help="pairs to train")
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
