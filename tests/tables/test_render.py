"""Every format of a table: nothing cropped, everything escaped."""

import csv
import io
import json
import re
import shutil
import subprocess
import textwrap
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from rich.console import Console

from helpers.synthetic_runs import make_record, targeted_run
from poisonbench.results.statistics import Summary, Verdict
from poisonbench.results.verdicts import Basis, Judgement
from poisonbench.tables import catalogue
from poisonbench.tables.all_runs import build_runs
from poisonbench.tables.comparisons import Block, Comparison, Finding, Table
from poisonbench.tables.filter_table import build_filters
from poisonbench.tables.layout import claims_block, comparison_block, show_judgement
from poisonbench.tables.render import FORMATS, print_rich, render

ROOT = Path(catalogue.__file__).parents[2]


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


def on_terminal(table, width):
    stream = io.StringIO()
    print_rich(table, Console(file=stream, width=width, force_terminal=True, color_system=None))
    return stream.getvalue()


@pytest.mark.parametrize("width", [10, 40, 79, 80, 120, 200])
def test_no_number_is_cropped_in_a_terminal(measured, width):
    text = on_terminal(measured, width)
    assert all(figure in text for figure in FIGURES if width not in (79, 80) or "(5)" not in figure)
    assert "…" not in text
    figures = [line for line in text.split("Published: ")[0].splitlines() if "±" in line]
    assert all(len(line) <= max(width, 40) for line in figures)


@pytest.mark.parametrize(
    ("width", "head"),
    [
        (200, "measured published diff, points 95 % interval verdict rests on detectable"),
        (140, "measured published diff, points 95 % interval verdict rests on"),
        (110, "measured published diff, points 95 % interval verdict"),
        (90, "measured diff, points 95 % interval verdict"),
        (70, "diff, points 95 % interval verdict"),
    ],
)
def test_word_effect_and_interval_stay_longest_on_a_terminal(measured, width, head):
    lines = on_terminal(measured, width).splitlines()
    (columns,) = [line for line in lines if line.startswith("rho  method")]
    assert f"rho method {head}" in re.sub(" +", " ", columns).removesuffix(
        " with power 0.8, points"
    )
    (none,) = [line for line in lines if re.match(r"0\.0  W/o Defense +\D*(90|-8)", line)]
    assert re.search(r"-8\.24 +\[-8\.44, -8\.04\] +differs", none)
    assert all(len(line) <= width for line in lines)


def test_where_nothing_was_judged_the_difference_goes_first():
    table = catalogue.build("2", [make_record(dataset="mnist-sample")], "mnist-sample")
    for width, head in ((80, "diff, points verdict"), (60, "published verdict")):
        (columns,) = [x for x in on_terminal(table, width).splitlines() if "rho  method" in x]
        assert re.sub(" +", " ", columns).endswith(head)


def test_in_a_narrow_terminal_each_figure_has_a_line(measured):
    text = on_terminal(measured, 40)
    assert re.search(r"diff, points +-8\.24\n  95 % interval +\[-8\.44, -8\.04\]\n", text)


@pytest.mark.parametrize("width", [80, 100, 130])
def test_a_grid_wider_than_the_terminal_is_cut_into_grids_that_fit(width):
    methods = ("none", "hint", "atda", "friends", "epic", "knn", "l2")
    records = [
        make_record(0.5 + index / 100, method=method, dataset="mnist-sample", **poison)
        for index, method in enumerate(methods)
        for poison in ({}, {"rho": 1.0, "attacks": ["pgd"]})
    ]
    # One defense alone met this attack, so that the other grids have no row of it.
    records.append(make_record(0.3, rho=1.0, attacks=["dap"], dataset="mnist-sample"))
    table = catalogue.build("matrix", records, "mnist-sample")
    (block,) = table.blocks
    lines = on_terminal(table, width).splitlines()
    assert all(len(line) <= width for line in lines)
    heads = [re.split("  +", line.strip()) for line in lines if line.startswith("trained on")]
    assert len(heads) > 1
    assert [name for head in heads for name in head[1:]] == list(block.columns[1:])
    assert sum(line.startswith("PGD ") for line in lines) == len(heads)
    assert sum(line.startswith("DAP ") for line in lines) == 1
    for name, row in ((row[0], row) for row in block.rows):
        shown = [line for line in lines if line.startswith(f"{name} ")]
        assert all(any(cell in line for line in shown) for cell in row[1:] if cell != "-")


