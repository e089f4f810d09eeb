"""The matrix of attacks and defenses: its grid, the rows below it, and what it plans."""

import json

import pytest

from helpers.command_line import done, refused
from helpers.synthetic_runs import make_record, targeted_run, with_outcomes
from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.results.statistics import wilson
from poisonbench.tables import catalogue
from poisonbench.tables.render import render

SAMPLE = "mnist-sample"


def run(accuracy, method="none", attack=None, rho=1.0, trial=0, **more):
    poisoned = {"rho": rho, "attacks": [attack]} if attack else {}
    return make_record(accuracy, dataset=SAMPLE, method=method, trial=trial, **poisoned, **more)


@pytest.fixture
def records():
    return [
        run(0.98, seconds=10.0),
        run(0.96, method="hint", seconds=20.0),
        run(0.20, attack="pgd", seconds=10.0),
        run(0.60, attack="dap", digest="q", seconds=10.0),
        run(0.50, attack="dap", rho=0.6, digest="r", seconds=10.0),
        *(
            run(value, method="hint", attack="pgd", trial=trial, seconds=30.0)
            for trial, value in enumerate((0.3, 0.4, 0.5))
        ),
    ]


def grid(records, key="matrix"):
    (block,) = catalogue.build(key, records, SAMPLE).blocks
    return block, {row[0]: dict(zip(block.columns[1:], row[1:], strict=True)) for row in block.rows}


def test_rows_are_attacks_and_columns_the_defenses_that_have_runs(records):
    block, rows = grid(records)
    assert block.columns == ("trained on", "W/o Defense", "HINT")
    assert [*rows] == [
        "clean",
        "PGD",
        "DAP",
        "DAP, rho 0.6",
        "worst at rho 1",
        "lost on clean data, points",
        "seconds, quickest run",
    ]
    assert rows["clean"] == {"W/o Defense": "98.00 (1)", "HINT": "96.00 (1)"}
    # Student's t: 0.4 and 4.3027 * 0.1 / sqrt(3).
    assert rows["PGD"] == {"W/o Defense": "20.00 (1)", "HINT": "40.00 [15.2, 64.8] (3)"}
    assert rows["DAP"]["HINT"] == "-"
    assert len(block.cells) == 6


def test_the_rows_below_are_worst_case_loss_and_seconds(records):
    block, rows = grid(records)
    # The 50 % of rho 0.6 are no worst case of rho 1.
    assert rows["worst at rho 1"] == {
        "W/o Defense": "20.00 (PGD)",
        "HINT": "40.00 (PGD, 1 of 2)",
    }
    assert [block.rows[number][0] for number in block.strong] == ["worst at rho 1"]
    assert rows["lost on clean data, points"] == {"W/o Defense": "0.00", "HINT": "2.00"}
    assert rows["seconds, quickest run"] == {"W/o Defense": "10.0", "HINT": "20.0"}


def test_seconds_are_of_one_device_where_it_has_runs():
    on_b, on_c = ({"environment": {"processor": f"Processor {name}"}} for name in "BC")
    records = [
        run(0.9, seconds=10.0),
        run(0.9, trial=1, seconds=9.0),
        run(0.9, trial=2, seconds=50.0, **on_b),
        run(0.9, method="hint", seconds=60.0, **on_b),
        run(0.9, method="hint", trial=1, seconds=70.0, **on_b),
        run(0.9, method="jpeg", seconds=2.0, **on_c),
    ]
    _, rows = grid(records)
    assert [*rows["seconds, quickest run"].values()] == ["50.0", "60.0", "2.0"]
    assert any(
        "Seconds of several devices" in n for n in catalogue.build("matrix", records, SAMPLE).notes
    )
    _, rows = grid(records[:2] + records[5:])
    assert [*rows["seconds, quickest run"].values()] == ["9.0", "2.0"]


def adaptive_run(accuracy, method, against, attack="pgd", **more):
    labels = {"overrides": {f"{attack}.against": against}}
    return run(accuracy, method, attack, digest=f"a{against}", labels=labels, **more)


