"""The page as a file: what it holds, that it asks for nothing, and that content stays text."""

import base64
import hashlib
import re
import shutil
import time
from pathlib import Path

import pytest

from helpers.command_line import cli, done
from helpers.html import Document
from helpers.synthetic_runs import changed, make_record, targeted_run, with_outcomes
from poisonbench.page.document import build_page, measured_first
from poisonbench.results.store import Store
from poisonbench.tables import catalogue
from poisonbench.tables.render import render_markdown

RECORDS = Path(__file__).parents[2] / "docs" / "records"
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 7*7 }}</pre></script>'


def folder_of(path, *records):
    store = Store(path)
    for record in records:
        store.write_record(record)
    return path


def text_of(*folders):
    return build_page(folders, Path("data")).text


@pytest.fixture(scope="module")
def built():
    """The page of the shipped records, and the processor's seconds for it."""
    start = time.process_time()
    text = text_of(RECORDS)
    return text, time.process_time() - start


@pytest.fixture(scope="module")
def shipped(built):
    return built[0]


@pytest.fixture(scope="module")
def document(shipped):
    return Document(shipped)


@pytest.fixture(scope="module")
def records():
    return Store(RECORDS).records(pytest.fail)


def test_the_page_of_the_shipped_records_is_small_and_quick(built):
    text, seconds = built
    runs = len(list((RECORDS / "runs").iterdir()))
    assert seconds < 0.015 * runs
    assert len(text.encode()) < 16 * 2**10 * runs


def test_same_records_give_the_same_bytes_wherever_they_lie(tmp_path):
    """Every sixteenth; the copies come in another order."""
    files = sorted((RECORDS / "runs").iterdir())[::16]
    for place, chosen in (("here", files), ("elsewhere/there", reversed(files))):
        (tmp_path / place / "runs").mkdir(parents=True)
        for path in chosen:
            shutil.copy(path, tmp_path / place / "runs")
    assert text_of(tmp_path / "here") == text_of(tmp_path / "elsewhere/there")


def test_ids_are_unique_and_every_internal_link_resolves(document):
    assert len(document.ids) == len(set(document.ids))
    assert set(document.links) <= {f"#{name}" for name in document.ids}


def test_nothing_is_asked_of_anybody(document):
    for tag, attributes in document.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name, "#")
            if name == "data" and tag != "object":
                continue
            assert value.startswith(("#", "data:")), (tag, value)
        assert not any(name.startswith("on") or name == "style" for name in attributes)


def test_the_policy_allows_the_scripts_and_the_style_that_are_there_and_no_others(
    document, shipped
):
    policy = next(m["content"] for m in document.named("meta") if m.get("http-equiv"))
    inline = re.findall(r"<(style|script)(?: type=\"module\")?>(.*?)</\1>", shipped, re.DOTALL)
    assert [kind for kind, _ in inline] == ["style", "script", "script"]
    for kind, text in inline:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed = re.search(rf"{kind}-src ([^;]*)", policy)[1]
        assert f"'sha256-{digest}'" in allowed
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    assert "connect-src 'none'" in policy


def test_every_run_has_its_page_and_is_in_the_table(document, records):
    runs = {f"run-{record.id}" for record in records}
    assert runs <= set(document.ids)
    assert runs <= {link[1:] for link in document.links}


def test_the_tables_are_those_of_report(document, shipped, records):
    captions = set(document.texts["caption"])
    exported = {text for text in document.texts["pre"] if text.startswith("## ")}
    for key in catalogue.papers():
        table = catalogue.build(key, records)
        assert {block.title for block in table.filled_blocks} <= captions
        assert render_markdown(table) in exported
    assert "poisonbench defend --method hint --dataset cifar10" in shipped


def test_data_sets_without_a_run_stand_last_in_a_table(records):
    titles = [block.title for block in measured_first(catalogue.build("2", records))]
    assert [title.partition(":")[0] for title in titles[::3]] == [
        "MNIST",
        "CIFAR-10, small network",
        "MNIST sample (not the paper's data)",
        "CIFAR-10",
    ]


