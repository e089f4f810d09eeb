"""The Python API: the same runs as the command line, with the same names.

import poisonbench
poison = poisonbench.craft("pgd", dataset="mnist-sample")
record = poisonbench.defend("hint", ratio=0.5)
frame = poisonbench.records()
figure = poisonbench.figure("2", runs=[record.id])
poisonbench.register("my_defense.py")

A data set is a name, or ``(images, labels, test_images, test_labels)`` as arrays or tensors:
:func:`poisonbench.data.in_memory.keep_arrays` has shapes and units. A network is a name, an
``nn.Module`` or a callable that builds one: :mod:`poisonbench.models.own` has the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from poisonbench.core.arguments import argument, checked
from poisonbench.core.errors import UsageError
from poisonbench.core.folders import data_folder, results_folder
from poisonbench.core.program import run_program
from poisonbench.core.settings import options_of
from poisonbench.entries import MethodEntry
from poisonbench.registry import Mix, attacks, find_form, plugin_files
from poisonbench.registry import register as _register
from poisonbench.requests import (
    DEFAULT_DATASET,
    CraftRequest,
    RunRequest,
    Value,
    figure_poison,
    poison_request,
    read_method,
    read_mix,
)
from poisonbench.results.frame import records as _records
from poisonbench.results.records import RunRecord
from poisonbench.results.store import Store
from poisonbench.targeting import Targeting

if TYPE_CHECKING:
    import torch

    from poisonbench.data.poison import Poison
    from poisonbench.figures.drawing import Figure
    from poisonbench.models.own import OwnNetwork
    from poisonbench.runs.context import RunContext

#: A data set's name, or its images, labels, test images and test labels.
Data: TypeAlias = str | Sequence[Any]


@checked
def craft(
    attack: str,
    dataset: Data = DEFAULT_DATASET,
    *,
    rho: float | None = None,
    trial: int = 0,
    profile: str = "paper",
    model: str | OwnNetwork | None = None,
    results: str | Path | None = None,
    data_root: str | Path | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    **options: Any,
) -> Poison:
    """Make a poison, or find it in the results folder; see ``poisonbench craft --help``.

    Parameters: the options of the command line, by name.

    Args:
        attack: a name, names joined by "+", or "mix".
        dataset: a name as on the command line, or four arrays or tensors: images (N, H, W),
            (N, H, W, C) or (N, C, H, W), uint8 or floats in [0, 1]; integer labels (N,) of
            0..K-1; the same of test images. They are kept in the results folder, under ``data``.
        rho: share of the training images to poison; None poisons all of them, and the attack's own
            share when targeted.
        trial: which draw of everything random.
        profile: "paper", or another that the attack has.
        model: the surrogate's network, a name, an ``nn.Module`` or a callable that builds one; by
            default the paper's for this kind of data. Of a module only the architecture counts.
        results: the results folder; by default that of POISONBENCH_RESULTS, or results.
        data_root: the folder of data sets; by default that of POISONBENCH_DATA, or data.
        device: auto, cpu, cuda or cuda:N, or PyTorch's.
        seed: root seed.
        options: settings of the attack, its target or its surrogate's recipe, e.g.
            ``epsilon=8 / 255, epochs=3``; of several attacks ``**{"pgd.steps": 3}``. A text such
            as ``"8/255"`` is read as the command line's.

    Returns:
        The poison, which knows its ``id`` and ``path``.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`.
    """
    from poisonbench.runs import craft as run

    mix = read_mix(attack)
    values = _values(options, mix)
    context = _context(results, data_root, device, seed)
    name = _dataset_name(context, dataset)
    _, poison = poison_request(
        mix,
        values,
        to_craft=True,
        rho=rho,
        trial=trial,
        profile=profile,
        surrogate=_network_name(context, name, model),
    )
    request = CraftRequest(dataset=name, poison=poison, seed=seed)
    (crafted,) = run.craft(context, request)
    return crafted.poison


@checked
def defend(
    method: str,
    dataset: Data = DEFAULT_DATASET,
    *,
    attack: str | None = None,
    poison: Poison | str | Path | None = None,
    rho: float | None = None,
    trial: int = 0,
    profile: str = "paper",
    attack_profile: str = "paper",
    model: str | OwnNetwork | None = None,
    attack_model: str | OwnNetwork | None = None,
    save_model: bool = False,
    results: str | Path | None = None,
    data_root: str | Path | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    **options: Any,
) -> RunRecord:
    """Train under a defense, or find the record; see ``poisonbench defend --help``.

    Parameters: the options of the command line, by name.

    Args:
        method: the defense's name.
        dataset: as for :func:`craft`.
        attack: a name, names joined by "+", or "mix", which it is by default.
        poison: what :func:`craft` gave, or the path of an artefact, to use as it is, instead of
            ``attack`` and ``rho``.
        rho: share of poisoned training images; 0 trains on clean data. By default 0.6 when
            untargeted, and the attack's own when targeted.
        trial: which trial.
        profile: "paper", or another that the defense has.
        attack_profile: "paper", or another that the targeted attack has.
        model: the network, as for :func:`craft`; by default the paper's for this kind of data.
        attack_model: the network of the attack's surrogate; by default the victim's.
        save_model: keep the trained weights, as figures of runs need them.
        results: as for :func:`craft`, like the next three.
        data_root: the folder of data sets.
        device: auto, cpu, cuda or cuda:N, or PyTorch's.
        seed: root seed.
        options: settings of the defense, the target or the recipe, e.g. ``ratio=0.5, epochs=3``;
            an attack's have its name: ``**{"pgd.steps": 3}``. Texts as for :func:`craft`.

    Returns:
        The record, which knows its ``id`` and ``path``.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`.
    """
    from poisonbench.runs import defend as run

    if poison is not None and attack is not None:
        raise UsageError("expected one of attack and poison, got both; leave one out")
    path = None if poison is None else _poison_path(poison)
    mix = read_mix(attack or "mix") if path is None else None
    values = _values(options, mix, method)
    context = _context(results, data_root, device, seed)
    name = _dataset_name(context, dataset)
    settings, request_of_poison = poison_request(
        mix,
        values,
        path=path,
        rho=rho,
        profile=attack_profile,
        surrogate=_network_name(context, name, attack_model),
    )
    method, settings = read_method(method, settings)
    request = RunRequest(
        method=method,
        dataset=name,
        poison=request_of_poison,
        profile=profile,
        settings=settings,
        model=_network_name(context, name, model),
        seed=seed,
        trial=trial,
        save_model=save_model,
    )
    return run.defend(context, run.resolve_run(context, request)).record


@checked
def figure(
    name: str,
    dataset: Data = DEFAULT_DATASET,
    *,
    attack: str | None = None,
    rho: float | None = None,
    trial: int = 0,
    images: int | None = None,
    methods: str | Sequence[str] = (),
    runs: str | Sequence[str] = (),
    wrong_label: bool = False,
    pick: Literal["disagree", "random"] = "disagree",
    out: str | Path | None = None,
    results: str | Path | None = None,
    data_root: str | Path | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Figure:
    """Make a figure of what is in the results folder; see ``poisonbench figure NAME --help``.

    Parameters: the options of the command line, by name.

    Args:
        name: "1", "2", "3", "4", "features", "sensitivity" or "filter-k".
        dataset: as for :func:`craft`; 3, 4, "sensitivity" and "filter-k" have those of the tables.
        attack: as for :func:`defend`; of 3 by default mp, of 4 and features bp.
        rho: poisoned share, of figures 1 and 2; by default that of :func:`defend`.
        trial: which trial.
        images: how many images; None is the figure's own number.
        methods: names of defenses, also as one text with commas; all that have runs, if none is
            said.
        runs: instead ids of runs that kept their models (``save_model=True``), of 2 and features.
        wrong_label: of 1, show the noise of a wrong label too.
        pick: of 2, from which test images: "disagree" or "random".
        out: a folder for the picture as PNG and SVG, and its numbers as JSON; none is written
            without.
        results: as for :func:`craft`, like the next three.
        data_root: the folder of data sets.
        device: auto, cpu, cuda or cuda:N, or PyTorch's.
        seed: root seed.

    Returns:
        The figure; ``.numbers`` has what it shows, as plain values, and a notebook shows it.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`.
    """
    from poisonbench.figures.by_name import Choice, figure_by_name
    from poisonbench.figures.drawing import write_figure

    context = _context(results, data_root, device, seed)
    choice = Choice(
        attack=attack,
        poison=figure_poison(attack, rho),
        trial=trial,
        images=images,
        methods=methods,
        runs=runs,
        wrong_label=wrong_label,
        pick=pick,
    )
    runs_there = context.store.records(lambda error: None)
    drawn = figure_by_name(name, context, _dataset_name(context, dataset), runs_there, choice)
    if out is not None:
        write_figure(Path(out), f"figure-{name}" if name in "1234" else name, drawn)
    return drawn


@dataclass(frozen=True)
class Assessment:
    """What :func:`assess` found.

    Attributes:
        sentences: how vulnerable, which defense helped, what it costs, how sure that is; of a dry
            run none.
        page: the page that shows it all; null of a dry run.
        facts: what was planned, as ``poisonbench assess --json`` prints it: data set, network,
            epochs, validation accuracy, attacks, methods, trials, jobs; of a dry run also
            estimated seconds.
    """

    sentences: tuple[str, ...]
    page: Path | None
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


@checked
def assess(
    dataset: Data,
    *,
    trials: int = 3,
    attacks: str | Sequence[str] = (),
    methods: str | Sequence[str] = (),
    minutes: float | None = None,
    dry_run: bool = False,
    jobs: int | None = None,
    output: str | Path | None = None,
    results: str | Path | None = None,
    data_root: str | Path | None = None,
    quiet: bool = False,
) -> Assessment:
    """Say how vulnerable a data set is to poison and what helps; see ``poisonbench assess --help``.

    It is done in processes of its own, as a sweep is, which import the files that have brought
    registered methods; called again, it goes on where it was.

    Parameters: the options of the command line, by name.

    Args:
        dataset: as for :func:`craft`.
        trials: trials of each cell, each with a poison of its own.
        attacks: names of attacks, also as one text with commas; a few strong ones by default.
        methods: names of defenses likewise; cheap ones by default.
        minutes: at most so long, by the estimate.
        dry_run: plan and estimate, and run nothing.
        jobs: runs side by side; by default one a processor.
        output: the page to write; by default page.html in the results folder.
        results: as for :func:`craft`, like the next.
        data_root: the folder of data sets.
        quiet: do not write to stderr what is being done.

    Returns:
        The sentences, the page and what was planned.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`.
    """
    context = _context(results, data_root, "cpu", 0)
    folder = context.store.root
    page = Path(output) if output is not None else folder / "page.html"
    words = ["--dataset", _dataset_name(context, dataset), "--trials", str(trials)]
    words += ["--results", str(folder), "--data-root", str(context.data_root)]
    words += ["--output", str(page)]
    for flag, names in (("--attacks", attacks), ("--methods", methods)):
        words += [flag, ",".join(names)] if names else []
    for flag, number in (("--minutes", minutes), ("--jobs", jobs)):
        words += [flag, str(number)] if number is not None else []
    for flag, is_set in (("--dry-run", dry_run), ("--quiet", quiet)):
        words += [flag] if is_set else []
    for file in plugin_files():
        words += ["--plugin", file] if file.endswith(".py") else []
    facts = run_program(["assess", *words, "--json"])
    sentences = tuple(facts.pop("sentences", ()))
    facts.pop("page", None)
    return Assessment(sentences, None if dry_run else page, facts)


@checked
def load_poison(
    path: str | Path,
    dataset: Data | None = None,
    *,
    results: str | Path | None = None,
    data_root: str | Path | None = None,
    seed: int = 0,
) -> Poison:
    """Read and check an artefact; with a data set also against its images.

    Args:
        path: the artefact's folder.
        dataset: as for :func:`craft`.
        results: where a data set of arrays is kept.
        data_root: the folder of data sets.
        seed: root seed, of the validation images that are held out.

    Raises:
        ArtefactError: damaged, edited, over its budget or made for another split.
    """
    from poisonbench.data.artefacts import read_poison

    context = _context(results, data_root, "cpu", seed)
    data = None if dataset is None else context.dataset(_dataset_name(context, dataset))
    return read_poison(Path(path), data)


records = checked(_records)
register = checked(_register)


def _poison_path(poison: Poison | str | Path) -> Path:
    """Where an artefact is."""
    from poisonbench.data.poison import Poison

    if not isinstance(poison, Poison):
        return Path(argument("poison", poison, "str | Path"))
    if poison.path is None:
        raise UsageError("poison: expected one that was kept, got one without a path; craft it")
    return poison.path


def _values(
    options: Mapping[str, Any], mix: Mix | None, defense: str | None = None
) -> dict[str, Value]:
    """Settings as values, from what the caller gave for a defense or, without one, to craft."""
    from poisonbench.runs.method_settings import parse_texts

    for name in options:
        # Attacks have dashes in their names.
        prefix, dot, option = name.rpartition(".")
        if "-" in option:
            meant = prefix + dot + option.replace("-", "_")
            raise UsageError(f"expected an option as Python has it, got {name!r}; write {meant!r}")
    names = () if mix is None else mix.attacks
    methods: dict[str, MethodEntry] = {f"{name}.": attacks()[name] for name in names}
    if defense is not None:
        methods[""] = find_form(defense)[0]
    elif len(methods) == 1:
        methods[""] = next(iter(methods.values()))
    return parse_texts(options, methods, options_of(Targeting))


def _dataset_name(context: RunContext, dataset: Data) -> str:
    """A data set's name; of arrays that of the file that holds them, in the results folder."""
    if isinstance(dataset, str):
        return dataset
    from poisonbench.data.in_memory import keep_arrays

    return keep_arrays(dataset, context.store.root / "data")


def _network_name(context: RunContext, dataset: str, model: str | OwnNetwork | None) -> str | None:
    """A network's name; one that was passed is known to this process by it."""
    if model is None or isinstance(model, str):
        return model
    from poisonbench.models.own import own_network

    return own_network(model, context.dataset(dataset).image_shape)


def _context(
    results: str | Path | None, data_root: str | Path | None, device: str | torch.device, seed: int
) -> RunContext:
    from poisonbench.runs.context import RunContext, find_device

    store = Store(results_folder(results))
    return RunContext(store, data_folder(data_root), find_device(str(device)), seed)
