"""The page in Chromium, offline: filters, links, comparisons, without scripts, for everybody.

``tests/browser/run.sh`` installs what is needed and runs these; elsewhere they are skipped.
"""

import os
import re
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from helpers.command_line import job
from helpers.synthetic_runs import changed, make_record, with_outcomes
from poisonbench.page.document import build_page
from poisonbench.page.groups import rows_of
from poisonbench.page.run_pages import FILTERS, run_pages
from poisonbench.page.serve import Watched, make_server
from poisonbench.results.store import Store
from poisonbench.sweep.job_states import Failure, JobStates
from poisonbench.sweep.plan import keep_plan, make_plan
from poisonbench.tables import catalogue
from poisonbench.tables.all_runs import build_runs
from poisonbench.tables.render import render_latex

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "POISONBENCH_BROWSER" not in os.environ, reason="needs Chromium: run tests/browser/run.sh"
    ),
]

RECORDS = Path(__file__).parents[2] / "docs" / "records"
VIEWS = ("overview", "tables", "runs", "comparisons", "poisons", "figures", "folder")
HOSTILE = '<script>window.hit = 1</script><img src="//x.example" onerror="alert(1)"></noscript>'


@pytest.fixture(scope="session")
def records():
    return Store(RECORDS).records(pytest.fail)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    return address_of(tmp_path_factory.mktemp("page"), RECORDS)


def address_of(folder, results):
    path = folder / "page.html"
    path.write_text(build_page([results], Path("data")).text)
    return path.as_uri()


def shown_rows(page):
    return page.locator("#run-table tbody tr:visible").count()


def show_all(page):
    if page.locator("#more button").is_visible():
        page.locator("#more button").click()


def a_run(records):
    return f"run-{next(r.id for r in records if r.outcomes.test and r.spec.method == 'hint')}"


# Everywhere


@pytest.mark.parametrize("width", [1440, 390])
def test_every_view_opens_and_nothing_is_wider_than_the_screen(opened, shipped, records, width):
    page = opened(shipped, width)
    row = rows_of(records)[-1].id
    for anchor in (*VIEWS, a_run(records), row):
        page.goto(f"{shipped}#{anchor}")
        assert page.locator(f"#{anchor}").is_visible()
        assert page.locator(".view:visible").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= width, anchor
        page.goto(f"{shipped}#matrix")
        page.evaluate("anchor => { location.hash = anchor }", anchor)
        page.evaluate("new Promise((go) => setTimeout(go, 150))")
        assert page.evaluate("scrollY") == 0, anchor


def test_every_internal_link_resolves(opened, shipped):
    page = opened(shipped)
    broken = page.evaluate(
        """() => {
          for (const part of document.querySelectorAll(".page")) unfold(part);
          return [...document.querySelectorAll("a[href]")]
            .map((link) => link.getAttribute("href"))
            .filter((href) => !href.startsWith("#") || !document.getElementById(href.slice(1)));
        }""".replace("unfold(part)", UNFOLD)
    )
    assert broken == []
    assert page.locator("a[href^='#run-']").count() > 1000


#: Scripts of a module are its own, so the test does what they do.
UNFOLD = """{
  const folded = part.querySelector(":scope > noscript");
  const made = document.createElement("div");
  made.innerHTML = folded?.textContent ?? "";
  folded?.replaceWith(made);
}"""


def test_hostile_content_stays_text(opened, tmp_path):
    run = make_record(
        0.5,
        rho=0.6,
        dataset=f"npz:{HOSTILE}",
        method=HOSTILE,
        attacks=[HOSTILE],
        labels={"overrides": {HOSTILE: HOSTILE}, "profile": HOSTILE},
    )
    run = changed(run, warnings=[HOSTILE], notes=[{HOSTILE: 1}], environment={"device": HOSTILE})
    Store(tmp_path / "r").write_record(run)
    address = address_of(tmp_path, tmp_path / "r")
    page = opened(address)
    for anchor in (*VIEWS, f"run-{run.id}", rows_of([run])[0].id):
        page.goto(f"{address}#{anchor}")
        assert page.locator("img").count() == 0
        assert page.evaluate("window.hit") is None
    page.goto(f"{address}#run-{run.id}")
    assert HOSTILE in page.locator(f"#run-{run.id} .alarm").inner_text()


