"""The parts of the page: rows, differences, the chart of cost, plots, pictures of poisons."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.command_line import done
from helpers.synthetic_runs import hint_run, make_record, targeted_run, with_outcomes
from poisonbench.figures.drawing import Panel, Series
from poisonbench.page import overview
from poisonbench.page.document import build_page, exports
from poisonbench.page.groups import rows_of
from poisonbench.page.pairs import pair_table
from poisonbench.page.plots import axis_over, plot
from poisonbench.page.poison_pages import poison_pages, read_artefacts
from poisonbench.page.poison_pictures import DataSets
from poisonbench.results.store import Store
from poisonbench.tables.comparisons import Block, Table

# Rows


def test_draws_of_a_crafted_poison_share_a_row_and_given_ones_have_their_own():
    crafted = [
        make_record(rho=0.6, trial=t, draw=t, digest=f"p{t}", labels={"overrides": overrides})
        for t, overrides in enumerate([{}, {"poison_trial": 1}])
    ]
    given = [
        make_record(rho=0.6, digest=digest, labels={"overrides": {"poison": "artefact"}})
        for digest in ("a" * 64, "b" * 64)
    ]
    rows = rows_of([*crafted, *given])
    assert [(row.poison, len(row.runs)) for row in rows] == [
        (None, 2),
        ("a" * 12, 1),
        ("b" * 12, 1),
    ]


def test_settings_of_a_defense_are_an_entry_and_those_of_an_attack_a_row():
    runs = [
        hint_run(),
        hint_run(parameter="ratio", value=0.25),
        make_record(rho=0.6, method="hint", labels={"overrides": {"dc.rounds": 2}}, digest="q"),
    ]
    rows = rows_of(runs)
    assert [[entry.label for entry in row.entries] for row in rows] == [
        ["HINT", "HINT (ratio=0.25)"],
        ["HINT"],
    ]
    assert rows[1].title == "pgd+dap+durp+dc at rho 0.6, dc.rounds=2"


def test_anchors_of_rows_do_not_depend_on_the_order_of_reading():
    runs = [make_record(rho=rho, trial=t) for rho in (0.2, 0.6) for t in (0, 1)]
    assert [r.id for r in rows_of(runs)] == [r.id for r in rows_of(runs[::-1])]


# Differences


def test_a_difference_is_that_of_the_paired_accuracies():
    plain = [0.80, 0.82, 0.81]
    gains = [0.05, 0.06, 0.10]
    runs = [make_record(a, rho=0.6, trial=t) for t, a in enumerate(plain)]
    runs += [
        make_record(a + g, rho=0.6, trial=t, method="hint")
        for t, (a, g) in enumerate(zip(plain, gains, strict=True))
    ]
    (row,) = rows_of(runs)
    ((first, second, quantity, pairs, difference, interval, _),) = pair_table(row).blocks[0].rows
    assert (first, second, quantity, pairs) == ("W/o Defense", "HINT", "accuracy", "3")
    assert float(difference) == pytest.approx(-7.0)
    low, high = map(float, interval.strip("[]").split(","))
    # Student's t of the three differences, and for records without outcomes by image more.
    half = 4.3027 * 100 * np.std(gains, ddof=1) / np.sqrt(3)
    assert low < -7 - half
    assert high > -7 + half
    assert high + low == pytest.approx(-14, abs=0.02)


def test_trials_that_share_no_weights_are_not_compared():
    runs = [make_record(rho=0.6), make_record(rho=0.6, method="hint", weights="other")]
    (row,) = rows_of(runs)
    assert pair_table(row) is None


def test_one_trial_has_a_difference_and_no_interval():
    runs = [make_record(0.8, rho=0.6), make_record(0.9, rho=0.6, method="hint")]
    (row,) = rows_of(runs)
    assert pair_table(row).blocks[0].rows[0][4:] == ("-10.00", "-", "-")


def test_targeted_runs_are_compared_by_their_success_too():
    runs = [targeted_run(True, trial=t) for t in range(4)]
    runs += [targeted_run(t == 0, trial=t, method="hint") for t in range(4)]
    (row,) = rows_of(runs)
    lines = pair_table(row).blocks[0].rows
    assert [line[2] for line in lines] == ["accuracy", "attack success"]
    assert lines[1][3:5] == ("4", "+75.00")


# The overview


def test_the_worst_case_is_over_the_poisons_that_all_have():
    runs = [make_record(0.99), make_record(0.98, method="hint")]
    runs += [make_record(0.5, rho=0.6), make_record(0.9, rho=0.6, method="hint")]
    runs += [make_record(0.1, rho=1.0, digest="q")]
    (lines,) = overview.tradeoffs(rows_of(runs)).values()
    assert [(x.method, x.clean, x.worst, x.poisons) for x in lines] == [
        ("none", 0.99, 0.5, 1),
        ("hint", 0.98, 0.9, 1),
    ]


def test_a_defense_with_few_poisons_does_not_shrink_what_the_others_are_compared_on():
    runs = [make_record(0.9, rho=rho, digest=f"p{rho}") for rho in (0.2, 0.4, 0.6)]
    runs += [make_record(0.9, rho=r, digest=f"p{r}", method="hint") for r in (0.2, 0.4)]
    runs += [make_record(0.9, rho=0.2, digest="p0.2", method="epic")]
    (lines,) = overview.tradeoffs(rows_of(runs)).values()
    assert [(line.method, line.poisons) for line in lines] == [("none", 2), ("hint", 2)]


def test_forms_of_a_defense_and_networks_are_not_mixed():
    def jpeg(accuracy, quality=None, **about):
        overrides = {} if quality is None else {"quality": quality}
        return make_record(accuracy, method="jpeg", config=overrides,
                           labels={"overrides": overrides}, **about)  # fmt: skip

    small = {"model": "mnist-cnn-small", "weights": "s"}
    runs = [make_record(0.99), jpeg(0.98), jpeg(0.72, 10), make_record(0.5, **small)]
    runs += [make_record(0.4, rho=0.6, seconds=10.0), jpeg(0.6, rho=0.6, seconds=20.0)]
    runs += [jpeg(0.7, 10, rho=0.6, seconds=50.0)]
    (lines,) = overview.tradeoffs(rows_of(runs)).values()
    assert [(line.label, line.clean, line.worst, line.ratio) for line in lines] == [
        ("W/o Defense", 0.99, 0.4, 1),
        ("JPEG", 0.98, 0.6, 2),
        ("JPEG 10", 0.72, 0.7, 5),
    ]
    runs += [make_record(0.3, rho=0.6, **small)]
    both = overview.tradeoffs(rows_of(runs))
    assert {
        title: [(line.clean, line.worst) for line in lines] for title, lines in both.items()
    } == {
        "mnist (mnist-cnn)": [(0.99, 0.4), (0.98, 0.6), (0.72, 0.7)],
        "mnist (mnist-cnn-small)": [(0.5, 0.3)],
    }


def test_cost_is_a_ratio_within_trial_and_device():
    runs = [make_record(0.9), make_record(0.9, method="hint")]
    runs += [make_record(0.5, rho=0.6, trial=t, seconds=10.0 * (t + 1)) for t in (0, 1)]
    runs += [
        make_record(0.5, rho=0.6, trial=t, seconds=30.0 * (t + 1), method="hint") for t in (0, 1)
    ]
    runs += [
        make_record(
            0.5, rho=0.6, trial=2, seconds=s, method=m, environment={"processor": f"of {m}"}
        )
        for m, s in (("none", 1.0), ("hint", 900.0))
    ]
    (lines,) = overview.tradeoffs(rows_of(runs)).values()
    assert [line.ratio for line in lines] == [pytest.approx(1), pytest.approx(3)]


def test_headlines_are_made_of_the_data():
    runs = [make_record(0.99)]
    runs += [make_record(0.7, rho=0.6), make_record(0.95, rho=0.6, method="hint")]
    runs += [make_record(0.985, rho=0.2, digest="q")]
    (headline,) = overview.headlines(rows_of(runs))
    assert headline.text == "HINT holds 95.00 % where plain training falls to 70.00 %."
    context = "mnist, pgd+dap+durp+dc at rho 0.6; 1 trial; 99.00 % on clean data"
    assert headline.context == context
    assert headline.row.rho == 0.6


def test_a_headline_is_of_the_trials_that_the_defense_shares_with_plain_training():
    runs = [make_record(0.99), make_record(0.4, rho=0.6, trial=1)]
    runs += [make_record(0.9, rho=0.6), make_record(0.95, rho=0.6, method="hint")]
    runs += [
        make_record(0.89, rho=0.6, method="jpeg"),
        make_record(0.7, rho=0.6, trial=1, method="epic"),
    ]
    runs += [make_record(0.97, rho=0.6, trial=2, method="friends")]
    (headline,) = overview.headlines(rows_of(runs))
    assert headline.text == "EPIC holds 70.00 % where plain training falls to 40.00 %."
    assert "; 1 trial; " in headline.context
    (headline,) = overview.headlines(rows_of([run for run in runs if run.spec.method != "epic"]))
    assert headline.text == "HINT holds 95.00 % where plain training falls to 90.00 %."


def test_a_defense_that_does_not_help_makes_no_boast():
    runs = [make_record(0.99), make_record(0.7, rho=0.6)]
    runs += [make_record(0.6, rho=0.6, method="hint")]
    (headline,) = overview.headlines(rows_of(runs))
    assert headline.text.startswith("No defense helps where plain training falls to 70.00 %")


def test_a_success_is_the_worse_the_more_targets_are_hit():
    runs = [targeted_run(True), targeted_run(False, method="hint")]
    (matrix,) = overview.matrices(rows_of(runs))
    ((_, (plain, hint)),) = matrix.rows
    assert matrix.quantity == "targets hit"
    assert (plain.shade, hint.shade) == (0, len(overview.SHADES) - 1)


# Plots


def test_ticks_are_round_and_inside():
    for low, high in [(0, 1), (0.93, 0.97), (-3e-4, 2e-4), (5, 5), (12, 98765)]:
        axis = axis_over([low, high])
        assert axis.low <= min(axis.ticks)
        assert max(axis.ticks) <= axis.high
        assert 2 <= len(axis.ticks) <= 6
        steps = np.diff(axis.ticks)
        assert steps == pytest.approx(np.full(len(steps), steps[0]))


def test_a_point_without_an_interval_has_no_whisker():
    series = Series(label="a", x=[1, 2], y=[3, 4], low=[2, None], high=[5, None])
    picture = plot(Panel(title="t", x_label="x", y_label="y", series=[series]))
    assert picture.count("whisker") == 1
    assert picture.count("<title>") == 2


def test_labels_of_a_plot_are_text():
    series = [Series(label="<b>", x=[1], y=[1]), Series(label="c", x=[2], y=[2])]
    picture = plot(Panel(title="<i>", x_label="<u>", y_label='"', series=series))
    for name in ("<b>", "<i>", "<u>", 'label=""'):
        assert name not in picture


def test_values_that_are_not_finite_are_left_out():
    series = Series(label="a", x=[1, 2, 3], y=[1.0, float("nan"), 2.0])
    picture = plot(Panel(title="t", x_label="x", y_label="y", series=[series]))
    assert "nan" not in picture
    assert picture.count("<title>") == 2


# Exports


def test_a_grid_without_figures_is_exported_as_it_is_printed():
    block = Block(title="t", columns=("a", "b"), rows=(("x,y", "1"),), keys=1)
    texts = exports(Table(key="k", title="T", blocks=(block,)))
    assert texts["CSV"] == 'a,b\n"x,y",1\n'
    assert "| a | b |" in texts["Markdown"]
    assert r"\toprule" in texts["LaTeX"]


# Poisons


def pixels(address):
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def trained(tiny, artefact, results):
    done(
        *("defend", "--method", "none", "--epochs", "1", "--dataset", tiny),
        *("--poison", artefact, "--results", results),
    )
    (results / "poisons").mkdir()
    (results / "poisons" / artefact.name).symlink_to(artefact)
    return results


def test_a_poison_is_shown_clean_poisoned_and_as_difference(trained):
    store = Store(trained)
    artefacts, damaged = read_artefacts([store])
    (page,) = poison_pages(rows_of(store.records(pytest.fail)), artefacts, DataSets(Path("data")))
    assert not damaged
    assert len(page.pictures.images) == 10
    levels = artefacts[0].card.levels
    for image in page.pictures.images:
        clean, poisoned, shown = (
            pixels(one).astype(int) for one in (image.clean, image.poisoned, image.difference)
        )
        expected = np.round((poisoned - clean) * 127 / levels + 128)
        assert np.array_equal(shown, np.clip(expected, 0, 255))
        assert 0 < abs(poisoned - clean).max() <= levels
    assert len(page.runs) == 1
    assert ("budget", f"{levels}/255 in each pixel (L-infinity)") in page.facts


def test_a_poison_without_its_data_set_has_its_card_and_says_why(trained, tiny, monkeypatch):
    from poisonbench.core.errors import ArtefactError
    from poisonbench.data import sources

    def missing(*arguments):
        raise ArtefactError("expected files, got none")

    monkeypatch.setattr(sources, "load_dataset", missing)
    text = build_page([trained], Path("data")).text
    assert "No pictures: expected files, got none" in text
    assert "in each pixel (L-infinity)" in text


def test_a_damaged_card_is_named(tmp_path):
    folder = tmp_path / "poisons" / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text('{"digest": "<b>"}')
    page = build_page([tmp_path], Path("data"))
    assert page.damaged == ("poisons/0123456789abcdef",)


def test_pictures_need_no_record(artefact, tmp_path):
    (tmp_path / "poisons").mkdir()
    (tmp_path / "poisons" / artefact.name).symlink_to(artefact)
    text = build_page([tmp_path], Path("data")).text
    assert "No run was trained on it." in text
    assert text.count("alt=poisoned") == 10


def test_outcomes_by_image_narrow_the_interval():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.9
    runs = []
    for trial in range(3):
        other = right.copy()
        other[trial : trial + 6] = False
        runs.append(with_outcomes(make_record(rho=0.6, trial=trial), other.tolist()))
        runs.append(with_outcomes(make_record(rho=0.6, trial=trial, method="hint"), right.tolist()))
    (row,) = rows_of(runs)
    line = pair_table(row).blocks[0].rows[0]
    expected = np.mean(
        [
            b.metrics.test_accuracy - a.metrics.test_accuracy
            for a, b in zip(runs[::2], runs[1::2], strict=True)
        ]
    )
    assert float(line[4]) == pytest.approx(-100 * expected, abs=0.005)
    assert "[" in line[5]