def test_rows_without_any_figure_stay_in_each_grid():
    text = on_terminal(catalogue.build("2", [make_record(0.9)], "mnist"), 45)
    lines = text.partition("measured beside published")[0].splitlines()
    heads = sum(line.startswith("rho  ") for line in lines)
    assert heads > 1
    assert sum(line.startswith("0.2  ") for line in lines) == heads


def test_a_grid_of_which_no_two_columns_fit_has_a_line_a_figure():
    common = {"dataset": "mnist-sample", "seconds": 9.0}
    records = [make_record(0.9, method=method, **common) for method in ("none", "hint")]
    # One defense alone met this attack, so that the other has no line of it.
    records.append(make_record(0.3, rho=1.0, attacks=["dap"], **common))
    text = on_terminal(catalogue.build("matrix", records, "mnist-sample"), 40)
    assert re.search(r"trained on clean\n  W/o Defense  90\.00.*\n  HINT         90\.00", text)
    assert re.search(r"trained on DAP\n  W/o Defense  30\.00.*\nworst at rho 1\n", text)
    # Rows about all attacks are none that anything was trained on.
    assert re.findall("^trained on .*", text, re.MULTILINE) == [
        "trained on clean",
        "trained on DAP",
    ]
    assert "\nlost on clean data, points\n" in text


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
    (none,) = [c for c in document["cells"] if c["rho"] == 0 and c["method"] == "none"]
    assert none["p_differs_two_sided"] < 0.05
    assert not any("p_differs_two_sided" in claim for claim in document["claims"])
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
    assert claim["p_reproduced_one_sided"] < 0.05 < 0.95 < claim["p_refuted_one_sided"]
    refuted = round(finding.judgement.p_against, 10)
    assert claim["p_refuted_one_sided"] == refuted == float(row["p_refuted_one_sided"])


@pytest.mark.parametrize("unit", ["fraction", "ratio", "seconds", "count"])
def test_no_effect_is_minus_zero_in_any_format(unit):
    tiny = -1e-11
    judgement = Judgement(Verdict.INCONCLUSIVE, tiny, (tiny, tiny), 0.5, 0.5, tiny, Basis(seeds=2))
    common = {"judgement": judgement, "records": ("a", "b"), "trials": 2, "unit": unit}
    value = Summary(tiny, 0.0, 2)
    cell = Comparison(keys={"method": "hint"}, measured=value, published=value, **common)
    finding = Finding(keys={"rho": 1}, claim="c", test="t", planned=2, bears_out=None, **common)
    blocks = comparison_block("b", [cell], ["method"], {}), claims_block("c", [finding])
    for kind in FORMATS:
        text = render(Table(key="2", title="t", blocks=blocks), kind)
        assert not re.search(r"-0(\.0+)?(?![.\d])", text), kind
        assert "0.0" in text


def test_every_format_takes_every_table(measured):
    for kind in FORMATS:
        for table in (measured, catalogue.build("1", [make_record()]), catalogue.build("2", [])):
            assert render(table, kind).endswith("\n")


def note_lines(text, kind):
    """The lines of 100 columns that the notes take as a reader sees them."""
    if kind == "html":
        notes = re.findall("<li>(.*)</li>", text)
        text = "\n".join(re.sub("<[^>]+>", "", note) for note in notes)
    elif kind == "latex":
        text = "\n".join(re.findall(r"\\noindent (.*)\\par", text))
    else:
        text = re.sub(r"\[([^]]+)\]\(\1\)", r"\1", text.rstrip().rsplit("\n\n", 1)[-1])
    return [part for line in text.splitlines() for part in textwrap.wrap(line, 100)]