def test_an_adaptive_row_stands_below_the_plain_one(records):
    adaptive = [
        adaptive_run(0.1, "jpeg", "jpeg"),
        adaptive_run(0.15, "hint", "jpeg", seconds=30.0),
        run(0.45, method="jpeg", attack="pgd"),
    ]
    block, rows = grid([*adaptive, *records])
    assert [*rows][:4] == ["clean", "PGD", "PGD against JPEG", "DAP"]
    assert block.columns == ("trained on", "W/o Defense", "HINT", "JPEG")
    assert [*rows["PGD against JPEG"].values()] == ["-", "15.00 (1)", "10.00 (1)"]
    assert rows["PGD"]["JPEG"] == "45.00 (1)"
    # It may be the worst case; PGD and DAP are two attacks.
    assert [*rows["worst at rho 1"].values()] == [
        "20.00 (PGD)",
        "15.00 (PGD against JPEG, 1 of 2)",
        "10.00 (PGD against JPEG, 1 of 2)",
    ]


def test_an_adaptive_poison_is_planned_where_it_is_named():
    asked = {"methods": ["none", "jpeg"], "rhos": (1.0,), "trials": 1}
    requests = catalogue.missing_runs("matrix", (), SAMPLE, attacks=["pgd", "pgd:jpeg"], **asked)
    planned = [(r.method, dict(r.poison.settings.get("pgd", {}))) for r in requests]
    assert planned == [
        (method, settings) for method in ("none", "jpeg") for settings in ({}, {"against": "jpeg"})
    ]
    everything = catalogue.missing_runs("matrix", (), SAMPLE, **asked)
    assert not any("against" in values for r in everything for values in r.poison.settings.values())
    (only,) = catalogue.missing_runs("matrix", (adaptive_run(0.1, "none", "jpeg"),), SAMPLE,
                                     attacks=["pgd:jpeg"], **asked)  # fmt: skip
    assert only.method == "jpeg"
    for name in ("pgd:knn", "dap:jpeg", "em:epic"):
        with pytest.raises(UsageError, match=f"got {name}; it has .*pgd:jpeg"):
            catalogue.missing_runs("matrix", (), SAMPLE, attacks=[name])


def test_a_form_of_a_defense_has_a_column_of_its_own(records):
    strong = {"overrides": {"quality": 10}}
    forms = [
        run(0.9, method="jpeg"),
        run(0.8, method="jpeg", labels=strong),
        run(0.7, method="jpeg", attack="pgd", labels=strong),
        # A setting that makes no form has no column.
        run(0.1, method="jpeg", attack="pgd", labels={"overrides": {"quality": 30}}),
    ]
    block, rows = grid([*records, *forms])
    assert block.columns[3:] == ("JPEG", "JPEG 10")
    assert [rows["PGD"][name] for name in ("JPEG", "JPEG 10")] == ["-", "70.00 (1)"]
    assert rows["lost on clean data, points"]["JPEG 10"] == "18.00"
    assert rows["worst at rho 1"]["JPEG 10"] == "70.00 (PGD, 1 of 2)"


def test_a_form_is_planned_where_it_is_named():
    def planned(*methods, key="matrix"):
        asked = {"dataset": SAMPLE, "rhos": (1.0,), "trials": 1}
        attacks = ["pgd"] if key == "matrix" else []
        requests = catalogue.missing_runs(key, (), methods=methods, attacks=attacks, **asked)
        return [(request.method, dict(request.settings)) for request in requests]

    assert planned("jpeg") == [("jpeg", {})]
    assert planned("jpeg:10", "none") == [("none", {}), ("jpeg", {"quality": 10})]
    assert planned("ueraser:max", "atda:linf") == [
        ("atda", {"norm": "linf"}),
        ("ueraser", {"form": "max"}),
    ]
    assert ("jpeg", {"quality": 10}) not in planned()
    with pytest.raises(UsageError, match=r"got jpeg:20; .* jpeg, jpeg:10,"):
        planned("jpeg:20")
    with pytest.raises(UsageError, match="table 2"):
        planned("jpeg:10", key="2")


def test_adaptive_targeted_poisons_have_rows_too():
    runs = [
        targeted_run(True),
        targeted_run(False, method="jpeg", overrides={"gm.against": "jpeg"}, trial=1),
    ]
    (block,) = catalogue.build("matrix", runs).blocks
    assert [row[0] for row in block.rows] == [
        "GM (scratch)",
        "GM (scratch) against JPEG",
        "worst",
        "accuracy lost, points",
        "seconds, quickest run",
    ]
    assert block.rows[1][1:] == ("-", "0/1 [0.0, 79.3]")


