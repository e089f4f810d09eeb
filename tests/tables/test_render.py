"""Every format of a table: nothing cropped, everything escaped."""

import csv
import io
import json
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from helpers.synthetic_runs import make_record
from poisonbench.results.statistics import Summary, Verdict
from poisonbench.results.verdicts import Basis, Judgement
from poisonbench.tables import catalogue
from poisonbench.tables.comparisons import Block, Comparison, Finding, Table
from poisonbench.tables.layout import claims_block, comparison_block
from poisonbench.tables.render import FORMATS, print_rich, render


@pytest.fixture
def measured():
    records = [
        make_record(0.9687 + 1e-4 * t, method="hint", rho=0.6, trial=t) for t in range(3)
    ] + [make_record(0.9 + 1e-3 * t, trial=t) for t in range(5)]
    return catalogue.build("2", records, "mnist")


FIGURES = ("96.88±0.01 (3 of 5)", "90.20±0.16 (5)", "98.44±0.02 (5)", "-8.24", "74.62±0.94 (5)")


@pytest.mark.parametrize("kind", ["rich", "markdown", "html"])
def test_texts_show_percent_in_the_papers_style(measured, kind):
    text = render(measured, kind)
    assert all(figure in text for figure in FIGURES)
    assert "differs" in text
    assert "[-8.44, -8.04]" in text
    assert "5 seeds" in text
    assert "…" not in text


@pytest.mark.parametrize("width", [10, 40, 79, 80, 200])
def test_no_number_is_cropped_in_a_terminal(measured, width):
    stream = io.StringIO()
    print_rich(measured, Console(file=stream, width=width, force_terminal=True, color_system=None))
    text = stream.getvalue()
    assert all(figure in text for figure in FIGURES)
    assert "…" not in text
    assert "seeds" not in text
    figures = [line for line in text.split("Published: ")[0].splitlines() if "±" in line]
    assert all(len(line) <= max(width, 40) for line in figures)


def test_table_2_is_a_grid_on_80_columns(measured):
    stream = io.StringIO()
    print_rich(measured, Console(file=stream, width=80, force_terminal=True, color_system=None))
    assert re.search(r"0\.6  HINT +96\.88±0\.01 \(3 of 5\)  96\.87±0\.02 \(5\)", stream.getvalue())


def test_json_and_csv_hold_fractions_and_record_ids(measured):
    document = json.loads(render(measured, "json"))
    rows = list(csv.DictReader(io.StringIO(render(measured, "csv"))))
    assert document["table"] == "2"
    assert len(document["cells"]) == len(rows) - len(document["claims"]) == 30
    for cell, row in zip(document["cells"], rows[:30], strict=True):
        assert (row["dataset"], row["method"]) == (cell["dataset"], cell["method"])
        assert float(row["published"]) == cell["published"]["mean"] < 1
        assert row["records"].split() == cell["records"]
        assert row["verdict"] == cell["verdict"]
        if cell["measured"] is None:
            assert row["measured"] == row["difference"] == ""
        else:
            assert float(row["measured"]) == cell["measured"]["mean"]
            assert cell["measured"]["low"] < cell["measured"]["mean"] < cell["measured"]["high"]
            assert len(cell["records"]) == cell["measured"]["n"]
    (hint,) = [c for c in document["cells"] if c["rho"] == 0.6 and c["method"] == "hint"]
    assert hint["measured"]["mean"] == 0.9688
    assert hint["wanted"] == 5


def test_json_and_csv_hold_the_p_value_of_either_direction():
    values = {"hint": [0.97, 0.98, 0.96, 0.97, 0.96], "none": [0.95, 0.94, 0.95, 0.95, 0.94]}
    records = [
        make_record(value, method=method, rho=0.6, trial=trial)
        for method, accuracies in values.items()
        for trial, value in enumerate(accuracies)
    ]
    table = catalogue.build("2", records, "mnist")
    (finding,) = [f for f in table.findings if f.trials and f.claim == "HINT beats none"]
    document = json.loads(render(table, "json"))
    rows = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    at = {"claim": "HINT beats none", "rho": 0.6}
    (claim,) = [c for c in document["claims"] if at.items() <= c.items()]
    (row,) = [r for r in rows if (r["claim"], r["rho"]) == ("HINT beats none", "0.6")]
    assert claim["p_value"] < 0.05 < 0.95 < claim["p_against"]
    assert claim["p_against"] == round(finding.judgement.p_against, 10) == float(row["p_against"])
    # Beside a published value either direction speaks against it.
    (cell,) = [c for c in document["cells"] if c["records"] and c["method"] == "hint"]
    assert cell["p_value"] == cell["p_against"] > 0


