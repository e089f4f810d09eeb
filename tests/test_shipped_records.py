"""The records in docs/records: whole, named in the docs, and tables can be made of them."""

from pathlib import Path

import pytest
from conftest import done

from poisonbench.experiments.tables import TABLES, build
from poisonbench.results.records import read_record
from poisonbench.results.store import Store

DOCS = Path(__file__).parents[1] / "docs"
FILES = sorted((DOCS / "records" / "runs").glob("*.json"))
TEXT = "".join(file.read_text() for file in DOCS.glob("*.md"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_record_is_whole_and_named_beside_its_accuracy(file):
    record = read_record(file)
    assert '"seal"' in file.read_text()
    paragraphs = [part for part in TEXT.split("\n\n") if record.id in part]
    assert paragraphs
    assert record.labels["is_paper_dataset"] is not None
    assert not any(word in file.read_text() for word in ("/tmp", "/home", "/root"))


def test_every_table_can_be_made_of_them():
    records = Store(DOCS / "records").records(pytest.fail)
    assert len(records) == len(FILES) > 0
    for key in TABLES:
        assert build(key, records).blocks
    shown = done("report", "--dataset", "mnist-sample", "--results", DOCS / "records").out
    assert "98.53±0.06 (3 of 5)" in shown