def triggered_run(hits, accuracy, method="none", attack="badnets", clean_label=False, **more):
    word = "clean" if clean_label else "dirty"
    trigger = {"kind": "triggered", "target_class": 0, "labels": word, "test_digest": "t"}
    overrides = {f"{attack}.clean_label": True} if clean_label else {}
    return run(
        accuracy, method, attack, 0.05, labels={"overrides": overrides}, trigger=trigger,
        digest=f"{attack}{word}", metrics={"trigger": {"successes": hits, "count": 1800}}, **more,
    )  # fmt: skip


def test_triggers_have_a_grid_of_success_and_accuracy(records):
    triggered = [
        triggered_run(1750, 0.97),
        triggered_run(90, 0.94, "spectral"),
        triggered_run(1200, 0.98, clean_label=True),
        *(
            triggered_run(hits, 0.98, attack="blended", trial=t)
            for t, hits in enumerate((900, 936))
        ),
    ]
    first, block = catalogue.build("matrix", [*records, *triggered], SAMPLE).blocks
    assert not any("BadNets" in row[0] for row in first.rows)
    assert block.title.endswith("success of triggers and test accuracy, %")
    assert block.columns == ("trained on", "W/o Defense", "Spectral signatures")
    # Wilson: of 1750 in 1800; two runs on one set of images have Student's interval.
    assert [(row[0], *row[1:]) for row in block.rows] == [
        ("clean: accuracy", "98.00 (1)", "-"),
        (
            "BadNets, dirty label, rho 0.05: success",
            "97.22 [96.4, 97.9] (1)",
            "5.00 [4.1, 6.1] (1)",
        ),
        ("BadNets, dirty label, rho 0.05: accuracy", "97.00 (1)", "94.00 (1)"),
        ("BadNets, clean label, rho 0.05: success", "66.67 [64.5, 68.8] (1)", "-"),
        ("BadNets, clean label, rho 0.05: accuracy", "98.00 (1)", "-"),
        ("Blended, dirty label, rho 0.05: success", "51.00 [38.3, 63.7] (2)", "-"),
        ("Blended, dirty label, rho 0.05: accuracy", "98.00 [98.0, 98.0] (2)", "-"),
        (
            "worst success",
            "97.22 (BadNets, dirty label, rho 0.05)",
            "5.00 (BadNets, dirty label, rho 0.05, 1 of 3)",
        ),
        ("lost on clean data, points", "0.00", "-"),
        ("seconds, quickest run", "10.0", "-"),
    ]
    assert block.strong == {7}
    low, high = wilson(1750, 1800)
    assert (round(100 * low, 1), round(100 * high, 1)) == (96.4, 97.9)


def test_triggers_are_planned_with_changed_and_with_own_labels():
    requests = catalogue.missing_runs(
        "matrix", (), SAMPLE, methods=["spectral"], attacks=["badnets"], trials=1, rhos=(0.05,)
    )
    assert [dict(r.poison.settings.get("badnets", {})) for r in requests] == [
        {},
        {"clean_label": True},
    ]
    assert {r.poison.rho for r in requests} == {0.05}


def test_an_interval_ends_where_shares_do():
    runs = [run(value, attack="pgd", trial=t) for t, value in enumerate((0.0, 0.0, 0.9))]
    _, rows = grid(runs)
    assert rows["PGD"]["W/o Defense"] == "30.00 [0.0, 100.0] (3)"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("markdown", "| **worst at rho 1** | **20.00 (PGD)** |"),
        ("latex", r"\textbf{worst at rho 1} & \textbf{20.00 (PGD)}"),
        ("html", '<tr class="strong"><th scope="row">worst at rho 1</th>'),
        ("rich", "worst at rho 1"),
    ],
)
def test_the_worst_case_stands_out(records, kind, expected):
    assert expected in render(catalogue.build("matrix", records, SAMPLE), kind)


@pytest.mark.parametrize(
    ("metric", "key"), [("batch_statistics", "matrix-batch-norm"), ("peak", "matrix-peak")]
)
def test_other_metrics_have_cells_of_the_runs_that_know_them(records, metric, key):
    known = {"test_accuracy": 0.2, f"{metric}_accuracy": 0.7}
    records = [*records, run(0.2, attack="durp", digest="s", metrics=known)]
    _, rows = grid(
        records, {"batch_statistics": "matrix-batch-norm", "peak": "matrix-peak"}[metric]
    )
    assert rows["DURP"]["W/o Defense"] == "70.00 (1)"
    assert rows["PGD"]["W/o Defense"] == "-"
    quantities = {cell.keys["quantity"] for cell in catalogue.build(key, records).cells}
    assert quantities == {"test_accuracy", f"{metric}_accuracy"}


