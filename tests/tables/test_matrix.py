"""The matrix of attacks and defenses: its grid, the rows below it, and what it plans."""

import re

import pytest

from helpers.matrix_runs import SAMPLE, adaptive_run, grid, run, runs_of_each_kind
from helpers.synthetic_runs import make_record, targeted_run, with_outcomes
from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.results.statistics import wilson
from poisonbench.tables import catalogue
from poisonbench.tables.render import render


@pytest.fixture
def records():
    return runs_of_each_kind()


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
        "seconds, mean",
    ]
    assert rows["clean"] == {
        "W/o Defense": "98.00 [97.71, 98.26] (1)",
        "HINT": "96.00 [95.60, 96.37] (1)",
    }
    # Student's t: 0.4 and 4.3027 * 0.1 / sqrt(3).
    assert rows["PGD"] == {
        "W/o Defense": "20.00 [19.23, 20.80] (1)",
        "HINT": "40.00 [15.16, 64.84] (3)",
    }
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
    # Of 20 and three times 30.
    assert rows["seconds, mean"] == {"W/o Defense": "10.0", "HINT": "27.5"}


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
    # Over the same runs: of the common device alone, and of the column's own where it has none.
    assert [*rows["seconds, mean"].values()] == ["50.0", "65.0", "2.0"]
    assert any("Of several devices" in n for n in catalogue.build("matrix", records, SAMPLE).notes)
    _, rows = grid(records[:2] + records[5:])
    assert [*rows["seconds, quickest run"].values()] == ["9.0", "2.0"]
    assert [*rows["seconds, mean"].values()] == ["9.5", "2.0"]


def test_an_adaptive_row_stands_below_the_plain_one(records):
    adaptive = [
        adaptive_run(0.1, "jpeg", "jpeg"),
        adaptive_run(0.15, "hint", "jpeg", seconds=30.0),
        run(0.45, method="jpeg", attack="pgd"),
    ]
    block, rows = grid([*adaptive, *records])
    assert [*rows][:4] == ["clean", "PGD", "PGD against JPEG", "DAP"]
    assert block.columns == ("trained on", "W/o Defense", "HINT", "JPEG")
    assert [*rows["PGD against JPEG"].values()] == [
        "-",
        "15.00 [14.31, 15.71] (1)",
        "10.00 [9.43, 10.60] (1)",
    ]
    assert rows["PGD"]["JPEG"] == "45.00 [44.03, 45.98] (1)"
    # It may be the worst case; PGD and DAP are two attacks.
    assert [*rows["worst at rho 1"].values()] == [
        "20.00 (PGD)",
        "15.00 (PGD against JPEG, 1 of 2)",
        "10.00 (PGD against JPEG, 1 of 2)",
    ]


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
    assert [rows["PGD"][name] for name in ("JPEG", "JPEG 10")] == ["-", "70.00 [69.09, 70.89] (1)"]
    assert rows["lost on clean data, points"]["JPEG 10"] == "18.00"
    assert rows["worst at rho 1"]["JPEG 10"] == "70.00 (PGD, 1 of 2)"


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
        "seconds, mean",
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
        ("clean: accuracy", "98.00 [97.71, 98.26] (1)", "-"),
        (
            "BadNets, dirty label, rho 0.05: success",
            "97.22 [96.36, 97.89] (1)",
            "5.00 [4.09, 6.11] (1)",
        ),
        (
            "BadNets, dirty label, rho 0.05: accuracy",
            "97.00 [96.65, 97.32] (1)",
            "94.00 [93.52, 94.45] (1)",
        ),
        ("BadNets, clean label, rho 0.05: success", "66.67 [64.46, 68.81] (1)", "-"),
        ("BadNets, clean label, rho 0.05: accuracy", "98.00 [97.71, 98.26] (1)", "-"),
        ("Blended, dirty label, rho 0.05: success", "51.00 [38.29, 63.71] (2)", "-"),
        ("Blended, dirty label, rho 0.05: accuracy", "98.00 [98.00, 98.00] (2)", "-"),
        (
            "worst success",
            "97.22 (BadNets, dirty label, rho 0.05)",
            "5.00 (BadNets, dirty label, rho 0.05, 1 of 3)",
        ),
        ("lost on clean data, points", "0.00", "-"),
        ("seconds, quickest run", "10.0", "-"),
        ("seconds, mean", "10.0", "-"),
    ]
    assert block.strong == {7}
    low, high = wilson(1750, 1800)
    assert (round(100 * low, 2), round(100 * high, 2)) == (96.36, 97.89)