@pytest.mark.parametrize(
    "anchor",
    ["<img src=x onerror=alert(1)>", "chosen?of=%3Cimg%20src=x%3E+a", "%E0%A4%A", "runs?rho=nan"],
)
def test_a_strange_address_does_no_harm(opened, shipped, anchor):
    page = opened(f"{shipped}#{anchor}")
    assert page.locator(".view:visible").count() == 1
    assert page.locator("img:not([src^='data:'])").count() == 0


# Filters, search, sorting


@pytest.mark.parametrize("name", FILTERS)
def test_each_filter_leaves_the_right_number_of_rows(opened, shipped, records, name):
    values = Counter(page.filters.get(name, "") for page in run_pages(rows_of(records)))
    page = opened(f"{shipped}#runs")
    show_all(page)
    field = page.locator(f"#filters [name={name}]")
    for value, count in values.items():
        if not value:
            continue
        # What is not about a filter, as a scenario, is not hidden by it.
        expected = count + values.get("", 0)
        field.select_option(value)
        assert shown_rows(page) == expected
        assert page.locator("#count").inner_text() == f"{expected} of {len(records)} runs"
    field.select_option("")
    assert shown_rows(page) == len(records)


def test_a_view_can_be_shared_by_its_address(opened, shipped, records):
    page = opened(f"{shipped}#runs")
    page.locator("#filters [name=defense]").select_option("epic")
    page.locator("#filters [name=q]").fill("mnist-sample 1")
    shared, rows = page.evaluate("location.href"), shown_rows(page)
    assert 0 < rows < len(records)
    other = opened(shared)
    assert shown_rows(other) == rows
    assert other.locator("#filters [name=defense]").input_value() == "epic"
    other.locator("nav a", has_text="Comparisons").click()
    assert "defense=epic" in other.evaluate("location.hash")


def test_search_finds_rows_with_all_words(opened, shipped, records):
    page = opened(f"{shipped}#runs?q=hint+beta")
    betas = [r for r in records if r.spec.method == "hint" and "beta" in r.labels.overrides]
    assert shown_rows(page) == len(betas) > 0


def test_a_table_sorts_by_a_heading_both_ways(opened, shipped, records):
    page = opened(f"{shipped}#runs")
    show_all(page)
    place = page.locator("#run-table thead th").all_inner_texts()
    column = next(i for i, text in enumerate(place) if text.startswith("accuracy"))
    heading = page.locator("#run-table thead th").nth(column)
    accuracies = sorted(round(100 * r.metrics.test_accuracy, 2) for r in records)
    for expected in (accuracies, accuracies[::-1]):
        heading.locator("button").press("Enter")
        cells = page.locator(f"#run-table tbody tr td:nth-child({column + 1})").all_inner_texts()
        assert list(map(float, cells)) == pytest.approx(expected)
    assert heading.get_attribute("aria-sort") == "descending"


# Runs


def test_a_run_opens_from_a_cell_of_the_matrix(opened, shipped):
    page = opened(shipped)
    cell = page.locator(".matrix td[data-defense=hint] a").first
    run = cell.get_attribute("href")
    cell.click()
    assert page.locator(run).is_visible()
    assert page.locator(".page:visible").count() == 1
    assert "HINT" in page.locator(f"{run} h2").inner_text()
    assert page.locator(f"{run} svg.plot").count() == 2
    page.go_back()
    assert page.locator(".matrix").first.is_visible()