def test_one_runs_accuracy_has_an_interval_over_its_test_images():
    """Of 180 of 200 by hand: centre 0.8925, half width 0.0419; of several runs Student's."""
    right = [True] * 180 + [False] * 20
    one = with_outcomes(run(0.0, attack="pgd"), right)
    table = catalogue.build("matrix", [one], SAMPLE)
    assert table.blocks[0].rows[0] == ("PGD", "90.00 [85.1, 93.4] (1)")
    (cell,) = table.cells
    measured = cell.to_dict()["measured"]
    assert (measured["low"], measured["high"]) == pytest.approx(wilson(180, 200))
    two = with_outcomes(run(0.0, attack="pgd", trial=1), [*right[:-1], True])
    assert grid([one, two])[1]["PGD"]["W/o Defense"] == "90.25 [87.1, 93.4] (2)"
    known = with_outcomes(run(0.0, attack="dap", metrics={"peak_accuracy": 0.95}), right)
    assert grid([known], "matrix-peak")[1]["DAP"]["W/o Defense"] == "95.00 [91.0, 97.3] (1)"


def test_runs_that_recalibrate_have_no_peak(records):
    """They recalibrate after the last epoch: the peak's weights may be an earlier one's."""
    about = {
        "attack": "pgd",
        "method": "bn-recalibrate",
        "training": {"recalibrate": 1.0},
        "metrics": {"peak_accuracy": 0.7, "batch_statistics_accuracy": 0.6},
    }
    records = [*records, run(0.5, **about)]
    for key, shown in (
        ("matrix", "50.00 (1)"),
        ("matrix-peak", "-"),
        ("matrix-batch-norm", "60.00 (1)"),
    ):
        assert grid(records, key)[1]["PGD"]["BN recalibrated"] == shown


def test_targets_have_a_grid_of_their_own_whose_worst_case_is_of_many_trials():
    hit = [False, *[True] * 7]
    runs = [
        *(targeted_run(value, accuracy=0.9, trial=t) for t, value in enumerate(hit)),
        targeted_run(True, accuracy=0.5, attack="bp", scenario="transfer"),
        *(targeted_run(False, 0.88, method="hint", trial=t) for t in range(2)),
    ]
    (block,) = catalogue.build("matrix", runs).blocks
    assert block.title.endswith("targets hit")
    assert [row[0] for row in block.rows[:2]] == ["GM (scratch)", "BP (transfer)"]
    # BP's one of one is certain of less than GM's seven of eight.
    assert block.rows[2] == ("worst", "7/8 (GM (scratch))", "0/2 (GM (scratch), 1 of 2)")
    assert block.rows[3] == ("accuracy lost, points", "0.00", "2.00")
    assert block.strong == {2}


def test_success_is_shown_of_the_last_epoch_alone(records):
    runs = [*records, triggered_run(1750, 0.97)]
    assert len(catalogue.build("matrix", runs, SAMPLE).blocks) == 2
    for metric in ("matrix-peak", "matrix-batch-norm"):
        titles = [block.title for block in catalogue.build(metric, runs, SAMPLE).blocks]
        assert not any("success" in title for title in titles)
        assert catalogue.build(metric, [targeted_run(True)]).blocks == ()


def test_a_form_of_an_attack_has_a_row_and_is_planned_where_it_is_named(records):
    runs = [*records, run(0.1, attack="durp", labels={"overrides": {"durp.distribution": "sign"}})]
    _, rows = grid(runs)
    assert rows["DURP, signs"]["W/o Defense"] == "10.00 (1)"
    # Of the attacks DURP itself has no row here, and a form is not counted.
    assert rows["worst at rho 1"]["W/o Defense"] == "10.00 (DURP, signs)"
    plan = {"methods": ["none"], "trials": 1, "rhos": (1.0,)}
    named = catalogue.missing_runs("matrix", (), SAMPLE, attacks=["em", "em:class"], **plan)
    assert [dict(r.poison.settings.get("em", {})) for r in named] == [{}, {"noise": "class"}]
    others = catalogue.missing_runs("matrix", (), SAMPLE, **plan)
    assert not any(values for r in others for values in r.poison.settings.values())
    with pytest.raises(UsageError, match=r"em:class"):
        catalogue.missing_runs("matrix", (), SAMPLE, attacks=["em:nosuch"], **plan)


