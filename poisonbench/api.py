"""The Python API: the same runs as the command line, with the same names.

import poisonbench
poison = poisonbench.craft("pgd", dataset="mnist-sample")
record = poisonbench.defend("hint", ratio=0.5)
frame = poisonbench.records()
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poisonbench.core.folders import data_folder, results_folder
from poisonbench.results.records import RunRecord
from poisonbench.results.store import Store

if TYPE_CHECKING:
    import pandas

    from poisonbench.data.poison import Poison
    from poisonbench.runs.workspace import Bench


def craft(
    attack: str,
    dataset: str = "mnist-sample",
    *,
    rho: float | None = None,
    trial: int = 0,
    profile: str = "paper",
    results: str | Path | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    **options: Any,
) -> Poison:
    """Make a poison, or find it in the results folder; see ``poisonbench craft --help``.

    Args:
        attack: a name, names joined by "+", or "mix".
        dataset: as on the command line.
        rho: share of the training images to poison; None poisons all of them, and the attack's own
            share when targeted.
        trial: which draw of everything random.
        profile: "paper", or another that the attack has.
        results: the results folder; by default that of POISONBENCH_RESULTS, or results.
        data_root: the folder of data sets; by default that of POISONBENCH_DATA, or data.
        device: auto, cpu, cuda or cuda:N.
        seed: root seed.
        options: the attack's own settings, e.g. ``epsilon=8 / 255``.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`.
    """
    from poisonbench.runs.craft import attack_names
    from poisonbench.runs.craft_targeted import craft_trials

    bench = _bench(results, data_root, device, seed)
    (crafted,) = craft_trials(
        bench,
        attack_names(attack),
        bench.dataset(dataset),
        [trial],
        rho=rho,
        profile=profile,
        values=_texts(options),
    )
    return crafted.poison


def defend(
    method: str,
    dataset: str = "mnist-sample",
    *,
    attack: str = "mix",
    poison: str | Path | None = None,
    rho: float | None = None,
    trial: int = 0,
    profile: str = "paper",
    attack_profile: str = "paper",
    results: str | Path | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    **options: Any,
) -> RunRecord:
    """Train under a defense, or find the record; see ``poisonbench defend --help``.

    Args:
        method: the defense's name.
        dataset: as on the command line.
        attack: a name, names joined by "+", or "mix".
        poison: path of an artefact to use as it is, instead of ``attack`` and ``rho``.
        rho: share of poisoned training images; 0 trains on clean data. By default 0.6 when
            untargeted, and the attack's own when targeted.
        trial: which trial.
        profile: "paper", or another that the defense has.
        attack_profile: "paper", or another that the targeted attack has.
        results: the results folder; by default that of POISONBENCH_RESULTS, or results.
        data_root: the folder of data sets; by default that of POISONBENCH_DATA, or data.
        device: auto, cpu, cuda or cuda:N.
        seed: root seed.
        options: settings of the defense or of the recipe, e.g. ``ratio=0.5, epochs=3``.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`.
    """
    from poisonbench.runs.craft import attack_names
    from poisonbench.runs.defend import defend as run
    from poisonbench.runs.poisoned_data import PoisonChoice

    bench = _bench(results, data_root, device, seed)
    path = None if poison is None else Path(poison)
    choice = PoisonChoice(
        attacks=() if path else attack_names(attack), path=path, rho=rho, profile=attack_profile
    )
    return run(
        bench,
        method,
        bench.dataset(dataset),
        choice,
        trial=trial,
        profile=profile,
        values=_texts(options),
    ).record


def load_poison(
    path: str | Path,
    dataset: str | None = None,
    *,
    data_root: str | Path | None = None,
    seed: int = 0,
) -> Poison:
    """Read and check an artefact; with a data set's name also against its images.

    Raises:
        ArtefactError: damaged, edited, over its budget or made for another split.
    """
    from poisonbench.data.artefacts import read_poison
    from poisonbench.data.sources import load_dataset

    data = None if dataset is None else load_dataset(dataset, data_folder(data_root), seed)
    return read_poison(Path(path), data)


def records(
    results: str | Path | None = None,
    on_error: Callable[[Exception], None] = lambda error: None,
    *,
    outcomes: bool = False,
) -> pandas.DataFrame:
    """The run records as a data frame, one row a run, nested fields as dotted columns.

    Args:
        results: the results folder; by default that of POISONBENCH_RESULTS, or results.
        on_error: told of each record that cannot be read; it is left out.
        outcomes: give ``outcomes.test`` and ``outcomes.test_by_batch_statistics`` as arrays (N,)
            bool, which of the test images were classified right; None where a record lacks them.
            Otherwise they are left out.
    """
    import pandas
    from msgspec import structs, to_builtins

    rows = []
    for record in Store(results_folder(results)).records(on_error):
        row = {
            name: to_builtins(part, order="sorted")
            for name, part in structs.asdict(record).items()
            if name != "outcomes"
        }
        if outcomes:
            row["outcomes"] = {
                name: bits.unpack() if bits else None
                for name, bits in structs.asdict(record.outcomes).items()
            }
        rows.append(row)
    return pandas.json_normalize(rows)


def _bench(
    results: str | Path | None, data_root: str | Path | None, device: str, seed: int
) -> Bench:
    from poisonbench.runs.workspace import Bench, find_device

    store = Store(results_folder(results))
    return Bench(store, data_folder(data_root), find_device(device), seed)


def _texts(options: dict[str, Any]) -> dict[str, str]:
    """Values as the command line's texts, so that both go through the same checks."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        for name, value in options.items()
    }