@pytest.fixture(scope="module")
def all_kinds_of_runs():
    """Runs that give each table as much to say as there is."""
    runs = [
        make_record(rho=0.6, digest=f"{m}{n}", dataset=dataset, method=m, seconds=9.0, session=1.0)
        for dataset in ("mnist-sample", "mnist", "cifar10")
        for n, m in enumerate(("hint", "epic", "none"))
    ]
    runs += [
        make_record(dataset="mnist", seconds=9.0, trial=t, variant="custom") for t in range(20)
    ]
    runs += [make_record(dataset="cifar10", rho=1.0, attacks=("dc",), trial=t) for t in range(2)]
    for dataset in ("cifar10", "mnist-sample@1000", "mnist"):
        more = {"dataset": dataset}
        runs += [
            targeted_run(True, trial=t, clean=clean, **more) for t, clean in product((0, 1), (0, 1))
        ]
    return runs


@pytest.mark.parametrize("kind", ["rich", "markdown", "latex", "html"])
@pytest.mark.parametrize("key", [*catalogue.TABLES, "filters", "runs"])
def test_five_lines_stand_under_a_table(key, kind, all_kinds_of_runs):
    """However much there is to say, and with the page that has what the words mean."""
    builds = {"filters": build_filters, "runs": build_runs}
    for runs in ([], all_kinds_of_runs):
        table = builds[key](runs) if key in builds else catalogue.build(key, runs)
        text = render(table, kind)
        lines = note_lines(text, kind)
        assert 2 <= len(lines) <= 5
        assert all(len(note) <= 100 for note in table.notes[:-1])
        assert (key in builds) or "docs/verdicts.md of poisonbench" in " ".join(text.split())
        assert all((ROOT / page).exists() for page in re.findall(r"docs/[\w-]+\.md", text))


@pytest.mark.parametrize("name", ["verdicts", "tables"])
def test_the_pages_that_notes_link_are_wrapped(name):
    lines = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 100 and not line.startswith("|")]


def test_the_page_on_verdicts_names_what_json_has(measured):
    page = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")
    document = json.loads(render(measured, "json"))
    fields = {name for row in (document["cells"][0], document["claims"][0]) for name in row}
    p_values = {name for name in fields if name.startswith("p_")}
    assert len(p_values) == 3
    named = p_values | {"effect_low", "effect_high", "detectable", "test", "wanted", "least"}
    assert not [name for name in named if f"`{name}`" not in page]


def test_rows_for_programs_say_what_counts_and_by_which_test(measured):
    document = json.loads(render(measured, "json"))
    rows = list(csv.DictReader(io.StringIO(render(measured, "csv"))))
    judged = [row for row in document["cells"] if row["published"]]
    assert {(row["least"], row["test"]) for row in judged} == {
        (0.001, "t-tests of the difference of two means over seeds")
    }
    assert {row["least"] for row in document["claims"]} == {0.001}
    assert all(row["test"] for row in document["claims"])
    assert {row["least"] for row in rows if row["published"]} == {"0.001"}
    assert {row["least"] for row in rows if row["claim"]} == {"0.001"}
    for row in (*document["cells"], *document["claims"]):
        power = row["detectable_power_at_least"]
        assert power == (None if row["detectable"] is None else 0.8)


def test_the_notes_count_verdicts_and_those_on_declared_claims(measured):
    """Of the figures one cell has five trials; no claim has."""
    assert measured.notes[2] == (
        "1 verdict(s), each at 5 % by itself, 0 on declared claims: docs/verdicts.md of "
        "poisonbench."
    )
    assert catalogue.build("2", []).notes[2].startswith("No figure here has a verdict.")


def finding_of(**judgement):
    return Finding(
        **{"keys": {}, "claim": "c", "test": "t", "trials": 1, "planned": 10, "bears_out": None},
        **{"records": (), "judgement": Judgement(Verdict.INCOMPLETE, **judgement)},
    )