def test_each_reading_of_the_mix_has_a_row_and_is_planned_by_its_name(records):
    sign = {"overrides": {"durp.distribution": "sign"}}
    of = {"dataset": SAMPLE, "rho": 1.0, "attacks": list(registry.MIX)}
    mixes = [
        make_record(0.9, labels=sign, digest="s", **of),
        make_record(0.7, digest="u", **of),
    ]
    _, rows = grid([*records, *mixes])
    assert rows["mix, DURP of signs"]["W/o Defense"] == "90.00 (1)"
    assert rows["mix, uniform DURP"]["W/o Defense"] == "70.00 (1)"
    plan = {"methods": ["none"], "trials": 1, "rhos": (1.0,)}
    for name, mix in registry.MIXES.items():
        (request,) = catalogue.missing_runs("matrix", (), SAMPLE, attacks=[name], **plan)
        assert request.poison.attacks == mix.attacks
        assert {key: dict(value) for key, value in request.poison.settings.items()} == mix.settings


def test_the_plan_is_attacks_by_methods_with_clean_runs():
    requests = catalogue.missing_runs(
        "matrix", (), SAMPLE, methods=["none", "hint"], attacks=["dap", "mix"], rhos=(0.0, 1.0)
    )
    planned = {(r.poison.text if r.poison.rho else "clean", r.method, r.trial) for r in requests}
    attacks = ("clean", "dap", "pgd+dap+durp+dc")
    assert planned == {(a, m, t) for a in attacks for m in ("none", "hint") for t in range(3)}


def test_no_oracle_and_no_attack_is_left_out():
    cells = catalogue.cells("matrix", (), SAMPLE)
    assert {cell.method for cell in cells} == {
        name
        for name, entry in registry.defenses().items()
        if not (entry.oracle or entry.colour_only or entry.pretrains)
    }
    untargeted = {(name,) for name, entry in registry.attacks().items() if not entry.scenario}
    mixes = {mix.attacks for mix in registry.MIXES.values()}
    assert {cell.attacks for cell in cells} == untargeted | mixes
    shares = {cell.rho for cell in cells if cell.attacks == ("narcissus",)}
    assert shares == {0.05, registry.attacks()["narcissus"].rho}
    adaptive = {cell.poison_text for cell in cells if cell.against}
    assert adaptive == {
        f"{name}:{against}"
        for name, entry in registry.attacks().items()
        for against in entry.against
        if not entry.scenario
    }


def test_data_without_runs_is_said_to_have_none(records):
    def notes(dataset, runs=records):
        return catalogue.build("matrix", runs, dataset).notes

    assert notes("folder:photos")[0] == (
        "There is no run on folder:photos here; there are runs on mnist-sample."
    )
    other = [make_record(0.5, dataset="npz:photos.npz", labels={"dataset": "npz:photos.npz"})]
    assert notes("npz:photo.npz", other)[0].endswith("photos.npz; did you mean 'npz:photos.npz'?")
    assert (
        notes("folder:photos", ())[0] == "There is no run on folder:photos here, nor on other data."
    )
    assert not any("There is no run" in note for note in notes(SAMPLE))


def test_no_cell_is_of_a_run_that_its_defense_refuses():
    cells = catalogue.cells("matrix", (), "cifar10@10000")
    scenarios = {cell.scenario for cell in cells if cell.method == "robust-features"}
    assert scenarios == {"transfer", "finetune"}
    assert "grayscale" in {cell.method for cell in cells}
    for data in (SAMPLE, "mnist", "mnist@3000"):
        assert "grayscale" not in {cell.method for cell in catalogue.cells("matrix", (), data)}


