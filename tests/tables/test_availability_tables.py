"""APBench's leaderboard and the table of Image Shortcut Squeezing, published beside measured."""

from dataclasses import replace

import pytest

from helpers.synthetic_runs import make_record, missing_commands, request_of
from poisonbench import registry
from poisonbench.entries import AttackEntry
from poisonbench.results import published
from poisonbench.results.statistics import Verdict
from poisonbench.tables import apbench, availability_tables, catalogue, iss

PUBLISHED_ALONE = ("Cutout", "AVATAR")


def run(accuracy, method="none", attacks=("dc",), overrides=None, **more):
    labels = {"overrides": overrides or {}, **more.pop("labels", {})}
    more = {"dataset": "cifar10", "rho": 1.0, "model": "cifar-resnet18", **more}
    variant = "custom" if overrides else "paper"
    return make_record(
        accuracy, method=method, attacks=attacks, variant=variant, labels=labels, **more
    )


def cell_of(records, attack, defense, key="apbench", dataset="cifar10"):
    (cell,) = [
        cell
        for cell in catalogue.build(key, records, dataset).cells
        if (cell.keys["attack"], cell.keys["defense"]) == (attack, defense)
    ]
    return cell


def without_attack(monkeypatch, name):
    monkeypatch.setattr(
        registry, "ATTACKS", tuple(entry for entry in registry.ATTACKS if entry.name != name)
    )


@pytest.mark.parametrize(("key", "module"), [("apbench", apbench), ("iss", iss)])
def test_every_published_figure_is_shown_and_nothing_else(key, module):
    rows = published.availability(key)
    table = catalogue.build(key, [], "cifar10")
    figures = [cell.published.mean for cell in table.cells]
    assert figures == [mean.mean for row in rows.values() for mean in row.values()]
    assert all(cell.verdict is Verdict.NOT_RUN for cell in table.cells)
    measured, beside, _ = table.blocks
    assert beside.title.endswith("published")
    first = next(iter(rows.values()))
    texts = [f"{100 * value.mean:.2f}" for value in first.values()]
    assert list(beside.rows[0][1:]) == texts
    assert len(measured.rows) == len(beside.rows) == len(rows)
    assert measured.columns == beside.columns


def test_what_columns_are_called_there_and_here():
    columns = {
        column.name: (column.method, dict(column.settings))
        for cells in (apbench.TABLE.cells,)
        for column in cells.args[1]
    }
    assert columns == {
        "standard": ("none", {}),
        "cutout": ("", {}),
        "cutmix": ("cutmix", {}),
        "mixup": ("mixup", {}),
        "gaussian": ("gaussian-blur", {"sigma": 0.1}),
        "bdr": ("bit-depth", {}),
        "gray": ("grayscale", {}),
        "jpeg": ("jpeg", {"quality": 10}),
        "umax": ("ueraser", {"form": "max", "probability": 1.0}),
        "avatar": ("", {}),
        "at": ("at", {}),
    }
    defenses = registry.defenses()
    for method, settings in columns.values():
        if method:
            config = defenses[method].load().Config
            replace(config(), **settings)
    # Two bits are the published depth, which is the default.
    assert defenses["bit-depth"].load().Config().bits == 2


def test_a_cell_takes_the_runs_of_its_attack_method_and_settings():
    records = [
        run(0.80, "jpeg", overrides={"quality": 10}),
        run(0.50, "jpeg", trial=1),
        run(0.60, "jpeg", overrides={"quality": 50}, trial=2),
        run(0.40, "jpeg", attacks=("pgd",), overrides={"quality": 10}, trial=3),
        run(0.30, "jpeg", overrides={"quality": 10}, rho=0.6, trial=4),
        run(0.20, "jpeg", overrides={"quality": 10}, trial=5, dataset="mnist"),
        run(0.10, overrides={"poison": "given"}),
        run(0.15),
    ]
    cell = cell_of(records, "DC", "JPEG 10")
    assert (cell.measured.mean, cell.measured.n) == (0.80, 1)
    assert cell.published.mean == 0.8357
    assert cell_of(records, "DC", "none").measured.mean == 0.15
    assert cell_of(records, "DC", "AT").measured is None


