"""The records in docs/records: whole, named in the docs, and tables can be made of them."""

import json
import re
from pathlib import Path

import pytest

from helpers.command_line import done
from poisonbench.results.records import SCHEMA, read_record
from poisonbench.results.store import Store
from poisonbench.tables.catalogue import TABLES, build

DOCS = Path(__file__).parents[2] / "docs"
FILES = sorted((DOCS / "records" / "runs").glob("*.json"))
TEXT = "".join((DOCS / name).read_text() for name in ("findings.md", "runs.md", "benchmarks.md"))


@pytest.mark.parametrize("first", "0123456789abcdef")
def test_every_record_is_whole(first):
    for file in (file for file in FILES if file.stem.startswith(first)):
        text = file.read_text()
        record, raw = read_record(file), json.loads(text)
        upgrade = {"outcomes": {}, "schema": SCHEMA} if raw["schema"] == 1 else {}
        assert json.loads(record.to_json()) | {"seal": raw["seal"]} == raw | upgrade
        assert record.id == file.stem
        assert not any(word in text for word in ("/tmp", "/home", "/root"))


def test_the_records_are_those_that_the_docs_name():
    assert {file.stem for file in FILES} == set(re.findall(r"\b[0-9a-f]{16}\b", TEXT))


def test_every_table_can_be_made_of_them():
    records = Store(DOCS / "records").records(pytest.fail)
    assert len(records) == len(FILES) > 0
    for key in TABLES:
        build(key, records)
    shown = done("report", "--dataset", "mnist-sample", "--results", DOCS / "records").out
    assert "98.12±0.20 (5)" in shown