def test_a_matrix_cell_opens_one_of_its_runs(tmp_path):
    runs = [
        make_record(0.5, rho=0.6, method="none", trial=0),
        make_record(0.9, rho=0.6, method="hint", trial=0),
        make_record(0.7, rho=0.6, method="hint", trial=1),
    ]
    document = Document(text_of(folder_of(tmp_path, *runs)))
    cells = [a for a in document.named("td") if a.get("data-defense") == "hint" and "class" in a]
    assert [cell["class"] for cell in cells] == ["h3"]
    place = document.texts["a"].index("80.00±14.14 (2)")
    assert document.links[place] == f"#run-{runs[1].id}"


def test_hostile_content_stays_text(tmp_path):
    run = make_record(
        0.5,
        rho=0.6,
        dataset=f"npz:{HOSTILE}",
        method=HOSTILE,
        attacks=[HOSTILE],
        labels={"overrides": {"poison": HOSTILE, HOSTILE: HOSTILE}, "profile": HOSTILE},
    )
    run = changed(
        run,
        warnings=[HOSTILE],
        notes=[{HOSTILE: HOSTILE}],
        environment={"processor": HOSTILE, "device": HOSTILE},
        spec={"model": HOSTILE},
    )
    folder = folder_of(tmp_path, run)
    (tmp_path / "runs" / f"{HOSTILE.replace('/', '_')}.json").write_text("{")
    text = text_of(folder)
    document = Document(text)
    assert len(document.named("script")) == 2
    assert not document.named("img")
    assert not any("onerror" in attributes for _, attributes in document.elements)
    assert "<script>alert" not in text
    assert "{{ 7*7 }}" in text
    assert len(document.ids) == len(set(document.ids))
    assert any(HOSTILE in text for text in document.texts["li"])


@pytest.mark.parametrize("name", ["results", "my: results"])
def test_a_damaged_record_is_named_and_stops_nothing(name, tmp_path):
    folder = folder_of(tmp_path / name, make_record(0.9))
    damaged = folder / "runs" / "0123456789abcdef.json"
    damaged.write_text('{"schema": 2}')
    page = build_page([folder], Path("data"))
    assert page.damaged == ("runs/0123456789abcdef.json",)
    assert page.records == 1
    assert "runs/0123456789abcdef.json</strong>: expected a sound run record" in page.text
    assert str(tmp_path) not in page.text


def test_failed_runs_are_named_with_their_reason(tmp_path):
    store = Store(folder_of(tmp_path, run := make_record(0.9)))
    store.write_failure("f" * 16, run.spec, "loss was <nan>", epoch=3)
    text = text_of(tmp_path)
    assert "loss was &lt;nan&gt;" in text
    assert f"{'f' * 16}.failed.json" in text


def test_several_folders_are_one_page_and_a_run_of_both_is_there_once(tmp_path):
    first, second = make_record(0.9), make_record(0.8, trial=1)
    one = folder_of(tmp_path / "one", first)
    two = folder_of(tmp_path / "two", first, second)
    page = build_page([one, two], Path("data"))
    assert page.records == 2
    assert Document(page.text).ids.count(f"run-{first.id}") == 1
    assert not page.passed_over
    assert "passed over" not in page.text


def test_other_figures_of_a_run_in_a_second_folder_are_named_with_both_files(tmp_path):
    run = make_record(0.9)
    one = folder_of(tmp_path / "one" / "results", run)
    two = folder_of(tmp_path / "two" / "results", changed(run, metrics={"test_accuracy": 0.1}))
    outcome = done(
        *("page", "--results", one, "--results", two),
        *("--output", tmp_path / "page.html", "--quiet", "--json"),
    )
    names = [str(Path(path) / "runs" / f"{run.id}.json") for path in (two, one)]
    (sentence,) = outcome.json["passed_over"]
    assert sentence.startswith(f"{names[0]} has other figures of the same run than {names[1]}, ")
    assert outcome.err == f"warning: passed over: {sentence}\n"
    text = (tmp_path / "page.html").read_text()
    assert sentence.replace(f"{tmp_path}/", "") in Document(text).texts["li"]
    assert str(tmp_path) not in text
    assert "90.00" in text