def test_an_interval_has_the_decimals_of_its_mean():
    runs = [run(0.9885 + 1e-4 * t, attack="pgd", trial=t) for t in (-1, 0, 1)]
    assert grid(runs)[1]["PGD"]["W/o Defense"] == "98.85 [98.83, 98.87] (3)"


def test_an_interval_ends_where_shares_do():
    runs = [run(value, attack="pgd", trial=t) for t, value in enumerate((0.0, 0.0, 0.9))]
    _, rows = grid(runs)
    assert rows["PGD"]["W/o Defense"] == "30.00 [0.00, 100.00] (3)"


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
    assert rows["DURP"]["W/o Defense"] == "70.00 [69.09, 70.89] (1)"
    assert rows["PGD"]["W/o Defense"] == "-"
    # What is not known is neither the worst case nor lost.
    assert rows["worst at rho 1"]["W/o Defense"] == "70.00 (DURP, 1 of 3)"
    assert rows["lost on clean data, points"]["HINT"] == "-"
    quantities = {cell.keys["quantity"] for cell in catalogue.build(key, records).cells}
    assert quantities == {"test_accuracy", f"{metric}_accuracy"}


def test_one_runs_accuracy_has_an_interval_over_its_test_images():
    """Of 180 of 200 by hand: centre 0.8925, half width 0.0419; of several runs Student's."""
    right = [True] * 180 + [False] * 20
    one = with_outcomes(run(0.0, attack="pgd"), right)
    table = catalogue.build("matrix", [one], SAMPLE)
    assert table.blocks[0].rows[0] == ("PGD", "90.00 [85.06, 93.43] (1)")
    (cell,) = table.cells
    measured = cell.to_dict()["measured"]
    assert (measured["low"], measured["high"]) == pytest.approx(wilson(180, 200))
    two = with_outcomes(run(0.0, attack="pgd", trial=1), [*right[:-1], True])
    assert grid([one, two])[1]["PGD"]["W/o Defense"] == "90.25 [87.07, 93.43] (2)"
    known = with_outcomes(run(0.0, attack="dap", metrics={"peak_accuracy": 0.95}), right)
    assert grid([known], "matrix-peak")[1]["DAP"]["W/o Defense"] == "95.00 [91.04, 97.26] (1)"
    # A record that does not say which images they were has as many.
    sizes = {"train": 300, "validation": 0, "test": 200}
    unsaid = run(0.9, attack="pgd", labels={"sizes": sizes})
    assert grid([unsaid])[1]["PGD"]["W/o Defense"] == "90.00 [85.06, 93.43] (1)"


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
        ("matrix", "50.00 [49.02, 50.98] (1)"),
        ("matrix-peak", "-"),
        ("matrix-batch-norm", "60.00 [59.04, 60.96] (1)"),
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
    assert rows["DURP, signs"]["W/o Defense"] == "10.00 [9.43, 10.60] (1)"
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
    assert rows["mix, DURP of signs"]["W/o Defense"] == "90.00 [89.40, 90.57] (1)"
    assert rows["mix, uniform DURP"]["W/o Defense"] == "70.00 [69.09, 70.89] (1)"
    plan = {"methods": ["none"], "trials": 1, "rhos": (1.0,)}
    for name, mix in registry.MIXES.items():
        (request,) = catalogue.missing_runs("matrix", (), SAMPLE, attacks=[name], **plan)
        assert request.poison.attacks == mix.attacks
        assert {key: dict(value) for key, value in request.poison.settings.items()} == mix.settings


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


def test_columns_on_another_poison_of_a_draw_are_named_by_attack():
    def remarks(*runs):
        notes = catalogue.build("matrix", runs).notes
        return re.findall(r"Other poisons than .*?\.", " ".join(notes))

    plain = run(0.2, attack="pgd")
    assert remarks(plain, run(0.3, method="hint", attack="pgd"), run(0.3, attack="dap")) == []
    # Of another draw, of another form and of an own target there is another poison in any case.
    assert remarks(plain, run(0.3, method="hint", attack="pgd", trial=1, draw=1, digest="q")) == []
    assert remarks(plain, adaptive_run(0.1, "jpeg", "jpeg")) == []
    assert remarks(targeted_run(True), targeted_run(True, trial=1, method="hint")) == []
    strong = {"overrides": {"quality": 10}}
    assert remarks(
        plain,
        run(0.3, method="hint", attack="pgd"),
        *(run(0.3, method="jpeg", attack="pgd", digest="q", labels=x) for x in ({}, strong)),
        run(0.3, method="epic", attack="pgd", digest="q"),
        run(0.3, method="epic", attack="dap"),
        run(0.3, method="hint", attack="dap", digest="q"),
    ) == ["Other poisons than the first column's: PGD (epic, jpeg), DAP (epic)."]