@pytest.mark.parametrize(
    ("basis", "text"),
    [
        (Basis(poisons=1, seeds=3, images=2_000), "this poison alone, 3 seeds, 2,000 images"),
        (Basis(poisons=5, seeds=5), "5 poisons, 5 seeds"),
        (
            Basis(targets=5, attacks=4, poisons=20, seeds=5),
            "5 targets, 4 attacks, 20 poisons, 5 seeds",
        ),
        (Basis(seeds=1), "1 seed"),
        (Basis(), "-"),
    ],
)
def test_what_a_verdict_rests_on(basis, text):
    assert show_judgement(finding_of(basis=basis), True)[3] == text


def test_a_claim_says_how_many_trials_of_the_planned_it_has():
    block = claims_block("", [finding_of(effect=0.01, interval=(-0.01, 0.03))])
    row = dict(zip(block.columns, block.rows[0], strict=True))
    assert row["trials"] == "1 of 10"
    assert (row["effect, points"], row["95 % interval"]) == ("+1.00", "[-1.00, 3.00]")
    assert row["detectable with power 0.8 or more, points"] == "-"
    whole = replace(finding_of(), trials=12)
    assert claims_block("", [whole]).rows[0][2] == "12"


def test_differences_are_in_points_in_all_tables(all_kinds_of_runs):
    for key in catalogue.TABLES:
        for block in catalogue.build(key, all_kinds_of_runs).blocks:
            heads = [c for c in block.columns if re.match("diff|effect|detectable", c)]
            assert all(c.endswith((", points", ", s")) for c in heads) or (
                key == "1" or (key == "5" and "ratio" in block.title)
            )


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
    assert r"\shortstack{detectable with\\power 0.8 or\\more, points} \\" in render(
        measured, "latex"
    )
    assert r"\{a\}\textbackslash{}b & 1$\pm$2 \\" in text
    assert r"\$\#\textasciitilde{}\textasciicircum{} & [red]3 \\" in text
    assert r"name & x$|$y \\" in text
    block = replace(awkward.blocks[0], rows=(("[6pt] a", "1"),))
    # Not the height of the line break above.
    assert "\n{}[6pt] a & 1 " in render(replace(awkward, blocks=(block,)), "latex")
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
    text = render(awkward, "markdown")
    assert r"### 50% of a\_b \& \<c>" in text
    assert r"| name | x\|y |" in text
    assert r"| {a}\\b | 1±2 |" in text
    assert r"| $#\~^ | [red]3 |" in text
    assert "[red]3" in render(awkward, "rich")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("90.00 [85.06, 93.43] (1)", "90.00 [85.06, 93.43] (1)"),
        ("*a* __b__ `c`", r"\*a\* \_\_b\_\_ \`c\`"),
        ("[a](b) <i> &lt;", r"[a\](b) \<i> \&lt;"),
    ],
)
def test_markdown_escapes_titles_cells_and_notes_alike(text, shown):
    block = Block(title=text, columns=(text, "b"), rows=((text, "1"),), keys=1)
    lines = render(Table(key="9", title=text, blocks=(block,), notes=(text,)), "markdown")
    assert lines.splitlines() == [
        *(f"## {shown}", "", f"### {shown}", "", f"| {shown} | b |", "| --- | ---: |"),
        *(f"| {shown} | 1 |", "", f"- {shown}"),
    ]


def test_html_is_one_page_that_needs_nothing_else(awkward, measured):
    text = render(measured, "html")
    assert not re.search(r"<script|<link|src=|url\(|@import|https?://", text)
    assert "href" not in text
    assert "color-scheme: light dark" in text
    assert '<td class="differs">differs</td>' in text
    text = render(replace(awkward, title="<T>", notes=("<i>",)), "html")
    assert "50% of a_b &amp; &lt;c&gt;" in text
    assert not re.search("<T>|<i>", text)
    assert text.count("&lt;T&gt;") == 2