def test_two_runs_are_compared_with_the_interval_of_their_paired_images(opened, shipped, records):
    groups = {}
    for record in records:
        if record.outcomes.test is not None:
            key = (record.spec.poison_digest, record.spec.trial, record.spec.dataset.digest)
            groups.setdefault(key, []).append(record)
    first, second, *_ = next(runs for runs in groups.values() if len(runs) > 2)
    page = opened(f"{shipped}#runs")
    show_all(page)
    assert page.locator("#compare").is_disabled()
    for record in (first, second):
        page.locator(f"#run-table input[value='{record.id}']").check()
    ticked = page.locator("#run-table input:checked").evaluate_all("all => all.map(b => b.value)")
    page.locator("#compare").click()
    first, second = sorted((first, second), key=lambda record: ticked.index(record.id))
    gain = second.outcomes.test.unpack().astype(float) - first.outcomes.test.unpack()
    half = 1.959964 * gain.std(ddof=1) / np.sqrt(len(gain))
    text = page.locator("#chosen-runs tr", has_text="difference").inner_text()
    shown = [float(n) for n in re.findall(r"[+-]\d+\.\d+", text.replace("\u2212", "-"))]
    expected = 100 * np.array([gain.mean(), gain.mean() - half, gain.mean() + half])
    assert shown == pytest.approx(expected, abs=0.0051)
    assert page.locator("#chosen-runs polyline").count() == 4