def test_the_commands_take_attacks_a_ratio_a_preset_and_a_metric(tmp_path):
    folder = ("--results", tmp_path)
    words = ("sweep", "plan", "--table", "matrix", "--preset", "quick", "--attacks", "pgd,dap")
    plan = done(*words, "--methods", "none", "--rho", "0.6", "--trials", "1", *folder).out
    lines = [line.partition(" --results")[0] for line in plan.splitlines()]
    start = "poisonbench defend --method none --dataset mnist-sample"
    assert lines == [
        f"{start} --rho 0 --trial 0",
        f"{start} --attack pgd --rho 0.6 --trial 0",
        f"{start} --attack dap --rho 0.6 --trial 0",
    ]
    words = ("report", "--table", "matrix", "--metric", "batch-norm", "--json")
    table = json.loads(done(*words, "--methods", "none,jpeg:10", "--attacks", "pgd").out)
    assert table["table"] == "matrix-batch-norm"


def test_a_report_shows_the_defenses_and_attacks_that_are_named(records):
    adaptive = {"labels": {"overrides": {"pgd.against": "jpeg"}}}
    records = [
        *records,
        run(0.70, method="jpeg", attack="pgd", labels={"overrides": {"quality": 10}}),
        run(0.75, method="jpeg", attack="pgd"),
        run(0.10, attack="pgd", digest="s", **adaptive),
    ]

    def shown(**chosen):
        (block,) = catalogue.build("matrix", records, SAMPLE, **chosen).blocks
        return [*block.columns[1:]], [row[0] for row in block.rows[:-3]], block.rows[-3][1:]

    columns, rows, worst = shown()
    assert columns == ["W/o Defense", "HINT", "JPEG", "JPEG 10"]
    assert rows == ["clean", "PGD", "PGD against JPEG", "DAP", "DAP, rho 0.6"]
    assert worst[0] == "10.00 (PGD against JPEG)"
    columns, rows, worst = shown(methods=["none", "jpeg:10"], attacks=["pgd"])
    assert columns == ["W/o Defense", "JPEG 10"]
    assert rows == ["clean", "PGD"]
    assert worst == ("20.00 (PGD)", "70.00 (PGD)")
    assert shown(methods=["jpeg"])[:2] == (["JPEG"], ["PGD"])
    assert shown(attacks=["pgd:jpeg", "dap"])[1] == [
        "clean",
        "PGD against JPEG",
        "DAP",
        "DAP, rho 0.6",
    ]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"methods": ["clean-only"]}, "defenses that table matrix on mnist-sample has, got clean"),
        ({"methods": ["jpeg:11"]}, "has, got jpeg:11; it has these: none"),
        ({"attacks": ["dap+durp"]}, "poisons that table matrix on mnist-sample has, got dap"),
    ],
)
def test_what_the_matrix_has_no_cells_of_is_refused(records, chosen, message):
    with pytest.raises(UsageError, match=message):
        catalogue.build("matrix", records, SAMPLE, **chosen)


def test_what_a_chosen_part_lacks_is_counted_of_that_part(records):
    chosen = {"methods": ["none"], "attacks": ["pgd"]}
    requests = catalogue.missing_runs("matrix", records, SAMPLE, **chosen)
    assert {(r.method, r.poison.rho) for r in requests} == {("none", rho) for rho in (0, 1.0, 0.6)}
    (state,) = (
        n for n in catalogue.build("matrix", records, SAMPLE, **chosen).notes if "lack" in n
    )
    assert state == "3 cell(s) lack runs (--missing)."
    assert catalogue.check("matrix", records, SAMPLE, **chosen).missing == len(requests)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "--table", "2", "--methods", "none"), "--methods with --table matrix, got"),
        (("report", "--runs", "--attacks", "pgd"), "--attacks with --table matrix, got --table 2"),
        (("report", "--table", "matrix", "--methods", "nosuch"), "expected a defense"),
        (("report", "--table", "matrix", "--attacks", "nosuch"), "an attack (or mix)"),
        (("report", "--table", "2", "--metric", "last"), "--metric with --table matrix"),
        (("report", "--table", "matrix", "--metric", "best"), "one of last, peak, batch-norm"),
        (("sweep", "plan", "--table", "matrix", "--attacks", "nosuch"), "an attack (or mix)"),
        (("sweep", "plan", "--table", "2", "--attacks", "pgd"), "poisons that table 2 has"),
        (("sweep", "plan", "--table", "2", "--rho", "0.5"), "it has 0, 0.2, 0.4, 0.6, 0.8, 1"),
        (("sweep", "plan", "--preset", "quick", "--dataset", "mnist"), "in --table matrix"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message, tmp_path):
    assert message in refused(2, tmp_path, *words)
