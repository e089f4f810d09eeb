"""The matrix in gains: a run under a defense beside plain training's on the same poison."""

import pytest
from msgspec.structs import replace

from helpers.matrix_runs import SAMPLE, grid, run
from helpers.synthetic_runs import with_outcomes
from poisonbench.results.statistics import mean_interval, paired_shares, summarise
from poisonbench.tables import catalogue

GAIN = "matrix-gain"


def draws(accuracies, method="none", attack="pgd", **more):
    """A run a draw, each on a poison of its own."""
    return [
        run(value, method, attack, trial=trial, draw=trial, digest=f"p{trial}", **more)
        for trial, value in enumerate(accuracies)
    ]


def test_a_run_is_compared_on_its_own_poison():
    """Means over draws would say that the defense loses 30 points; on its draw it gains 10."""
    records = [*draws((0.1, 0.5, 0.9)), *draws((0.2,), "hint")]
    assert grid(records)[1]["PGD"]["HINT"].startswith("20.00")
    assert grid(records, GAIN)[1]["PGD"] == {"HINT": "+10.00 (1)"}


def test_several_pairs_have_students_interval_over_poisons():
    records = [*draws((0.1, 0.5, 0.9)), *draws((0.2, 0.55, 0.9), "hint")]
    low, high = mean_interval(summarise((0.1, 0.05, 0.0)))
    text = f"+5.00 [{100 * low:+.2f}, {100 * high:+.2f}] (3)"
    assert grid(records, GAIN)[1]["PGD"]["HINT"] == text
    (cell,) = catalogue.build(GAIN, records, SAMPLE).cells
    assert cell.keys["quantity"] == "accuracy_gain"
    assert set(cell.records) == {record.id for record in records}


def test_pairs_on_two_processors_are_named():
    records = [run(0.1, attack="pgd"), run(0.4, "hint", "pgd"), run(0.3, "jpeg", "pgd")]
    of_another = replace(records[1].environment, precision="float32")
    records[1] = replace(records[1], environment=of_another)
    named = "Pairs of two kinds of processor or precisions: PGD (hint)."
    assert named in catalogue.build(GAIN, records, SAMPLE).notes[-1]
    assert "Pairs of two" not in catalogue.build(GAIN, records[::2], SAMPLE).notes[-1]


def test_an_interval_ends_where_differences_do():
    records = [*draws((0.1, 0.9)), *draws((0.9, 0.9), "hint")]
    assert grid(records, GAIN)[1]["PGD"]["HINT"] == "+40.00 [-100.00, +100.00] (2)"


def test_two_seeds_of_one_poison_are_two_pairs():
    records = [
        run(value, method, "pgd", trial=trial)
        for method, values in {"none": (0.1, 0.2), "hint": (0.4, 0.52)}.items()
        for trial, value in enumerate(values)
    ]
    low, high = mean_interval(summarise((0.3, 0.32)))
    text = f"+31.00 [{100 * low:+.2f}, {100 * high:+.2f}] (2)"
    assert grid(records, GAIN)[1]["PGD"]["HINT"] == text


@pytest.mark.parametrize(
    "other", [{"digest": "other"}, {"trial": 1}, {"weights": "other"}, {"seed": 1}]
)
def test_a_run_without_its_partner_is_left_out(other):
    records = [run(0.1, attack="pgd"), run(0.9, "hint", "pgd", **other), run(0.3, "jpeg", "pgd")]
    assert grid(records, GAIN)[1]["PGD"] == {"JPEG": "+20.00 (1)"}
    alone = catalogue.build(GAIN, records[:2], SAMPLE)
    assert not alone.cells


def test_clean_runs_are_paired_too_and_the_least_gain_is_of_an_attack():
    records = [
        *(run(0.98), run(0.90, "hint")),
        *(run(0.10, attack="pgd"), run(0.50, "hint", "pgd")),
        *(run(0.60, attack="dap", digest="q"), run(0.55, "hint", "dap", digest="q")),
    ]
    block, rows = grid(records, GAIN)
    assert {name: row["HINT"] for name, row in rows.items()} == {
        "clean": "-8.00 (1)",
        "PGD": "+40.00 (1)",
        "DAP": "-5.00 (1)",
        "least at rho 1": "-5.00 (DAP)",
    }
    assert block.strong == {3}


def test_a_form_is_paired_with_plain_training_whatever_columns_are_wanted():
    strong = {"labels": {"overrides": {"quality": 10}}}
    records = [run(0.1, attack="pgd"), run(0.7, "jpeg", "pgd", **strong), run(0.5, "hint", "pgd")]
    (block,) = catalogue.build(GAIN, records, SAMPLE, methods=["jpeg:10"]).blocks
    assert block.rows[0] == ("PGD", "+60.00 (1)")
    assert block.columns == ("trained on", "JPEG 10")


def test_one_pair_has_an_interval_over_its_test_images():
    """Of 200 images 40 are gained and 10 lost, 110 right in both."""
    plain = [True] * 120 + [False] * 80
    ours = [True] * 110 + [False] * 10 + [True] * 40 + [False] * 40
    records = [
        with_outcomes(run(0.0, attack="pgd"), plain),
        with_outcomes(run(0.0, "hint", "pgd"), ours),
    ]
    low, high = paired_shares(ours, plain)
    text = f"+15.00 [{100 * low:+.2f}, {100 * high:+.2f}] (1)"
    assert grid(records, GAIN)[1]["PGD"]["HINT"] == text


def on(digest, accuracy, method="none", finished="2025-01-01"):
    return run(accuracy, method, "pgd", digest=digest, finished=finished)


def test_a_column_with_runs_on_two_poisons_of_a_draw_shows_the_one_that_the_others_have():
    """The draw was made on two kinds of processors; two columns are on the first alone."""
    records = [
        *(on("first", 0.10), on("second", 0.30, finished="2025-02-01")),
        *(on("first", 0.50, "hint"), on("first", 0.60, "jpeg")),
        on("second", 0.70, "at", finished="2025-02-02"),
    ]
    row = grid(records)[1]["PGD"]
    assert [text.partition(" ")[0] for text in row.values()] == ["10.00", "50.00", "60.00", "70.00"]
    # Each gain is on the run's own poison.
    assert grid(records, GAIN)[1]["PGD"] == {
        "HINT": "+40.00 (1)",
        "JPEG": "+50.00 (1)",
        "Adversarial training": "+40.00 (1)",
    }
    assert "Other poisons" in str(catalogue.build("matrix", records, SAMPLE).notes)
    assert "Other poisons" not in str(catalogue.build(GAIN, records, SAMPLE).notes)
    # A pair is not lost to the poison that the others have.
    lonely = [
        *(on("first", 0.50, "hint"), on("second", 0.80, "hint")),
        *(on("first", 0.60, "jpeg"), on("first", 0.60, "at"), on("second", 0.30)),
    ]
    assert grid(lonely, GAIN)[1]["PGD"] == {"HINT": "+50.00 (1)"}
    # With as many columns on each it is the poison of the run finished last.
    assert grid(records[:3])[1]["PGD"]["W/o Defense"].startswith("10.00")
    assert grid([*records[:2], records[-1]])[1]["PGD"]["W/o Defense"].startswith("30.00")
    both = [records[0], records[1], records[2], records[-1]]
    assert grid(both)[1]["PGD"]["W/o Defense"].startswith("30.00")