def test_one_published_figure_is_held_against_the_spread_of_ours():
    def verdict(*accuracies):
        return cell_of([run(a, trial=t) for t, a in enumerate(accuracies)], "DC", "none")

    assert verdict(0.15).verdict is Verdict.INCOMPLETE
    near = verdict(0.14, 0.15, 0.16, 0.15, 0.155)
    assert near.verdict is Verdict.INCONCLUSIVE
    far = verdict(0.34, 0.35, 0.36, 0.35, 0.355)
    assert far.verdict is Verdict.DIFFERS
    assert far.test == "t-tests of the difference of a mean over seeds from one more run"
    low, high = far.judgement.interval
    assert low < far.difference < high


def test_attacks_that_are_not_there_are_shown_and_not_asked_for(monkeypatch):
    without_attack(monkeypatch, "dc")
    assert "dc" not in registry.attacks()
    commands = missing_commands("apbench", [])
    assert commands
    assert not [line for line in commands if "--attack dc " in line]
    table = catalogue.build("apbench", [])
    (state,) = [note for note in table.notes if note.startswith("Published alone")]
    assert all(name in state for name in ("DC", "Hypocritical", *PUBLISHED_ALONE))
    assert cell_of([], "DC", "none").verdict is Verdict.NOT_RUN


def test_an_attack_counts_from_when_it_is_registered(monkeypatch):
    without_attack(monkeypatch, "hypo")
    before = {request_of(line).poison.attacks for line in missing_commands("apbench", [])}
    assert ("hypo",) not in before
    with registry.forgetting():
        registry.register(AttackEntry("hypo", "a stand-in", module="poisonbench.attacks.pgd"))
        lines = missing_commands("apbench", [])
        requests = [
            request for request in map(request_of, lines) if request.poison.attacks == ("hypo",)
        ]
        cell = cell_of([run(0.7, attacks=("hypo",))], "Hypocritical", "none")
        (state,) = [n for n in catalogue.build("apbench", []).notes if "Published alone" in n]
    assert len(requests) == 9 * 5
    assert "Hypocritical" not in state
    assert {request.poison.rho for request in requests} == {1.0}
    assert cell.measured.n == 1
    assert cell.published.mean == 0.7038


def test_missing_commands_are_of_cells(monkeypatch):
    lines = missing_commands("iss", [], "cifar10")
    clean = [request_of(line) for line in lines if "--rho 0 " in line]
    assert {request.method for request in clean} == {"none", "grayscale", "jpeg"}
    assert len(clean) == 15
    jpeg = next(request for request in clean if request.method == "jpeg")
    assert jpeg.settings == {"quality": 10}
    for line in lines:
        cells = catalogue.cells("iss", (), "cifar10")
        request = request_of(line)
        assert any(cell.request(request.trial) == request for cell in cells), line


def test_clean_runs_are_those_of_every_table():
    records = [run(0.94, rho=0.0, trial=t) for t in range(2)]
    assert cell_of(records, "clean", "none", "iss").measured.n == 2


def test_the_small_network_has_what_can_be_run_and_nothing_published():
    table = catalogue.build("apbench", [run(0.2, dataset="cifar10@10000")], "cifar10@10000")
    assert table.blocks[0].title == "CIFAR-10, small network: not the paper's: measured"
    assert not set(table.blocks[0].columns) & set(PUBLISHED_ALONE)
    assert not any(cell.published for cell in table.cells)
    assert cell_of([run(0.2, dataset="cifar10@10000")], "DC", "none", dataset="cifar10@10000")
    assert not catalogue.build("apbench", [], "mnist").cells


def test_there_is_no_reading_and_no_poison_to_choose():
    assert "apbench" not in catalogue.untargeted()
    assert catalogue.build("apbench", []).reading is None
    with pytest.raises(Exception, match="--reading: expected one of the tables 1, 2, 4, 5"):
        catalogue.find_reading("apbench", "sign")


def test_the_data_sets_are_cifars():
    assert availability_tables.DATASET == "cifar10"
    assert {cell.dataset for cell in catalogue.cells("apbench")} == {"cifar10"}