def test_a_button_copies_a_table_as_report_writes_it(opened, shipped, records):
    page = opened(f"{shipped}#table-2", permissions=["clipboard-read", "clipboard-write"])
    part = page.locator("#table-2")
    part.locator(".exports summary").click()
    part.locator("button", has_text="Copy LaTeX").click()
    part.locator("button", has_text="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == render_latex(catalogue.build("2", records))


# Without scripts


def test_without_scripts_all_tables_and_runs_are_there(opened, shipped, records):
    page = opened(shipped, scripts=False)
    captions = set(page.locator("caption:visible").all_inner_texts())
    tables = [catalogue.build(key, records) for key in catalogue.papers()]
    for table in (*tables, build_runs(records)):
        assert {block.title for block in table.filled_blocks} <= captions
    assert page.locator("#run-table tbody tr:visible").count() == len(records)
    assert page.locator("article.run:visible").count() == len(records)
    assert page.locator("article.run svg.plot").count() == 2 * len(records)
    assert not page.locator("#filters").is_visible()


# Many runs


def test_two_thousand_runs_open_and_filter_quickly(opened, tmp_path, processor_seconds):
    methods = ("none", "hint", "epic", "atda", "friends", "jpeg", "mixup", "cutmix", "knn", "l2")
    store = Store(tmp_path / "r")
    point = {"images": 9, "loss": 0.5, "validation_accuracy": 0.9}
    curve = [{"epoch": epoch, **point} for epoch in range(1, 16)]
    right = np.arange(2000) % 7 > 0
    for i in range(2000):
        run = make_record(
            rho=(0.2, 0.4, 0.6, 0.8, 1.0)[i // 10 % 5], method=methods[i % 10], trial=i // 50
        )
        run = changed(run, curve=curve, metrics={"per_class_accuracy": [0.9] * 10})
        store.write_record(with_outcomes(run, right.tolist()))
    address = address_of(tmp_path, tmp_path / "r")
    page = opened("about:blank")
    with processor_seconds(page) as spent:
        page.goto(f"{address}#runs")
        assert page.locator("#count").inner_text() == "2000 of 2000 runs"
    assert spent[0] < 3
    for name, value, rows in (("defense", "hint", 200), ("rho", "0.6", 40), ("defense", "", 400)):
        with processor_seconds(page) as spent:
            page.evaluate(
                """([name, value]) => {
                  const field = document.querySelector(`#filters [name=${name}]`);
                  field.value = value;
                  field.dispatchEvent(new Event("input", {bubbles: true}));
                  document.body.getBoundingClientRect();
                }""",
                [name, value],
            )
        assert spent[0] < 0.2
        assert page.locator("#count").inner_text() == f"{rows} of 2000 runs"
    page.locator("#filters button[type=reset]").click()
    assert shown_rows(page) == 300
    page.locator("#more button").click()
    assert shown_rows(page) == 2000


# For everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_no_serious_fault(opened, shipped, records, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    rows = {len(row.entries): row.id for row in rows_of(records)}
    for anchor in (*VIEWS, a_run(records), rows[max(rows)], rows_poison(records)):
        page = opened(f"{shipped}#{anchor}", width, color_scheme=scheme)
        for details in page.locator("main details:visible > summary").all()[:3]:
            details.click()
        # What is not shown has no fault to find, and axe looks at each of 100,000 elements.
        page.evaluate(
            """() => document.querySelectorAll(".view, .page, tr").forEach((part) => {
              if (!part.checkVisibility()) part.remove();
            })"""
        )
        found = Axe().run(page).response["violations"]
        serious = [
            (fault["id"], fault["nodes"][0]["html"], fault["nodes"][0]["failureSummary"])
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        assert not serious, anchor
        page.close()


def rows_poison(records):
    return next(f"poison-{r.spec.poison_digest[:16]}" for r in records if r.spec.poison_digest)


def test_the_keyboard_reaches_the_content_at_once(opened, shipped):
    page = opened(shipped)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_the_reader_chooses_light_or_dark(opened, shipped):
    page = opened(shipped, color_scheme="light")

    def back():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, button = back(), page.locator("#theme")
    button.click()
    button.click()
    assert button.inner_text() == "Theme: dark"
    assert back() != light
    page.reload()
    assert back() != light


def test_print_has_the_content_and_not_the_controls(opened, shipped):
    # Sheets of A4 within their margins; a browser makes what is wider smaller, to be read yet.
    page = opened(shipped, 700, color_scheme="dark")
    page.locator("#theme").click()
    page.locator("#theme").click()
    page.emulate_media(media="print", color_scheme="dark")
    white = "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == white
    wide = page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter((part) => {
          const table = part.closest(".wide");
          const sheet = table && getComputedStyle(table).page === "across" ? 1030 : 700;
          return part.getBoundingClientRect().right > 1.25 * sheet;
        }).map((part) => part.outerHTML.slice(0, 200))"""
    )
    assert wide == []
    lies = page.evaluate(
        """() => [...document.querySelectorAll(".matrix")].map((matrix) =>
          [matrix.tHead.rows[0].cells.length, getComputedStyle(matrix.parentElement).page])"""
    )
    assert {columns > 11 for columns, _ in lies} == {True, False}
    assert all((sheet == "across") == (columns > 11) for columns, sheet in lies)
    assert not page.locator("#filters").is_visible()
    assert not page.locator("nav").is_visible()
    assert page.locator(".matrix").first.is_visible()


# Served


def test_the_served_page_refreshes_when_a_run_is_done(opened, tmp_path):
    store = Store(tmp_path)
    store.write_record(make_record(0.9))
    jobs = [job(number) for number in range(2)]
    keep_plan(make_plan(jobs), store.plans)
    JobStates(store).write_failure(jobs[1], Failure(1, "<b>no room", "log"))
    server = make_server(Watched([tmp_path], Path("data")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        page = opened(f"http://127.0.0.1:{server.server_port}/#runs")
        assert shown_rows(page) == 1
        page.locator("#progress .job-failed", has_text="<b>no room").wait_for()
        assert "0 of 2 jobs done (1 planned, 1 failed)" in page.locator("#progress").inner_text()
        store.write_record(make_record(0.8, trial=1))
        page.locator("#run-table tbody tr").nth(1).wait_for(timeout=60_000)
        assert page.evaluate("location.hash") == "#runs"
        page.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
