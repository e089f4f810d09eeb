"""The published figures against facts of the paper that the file was not made from."""

import pytest

from poisonbench.results import published


def test_every_row_of_the_five_tables_is_there():
    tables = (published.table1, published.table2, published.table3, published.table4)
    assert [len(table()) for table in tables] == [2, 60, 20, 16]
    assert len(published.table5()) == 8


def test_tables_are_complete_products_without_repetition():
    accuracy = {(row.dataset, row.rho, row.method) for row in published.table2()}
    assert len(accuracy) == 2 * 6 * 5
    assert {row.rho for row in published.table2()} == {0, 0.2, 0.4, 0.6, 0.8, 1}
    assert len({(row.attack, row.method) for row in published.table3()}) == 4 * 5
    assert len({(r.parameter, r.value, r.dataset) for r in published.table4()}) == 2 * 4 * 2
    methods = list(dict.fromkeys(row.method for row in published.table2()))
    assert methods == list(published.METHOD_LABELS)


def test_checksums_of_the_printed_columns():
    assert sum(row.mean for row in published.table2()) == pytest.approx(5458.87)
    assert sum(row.std for row in published.table2()) == pytest.approx(18.41)
    assert sum(row.mean for row in published.table3()) == pytest.approx(1787.38)
    assert sum(row.successes for row in published.table3()) == 51
    assert sum(row.mean for row in published.table4()) == pytest.approx(1508.34)
    assert sum(row.seconds for row in published.table5()) == 23093


def test_default_settings_of_table_4_are_cells_of_table_2():
    hint = {
        row.dataset: (row.mean, row.std)
        for row in published.table2()
        if row.rho == 0.6 and row.method == "hint"
    }
    for parameter, value in (("ratio", 0.5), ("beta", 0.062)):
        figures = {
            row.dataset: (row.mean, row.std)
            for row in published.table4()
            if (row.parameter, row.value) == (parameter, value)
        }
        assert figures == hint


def test_figures_lie_in_their_ranges():
    for row in (*published.table2(), *published.table3(), *published.table4()):
        assert 10 < row.mean < 100
        assert 0 < row.std < 3
        summary = row.summary()
        assert (summary.mean * 100, summary.n) == (pytest.approx(row.mean), 5)
    assert all(0 <= row.successes <= row.trials == 5 for row in published.table3())
    assert {r.method for r in published.table5() if r.ratio is not None} == {"hint"}


def test_hint_is_best_in_eleven_of_twelve_rows():
    rows = published.table2()
    best = [
        max((r for r in rows if (r.dataset, r.rho) == key), key=lambda r: r.mean).method
        for key in dict.fromkeys((r.dataset, r.rho) for r in rows)
    ]
    assert best.count("hint") == 11


def test_sheet_splits_add_up_to_the_data_sets():
    totals = {row.dataset: row.train + row.validation for row in published.table1()}
    assert totals == {"mnist": 60_000, "cifar10": 50_000}


@pytest.mark.parametrize("key", "12345")
def test_every_table_names_its_source(key):
    source = published.source(key)
    assert source.arxiv == "2309.08549"
    assert source.trials == 5
    assert ("standard deviation" in source.plus_minus) == (key in "234")
    assert source.citation.endswith(f"Table {['I', 'II', 'III', 'IV', 'V'][int(key) - 1]}")


@pytest.mark.parametrize(("key", "rows", "columns"), [("apbench", 9, 11), ("iss", 11, 3)])
def test_availability_tables_are_complete_and_without_a_spread(key, rows, columns):
    table = published.availability(key)
    assert len(table) == rows
    assert all(list(row) == list(next(iter(table.values()))) for row in table.values())
    figures = [figure for row in table.values() for figure in row.values()]
    assert len(figures) == rows * columns
    assert all(0 < figure.mean < 1 and figure.std is None for figure in figures)
    source = published.source(key)
    assert source.trials == 1
    assert "without a spread" in source.plus_minus
    assert source.name in ("APBench", "ISS")


def test_checksums_of_the_availability_tables():
    sums = {
        key: sum(
            100 * figure.mean
            for row in published.availability(key).values()
            for figure in row.values()
        )
        for key in ("apbench", "iss")
    }
    assert sums == pytest.approx({"apbench": 5092.98, "iss": 1935.62}, abs=1e-6)


def test_what_availability_tables_are_known_for():
    """JPEG lifts what is weakest, grey does not help TAP, and adversarial training not OPS."""
    for key, plain, jpeg in (("apbench", "standard", "jpeg"), ("iss", "none", "jpeg10")):
        table = published.availability(key)
        attacked = [row for name, row in table.items() if name != "clean"]
        assert all(row[jpeg].mean > row[plain].mean for row in attacked)
        assert table["tap"]["gray"].mean < 0.12
    assert published.availability("apbench")["ops"]["at"].mean < 0.16