@pytest.mark.parametrize("unit", ["fraction", "ratio", "seconds", "count"])
def test_no_effect_is_minus_zero_in_any_format(unit):
    tiny = -1e-11
    judgement = Judgement(Verdict.INCONCLUSIVE, tiny, (tiny, tiny), 0.5, 0.5, tiny, Basis(seeds=2))
    common = {"judgement": judgement, "records": ("a", "b"), "trials": 2, "unit": unit}
    value = Summary(tiny, 0.0, 2)
    cell = Comparison(keys={"method": "hint"}, measured=value, published=value, **common)
    finding = Finding(keys={"rho": 1}, claim="c", test="t", bears_out=None, **common)
    blocks = comparison_block("b", [cell], ["method"], {}), claims_block("c", [finding])
    for kind in FORMATS:
        text = render(Table(key="2", title="t", blocks=blocks), kind)
        assert not re.search(r"-0(\.0+)?(?![.\d])", text), kind
        assert "0.0" in text


def test_every_format_takes_every_table(measured):
    for kind in FORMATS:
        for table in (measured, catalogue.build("1", [make_record()]), catalogue.build("2", [])):
            assert render(table, kind).endswith("\n")


@pytest.mark.parametrize("key", catalogue.TABLES)
def test_five_lines_stand_under_a_table(key, measured):
    """However much there is to say, and with a link to what the words mean."""
    runs = [
        make_record(rho=0.6, digest=d, dataset="mnist-sample", method=d) for d in ("hint", "epic")
    ]
    runs += [make_record(dataset="mnist", seconds=9.0), make_record(trial=1, variant="custom")]
    notes = catalogue.build(key, runs, poisons=None).notes
    assert len(notes) <= 5
    assert any("docs/verdicts.md" in note for note in notes) == (key != "1")


@pytest.fixture
def awkward():
    block = Block(
        title="50% of a_b & <c>",
        columns=("name", "x|y"),
        rows=((r"{a}\b", "1±2"), ("$#~^", "[red]3")),
        keys=1,
    )
    return Table(key="9", title="T", blocks=(block,))


def test_latex_escapes_and_uses_booktabs(awkward, measured):
    text = render(awkward, "latex")
    assert r"50\% of a\_b \& $<$c$>$" in text
    assert r"\{a\}\textbackslash{}b & 1$\pm$2 \\" in text
    assert r"\$\#\textasciitilde{}\textasciicircum{} & [red]3 \\" in text
    text = render(measured, "latex")
    assert text.count(r"\toprule") == text.count(r"\end{tabular}") == 3
    assert "±" not in text
    (columns,) = set(re.findall(r"\\begin\{tabular\}\{(llr{7})\}", text))
    rows = [line for line in text.splitlines() if line.startswith("0.6 & HINT")]
    assert [row.count("&") + 1 for row in rows] == [len(columns)]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex and booktabs")
def test_latex_compiles_without_overfull_lines(awkward, measured, tmp_path):
    body = render(measured, "latex") + render(awkward, "latex")
    start = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{start}\n{body}\n" + r"\end{document}", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="latin-1")
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_markdown_and_rich_take_text_as_it_is(awkward):
    assert r"| name | x\|y |" in render(awkward, "markdown")
    assert "[red]3" in render(awkward, "rich")


def test_html_is_one_page_that_needs_nothing_else(awkward, measured):
    text = render(measured, "html")
    assert not re.search(r"<script|<link|src=|href=|url\(|@import|https?://", text)
    assert "color-scheme: light dark" in text
    assert '<td class="differs">differs</td>' in text
    assert "50% of a_b &amp; &lt;c&gt;" in render(awkward, "html")