def test_an_empty_folder_has_a_page_that_says_what_to_do(tmp_path):
    document = Document(text_of(tmp_path))
    assert "poisonbench defend --method none --rho 0.6" in document.texts["code"]


def test_a_targeted_run_says_what_the_target_is_called(tmp_path):
    runs = [targeted_run(trial == 1, trial=trial, method="none") for trial in range(3)]
    document = Document(text_of(folder_of(tmp_path, *runs)))
    assert "1/3 [6.1, 79.2]" in document.texts["a"]
    assert "1" in document.texts["dd"]
    assert f"#poison-{runs[0].spec.poison_digest}" in document.links


def test_accuracies_by_class_and_by_batch_statistics_are_shown(tmp_path):
    run = make_record(
        0.5,
        metrics={"per_class_accuracy": [0.25, 0.75], "batch_statistics_accuracy": 0.8125},
    )
    document = Document(text_of(folder_of(tmp_path, run)))
    assert {"25.0 %", "75.0 %"} <= set(document.texts["li"])
    assert "81.25 %" in document.texts["dd"]


def test_what_a_filter_removed_is_shown(tmp_path):
    counts = {"poisons_removed": 3, "num_poisons": 10, "clean_removed": 5, "num_clean": 1000}
    scores = {"precision": 0.375, "recall": 0.3, "f1": None, "per_class": [counts]}
    run = make_record(0.5, rho=0.01, method="knn", metrics={"filter": {**counts, **scores}})
    document = Document(text_of(folder_of(tmp_path, run)))
    assert {"3 of 10", "5 of 1,000", "37.50 %", "30.00 %"} <= set(document.texts["dd"])


def test_runs_have_the_outcomes_that_the_script_compares(tmp_path):
    run = with_outcomes(make_record(0.5), [True, False, True, True])
    document = Document(text_of(folder_of(tmp_path, run)))
    (outcomes,) = [pre for pre in document.named("pre") if "data-right" in pre]
    assert (outcomes["data-right"], outcomes["data-count"]) == ("sA==", "4")


@pytest.mark.parametrize("number", [50, 400])
def test_the_time_to_write_grows_with_the_runs_and_no_faster(tmp_path, number):
    methods = ("none", "hint", "epic", "atda", "friends")
    runs = [
        make_record(
            0.5 + 0.4 * (i % 97) / 97,
            rho=(0.2, 0.4, 0.6, 0.8, 1.0)[i // 5 % 5],
            method=methods[i % 5],
            trial=i // 25,
        )
        for i in range(number)
    ]
    folder = folder_of(tmp_path, *runs)
    start = time.process_time()
    build_page([folder], Path("data"))
    assert time.process_time() - start < 2 + 0.03 * number


def test_the_command_writes_the_file_and_says_where(tmp_path):
    folder = folder_of(tmp_path / "r", make_record(0.9))
    output = tmp_path / "page.html"
    outcome = done("page", "--results", folder, "--output", output, "--json")
    assert outcome.json == {"path": str(output), "runs": 1, "damaged": [], "passed_over": []}
    assert output.read_text() == text_of(folder)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_the_command_refuses_what_is_no_folder(tmp_path, name):
    (tmp_path / "file").write_text("")
    outcome = cli("page", "--results", tmp_path / name, "--output", tmp_path / "page.html")
    assert outcome.code == 2
    assert "expected a folder of results" in outcome.err
    assert not (tmp_path / "page.html").exists()
